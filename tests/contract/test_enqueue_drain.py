"""Adding networks to a running search, draining agents and the five outcomes, on a real scheduler."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nasmesh.errors import Invalid, NotFound, Stale
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import generate_service_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler import convert
from tests.builders import scheduler_lifecycle as wish
from tests.builders import scheduling as make
from tests.builders.scheduler_calls import SUCCEEDED, go, refused
from tests.builders.scheduler_server import ScriptedAgent, client, create, ended, running, scripted, trials_of, working

TRAIN, GENERATE, EVALUATE = make.ALL_KINDS[1], make.ALL_KINDS[0], make.ALL_KINDS[2]
RECORDED = dispatch_pb.OUTCOME_DISPOSITION_RECORDED


async def leased(agent: ScriptedAgent, kind: int) -> dispatch_pb.Lease:
    await agent.want(kind)
    return (await agent.hear("lease")).lease


async def answer(agent: ScriptedAgent, lease: dispatch_pb.Lease, **more: Any) -> None:
    result = make.generate_result(lease, **more)
    assert await agent.finish(dispatch_pb.AttemptOutcome(token=lease.token, generate=result)) == RECORDED


async def enqueue(stub: Any, search: str = "s", **proposal: Any) -> search_pb2.Trial:
    request = pb.EnqueueTrialRequest(parent=f"searches/{search}")
    request.proposal.CopyFrom(generate_service_pb2.Proposal(**proposal))
    return (await stub.EnqueueTrial(request)).trial  # type: ignore[no-any-return]


async def trial(stub: Any, number: int, search: str = "s") -> search_pb2.Trial:
    return (await stub.GetTrial(pb.GetTrialRequest(name=f"searches/{search}/trials/{number}"))).trial  # type: ignore[no-any-return]


def test_enqueue_when_admitted_then_trained_and_scored_and_the_generator_is_told() -> None:
    async def body() -> None:
        store = MemoryStore()
        async with (
            running(store=store) as scheduler,
            client(scheduler.address) as stub,
            scripted(scheduler.address) as agent,
        ):
            await agent.greet(make.make_hello("a", slots=3))
            spec = make.make_spec(max_trials=3, parallelism=3)
            spec.constraints.add(metric="parameters", max=2000)
            await create(stub, spec, search_id="s")
            first = await leased(agent, GENERATE)
            added = await enqueue(stub, onnx=b"some onnx", note="mine", train={"label_smoothing": 0.5})
            assert (added.number, added.enqueued, added.note) == (1, True, "mine")
            assert added.phase == search_pb2.TRIAL_PHASE_ADMIT_QUEUED
            assert added.train.label_smoothing == 0.5
            assert added.train.steps == 10
            # The question under way asked for three where there is room for two now: it is withdrawn and asked again.
            assert (await agent.hear("cancel")).cancel.token == first.token
            leases = [await leased(agent, GENERATE), await leased(agent, GENERATE)]
            question, admission = sorted(leases, key=lambda lease: lease.HasField("admit"))
            assert question.generate.request.count == 2
            assert question.generate.request.call == 1
            assert (await trial(stub, 1)).phase == search_pb2.TRIAL_PHASE_ADMITTING
            work = admission.admit
            assert store.get(work.proposal.object) == b"some onnx"
            assert list(work.constraints) == list(spec.constraints)
            assert work.space == spec.space
            await answer(agent, admission)
            await answer(agent, question, count=0)
            lease = await leased(agent, TRAIN)
            assert lease.train.config.label_smoothing == 0.5
            assert lease.trial == "searches/s/trials/1"
            await agent.finish(dispatch_pb.AttemptOutcome(token=lease.token, train=make.train_result(lease)))
            lease = await leased(agent, EVALUATE)
            await agent.finish(make.make_outcome(lease))
            done = await trial(stub, 1)
            assert done.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED
            question = await leased(agent, GENERATE)
            results = question.generate.request.results
            assert [(r.trial, r.proposal_id, r.outcome) for r in results] == [(done.name, "", done.outcome)]
            assert question.generate.request.count == 2

    go(body())


def test_enqueue_when_the_network_is_refused_or_outside_a_constraint_then_an_outcome_of_its_own() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a", slots=9))
            await create(stub, make.make_spec(max_trials=9, parallelism=1), search_id="s")
            await answer(agent, await leased(agent, GENERATE), count=1)
            for _ in range(2):
                await enqueue(stub, choices={"values": {"network": "x"}})
            refusal = search_pb2.Failure(reason="TOO_LARGE", message="too large")
            violation = search_pb2.ConstraintViolation(constraint=search_pb2.Constraint(metric="macs", max=1), value=2)
            for made in (dispatch_pb.ProposedTrial(refusal=refusal), dispatch_pb.ProposedTrial(violation=violation)):
                lease = await leased(agent, GENERATE)
                if made.HasField("violation"):
                    made.network.CopyFrom(make.make_network("big"))
                result = dispatch_pb.GenerateResult(trials=[made])
                await agent.finish(dispatch_pb.AttemptOutcome(token=lease.token, generate=result))
            assert (await trial(stub, 2)).outcome == search_pb2.TRIAL_OUTCOME_FAILED
            assert (await trial(stub, 2)).failure.reason == "TOO_LARGE"
            assert (await trial(stub, 3)).outcome == search_pb2.TRIAL_OUTCOME_INFEASIBLE
            nonsense = await enqueue(stub, choices={"values": {"network": "x"}})
            lease = await leased(agent, GENERATE)
            for count in (0, 2):
                outcome = dispatch_pb.AttemptOutcome(token=lease.token)
                outcome.generate.trials.extend([dispatch_pb.ProposedTrial(refusal=refusal)] * count)
                if count == 0:
                    assert await agent.finish(outcome) == dispatch_pb.OUTCOME_DISPOSITION_INVALID
            assert (await trial(stub, nonsense.number)).phase == search_pb2.TRIAL_PHASE_ADMIT_QUEUED

    go(body())


BAD_PROPOSALS: list[tuple[dict[str, Any], str]] = [
    ({}, "proposal.network"),
    ({"choices": {}, "proposal_id": "x"}, "proposal.proposal_id"),
    ({"choices": {}, "parents": ["searches/s/trials/9"]}, "proposal.parents"),
    ({"choices": {}, "inherit_from": "searches/other/trials/1"}, "proposal.parents"),
    ({"choices": {}, "parents": ["nonsense"]}, "proposal.parents"),
    ({"choices": {}, "train": {"label_smoothing": -1.0}}, "proposal.train.label_smoothing"),
    ({"choices": {}, "train": {"include_validation": True}}, "proposal.train.include_validation"),
    ({"object": {"key": "/etc/passwd"}}, "proposal.object"),
    ({"choices": {"values": {"a": "x" * 2_000_000}}}, "proposal"),
]


def test_enqueue_when_it_makes_no_sense_then_refused_and_nothing_is_added() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address, hold_training):
            await create(stub, make.make_spec(max_trials=2, parallelism=1), search_id="s")
            while not await trials_of(stub, "searches/s"):
                await asyncio.sleep(0)
            for proposal, field in BAD_PROPOSALS:
                error = await refused(enqueue(stub, **proposal), Invalid)
                assert error.field == field, error.message
            assert (await refused(enqueue(stub, "none", choices={}), NotFound)).reason == "SEARCH_UNKNOWN"
            await enqueue(stub, choices={"values": {"network": "x"}})
            error = await refused(enqueue(stub, choices={}), Stale)
            assert (error.reason, "raise spec.budget.max_trials" in error.message) == ("BUDGET_SPENT", True)
            await stub.CancelSearch(pb.CancelSearchRequest(name="searches/s"))
            assert (await refused(enqueue(stub, choices={}), Stale)).reason == "SEARCH_PHASE_OVER"
            assert len(await trials_of(stub, "searches/s")) == 2

    go(body())


def hold_training(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
    return None if lease.HasField("train") else make.make_outcome(lease)


def test_drain_when_release_is_asked_then_nothing_new_and_the_training_comes_back(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:  # noqa: SIM117
            async with scripted(scheduler.address) as agent, scripted(scheduler.address) as other:
                hello = make.make_hello("a", slots=2)
                hello.accepts_batches = True
                await agent.greet(hello)
                await create(stub, make.make_spec(max_trials=3, parallelism=3), search_id="s")
                await agent.want(GENERATE)
                (lease,) = await leases_of(agent, 1)
                result = make.generate_result(lease, count=3)
                await agent.say(outcome=dispatch_pb.AttemptOutcome(token=lease.token, generate=result))
                await agent.want(TRAIN, 2)
                held = await leases_of(agent, 2)
                drained = (await stub.DrainAgent(pb.DrainAgentRequest(name="agents/a", release=True))).agent
                assert drained.draining
                notice, asked = await drain_messages(agent, 2)
                assert notice.draining
                assert all(cancel.checkpoint for cancel in asked)
                for lease in held:
                    await agent.say(outcome=wish.released(lease, lease.trial))
                await agent.want(TRAIN, 2)
                await other.greet(make.make_hello("b", slots=3))
                await other.want(TRAIN, 3)
                again = [(await other.hear("lease")).lease for _ in range(3)]  # the other agent gets all of them
                assert {lease.token.task for lease in held} < {lease.token.task for lease in again}
                resumed = {lease.trial: lease.train.resume_from for lease in again if lease.token.attempt == 2}
                assert resumed == {lease.trial: make.make_ref(lease.trial, "checkpoints") for lease in held}
                info = (await stub.GetAgent(pb.GetAgentRequest(name="agents/a"))).agent
                assert (info.draining, len(info.attempts)) == (True, 0)
                error = await refused(stub.DrainAgent(pb.DrainAgentRequest(name="agents/none")), NotFound)
                assert error.reason == "AGENT_UNKNOWN"
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            async with scripted(scheduler.address) as agent:
                await agent.greet(hello)
                assert (await agent.hear("drain")).drain.draining
                assert (await stub.GetAgent(pb.GetAgentRequest(name="agents/a"))).agent.draining
                await stub.UndrainAgent(pb.UndrainAgentRequest(name="agents/a"))
                assert not (await agent.hear("drain")).drain.draining
                assert not (await stub.GetAgent(pb.GetAgentRequest(name="agents/a"))).agent.draining
            await stub.DrainAgent(pb.DrainAgentRequest(name="agents/a"))
        async with running(tmp_path / "j.db") as scheduler, client(scheduler.address) as stub:
            # Known from the journal alone: it has not connected to this scheduler.
            back = (await stub.UndrainAgent(pb.UndrainAgentRequest(name="agents/a"))).agent
            assert (back.name, back.draining) == ("agents/a", False)

    go(body())


def parts(message: dispatch_pb.WorkResponse) -> list[Any]:
    """Return what a message holds, whether it came alone or in a batch."""
    if message.HasField("batch"):
        return [*message.batch.outcome_replies, *message.batch.cancels, *message.batch.leases]
    return [getattr(message, str(message.WhichOneof("kind")))]


async def leases_of(agent: ScriptedAgent, count: int) -> list[dispatch_pb.Lease]:
    found: list[dispatch_pb.Lease] = []
    while len(found) < count:
        message = await agent.read()
        found += [part for part in parts(message) if isinstance(part, dispatch_pb.Lease)]
    return found


async def drain_messages(
    agent: ScriptedAgent, count: int
) -> tuple[dispatch_pb.DrainNotice, list[dispatch_pb.CancelAttempt]]:
    """Return the notice and the attempts asked back, whether each came alone or all in one batch."""
    notice: list[dispatch_pb.DrainNotice] = []
    cancels: list[dispatch_pb.CancelAttempt] = []
    while not notice or len(cancels) < count:
        for part in parts(await agent.read()):
            if isinstance(part, dispatch_pb.DrainNotice):
                notice.append(part)
            elif isinstance(part, dispatch_pb.CancelAttempt):
                cancels.append(part)
    return notice[0], cancels


def test_five_outcomes_when_each_happens_then_told_apart_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """succeeded, infeasible, failed, lost, stopped: in GetTrial, ListTrials, the generator's results and the CLI."""
    monkeypatch.setattr("scheduler.machine.tasks.LOSSES", 1)  # else a loss that is nobody's fault is tried for an hour
    words = ["SUCCEEDED", "INFEASIBLE", "FAILED", "LOST", "STOPPED"]

    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a", slots=5))
            await create(stub, make.make_spec(max_trials=9, parallelism=9), search_id="s")
            lease = await leased(agent, GENERATE)
            result = make.generate_result(lease, count=5)
            result.next_call.after_results = 4
            result.trials[1].violation.constraint.metric, result.trials[1].violation.value = "macs", 2.0
            await agent.finish(dispatch_pb.AttemptOutcome(token=lease.token, generate=result))
            leases = [await leased(agent, TRAIN) for _ in range(4)]
            await agent.finish(make.make_outcome(leases[0]))
            await agent.finish(make.make_failure(leases[1], "NETWORK_DIVERGED", retryable=False))
            await agent.finish(make.make_failure(leases[2], "STORE_DOWN", counted=False))
            await agent.finish(make.make_outcome(await leased(agent, EVALUATE)))
            question = await leased(agent, GENERATE)
            _, request = wish.update("s", budget__target=0.0)
            await stub.UpdateSearch(request)
            search = await ended(stub, "searches/s")
            assert search.state == SUCCEEDED
            trials = await trials_of(stub, "searches/s")
            outcomes = [search_pb2.TrialOutcome.Name(t.outcome).removeprefix("TRIAL_OUTCOME_") for t in trials]
            assert outcomes == words
            told = {r.trial: r.outcome for r in question.generate.request.results}
            assert told == {t.name: t.outcome for t in trials[:4]}
            assert convert.result_message(trials[4]).failure.reason == "SEARCH_PHASE_OVER"
            for number, word in enumerate(words, start=1):
                assert (await trial(stub, number)).outcome == search_pb2.TrialOutcome.Value(f"TRIAL_OUTCOME_{word}")
                request_list = pb.ListTrialsRequest(parent="searches/s", filter=f"outcome={word}")
                assert [t.number for t in (await stub.ListTrials(request_list)).trials] == [number]
            reasons = [t.failure.reason for t in trials]
            assert reasons == ["", "", "NETWORK_DIVERGED", "LOST", "SEARCH_PHASE_OVER"]
            counts = search.trials
            found = (counts.succeeded, counts.infeasible, counts.failed, counts.lost, counts.stopped, counts.active)
            assert found == (1, 1, 1, 1, 1, 0)
            shown = await show(scheduler.address)
            assert [word for line in shown for word in words if word.lower() in line.split()] == words

    go(body())


async def show(address: str) -> list[str]:
    command = [sys.executable, "-m", "clients.cli.main", "search", "show", "s", "--scheduler", address]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NASMESH_")}
    shown = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    out, _ = await shown.communicate()
    assert shown.returncode == 0
    rows = [line for line in out.decode().splitlines() if line[:1].isdigit()]
    return sorted(rows, key=lambda line: int(line.split()[0]))


def test_share_when_two_searches_have_long_and_short_queues_then_each_gets_half_the_slots() -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, scripted(scheduler.address) as agent:
            await agent.greet(make.make_hello("a", slots=8))
            for name, wide in (("long", 40), ("short", 6)):
                await create(stub, make.make_spec(max_trials=wide, parallelism=wide), search_id=name)
                lease = await leased(agent, GENERATE)
                await answer(agent, lease, count=wide)
            await agent.want(TRAIN, 8)
            leases = [(await agent.hear("lease")).lease for _ in range(8)]
            assert sorted(lease.search for lease in leases) == ["searches/long"] * 4 + ["searches/short"] * 4
            _, request = wish.update("short", priority=1)
            await stub.UpdateSearch(request)
            for lease in leases[:2]:
                await agent.finish(make.make_failure(lease, "NETWORK_DIVERGED", retryable=False))
            await agent.want(TRAIN, 2)
            assert {(await agent.hear("lease")).lease.search for _ in range(2)} == {"searches/short"}

    go(body())


def test_objects_when_swept_then_only_old_ones_that_nothing_names_go() -> None:
    from nasmesh.clock import ManualClock

    async def body() -> None:
        clock = ManualClock()
        store = MemoryStore(clock=clock)
        named = store.put(ObjectKind.NETWORK, b"in a specification")
        state = store.put(ObjectKind.STATE, b"a generator's", extension="")
        waiting = store.put(ObjectKind.NETWORK, b"enqueued")
        orphan = store.put(ObjectKind.CHECKPOINT, b"orphan")

        def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome | None:
            if lease.HasField("train") or lease.HasField("admit"):
                return None
            outcome = make.make_outcome(lease)
            outcome.generate.state = b"\x00see " + state.key.encode() + b"\xff"
            return outcome

        async with running(store=store) as scheduler, client(scheduler.address) as stub:
            async with working(scheduler.address, script):
                spec = make.make_spec(max_trials=9, parallelism=1)
                spec.space.fixed.object.CopyFrom(named)
                await create(stub, spec, search_id="s")
                while not (await trials_of(stub, "searches/s")):
                    await asyncio.sleep(0)
                await enqueue(stub, object=waiting)
            clock.advance(49 * 3600.0)
            young = store.put(ObjectKind.CHECKPOINT, b"young")
            would = await stub.DeleteUnreferencedObjects(pb.DeleteUnreferencedObjectsRequest())
            assert (would.objects, would.bytes, list(would.sample_keys)) == (1, len(b"orphan"), [orphan.key])
            assert would.referenced_objects == 3
            assert store.exists(orphan)
            request = pb.DeleteUnreferencedObjectsRequest(apply=True)
            request.min_age.FromSeconds(1800)
            assert (await refused(stub.DeleteUnreferencedObjects(request), Invalid)).field == "min_age"
            request.min_age.FromSeconds(3600)
            both = await asyncio.gather(
                *(stub.DeleteUnreferencedObjects(request) for _ in range(2)), return_exceptions=True
            )
            assert sum(not isinstance(reply, BaseException) for reply in both) >= 1
            assert not store.exists(orphan)
            assert all(store.exists(ref) for ref in (named, state, waiting, young))

    go(body())
