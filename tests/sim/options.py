"""What a seed switches on: a random subset of the faults, and a random mesh for them to hit."""

from dataclasses import asdict, dataclass

from nasmesh.clock import derive_seed, seeded_random
from nasmesh.v1 import search_pb2
from tests.builders import scheduling as make

TURNS = 130
# Of a mesh's agents so many drive a train server, and the first ones are those.
TRAINING_AGENTS = 3
GIB = 2**30
RULES = ("median", "successive_halving", "asynchronous_halving", "hyperband")


@dataclass(frozen=True, slots=True)
class Options:
    """One life's option set. Rates are chances at a boundary or a turn; 0 and False: never."""

    seed: int
    turns: int = TURNS
    agents: int = 3
    snapshot_events: int = 4000
    recent: int = 256
    kill: float = 0.0
    kill_agent: float = 0.0
    power_cut: bool = False
    results_lost: bool = False
    breaks: float = 0.0
    mutes: float = 0.0
    delays: float = 0.0
    stops: float = 0.0
    two_schedulers: float = 0.0
    wall_jumps: float = 0.0
    journal_full: float = 0.0
    spool_full: float = 0.0
    store: float = 0.0
    skew: bool = False
    failures: bool = False
    releases: float = 0.0
    duplicates: float = 0.0
    lifecycle: float = 0.0
    lost: float = 0.0
    cut_offs: float = 0.0
    needs: bool = False

    def told(self) -> str:
        """Return the options that are on, for the replay line."""
        given = {key: value for key, value in asdict(self).items() if value not in (0, False)}
        return " ".join(f"{key}={value}" for key, value in given.items())


def draw(seed: int) -> Options:
    """Return the options of a seed: each fault is on in about half of all seeds, so that rare pairs meet."""
    rng = seeded_random(derive_seed(seed, "options"))

    def maybe(*rates: float) -> float:
        return rng.choice(rates) if rng.random() < 0.5 else 0.0

    if rng.random() < 0.05:
        return _marathon(seed, kill=rng.choice([0.01, 0.02]))
    return Options(
        seed=seed,
        agents=rng.choice([1, 2, 3, 3, 4]),
        snapshot_events=rng.choice([6, 20, 20, 60, 4000]),
        recent=rng.choice([1, 2, 256]),
        kill=rng.choice([0.0, 0.06, 0.12, 0.2]),
        kill_agent=maybe(0.01, 0.03, 0.06),
        power_cut=rng.random() < 0.5,
        results_lost=rng.random() < 0.5,
        breaks=maybe(0.02, 0.06),
        mutes=maybe(0.02),
        delays=maybe(0.05),
        stops=maybe(0.02),
        two_schedulers=maybe(0.01, 0.03),
        wall_jumps=maybe(0.03),
        journal_full=maybe(0.01, 0.03),
        spool_full=maybe(0.05),
        store=maybe(0.05, 0.2),
        skew=rng.random() < 0.5,
        failures=rng.random() < 0.6,
        releases=rng.choice([0.0, 0.0, 0.0, 0.3]),
        duplicates=maybe(0.1),
        lifecycle=maybe(0.05, 0.1),
        **_led(seed),
        needs=seeded_random(derive_seed(seed, "needs")).random() < 0.3,
    )


def _led(seed: int) -> dict[str, float]:
    """Return what befalls a leader with its journal in a database; other draws stay as they were."""
    rng = seeded_random(derive_seed(seed, "led"))
    if rng.random() < 0.6:
        return {}
    return {"lost": rng.choice([0.0, 0.03, 0.1]), "cut_offs": rng.choice([0.0, 0.02, 0.05])}


def gives_bytes(options: Options, agent: str) -> int:
    """Return what trainings on an agent's server may hold together; 0: it does not say."""
    return seeded_random(derive_seed(options.seed, "gives", agent)).choice([2, 4, 8]) * GIB if options.needs else 0


def needed_bytes(options: Options, trial: str) -> int:
    """Return what a trial's training needs of a device; 0: hardly anything."""
    rng = seeded_random(derive_seed(options.seed, "needs", trial))
    return rng.choice([0, 0, 3, 6, 9]) * GIB if options.needs else 0


def _marathon(seed: int, *, kill: float) -> Options:
    """Return a life in which every attempt is given back at once, so that their numbers get two digits."""
    return Options(
        seed=seed, turns=400, agents=1, snapshot_events=20, recent=2, kill=kill, releases=0.97, duplicates=0.5
    )


def searches(seed: int) -> dict[str, search_pb2.SearchSpec]:
    """Return the searches of a seed by id, one or two, small enough that a life holds their end."""
    rng = seeded_random(derive_seed(seed, "searches"))
    found = {"one": _spec(rng.randint(2, 6), rng.randint(1, 3), final=rng.random() < 0.4)}
    if rng.random() < 0.3:
        found["two"] = _spec(rng.randint(1, 3), rng.randint(1, 2), final=False)
        if rng.random() < 0.5:  # what one search has measured, or is measuring, the other need not train
            for spec in found.values():
                spec.train.seed = 5
                spec.generator.settings["width"] = make.WIDE
            found["two"].cache = rng.choice([search_pb2.CACHE_MODE_REUSE, search_pb2.CACHE_MODE_REPEAT])
    spec = found["one"]
    if spec.HasField("final"):
        spec.final.repeats = rng.choice([1, 2])
        spec.final.top_k = rng.choice([1, 2])
    chance = rng.random()
    if chance < 0.1:
        spec.budget.max_wall_time_s = 60.0
    elif chance < 0.15:
        spec.budget.max_device_time_s = 6.0
    elif chance < 0.2:
        spec.budget.target = 0.7
    _stop_early(seed, found)
    _judge_early(seed, found)
    _share_trainings(seed, found)
    return found


def _stop_early(seed: int, specs: dict[str, search_pb2.SearchSpec]) -> None:
    """Give some searches a rule of early stopping, as validation completes it; other draws stay as they were."""
    rng = seeded_random(derive_seed(seed, "early stopping"))
    for spec in specs.values():
        if rng.random() < 0.6:
            continue
        rule = spec.early_stopping
        kind = rng.choice(RULES)
        getattr(rule, kind).SetInParent()
        if kind == "median":
            rule.median.rungs, rule.median.min_trials = rng.randint(0, 3), rng.randint(1, 3)
        else:
            getattr(rule, kind).reduction = rng.choice([2, 2, 3])
        if kind == "successive_halving":
            rule.successive_halving.trials = rng.choice([3, 4, 6])
        rule.by_pareto_rank = rng.random() < 0.3
        # Others than the two best go to their end rarely; more trials make more of them meet at rungs.
        spec.budget.max_trials += rng.randint(0, 4)


def _judge_early(seed: int, specs: dict[str, search_pb2.SearchSpec]) -> None:
    """Give some searches a bound that the untrained network is measured for, others a table in training's place."""
    rng = seeded_random(derive_seed(seed, "judging"))
    for spec in specs.values():
        chance = rng.random()
        if chance < 0.25:
            spec.constraints.add(metric="latency_p50", max=6.5)
        elif chance < 0.35 and not spec.HasField("early_stopping"):
            spec.evaluate.table = "tables/made-up"
            spec.ClearField("train")
            if spec.HasField("final"):
                spec.final.ClearField("train")
                spec.final.repeats = 1


def _share_trainings(seed: int, specs: dict[str, search_pb2.SearchSpec]) -> None:
    """Have several agents train each network of some searches, or of their final phase, together."""
    rng = seeded_random(derive_seed(seed, "gangs"))
    able = min(TRAINING_AGENTS, draw(seed).agents)
    for spec in specs.values():
        for train in (spec.train, spec.final.train if spec.HasField("final") else None):
            if able > 1 and rng.random() < 0.25 and train is not None and not spec.evaluate.table:
                train.distribution.across_hosts = True
                train.distribution.processes = rng.randint(2, able)
                train.batch_size = 12


def _spec(max_trials: int, parallelism: int, *, final: bool) -> search_pb2.SearchSpec:
    return make.make_spec(max_trials=max_trials, parallelism=parallelism, final=final)
