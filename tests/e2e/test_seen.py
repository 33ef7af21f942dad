"""A real mesh with TLS and tokens, seen from outside: one search is one tree of spans, and logs tell no secret."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.builders.access import make_mesh
from tests.e2e.mesh import ROOT, Mesh

SEARCH = "seen"
AGENT_LINES = {"attempt_ended", "outcome_acknowledged"}


@dataclass(frozen=True)
class Seen:
    """What is left of a run: spans, log lines by program, the texts that nobody may find, what top showed."""

    spans: list[dict[str, object]]
    lines: dict[str, list[str]]
    secrets: list[str]
    top: dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    home = tmp_path_factory.mktemp("seen")
    access = make_mesh(home / "access")
    agent = access.token("e2e", "agent")
    client = access.token("alice", "client:write")
    stranger = access.token("mallory", "client:read")
    expired = access.token("late", "client:write", days=1.0, issued=-3.0)
    mesh = Mesh(
        home,
        arguments={name: ("--name", f"e2e-{name}") for name in ("generate", "train", "evaluate")},
        variables={
            "NASMESH_TRACES": f"file:{home / 'spans.jsonl'}",
            "NASMESH_LOG_LEVEL": "debug",
            "NASMESH_TLS_CERT": str(access.server.cert),
            "NASMESH_TLS_KEY": str(access.server.key),
            "NASMESH_TOKENS": str(access.tokens),
            "NASMESH_CA_FILE": str(access.authority.ca),
            "NASMESH_TOKEN_FILE": str(agent),
        },
    )
    with mesh:
        create = ("search", "create", "-f", str(ROOT / "examples" / "fixed.yaml"), "--set", "train.steps=20")
        refused = [mesh.nasmesh(*create, "--token-file", str(token)) for token in (stranger, expired)]
        assert all(done.code not in (0, 3) for done in refused), refused
        done = mesh.nasmesh(*create, "--id", SEARCH, "--wait", "--token-file", str(client), timeout_s=120)
        assert done.code == 0, done.stderr
        shown = mesh.nasmesh("top", "--once", "--json", "--token-file", str(client))
        assert shown.code == 0, shown.stderr
        mesh.stop("scheduler")  # in good order, so that the last lines and spans are written
    lines = {path.stem: path.read_text().splitlines() for path in (home / "logs").glob("*.log")}
    told = [*(text for run in [done, *refused] for text in (run.stdout, run.stderr))]
    secrets = [path.read_text().strip() for path in (agent, client, stranger, expired)]
    secrets += [line for line in access.server.key.read_text().splitlines() if "PRIVATE" not in line]
    secrets += [str(entry["sha256"]) for entry in json.loads(access.tokens.read_text())["tokens"]]
    spans = [json.loads(line) for line in (home / "spans.jsonl").read_text().splitlines()]
    return Seen(spans, {**lines, "command line": told}, secrets, json.loads(shown.stdout))


def ancestry(spans: list[dict[str, object]], span: dict[str, object]) -> list[str]:
    """Return the names from a span up to the root."""
    by_id = {one["span"]: one for one in spans}
    names = [str(span["name"])]
    while span["parent"]:
        span = by_id[span["parent"]]
        names.append(str(span["name"]))
    return names


def test_trace_when_a_search_ran_then_one_tree_from_the_client_to_the_store(seen: Seen) -> None:
    spans = seen.spans
    ids = [span["span"] for span in spans]
    assert len(set(ids)) == len(ids)
    created = [span for span in spans if span["name"] == "CreateSearch" and span["ok"]]
    roots = [span for span in spans if not span["parent"]]
    assert {span["name"] for span in roots} == {"CreateSearch"}
    assert len(roots) == 3
    assert len(created) == 1
    for root in roots:
        if not root["ok"]:  # a refused call: the server says so, and nothing came of it
            assert [span["ok"] for span in spans if span["trace"] == root["trace"]] == [False, False]
    whole = created
    tree = [span for span in spans if span["trace"] == whole[0]["trace"]]
    served = "nasmesh.v1.SchedulerService/CreateSearch"
    up = [served, "CreateSearch"]
    found = {tuple(ancestry(tree, span)) for span in tree}
    for path in (
        ("store put", "attempt", "lease", "task generate", *up),
        ("queued", "task train", "trial", *up),
        ("store get", "weigh", "attempt", "lease", "task train", "trial", *up),
        ("job", "attempt", "lease", "task train", "trial", *up),
        ("store put", "train", "job", "attempt", "lease", "task train", "trial", *up),
        ("store get", "job", "attempt", "lease", "task evaluate", "trial", *up),
    ):
        assert path in found, f"{path} is none of {sorted(found)}"


def test_trace_when_followed_then_programs_and_times_fit(seen: Seen) -> None:
    by_id = {span["span"]: span for span in seen.spans}
    services = {(span["name"], span["service"]) for span in seen.spans}
    assert {
        ("CreateSearch", "nasmesh-cli"),
        ("task train", "nasmesh-scheduler"),
        ("attempt", "nasmesh-train_svc"),
        ("job", "nasmesh-train_svc.job"),
        ("attempt", "nasmesh-evaluate_svc"),
        ("store put", "nasmesh-generate_svc"),
    } <= services
    for span in seen.spans:
        assert span["start_s"] <= span["end_s"]  # type: ignore[operator]
        parent = by_id.get(span["parent"])
        if parent is not None and span["name"] in ("attempt", "job", "train", "store put", "store get", "lease"):
            assert span["start_s"] >= parent["start_s"] - 0.05, (span, parent)  # type: ignore[operator]
    train = next(span for span in seen.spans if span["name"] == "train")
    assert train["attributes"]["steps"] == 20  # type: ignore[index]


def test_logs_when_about_an_attempt_then_carry_search_task_attempt_epoch(seen: Seen) -> None:
    counted = 0
    for program in ("scheduler", "generate", "train", "evaluate"):
        for line in seen.lines[program]:
            row = json.loads(line)
            assert {"event", "level", "program", "timestamp"} <= set(row)
            assert len(line.encode()) < 4096
            if row["event"] in AGENT_LINES:
                counted += 1
                assert row["task"].startswith(f"{SEARCH}-")
                assert (row["attempt"], row["epoch"]) == (1, 1)
            if row["event"] == "attempt_ended":
                assert row["search"] == SEARCH
            if row["event"] in ("search_created", "search_ended"):
                assert (row["search"], row["epoch"]) == (SEARCH, 1)
            if row["event"] == "job_ended":
                assert row["job"].startswith(f"{SEARCH}-")
    assert counted >= 6


def test_logs_and_spans_when_searched_then_no_secret_and_no_payload(seen: Seen) -> None:
    texts = [*(line for lines in seen.lines.values() for line in lines), *(json.dumps(span) for span in seen.spans)]
    assert len(texts) > 50
    assert len(seen.secrets) >= 10
    for text in texts:
        for secret in seen.secrets:
            assert secret not in text
        assert "BEGIN" not in text
        assert "\\u0000" not in text


def test_top_when_callers_were_refused_then_counted_by_reason(seen: Seen) -> None:
    doing = seen.top["scheduler"]["activity"]
    assert doing["callsDenied"] == {"ROLE_FORBIDDEN": "1", "TOKEN_EXPIRED": "1"}
    assert {agent["name"] for agent in seen.top["agents"]} == {
        f"agents/e2e-{name}" for name in ("generate", "train", "evaluate")
    }
    assert doing["serving"] is True
