"""T8b: mutants of good networks through admission; what passes is run in a child under caps.

200,000 a change, of which 200 are run; 5,000,000 and 5,000 with `--long`. A failure prints the number of the mutant,
and `pytest tests/fuzz/test_mutants.py --first N --count 1` makes it again.
"""

import random
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import psutil
import pytest

from nasmesh import limits
from nasmesh.errors import Rejected
from nasmesh.jobs.table import ChildLimits, JobTable
from nasmesh.model.admission import Admitted, admit
from nasmesh.model.encode import to_bytes
from nasmesh.model.reasons import Reason
from nasmesh.v1 import job_pb2
from nasmesh.v1 import train_service_pb2 as pb
from tests.fuzz.mutants import bases, mutate

SEED = 8
BASES = 40
A_CHANGE, LONG = 200_000, 5_000_000
RUN_A_CHANGE, RUN_LONG = 200, 5_000
# A tenth of what the child of a quarantine may take; most take a thousandth.
MOST_S = limits.ADMISSION_TIME_S / 10
GROWTH_BYTES = 96 << 20
CAPS = ChildLimits(memory_bytes=1 << 30, job_timeout_s=20.0)
REASONS = {reason.value for reason in Reason}


def mutant(number: int, sources: list[onnx.ModelProto]) -> bytes:
    """The bytes of one mutant; the same for the same number."""
    rng = random.Random(SEED << 40 | number)
    model = onnx.ModelProto()  # a fresh one: a message keeps the memory of all that it ever held
    model.CopyFrom(sources[rng.randrange(len(sources))])
    mutate(model, rng)
    content = model.SerializeToString(deterministic=True)
    if rng.random() < 0.05:
        spoiled = bytearray(content or b"x")
        for _ in range(rng.randint(1, 3)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        content = bytes(spoiled)
    return content


def verdict(content: bytes) -> Admitted | str:
    """What admission says: the network, or the reason; whatever else it raises goes through."""
    try:
        return admit(content)
    except Rejected as error:
        refusal = error
    assert refusal.reason in REASONS
    assert refusal.message
    assert "Traceback" not in refusal.message
    assert len(refusal.message) < 1000
    return refusal.reason


def check_admitted(found: Admitted, content: bytes) -> None:
    """An admitted network is bounded in every way, its shapes are known, and its bytes are its canonical ones."""
    assert found.content == content == to_bytes(found.model)
    assert 0 < len(found.model.graph.node) <= limits.ADMISSION_NODES
    assert 0 <= found.counts.parameters <= limits.ADMISSION_PARAMETERS
    assert 0 <= found.counts.macs <= limits.ADMISSION_MACS
    assert 0 < found.counts.size_bytes < limits.CHECKPOINT_BYTES * 3
    outputs = {name for node in found.model.graph.node for name in node.output if name}
    assert outputs <= found.dims.keys()
    assert all(0 < size <= limits.ADMISSION_DIM for name in outputs for size in found.dims[name])


@pytest.mark.timeout(3 * 3600)
def test_mutants_get_a_verdict_or_a_typed_refusal_in_bounded_time(request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    count = option("--count") or (LONG if option("--long") else A_CHANGE)
    sources = bases(BASES)
    for source in sources:
        admit(to_bytes(source))
    seen: Counter[str] = Counter()
    slowest, began = 0.0, time.process_time()
    before = psutil.Process().memory_info().rss
    for number in range(option("--first"), option("--first") + count):
        content = mutant(number, sources)
        start = time.process_time()
        try:
            found = verdict(content)
            if not isinstance(found, str):
                check_admitted(found, content)
        except BaseException:
            print(f"mutant {number}: replay with --first {number} --count 1")  # noqa: T201
            raise
        slowest = max(slowest, time.process_time() - start)
        assert slowest < MOST_S, f"mutant {number} took {slowest:.2f} s: --first {number} --count 1"
        seen[found if isinstance(found, str) else "ADMITTED"] += 1
    took_s = time.process_time() - began
    grown = psutil.Process().memory_info().rss - before
    print(  # noqa: T201 - the tier's counts
        f"T8b: {count} mutants in {took_s:.0f} s of processor time ({count / took_s:.0f}/s), slowest {slowest:.3f} s, "
        f"grown {grown >> 20} MiB, {seen.most_common()}"
    )
    assert grown < GROWTH_BYTES
    if count >= A_CHANGE:
        assert seen["ADMITTED"] > count // 20, seen
        assert len(seen) >= 22, seen


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    made = JobTable(
        work="tests.fuzz.run_network:run",
        slots=1,
        directory=tmp_path / "jobs",
        limits=CAPS,
        environment={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        noun="training",
    )
    yield made
    made.close()


@pytest.mark.timeout(3600)
def test_what_is_admitted_runs_or_fails_with_a_reason_under_caps(
    table: JobTable, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    wanted = RUN_LONG if request.config.getoption("--long") else RUN_A_CHANGE
    sources = bases(BASES)
    seen: Counter[str] = Counter()
    number = request.config.getoption("--first")
    peak = 0
    while sum(seen.values()) < wanted:
        content = mutant(number, sources)
        number += 1
        if isinstance(verdict(content), str):
            continue
        file = tmp_path / "network.onnx"
        file.write_bytes(content)
        order = pb.StartTrainingRequest(training_id=f"mutant-{number - 1}")
        order.network.key = str(file)
        table.start(order.training_id, order)
        view = list(table.watch(order.training_id))[-1]
        table.delete(order.training_id)
        assert view.failure is None or view.state == job_pb2.JOB_STATE_FAILED
        reason = "RAN" if view.failure is None else view.failure.reason
        said = "" if view.failure is None else view.failure.message
        assert reason in {"RAN", "NETWORK_NOT_RUNNABLE", *REASONS}, f"mutant {number - 1}: {reason}: {said}"
        seen[reason] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(f"T8b: {wanted} admitted mutants run, {seen.most_common()}, parent's peak {peak >> 20} MiB")  # noqa: T201
    assert seen["RAN"] >= wanted * 3 // 4, seen
