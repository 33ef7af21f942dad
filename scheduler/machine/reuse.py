"""Which measurements stand for a trial that nobody trains: the index of what was measured, and taking it over. Pure."""

import hashlib

from google.protobuf.message import Message

from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import MEASURED_BYTES, MEASURED_CHUNK, SearchRun
from scheduler.effects import Work

# Begins every digest; another rule of what decides a measurement gets another one, so that old entries never match.
_RULE = b"measured 1"
_NO_PROBES = bytes(8)


def digest_of(run: SearchRun, trial: pb.Trial) -> bytes:
    """Return the digest of all that decides what a trial measures.

    The structure names the network where names within it cannot matter: no statistic is read by element, no weight is
    inherited by name. Otherwise its bytes do.
    """
    plan = trial.instrumentation
    has_probes, weights = bool(plan.probes), trial.initial_weights
    network = trial.network.object.sha256 if has_probes or weights.key else trial.network.name
    data, evaluate = _shared_parts(run)
    content = (
        _RULE,
        network.encode(),
        weights.sha256.encode(),
        data,
        _part(trial.train),
        _part(trial.evaluate) if trial.final else evaluate,
        _part(plan) if has_probes else _NO_PROBES,
    )
    return hashlib.sha256(b"".join(content)).digest()[:MEASURED_BYTES]


def _shared_parts(run: SearchRun) -> tuple[bytes, bytes]:
    """Return what the digests of all search-phase trials of a search share: data, and how they are scored."""
    known = run.digest_parts
    if known is None or known[0] is not run.spec:
        known = run.digest_parts = run.spec, _part(run.spec.data), _part(run.spec.evaluate)
    return known[1], known[2]


def _part(message: Message) -> bytes:
    body = message.SerializeToString(deterministic=True)
    return len(body).to_bytes(8, "big") + body


def measured(trial: pb.Trial, metric: str) -> float | None:
    """Return the whole network's latest value of a metric, without split or on the split that evaluation scores."""
    splits = (measurement_pb2.SPLIT_UNSPECIFIED, trial.evaluate.split)
    for found in reversed(trial.measurements):
        if found.metric == metric and not found.element and found.split in splits:
            return found.value
    return None


def take_over(work: Work, run: SearchRun, trial: pb.Trial) -> bool:
    """Give a new trial what an equal one measured, in whatever search; returns whether there was one."""
    if run.spec.cache != pb.CACHE_MODE_REUSE:
        return False
    digest = digest_of(run, trial)
    found = work.state.measured.get(digest)
    if found is None:
        run.digests[trial.number] = digest
        return False
    search, number = found
    source = work.state.searches[search].trials[number - 1]
    if any(measured(source, objective.metric) is None for objective in run.spec.objectives):
        return False
    trial.measurements.extend(source.measurements)
    trial.checkpoint.CopyFrom(source.checkpoint)
    trial.model.CopyFrom(source.model)
    trial.environment.update(source.environment)
    trial.data_digest = source.data_digest
    trial.reused_from = source.name
    trial.device_time_saved_s = source.device_time_s
    run.device_time_saved_s += source.device_time_s
    if search != run.id:
        run.reused[search] = None
    return True


def remember(work: Work, run: SearchRun, trial: pb.Trial) -> None:
    """Let later trials take over from one that was measured; the first of equal ones stands."""
    if not run.spec.cache:
        # Recorded by a version without reuse: a complete specification says what it wants. The rules for what that
        # version recorded must not change, else its journal could not be replayed.
        return
    digest = run.digests.pop(trial.number, b"") or digest_of(run, trial)
    if digest in work.state.measured:
        return
    work.state.measured[digest] = (run.id, trial.number)
    chunk, place = divmod(trial.number - 1, MEASURED_CHUNK)
    row = run.measured.setdefault(chunk, bytearray())
    begin = place * MEASURED_BYTES
    if len(row) < begin + MEASURED_BYTES:
        row.extend(bytes(begin + MEASURED_BYTES - len(row)))
    row[begin : begin + MEASURED_BYTES] = digest
    work.state.dirty[f"measured/{run.id}/{chunk}"] = None


def index(run: SearchRun) -> dict[bytes, tuple[str, int]]:
    """Return a search's part of the index, from what its snapshot rows hold."""
    found: dict[bytes, tuple[str, int]] = {}
    for chunk, row in sorted(run.measured.items()):
        for begin in range(0, len(row), MEASURED_BYTES):
            digest = bytes(row[begin : begin + MEASURED_BYTES])
            if any(digest):
                found[digest] = (run.id, chunk * MEASURED_CHUNK + begin // MEASURED_BYTES + 1)
    return found
