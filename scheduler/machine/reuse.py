"""Which measurements stand for a trial that nobody trains: the indexes of what was measured and of what is being
measured, and taking it over. Pure.
"""

import hashlib

from google.protobuf.message import Message

from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import MEASURED_BYTES, MEASURED_CHUNK, SearchRun, State
from scheduler.effects import Work

# Begins every digest; another rule of what decides a measurement gets another one, so that old entries never match.
_RULE = b"measured 1"
_NO_PLAN = bytes(8)
_NONE = bytes(MEASURED_BYTES)
# Revision of the rules (facts.RULES) from which on repeated measurements are kept, and handed the place of the first.
_HANDS_OVER = 1


def digest_of(run: SearchRun, trial: pb.Trial) -> bytes:
    """Return the digest of all that decides what a trial measures.

    The structure names the network where names within it cannot matter: no statistic is read by element, no weight is
    inherited by name. Otherwise its bytes do.
    """
    plan = trial.instrumentation
    has_plan, weights = bool(plan.ListFields()), trial.initial_weights
    network = trial.network.object.sha256 if has_plan or weights.key else trial.network.name
    data, evaluate = _shared_parts(run)
    content = (
        _RULE,
        network.encode(),
        weights.sha256.encode(),
        data,
        _part(trial.train),
        _part(trial.evaluate) if trial.final else evaluate,
        _part(plan) if has_plan else _NO_PLAN,
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
    return measured_on(trial, metric, trial.evaluate.split)


def measured_on(trial: pb.Trial, metric: str, split: measurement_pb2.Split.ValueType) -> float | None:
    """Return the whole network's latest value of a metric, without split or on one."""
    splits = (measurement_pb2.SPLIT_UNSPECIFIED, split)
    for found in reversed(trial.measurements):
        if found.metric == metric and not found.element and found.split in splits:
            return found.value
    return None


def take_over(work: Work, run: SearchRun, trial: pb.Trial, digest: bytes) -> bool:
    """Give a trial what an equal one measured, in whatever search; returns whether there was one."""
    found = work.state.measured.get(digest)
    if found is None:
        return False
    search, number = found
    source = work.state.searches[search].trials[number - 1]
    if any(measured(source, objective.metric) is None for objective in run.spec.objectives):
        return False
    trial.measurements.extend(source.measurements)
    trial.checkpoint.CopyFrom(source.checkpoint)
    trial.model.CopyFrom(source.model)
    if source.HasField("report"):
        trial.report.CopyFrom(source.report)
    if source.HasField("quantized"):
        trial.quantized.CopyFrom(source.quantized)
    trial.environment.update(source.environment)
    if source.HasField("inheritance"):
        trial.inheritance.CopyFrom(source.inheritance)
    trial.steps = source.steps
    trial.data_digest = source.data_digest
    trial.peak_memory_bytes = source.peak_memory_bytes
    trial.predicted_memory_bytes = source.predicted_memory_bytes
    trial.reused_from = source.name
    trial.device_time_saved_s = source.device_time_s
    run.device_time_saved_s += source.device_time_s
    if search != run.id:
        run.reused[search] = None
    return True


def remember(work: Work, run: SearchRun, trial: pb.Trial) -> None:
    """Let other trials take over from one that was measured; the first of equal ones stands."""
    if not run.spec.cache:
        # Recorded by a version without reuse: a complete specification says what it wants. The rules for what that
        # version recorded must not change, else its journal could not be replayed.
        return
    state = work.state
    digest = run.digests.get(trial.number) or digest_of(run, trial)
    first = state.measured.get(digest)
    if first is not None:
        if state.rules >= _HANDS_OVER and first[0] != run.id:
            _repeat(state, run, trial.number, digest)
        return
    state.measured[digest] = (run.id, trial.number)
    if digest in state.waiting:
        work.settled += (digest,)
    _write(state, run, run.measured, trial.number, digest)


def _repeat(state: State, run: SearchRun, number: int, digest: bytes) -> None:
    """Keep that a trial measured what one of another search had; of equal ones of its own search, the first."""
    places = state.repeats.setdefault(digest, {})
    if run.id not in places:
        places[run.id] = number
        _write(state, run, run.repeats, number, digest)


def hand_over(state: State, run: SearchRun) -> None:
    """Take a search that goes out of the indexes; who measured the same in another one stands from now on.

    Linear in the search's own trials. Of several the one in the search with the smallest id stands.
    """
    for digest in _numbers(run.repeats):
        del state.repeats[digest][run.id]
        if not state.repeats[digest]:
            del state.repeats[digest]
    for digest in _numbers(run.measured):
        del state.measured[digest]
        if digest in state.repeats:
            _succeed(state, digest)
    for chunk in (*run.measured, *run.repeats):
        state.dirty[f"measured/{run.id}/{chunk}"] = None


def _succeed(state: State, digest: bytes) -> None:
    """Put one that measured a digest again in the place of who did first; or none, where the rules then said so."""
    places = state.repeats[digest]
    hands_over = state.rules >= _HANDS_OVER
    for search in [min(places)] if hands_over else list(places):
        number, heir = places.pop(search), state.searches[search]
        _write(state, heir, heir.repeats, number, _NONE)
        if hands_over:
            state.measured[digest] = (search, number)
            _write(state, heir, heir.measured, number, digest)
    if not places:
        del state.repeats[digest]


def _write(state: State, run: SearchRun, rows: dict[int, bytearray], number: int, digest: bytes) -> None:
    chunk, place = divmod(number - 1, MEASURED_CHUNK)
    row = rows.setdefault(chunk, bytearray())
    begin = place * MEASURED_BYTES
    if len(row) < begin + MEASURED_BYTES:
        row.extend(bytes(begin + MEASURED_BYTES - len(row)))
    row[begin : begin + MEASURED_BYTES] = digest
    state.dirty[f"measured/{run.id}/{chunk}"] = None


def index(run: SearchRun) -> dict[bytes, tuple[str, int]]:
    """Return a search's part of the index of who measured what first, from what its snapshot rows hold."""
    return {digest: (run.id, number) for digest, number in _numbers(run.measured).items()}


def repeats(run: SearchRun) -> dict[bytes, int]:
    """Return the trials of a search that measured what another search had before, from what its snapshot rows hold."""
    return _numbers(run.repeats)


def _numbers(rows: dict[int, bytearray]) -> dict[bytes, int]:
    """Return the trials of snapshot rows by digest."""
    found: dict[bytes, int] = {}
    for chunk, row in sorted(rows.items()):
        for begin in range(0, len(row), MEASURED_BYTES):
            digest = bytes(row[begin : begin + MEASURED_BYTES])
            if digest != _NONE:
                found[digest] = chunk * MEASURED_CHUNK + begin // MEASURED_BYTES + 1
    return found


def measured_for(state: State, run: SearchRun, number: int, digest: bytes) -> bool:
    """Have a new trial wait for an equal one that is being measured, or be the one; returns whether it waits."""
    leader = state.measuring.get(digest)
    if leader is None or run.spec.cache == pb.CACHE_MODE_REUSE:
        if leader is not None and serves(state.searches[leader[0]], run):
            state.waiting.setdefault(digest, {})[run.id, number] = None
            return True
        lead(state, run, number, digest)
    return False


def serves(leader: SearchRun, run: SearchRun) -> bool:
    """Say whether trials of a search may wait for those of another: not for what is held, or leased after their own."""
    return run.paused or (not leader.paused and leader.spec.priority >= run.spec.priority)


def lead(state: State, run: SearchRun, number: int, digest: bytes) -> None:
    """Make a trial the one that equal ones wait for."""
    before = state.measuring.get(digest)
    if before is not None:
        del state.searches[before[0]].digests[before[1]]
        state.dirty["search/" + before[0]] = None
    run.digests[number] = digest
    state.measuring[digest] = (run.id, number)


def leave(work: Work, run: SearchRun, number: int) -> None:
    """Have a trial that has ended wait for none, and none for it."""
    state = work.state
    digest = run.digests.pop(number, None)
    if digest is None:
        return
    del state.measuring[digest]
    if digest in state.waiting:
        work.settled += (digest,)


def stop_waiting(state: State, run: SearchRun, number: int) -> None:
    """Have a trial wait no more."""
    digest = digest_of(run, run.trials[number - 1])
    del state.waiting[digest][run.id, number]
    if not state.waiting[digest]:
        del state.waiting[digest]


def restore(state: State, run: SearchRun) -> None:
    """Put a search's trials into the indexes, measured and at work, from what its snapshot rows hold."""
    state.measured.update(index(run))
    for digest, repeated in repeats(run).items():
        state.repeats.setdefault(digest, {})[run.id] = repeated
    for number in run.digests:
        digest = run.digests[number] = digest_of(run, run.trials[number - 1])
        state.measuring[digest] = (run.id, number)
    for number, trial in run.trials.values_by_number():
        if trial.phase == pb.TRIAL_PHASE_AWAITS_EQUAL:
            state.waiting.setdefault(digest_of(run, trial), {})[run.id, number] = None
