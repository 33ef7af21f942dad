"""Rehearsal: the arithmetic of virtual time by hand, what limits, the same answer again, figures from real searches."""

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest

from generate_svc.service import GenerateServicer
from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.generate import GenerateDriver
from nasmesh.agent.piped import run as run_attempt
from nasmesh.agent.spool import Spool
from nasmesh.agent.targets import LocalTarget
from nasmesh.client import parse_spec
from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler.piped import PipedGenerator
from scheduler.rehearsal.__main__ import hosts_of, main, model_of
from scheduler.rehearsal.data import known
from scheduler.rehearsal.fitting import fitted, line
from scheduler.rehearsal.model import Model, train_samples
from scheduler.rehearsal.rehearsing import Rehearsal, Timed, rehearse
from tests.builders import journals
from tests.builders.specs import chains
from tests.e2e.specs import NAC

CHAIN = chains(trials=4, layers=2, channels=(2, 4, 8), more="parallelism: 2\nseed: 5")
# Every training takes 10 s, every scoring 1 s, every call of the generator half a second.
BY_HAND = Model(
    train_s=10, seconds_per_mac=0, evaluate_s=1, evaluate_seconds_per_mac=0, noise=0, call_s=0.5, proposal_s=0
)


@pytest.fixture(scope="module")
def generator() -> Timed:
    """The real generators and the real driver, in this process."""
    driver = GenerateDriver(LocalTarget(GenerateServicer()), MemoryStore())
    spool = Spool(Path(tempfile.mkdtemp()))

    def ask(lease: pb.Lease) -> pb.AttemptOutcome:
        return run_attempt(driver, Attempt(lease, spool=spool, reported=lambda: None))

    return Timed(ask, driver.describe())


def spec(text: str = CHAIN, *overrides: str) -> search_pb2.SearchSpec:
    return parse_spec(text, overrides)


def timeless(found: Rehearsal) -> Rehearsal:
    return dataclasses.replace(found, took_s=0.0, generator_took_s=0.0)


def test_rehearsal_when_trainings_are_over_processes_of_a_server_then_each_is_one_of_a_host(generator: Timed) -> None:
    many = spec(CHAIN, "train.distribution.processes=4")
    assert rehearse(many, 2, generator, BY_HAND).wall_time_s == rehearse(spec(), 2, generator, BY_HAND).wall_time_s


def test_rehearsal_when_counted_by_hand_then_the_same_seconds(generator: Timed) -> None:
    # 0.5 both proposed; 10.5 trained; 11.5 scored; 12.0 the third and 12.5 the fourth proposed; the last ends 11 later.
    found = rehearse(spec(), 2, generator, BY_HAND)
    assert (found.wall_time_s, found.trials, found.calls, found.state) == (23.5, 4, 3, "SUCCEEDED")
    assert found.utilisation == pytest.approx(40 / 47)
    # A third agent would have nothing to do: two trials may be in flight until 11.5, and from 12.5 on the last two are.
    assert found.bound_s == {"agents": 0.0, "generator": 1.5, "parallelism": 11.0, "barrier": 0.0, "end": 11.0}
    assert found.limit == "parallelism"
    # Alone, the slot trains without a break from 0.5 on: what it waits for is proposed while it trains.
    alone = rehearse(spec(), 1, generator, BY_HAND)
    assert alone.wall_time_s == 0.5 + 4 * 10 + 1
    assert alone.idle_s == {"generator": 0.5, "parallelism": 0.0, "barrier": 0.0, "end": 1.0}


def test_rehearsal_when_there_are_more_agents_then_never_slower(generator: Timed) -> None:
    wide = spec(CHAIN, "budget.maxTrials=24", "parallelism=24")
    found = [rehearse(wide, hosts, generator, Model(proposal_s=0.001)) for hosts in (1, 2, 4, 8, 24, 48)]
    times = [row.wall_time_s for row in found]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[2] == pytest.approx(4, rel=0.15)
    assert times[4] == pytest.approx(times[5])
    shares = [row.utilisation for row in found]
    assert shares == sorted(shares, reverse=True)
    assert found[0].utilisation > 0.9
    assert len({tuple(row.networks) for row in found}) == 1, "one call, so the same networks"


@pytest.mark.parametrize(
    ("text", "overrides", "model", "hosts", "limit"),
    [
        (CHAIN, ("parallelism=2", "budget.maxTrials=12"), BY_HAND, 1, "agents"),
        (CHAIN, ("parallelism=2", "budget.maxTrials=12"), BY_HAND, 8, "parallelism"),
        (CHAIN, ("parallelism=3", "budget.maxTrials=12"), BY_HAND, 3, "parallelism"),
        (CHAIN, ("parallelism=3", "budget.maxTrials=12"), BY_HAND, 4, "parallelism"),
        (CHAIN, ("parallelism=3", "budget.maxTrials=12"), BY_HAND, 2, "agents"),
        (CHAIN, ("parallelism=8", "budget.maxTrials=12"), dataclasses.replace(BY_HAND, call_s=60), 4, "generator"),
        (NAC, ("parallelism=4", "final="), BY_HAND, 4, "barrier"),
        (CHAIN, ("parallelism=4",), BY_HAND, 40, "end"),
    ],
)
def test_rehearsal_when_something_limits_then_named(
    generator: Timed, text: str, overrides: tuple[str, ...], model: Model, hosts: int, limit: str
) -> None:
    wanted = spec(text, *(o for o in overrides if o != "final="))
    if "final=" in overrides:
        wanted.ClearField("final")
    found = rehearse(wanted, hosts, generator, model)
    assert (found.state, found.limit) == ("SUCCEEDED", limit), found


def test_rehearsal_when_repeated_then_the_same_and_another_seed_is_another(generator: Timed) -> None:
    wanted = spec(CHAIN, "budget.maxTrials=10")
    first = rehearse(wanted, 3, generator, Model())
    assert timeless(rehearse(wanted, 3, generator, Model())) == timeless(first)
    other = rehearse(spec(CHAIN, "budget.maxTrials=10", "seed=6"), 3, generator, Model())
    assert (other.networks, other.wall_time_s) != (first.networks, first.wall_time_s)


def test_rehearsal_when_nac_constructs_then_its_statistics_are_there(generator: Timed) -> None:
    found = rehearse(spec(NAC), 2, generator, Model())
    assert (found.state, found.trials, len(set(found.networks))) == ("SUCCEEDED", 4, 4), found


def test_model_when_the_network_or_training_grows_then_longer_and_better() -> None:
    data = known(spec().data)
    assert data.split_sizes == (1294, 144, 359)
    small = search_pb2.Trial(number=1)
    small.network.macs, small.network.parameters = 10_000, 500
    small.train.epochs = 1
    large = search_pb2.Trial()
    large.CopyFrom(small)
    large.network.macs, large.network.parameters = 1_000_000, 50_000
    model = Model(score_noise=0.0)
    assert model.train_duration_s(large, data, 1) > model.train_duration_s(small, data, 1)
    assert model.score(large, data, 1) > model.score(small, data, 1) > 0.1
    long = search_pb2.Trial()
    long.CopyFrom(small)
    long.train.epochs = 10
    assert train_samples(long.train, data) == 10 * train_samples(small.train, data)
    assert model.score(long, data, 1) > model.score(small, data, 1)
    long.train.steps = 100
    assert train_samples(long.train, data) == 6400


def test_line_when_points_lie_on_one_then_found_and_never_negative() -> None:
    assert line([(x, 2 + 3 * x) for x in (1, 2, 5)]) == pytest.approx((2, 3))
    assert line([(1.0, 5.0), (2.0, 4.0)]) == (4.5, 0.0)
    assert line([(1.0, 0.1), (2.0, 4.0)]) == pytest.approx((0.0, 2.05 / 1.5))
    assert line([]) == (0.0, 0.0)


def test_fitted_when_a_search_was_run_then_its_durations(tmp_path: Path) -> None:
    journals.ended(tmp_path / "journal.db", max_trials=6, final=False)
    found = fitted(tmp_path / "journal.db", "s", Model())
    assert (found.train_s, found.seconds_per_mac, found.noise) == pytest.approx((1.5, 0.0, 0.0))
    assert found.evaluate_s == pytest.approx(0.25)
    with pytest.raises(NotFound):
        fitted(tmp_path / "journal.db", "other", Model())
    journals.ended(tmp_path / "short.db", max_trials=2, final=False)
    with pytest.raises(Invalid, match="3 are needed"):
        fitted(tmp_path / "short.db", "s", Model())


def test_flags_when_wrong_then_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hosts_of("1,8,64") == [1, 8, 64]
    for text in ("", "0", "1,,2", "-1", "many", "10001"):
        with pytest.raises(Invalid, match="agents"):
            hosts_of(text)
    assert model_of("train_s=2,noise=0", Model()) == dataclasses.replace(Model(), train_s=2.0, noise=0.0)
    assert model_of("trainS=2,secondsPerMac=0", Model()) == dataclasses.replace(
        Model(), train_s=2.0, seconds_per_mac=0.0
    )
    for text in ("speed=1", "train_s=fast", "train_s=-1", "train_s"):
        with pytest.raises(Invalid, match="train-model"):
            model_of(text, Model())
    capsys.readouterr()
    assert main(["-f", str(tmp_path / "none.yaml"), "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["message"] in told.err
    for flags in ((), ("-f", "x", "--agent", "1")):
        assert main(flags) == 2
        assert capsys.readouterr().err.endswith("; see nasmesh rehearse --help\n")


def test_piped_generator_when_it_cannot_start_then_its_own_words() -> None:
    with pytest.raises(Invalid, match=r"^store: 'ftp:there' is not a store"), PipedGenerator(store="ftp:there"):
        pass
    with pytest.raises(Unavailable, match=r"^no server answers at 127.0.0.1:1:"), PipedGenerator(target="127.0.0.1:1"):
        pass


def test_rehearsal_when_a_rule_stops_trials_early_then_their_parts_are_modelled(generator: Timed) -> None:
    wide = ("budget.maxTrials=9", "parallelism=9", "train.epochs=9")
    rule = 'earlyStopping={"successiveHalving": {"trials": 9}}'
    # Every part costs 10 s to begin: nine to the first rung, three to the second, one to the end.
    found = rehearse(spec(CHAIN, *wide, rule), 9, generator, BY_HAND)
    assert (found.trials, found.succeeded, found.state) == (9, 1, "SUCCEEDED")
    assert found.device_time_s == 13 * (10 + 1)
    # Without that, a ninth of nine trainings, two ninths of three and two thirds of one, of which the best are large.
    linear = dataclasses.replace(BY_HAND, train_s=0, seconds_per_mac=1e-7, evaluate_s=0)
    halved = rehearse(spec(CHAIN, *wide, rule), 9, generator, linear)
    whole = rehearse(spec(CHAIN, *wide), 9, generator, linear)
    assert halved.networks == whole.networks
    assert 1 / 9 < halved.device_time_s / whole.device_time_s < 0.7
    assert timeless(halved) == timeless(rehearse(spec(CHAIN, *wide, rule), 9, generator, linear))


def test_rehearsal_when_servers_train_together_then_they_share_the_time_and_both_are_busy(generator: Timed) -> None:
    text = chains(trials=2, layers=2, channels=(2, 4, 8), more="parallelism: 2\nseed: 5")
    pair = spec(text, "train.distribution.processes=2", "train.distribution.acrossHosts=true")
    # 0.5 proposed; both hosts train the one, then the other: 10 s each; the last is scored 1 s later.
    found = rehearse(pair, 2, generator, BY_HAND)
    assert (found.wall_time_s, found.device_time_s, found.state) == (21.5, 2 * 2 * 10 + 2.0, "SUCCEEDED")
    with pytest.raises(Invalid, match="a training over 2 servers waits for agents: 1 of the connected"):
        rehearse(pair, 1, generator, BY_HAND)
