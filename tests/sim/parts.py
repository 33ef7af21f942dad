"""T1 for every change: three thousand lives, shared by several test files so that workers share the time."""

from collections.abc import Callable

from tests.sim.lives import Tally, live_all

SEEDS = 3000
KILLS = 20_000
PARTS = 6


def live_part(part: int, told: Callable[[str, object], None]) -> None:
    """Live one part of the seeds; fails with the seeds that broke a promise and how to replay them."""
    tally = live_all(range(part, SEEDS, PARTS))
    told("counts", tally.told())
    assert not tally.failed, "\n".join(f"seed {seed}: {why}" for seed, why in tally.failed.items())
    check_counts(tally)


def check_counts(tally: Tally) -> None:
    """Check that the lives were as bad as they should be: enough kills, every fault, every kind of answer and end."""
    assert tally.seeds == SEEDS // PARTS
    assert tally.kills >= KILLS / PARTS, f"only {tally.kills} kills"
    rare = {kind: tally.counts.get(kind, 0) for kind in EVERY}
    assert min(rare.values()) >= 10, rare
    assert set(tally.dispositions) == {"RECORDED", "DUPLICATE", "SUPERSEDED", "INVALID"}, tally.dispositions
    assert tally.ends["SUCCEEDED"] >= tally.seeds / 3, tally.ends


EVERY = (
    "kills",
    "power cuts",
    "services killed",
    "breaks",
    "mutes",
    "delays",
    "stops",
    "two_schedulers",
    "stale schedulers refused",
    "wall_jumps",
    "full journals",
    "full spools",
    "store faults",
    "lifecycle",
    "promoted",
    "stopped early",
    "gangs",
    "gangs lost",
    "leases ahead",
    "lost connections",
    "landed unheard",
    "cut_offs",
    "trained elsewhere",
    "needs unmet",
)
