"""What a deployer is told and what it remembers: configuration, records of servers, orders, acquaintance."""

import re
from pathlib import Path

import pytest

from nasmesh.errors import Invalid, Unavailable
from nasmesh.v1 import generate_service_pb2, job_pb2
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.deployers.acquaintance import Acquaintance
from scheduler.deployers.base import Site, Standing, State
from scheduler.deployers.config import parse_config, read_config
from scheduler.deployers.orders import make_order, new_name
from scheduler.deployers.planner import BURST, Phase
from scheduler.deployers.program import ENGINES, open_engine, open_posts
from scheduler.deployers.records import BACKOFF_CAP_S, BACKOFF_S, STEADY_S, PoolRecord
from scheduler.deployers.rules import rules_of

POOL = """
pools:
  - { name: train, kind: TASK_KIND_TRAIN, maxServers: 4, coolDown: 5s, local: {} }
"""


def record() -> PoolRecord:
    return PoolRecord(rules_of(parse_config(POOL).pools[0]))


def agent(name: str, *, connected: bool = True, attempts: int = 0, draining: bool = False) -> dict[str, api.Agent]:
    made = api.Agent(name=f"agents/{name}", connected=connected, draining=draining)
    for number in range(attempts):
        made.attempts.add(task=f"t{number}", attempt=1)
    return {name: made}


def running(name: str) -> list[Standing]:
    return [Standing(name, State.RUNNING, "process 1")]


# --- configuration --------------------------------------------------------------------------------------------------


def test_defaults_are_filled_in() -> None:
    config = parse_config(POOL)
    pool = config.pools[0]
    assert (config.name, config.period.ToMilliseconds()) == ("nasmesh", 2000)
    assert (pool.slots, pool.start_timeout.seconds, pool.stop_grace.seconds) == (1, 120, 30)
    rules = rules_of(pool)
    assert (rules.cool_down_s, rules.serves, rules.takes_gangs) == (5.0, None, False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("name: Train", "pools.0.name"),
        ("name: train, minServers: 5", "pools.0.min_servers"),
        ("name: train, slots: 1025", "pools.0.slots"),
        ("name: train, resources: { cpus: -1 }", "pools.0.resources.cpus"),
        ("name: train, resources: { gpuMemoryBytes: 1 }", "pools.0.resources.gpu_memory_bytes"),
        ("name: train, resources: { custom: [{ name: x }] }", "pools.0.resources.custom.0"),
        ("name: train, startTimeout: 0.5s", "pools.0.start_timeout"),
        ("name: train, maxServersPerOwner: -1", "pools.0.max_servers_per_owner"),
        ("name: train, ownerLimits: [{ owner: a, maxServers: -1 }]", "pools.0.owner_limits.0.max_servers"),
        ("name: train, serves: [generators/nac]", "pools.0.serves.0"),
        ("name: train, arguments: [--name=mine]", "pools.0.arguments.0"),
        ("name: train, arguments: [--memory=plenty]", "pools.0.arguments"),
        ("name: train, arguments: [--memory]", "pools.0.arguments"),
        ("name: train, labels: { pool: other }", "pools.0.labels.pool"),
        ("name: train, environment: { 1X: a }", "pools.0.environment.1X"),
        ("name: train, environment: { MY_TOKEN: abc }", "pools.0.environment.MY_TOKEN"),
    ],
)
def test_a_wrong_field_is_named(change: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_config(POOL.replace("name: train", change))
    assert (caught.value.reason, caught.value.field) == ("CONFIG_INVALID", field)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        parse_config("name: UPPER\nperiod: 301s\nscheduler: nowhere\npools: [{}, {}]")
    fields = {violation.field for violation in caught.value.violations}
    assert fields >= {"name", "period", "scheduler", "pools.0.kind", "pools.0.engine", "pools.1.name"}


def test_what_is_no_configuration_is_refused_like_a_specification(tmp_path: Path) -> None:
    for text, reason in (
        ("pools: {", "SPEC_MALFORMED"),
        ("pool: []", "FIELD_UNKNOWN"),
        ("period: 2", "VALUE_INVALID"),
        ("period: 2 minutes", "VALUE_INVALID"),
        ("pools: [{ local: {}, slurm: {} }]", "VALUE_INVALID"),
    ):
        with pytest.raises(Invalid) as caught:
            parse_config(text)
        assert caught.value.reason == reason, text
    with pytest.raises(Invalid) as missing:
        read_config(tmp_path / "none.yaml")
    assert missing.value.reason == "CONFIG_UNREADABLE"


def test_the_pools_of_the_documents_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "deployer.md").read_text()
    found = [block for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "pools:" in block]
    assert len(found) == 3
    for block in found:
        for pool in parse_config(block).pools:
            open_engine(pool, Site("nasmesh", Path("/nowhere")))


def test_what_engines_find_wrong_is_named_with_its_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config("""
pools:
  - { name: a, kind: TASK_KIND_TRAIN, maxServers: 1, external: {} }
  - { name: b, kind: TASK_KIND_TRAIN, maxServers: 1, slurm: { partition: "x y", qos: "$" } }
  - { name: c, kind: TASK_KIND_TRAIN, maxServers: 1, local: { cpus: -1 } }
""")
    with pytest.raises(Invalid) as caught:
        open_posts(config, tmp_path)
    assert [v.field for v in caught.value.violations] == [
        "pools.1.slurm.partition",
        "pools.1.slurm.qos",
        "pools.2.local",
    ]
    assert caught.value.message.startswith("pools.1.slurm.partition: 'x y' is no name that Slurm has (and 2 more: ")
    monkeypatch.setitem(ENGINES, "local", ("scheduler.deployers.engines.absent", "AbsentEngine"))
    with pytest.raises(Invalid, match=r"pools.0.local: this engine is not installed here .* 'nasmesh\[local\]'"):
        open_posts(parse_config(POOL), tmp_path)


# --- orders ---------------------------------------------------------------------------------------------------------


def test_an_order_says_all_that_a_server_needs() -> None:
    pool = parse_config(
        POOL.replace("local: {}", "labels: { zone: a }, arguments: [--memory, 8GiB], environment: { A: b }, local: {}")
    ).pools[0]
    order = make_order(pool, "train-0a1b2c", scheduler="hub:7400", store="s3://b")
    words = " ".join(order.command)
    assert words.startswith("nasmesh serve train --scheduler hub:7400 --name train-0a1b2c --label pool=train ")
    assert "--label zone=a --slots 1 --listen 127.0.0.1:0 --work-dir ~/.nasmesh/servers/train-0a1b2c" in words
    assert words.endswith("--memory 8GiB")
    assert order.environment == {"NASMESH_STORE": "s3://b", "A": "b"}
    assert len({new_name("train") for _ in range(100)}) == 100


# --- records --------------------------------------------------------------------------------------------------------


def test_a_server_goes_through_its_phases() -> None:
    pool = record()
    pool.ordered("train-1", 0.0)
    phases = []
    for now, standings, agents in (
        (1.0, [Standing("train-1", State.PENDING, "no GPU")], {}),
        (2.0, running("train-1"), {}),
        (3.0, running("train-1"), agent("train-1")),
        (4.0, running("train-1"), agent("train-1", attempts=1)),
        (5.0, running("train-1"), agent("train-1", connected=False, attempts=1)),
        (6.0, running("train-1"), agent("train-1", draining=True)),
    ):
        assert not pool.look(standings, agents, now)
        phases.append((pool.servers["train-1"].phase, pool.servers["train-1"].since))
    assert phases == [
        (Phase.PENDING, 0.0),
        (Phase.STARTING, 2.0),
        (Phase.IDLE, 3.0),
        (Phase.BUSY, 4.0),
        (Phase.STARTING, 5.0),
        (Phase.DRAINING, 6.0),
    ]
    assert pool.servers["train-1"].view().leaves, "somebody else drained it"
    assert pool.look([Standing("train-1", State.ENDED, "exit code 0")], {}, 7.0) == ["train-1"]
    assert not pool.look([Standing("train-1", State.ENDED, "exit code 0")], {}, 8.0), "told once"
    assert not pool.servers


def test_starts_that_fail_wait_longer_each_time_and_then_come_one_at_a_time() -> None:
    pool, now, waits = record(), 0.0, []
    assert pool.may_start(now) == BURST
    for number in range(12):
        pool.ordered(f"train-{number}", now)
        pool.look([Standing(f"train-{number}", State.ENDED, "exit code 2: no such flag")], {}, now)
        assert pool.may_start(now) == 0
        waits.append(pool.retry_at - now)
        now = pool.retry_at
        assert pool.may_start(now) == 1
    assert waits[:3] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S]
    assert waits[-1] == BACKOFF_CAP_S
    assert "exit code 2: no such flag" in pool.reason
    pool.ordered("train-x", now)
    assert pool.may_start(now) == 0, "one at a time"
    pool.look(running("train-x"), agent("train-x", attempts=1), now)
    assert (pool.failures, pool.may_start(now), pool.reason) == (0, BURST, "")


def test_those_that_fail_together_are_one_failure() -> None:
    pool = record()
    for number in range(8):
        pool.ordered(f"train-{number}", 0.0)
    pool.look([Standing(f"train-{number}", State.ENDED, "killed") for number in range(8)], {}, 1.0)
    assert (pool.failures, pool.retry_at) == (1, 1.0 + BACKOFF_S)


def test_one_that_ends_as_soon_as_it_is_there_has_failed_to_start() -> None:
    pool = record()
    pool.ordered("train-1", 0.0)
    pool.look(running("train-1"), agent("train-1"), 1.0)
    pool.look([Standing("train-1", State.ENDED, "out of memory")], {}, 2.0)
    assert pool.failures == 1
    steady = record()
    steady.ordered("train-2", 0.0)
    steady.look(running("train-2"), agent("train-2"), 1.0)
    steady.look([Standing("train-2", State.ENDED, "preempted")], {}, 1.0 + STEADY_S)
    assert steady.failures == 0


def test_one_that_was_told_to_end_has_not_failed_and_one_that_is_forgotten_is_gone() -> None:
    pool = record()
    pool.ordered("train-1", 0.0)
    pool.servers["train-1"].stopping = True
    assert pool.look([], {}, 1.0) == ["train-1"]
    assert pool.failures == 0
    pool.ordered("train-2", 2.0)
    assert not pool.look([], {}, 3.0), "an engine may take a moment to list it"
    assert pool.look([], {}, 3.0 + pool.rules.start_timeout_s) == ["train-2"]
    assert pool.failures == 1


def test_what_an_engine_says_hides_why_a_start_failed_only_until_it_answers() -> None:
    pool = record()
    pool.failed("train-1 ended before it was there: no such flag", 0.0)
    pool.refused(Unavailable("ENGINE_DOWN", "the cluster gives no answer"))
    assert pool.reason == "the cluster gives no answer"
    pool.look([], {}, 1.0)
    assert pool.reason == "train-1 ended before it was there: no such flag"


def test_servers_of_an_earlier_life_are_taken_over() -> None:
    pool = record()
    assert not pool.look(running("train-1"), agent("train-1", attempts=2), 1.0)
    view = pool.servers["train-1"].view()
    assert (view.phase, view.attempts, view.was_here) == (Phase.BUSY, 2, True)


# --- acquaintance ---------------------------------------------------------------------------------------------------


def test_what_a_pool_offers_is_known_again_until_the_pool_is_another(tmp_path: Path) -> None:
    pool = parse_config(POOL).pools[0]
    first = Acquaintance(tmp_path, pool)
    assert first.serves(generators=False) is None
    server = job_pb2.Server(engine="torch", process_id=7)
    server.datasets.add(name="datasets/digits", available=True)
    server.datasets.add(name="datasets/cifar10", available=False)
    server.generators.append(generate_service_pb2.Generator(name="generators/nac"))
    first.meet(server)
    again = Acquaintance(tmp_path, pool)
    assert again.server is not None
    assert again.server.process_id == 0
    assert again.serves(generators=False) == {"datasets/digits"}
    assert again.serves(generators=True) == {"generators/nac"}
    pool.max_servers = 9  # how many is no matter of what they are
    assert Acquaintance(tmp_path, pool).server is not None
    pool.arguments.append("--memory=1GiB")
    assert Acquaintance(tmp_path, pool).server is None
    (tmp_path / "train.json").write_text("\x00 rubbish")
    assert Acquaintance(tmp_path, pool).server is None


def test_what_settings_tell_of_a_pools_servers_is_known_before_one_is_seen(tmp_path: Path) -> None:
    told = "serves: [datasets/digits, datasets/own], arguments: [--gang-listen=h:1, --memory, 8GiB], local: {}"
    pool = parse_config(POOL.replace("local: {}", told)).pools[0]
    acquaintance = Acquaintance(tmp_path, pool)
    assert acquaintance.server is None
    assert acquaintance.known is not None
    assert [(d.name, d.available) for d in acquaintance.known.datasets] == [
        ("datasets/digits", True),
        ("datasets/own", True),
    ]
    assert acquaintance.known.datasets[0].classes == 10
    assert [device.job_memory_bytes for device in acquaintance.known.devices] == [8 << 30]
    assert rules_of(pool).takes_gangs
    acquaintance.meet(job_pb2.Server(engine="torch"))
    assert acquaintance.known.engine == "torch", "what one says of itself is true"
    for unsaid in ("arguments: [--memory, 8GiB], local: {}", "local: {}"):
        assert Acquaintance(tmp_path, parse_config(POOL.replace("local: {}", unsaid)).pools[0]).known is None
