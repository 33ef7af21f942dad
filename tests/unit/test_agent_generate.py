# ruff: noqa: N802, ARG002
"""GenerateDriver: what generators propose becomes stored networks, refusals and violations; nonsense is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nasmesh import spaces
from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.generate import GenerateDriver
from nasmesh.agent.spool import Spool
from nasmesh.agent.targets import LocalTarget
from nasmesh.errors import Invalid, NasmeshError, NotFound, Unavailable
from nasmesh.jobs.failures import failure_of
from nasmesh.model.encode import from_bytes, to_bytes
from nasmesh.model.lower import lower
from nasmesh.model.recover import recover_architecture
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import architecture_pb2, search_pb2, space_pb2
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import generate_service_pb2 as generate_pb

Answer = Callable[[generate_pb.ProposeRequest], generate_pb.ProposeResponse]


class FakeGenerators:
    """GenerateService with one answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[generate_pb.ProposeRequest] = []

    def ListServedGenerators(
        self, request: generate_pb.ListServedGeneratorsRequest, context: object
    ) -> generate_pb.ListServedGeneratorsResponse:
        served = generate_pb.Generator(name="generators/fake", version="1.2")
        return generate_pb.ListServedGeneratorsResponse(generators=[served])

    def Propose(self, request: generate_pb.ProposeRequest, context: object) -> generate_pb.ProposeResponse:
        self.requests.append(request)
        return self.answer(request)


def chain_space() -> space_pb2.Space:
    space = space_pb2.Space()
    space.chain.CopyFrom(space_pb2.ChainSpace(min_layers=1, max_layers=2, kernels=[3], channels=[4, 8]))
    return space


def values(space: space_pb2.Space, index: int = 0) -> space_pb2.ChoiceValues:
    """Return the first values of every choice that is active with one layer."""
    made = space_pb2.ChoiceValues()
    for choice in spaces.choices(space, input_dims=(1, 8, 8), classes=10):
        if any(condition.HasField("at_least") for condition in choice.conditions):
            continue
        if choice.HasField("integer"):
            made.values[choice.name] = str(choice.integer.min)
        else:
            made.values[choice.name] = choice.categorical.values[min(index, len(choice.categorical.values) - 1)]
    return made


def architecture(space: space_pb2.Space) -> architecture_pb2.Architecture:
    return spaces.build(
        space, values(space), input_dims=(1, 8, 8), classes=10, preprocessing=architecture_pb2.Preprocessing()
    )


def attempt(tmp_path: Path, **work: object) -> Attempt:
    lease = pb.Lease(token=pb.AttemptToken(task="t", attempt=1, epoch=1), **work)  # type: ignore[arg-type]
    return Attempt(lease, spool=Spool(tmp_path), reported=lambda: None)


def generate_work(space: space_pb2.Space, count: int = 4) -> pb.GenerateWork:
    work = pb.GenerateWork()
    work.request.CopyFrom(generate_pb.ProposeRequest(generator="generators/fake", space=space, count=count, call=1))
    work.data.dataset = "datasets/digits"
    return work


def run(tmp_path: Path, answer: Answer, work: pb.GenerateWork, store: MemoryStore | None = None) -> pb.GenerateResult:
    driver = GenerateDriver(LocalTarget(FakeGenerators(answer)), store or MemoryStore(), unreachable_s=0.0)
    driver.describe()
    return driver.run(attempt(tmp_path, generate=work)).generate


def propose(*proposals: generate_pb.Proposal, **fields: object) -> Answer:
    return lambda _request: generate_pb.ProposeResponse(proposals=proposals, **fields)  # type: ignore[arg-type]


def test_the_request_is_completed_from_space_and_data(tmp_path: Path) -> None:
    fake = FakeGenerators(propose(state=b"s", done=True, note="n", next_call=generate_pb.NextCall(after_results=2)))
    driver = GenerateDriver(LocalTarget(fake), MemoryStore(), slots=3)
    server = driver.describe()
    result = driver.run(attempt(tmp_path, generate=generate_work(chain_space()))).generate
    request = fake.requests[0]
    assert list(request.input_dims) == [1, 8, 8]
    assert request.classes == 10
    assert list(request.choices) == spaces.choices(chain_space(), input_dims=(1, 8, 8), classes=10)
    assert (result.state, result.done, result.note, result.next_call.after_results) == (b"s", True, "n", 2)
    assert result.generator_version == "1.2"
    assert [generator.name for generator in server.generators] == ["generators/fake"]


def test_every_form_of_proposal_becomes_the_same_stored_network(tmp_path: Path) -> None:
    store = MemoryStore()
    space = chain_space()
    built = architecture(space)
    built.preprocessing.CopyFrom(architecture_pb2.Preprocessing(mean=[0.30531], std=[0.37589]))
    content = to_bytes(lower(built))
    ref = store.put(ObjectKind.NETWORK, content)
    result = run(
        tmp_path,
        propose(
            generate_pb.Proposal(choices=values(space), proposal_id="a", note="why", parents=["searches/s/trials/1"]),
            generate_pb.Proposal(architecture=built, proposal_id="b", inherit_from="searches/s/trials/1"),
            generate_pb.Proposal(onnx=content, proposal_id="c"),
            generate_pb.Proposal(object=ref, proposal_id="d"),
        ),
        generate_work(space),
        store,
    )
    assert [trial.refusal.reason for trial in result.trials] == [""] * 4
    networks = [trial.network for trial in result.trials]
    assert networks[0] == networks[1]
    assert len({network.name for network in networks}) == 1
    assert [network.object for network in networks] == [ref] * 4
    assert networks[0].parameters > 0
    assert networks[0].macs > 0
    assert networks[0].summary["blocks"] == str(len(built.blocks))
    first = result.trials[0]
    assert (first.proposal_id, first.note, list(first.parents)) == ("a", "why", ["searches/s/trials/1"])
    assert first.choices == values(space)
    assert result.trials[1].inherit_from == "searches/s/trials/1"


def test_refused_networks_become_trials_with_their_refusal(tmp_path: Path) -> None:
    space = chain_space()
    wrong = values(space)
    wrong.values["no_such"] = "1"
    other_data = spaces.build(
        space, values(space), input_dims=(3, 8, 8), classes=5, preprocessing=architecture_pb2.Preprocessing()
    )
    result = run(
        tmp_path,
        propose(
            generate_pb.Proposal(choices=wrong, proposal_id="a"),
            generate_pb.Proposal(architecture=other_data, proposal_id="b"),
            generate_pb.Proposal(onnx=b"junk", proposal_id="c"),
            generate_pb.Proposal(object=object_ref(ObjectKind.NETWORK, b"never stored"), proposal_id="d"),
        ),
        generate_work(space),
    )
    reasons = [trial.refusal.reason for trial in result.trials]
    assert reasons == ["CHOICE_UNKNOWN", "SHAPE_MISMATCH", "NOT_ONNX", "OBJECT_MISSING"]
    assert not any(trial.HasField("network") or trial.refusal.retryable for trial in result.trials)


def test_static_constraints_are_judged_and_measured_ones_left(tmp_path: Path) -> None:
    space = chain_space()
    work = generate_work(space)
    work.request.constraints.add(metric="latency_p50", max=0.0)
    work.request.constraints.add(metric="parameters", max=1e9, min=1)
    work.request.constraints.add(metric="macs", max=10)
    work.request.constraints.add(metric="size_bytes", min=1e9)
    trial = run(tmp_path, propose(generate_pb.Proposal(choices=values(space))), work).trials[0]
    assert trial.HasField("network")
    assert trial.violation.constraint.metric == "macs"
    assert trial.violation.value == trial.network.macs


@pytest.mark.parametrize(
    "answer",
    [
        propose(*[generate_pb.Proposal(onnx=b"x", proposal_id=str(number)) for number in range(5)]),
        propose(state=bytes((1 << 20) + 1)),
        propose(generate_pb.Proposal(onnx=b"x", proposal_id="a"), generate_pb.Proposal(onnx=b"y", proposal_id="a")),
        propose(generate_pb.Proposal(proposal_id="a")),
        propose(generate_pb.Proposal(onnx=b"x", inherit_from="trials/1")),
        propose(next_call=generate_pb.NextCall(after_results=-1)),
    ],
    ids=["too many", "state too large", "ids twice", "no network", "no trial name", "negative"],
)
def test_nonsense_from_a_generator_is_a_typed_failure(tmp_path: Path, answer: Answer) -> None:
    with pytest.raises(Invalid) as caught:
        run(tmp_path, answer, generate_work(chain_space()))
    failure = failure_of(caught.value)
    assert (failure.reason, failure.retryable) == ("GENERATOR_REPLY_INVALID", False)


@pytest.mark.parametrize(
    ("error", "reason", "retryable", "counted"),
    [
        (Invalid("SETTINGS_INVALID", "no"), "SETTINGS_INVALID", False, True),
        (NotFound("GENERATOR_UNKNOWN", "no"), "GENERATOR_UNKNOWN", False, True),
        (Unavailable("BUSY_NOW", "later"), "BUSY_NOW", True, True),
        (Unavailable("UNREACHABLE", "nobody there"), "SERVER_UNREACHABLE", True, False),
        (NasmeshError("SERVER_FAILED", "a bug"), "SERVER_FAILED", True, True),
    ],
)
def test_errors_of_a_generator_keep_their_reason(
    tmp_path: Path, error: NasmeshError, reason: str, retryable: bool, counted: bool
) -> None:
    def answer(_request: generate_pb.ProposeRequest) -> generate_pb.ProposeResponse:
        raise error

    with pytest.raises(NasmeshError) as caught:
        run(tmp_path, answer, generate_work(chain_space()))
    failure = failure_of(caught.value)
    assert (failure.reason, failure.retryable, failure.counted) == (reason, retryable, counted)


def source(store: MemoryStore, space: space_pb2.Space, tmp_path: Path) -> search_pb2.Trial:
    answer = propose(generate_pb.Proposal(choices=values(space), proposal_id="p"))
    proposed = run(tmp_path, answer, generate_work(space), store).trials[0]
    return search_pb2.Trial(
        name="searches/s/trials/3", network=proposed.network, choices=proposed.choices, proposal_id="p"
    )


def finalized(
    tmp_path: Path, store: MemoryStore, source: search_pb2.Trial, scale_up: search_pb2.ScaleUp | None
) -> pb.ProposedTrial:
    work = pb.FinalizeWork(sources=[source], scale_up=scale_up, space=chain_space())
    work.data.dataset = "datasets/digits"
    driver = GenerateDriver(LocalTarget(FakeGenerators(propose())), store)
    result = driver.run(attempt(tmp_path, finalize=work)).generate
    assert len(result.trials) == 1
    assert list(result.trials[0].parents) == [source.name]
    return result.trials[0]


def test_finalize_without_scale_up_keeps_the_network(tmp_path: Path) -> None:
    store = MemoryStore()
    found = source(store, chain_space(), tmp_path)
    trial = finalized(tmp_path, store, found, None)
    assert trial.network == found.network
    assert trial.choices == found.choices


def test_finalize_rebuilds_the_choices_in_the_overlaid_space(tmp_path: Path) -> None:
    store = MemoryStore()
    found = source(store, chain_space(), tmp_path)
    wider = search_pb2.ScaleUp()
    wider.space.chain.pooling = False
    wider.space.chain.channels.extend([4, 8, 16])
    trial = finalized(tmp_path, store, found, wider)
    assert not trial.HasField("refusal")
    assert trial.network.name == found.network.name
    smaller = search_pb2.ScaleUp()
    smaller.space.chain.channels.extend([16])
    assert finalized(tmp_path, store, found, smaller).refusal.reason == "CHOICE_OUT_OF_DOMAIN"
    found.ClearField("choices")
    assert finalized(tmp_path, store, found, wider).refusal.reason == "SCALE_UP_UNSUPPORTED"


def test_finalize_multiplies_widths(tmp_path: Path) -> None:
    store = MemoryStore()
    found = source(store, chain_space(), tmp_path)
    trial = finalized(tmp_path, store, found, search_pb2.ScaleUp(width_multiplier=2.0))
    assert trial.network.parameters > 1.5 * found.network.parameters
    carried = recover_architecture(from_bytes(store.get(trial.network.object)))
    assert carried is not None
    assert "times 2" in trial.note


def test_a_cancelled_attempt_is_released(tmp_path: Path) -> None:
    work = attempt(tmp_path, generate=generate_work(chain_space()))
    work.cancel()
    driver = GenerateDriver(LocalTarget(FakeGenerators(propose())), MemoryStore())
    assert driver.run(work).WhichOneof("result") == "released"
