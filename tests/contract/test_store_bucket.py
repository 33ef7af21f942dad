"""`nasmesh admin bucket`: a bucket in order, and keys of which each may do what its role needs and no more."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.clock import new_id
from nasmesh.errors import Unavailable
from nasmesh.limits import MIB
from nasmesh.store.keys import ObjectKind
from nasmesh.store.s3 import SWEEPING, S3Store
from nasmesh.store.s3_calls import Calls, Request
from nasmesh.store.s3_place import Keys, parse_place
from nasmesh.store.s3_setup import ROLES, policy
from tests.builders.s3_servers import KINDS, S3Server
from tests.builders.s3_stores import Servers, raw_client, servers_below

ROOT = Path(__file__).resolve().parents[2]
MAY_WRITE = {
    "scheduler": {ObjectKind.NETWORK, ObjectKind.DATASET},
    "generate": {ObjectKind.NETWORK},
    "train": {ObjectKind.CHECKPOINT},
    "evaluate": {ObjectKind.CHECKPOINT, ObjectKind.REPORT},
    "reader": set(),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    yield from servers_below(tmp_path_factory.mktemp("s3"))


def nasmesh(server: S3Server, home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as the server's owner."""
    environment = {"NASMESH_HOME": str(home), "NASMESH_STORE_CREDENTIALS": str(server.credentials), **variables}
    return subprocess.run(
        [sys.executable, "-m", "clients.cli.main", "admin", "bucket", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_init_when_repeated_then_the_bucket_is_in_order_each_time(kind: str, servers: Servers, tmp_path: Path) -> None:
    server, name = servers.server(kind), f"init-{new_id()[:12]}"
    url, raw = server.url(name), raw_client(server)
    for made in (True, False):
        done = nasmesh(server, tmp_path, "init", "--store", url, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["bucket"], said["made"]) == (name, made)
        rules = raw.get_bucket_lifecycle(name)
        assert rules is not None
        assert {rule.rule_id for rule in rules.rules} == set(said["rules"])
        assert "nasmesh-temporary" in said["rules"]
    assert raw.get_bucket_versioning(name).status in (None, "Off", "Suspended")


def test_init_when_somebody_else_has_set_rules_and_versions_then_rules_stay_and_versions_end(
    servers: Servers, tmp_path: Path
) -> None:
    from minio.commonconfig import ENABLED, Filter
    from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
    from minio.versioningconfig import VersioningConfig

    server, name = servers.server("minio"), f"init-{new_id()[:12]}"
    raw = raw_client(server)
    raw.make_bucket(name)
    raw.set_bucket_versioning(name, VersioningConfig(ENABLED))
    own = Rule(ENABLED, Filter(prefix="mine/"), rule_id="mine", expiration=Expiration(days=30))
    raw.set_bucket_lifecycle(name, LifecycleConfig([own]))
    done = nasmesh(server, tmp_path, "init", NASMESH_STORE=server.url(name))
    assert (done.returncode, "versions: no more are kept" in done.stdout) == (0, True), done.stderr
    rules = raw.get_bucket_lifecycle(name)
    assert rules is not None
    assert {"mine", "nasmesh-temporary"} <= {rule.rule_id for rule in rules.rules}
    assert raw.get_bucket_versioning(name).status == "Suspended"


def test_keys_when_given_then_each_role_may_do_what_it_needs_and_no_more(servers: Servers, tmp_path: Path) -> None:
    server, name = servers.server("minio"), f"keys-{new_id()[:12]}"
    words = ("init", "--store", server.url(name), "--keys", str(tmp_path / "keys"), "--json")
    first, again = (nasmesh(server, tmp_path, *words) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    paths = json.loads(again.stdout)["keys"]
    assert set(paths) == set(ROLES) == set(MAY_WRITE)
    assert server.secret_key not in first.stdout + first.stderr
    place = parse_place(server.url(name))
    owner = S3Store(Calls(place, Keys(server.credentials)))
    shown = owner.put(ObjectKind.NETWORK, b"for all to read")
    for role, path in paths.items():
        calls = Calls(place, Keys(Path(path)))
        store = S3Store(calls)
        store.check()
        assert store.get(shown) == b"for all to read"
        for kind in ObjectKind:
            wrote = written(store, kind, f"{role} {kind}".encode() + b"x" * 100)
            assert wrote == (kind in MAY_WRITE[role]), f"{role} writes {kind}"
        for kind in MAY_WRITE[role]:
            assert written(S3Store(calls, part_bytes=5 * MIB), kind, os.urandom(5 * MIB + 1)), "in parts"
        assert not store.delete(shown.key, min_age_s=3600.0)
        allowed = status(calls, Request("PUT", SWEEPING + shown.key)) == 200
        assert allowed == (role == "scheduler")
        deleted = status(calls, Request("DELETE", "reports/nothing"))
        assert (deleted == 204) == (role == "scheduler"), f"{role} deletes: {deleted}"


def written(store: S3Store, kind: ObjectKind, content: bytes) -> bool:
    """Say whether a store takes an object; a refusal must be of the key."""
    try:
        ref = store.put(kind, content)
    except Unavailable as error:
        assert error.metadata["cause"] == "STORE_DENIED"  # noqa: PT017
        return False
    return store.get(ref) == content


def status(calls: Calls, request: Request) -> int:
    return calls.ask(request, fine=(200, 204, 403)).status


def test_keys_when_the_folder_holds_the_owners_own_then_those_are_not_overwritten(
    servers: Servers, tmp_path: Path
) -> None:
    server, own = servers.server("weed"), tmp_path / "keys" / "train.keys"
    own.parent.mkdir(mode=0o700)
    own.touch(0o600)
    own.write_bytes(server.credentials.read_bytes())
    words = ("init", "--store", server.url(f"keys-{new_id()[:12]}"), "--keys", str(own.parent))
    done = nasmesh(server, tmp_path, *words, NASMESH_STORE_CREDENTIALS=str(own))
    assert (done.returncode, "the owner's own keys" in done.stderr) == (5, True), done.stderr
    assert own.read_bytes() == server.credentials.read_bytes()


def test_keys_when_the_store_is_not_minio_then_told_what_to_do(servers: Servers, tmp_path: Path) -> None:
    server = servers.server("weed")
    words = ("--store", server.url(f"keys-{new_id()[:12]}"))
    done = nasmesh(server, tmp_path, "init", *words, "--keys", str(tmp_path / "keys"))
    assert (done.returncode, "nasmesh admin bucket policy" in done.stderr) == (2, True)
    shown = nasmesh(server, tmp_path, "policy", "train", "--store", "s3://my-nets?endpoint=store:9000")
    assert json.loads(shown.stdout) == policy(ROOT / "deploy" / "s3", "train", "my-nets")


@pytest.mark.parametrize("role", ROLES)
def test_policy_when_read_then_it_is_of_the_bucket_alone(role: str) -> None:
    statements = policy(ROOT / "deploy" / "s3", role, "my-nets")["Statement"]
    resources = [resource for statement in statements for resource in statement["Resource"]]
    assert resources
    assert all(resource.startswith("arn:aws:s3:::my-nets") for resource in resources)
    assert not any("*" in action for statement in statements for action in statement["Action"])


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("init", "--store", "dir:/tmp/x"), "only S3 has buckets"),
        (("policy", "nobody", "--store", "s3://nets?endpoint=a:1"), "not one of"),
        (("init", "--store", "s3://nets?endpoint=127.0.0.1:9&secure=0"), "refuses connections"),
        (("init", "--store", "s3://nets?endpoint=a:1", "--keys", "k", "--policies", "/no/such"), "deploy/s3"),
    ],
)
def test_commands_when_wrong_then_one_sentence(
    servers: Servers, tmp_path: Path, words: tuple[str, ...], word: str
) -> None:
    done = nasmesh(servers.server("weed"), tmp_path, *words)
    assert done.returncode in (2, 3, 4)
    assert word in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
