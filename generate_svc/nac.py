"""`nac`: Neural Architecture Construction on EnvelopeNets (Kamath et al. 2018).

Train a network of full cells for a while, prune the branches whose activations carry least, append a full cell to
each stage, rewire the skips, and repeat. One network at a time: each is made from the statistics of the one before.
"""

from dataclasses import replace
from enum import Enum

from generate_svc import nac_settings, nac_state, nac_statistics
from generate_svc.nac_rules import Restructuring, growing_stages, rank_branches, restructure
from generate_svc.nac_settings import NacSettings
from generate_svc.nac_state import NacState
from generate_svc.settings import to_struct
from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.spaces.envelope_network import encode, initial_network
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import search_pb2, space_pb2


class Ending(Enum):
    """Why a search is over; the note starts with the name in capitals."""

    ITERATIONS = "all restructurings are done"
    RANKING_STABLE = "the ranking of the branches has stabilised"
    NOTHING_PRUNABLE = "every branch left is its cell's last"
    STAGES_FULL = "every stage is frozen or at its length"
    INFEASIBLE = "the grown network is outside a constraint; the one before it stands"
    FAILED = "the network failed and is not tried again"


class NacGenerator:
    """Proposes one network per call, and ends after the restructurings asked for."""

    def describe(self) -> pb.Generator:
        """Return what it is."""
        return pb.Generator(
            name="generators/nac",
            version="1.0",
            description="Neural architecture construction on EnvelopeNets: prunes the branches of least activation, "
            "appends full cells (Kamath et al. 2018, arXiv:1803.06744).",
            settings_schema=to_struct(nac_settings.SCHEMA),
            spaces=["envelope"],
        )

    def propose(self, request: pb.ProposeRequest) -> pb.ProposeResponse:
        """Answer one call; see Algorithm. Waits (no proposal) while its network has no result."""
        settings = nac_settings.read(request.settings)
        space = spaces.complete(request.space).envelope
        if not request.state:
            return _propose(_start(space), space, settings)
        state = nac_state.load(request.state, space)
        result = _find_result(request, state.pending)
        if result is None and request.trials_in_flight > 0:
            # Called with the result of somebody else's trial: ask again with the next one, which may be ours.
            following = pb.NextCall(after_results=1)
            return pb.ProposeResponse(state=request.state, note=f"waits for {state.pending}", next_call=following)
        if result is not None and _is_usable(result):
            return _succeed(result, state, space, settings)
        return _recover(result, state, space, settings)


def _start(space: space_pb2.EnvelopeSpace) -> NacState:
    network = initial_network(space)
    lengths = ", ".join(str(len(stage)) for stage in network.stages)
    return NacState(network, pending="nac-0", note=f"start: stages of {lengths} full cells")


def _find_result(request: pb.ProposeRequest, proposal_id: str) -> pb.Result | None:
    """Return the last result of the proposal; networks that others added to the search are not ours."""
    found = [result for result in request.results if result.proposal_id == proposal_id]
    return found[-1] if found else None


def _is_usable(result: pb.Result) -> bool:
    """Tell whether a result must hold statistics; one that was stopped early may or may not."""
    if result.outcome == search_pb2.TRIAL_OUTCOME_STOPPED:
        return any(measurement.element for measurement in result.measurements)
    return result.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED


def _propose(state: NacState, space: space_pb2.EnvelopeSpace, settings: NacSettings) -> pb.ProposeResponse:
    # Beside trials that others add, it goes on as soon as its own has ended.
    following = pb.NextCall(after_results=1)
    response = pb.ProposeResponse(state=nac_state.dump(state), note=state.note, next_call=following)
    proposal = response.proposals.add(
        choices=encode(space, state.network),
        proposal_id=state.pending,
        instrumentation=nac_statistics.plan(state.network, settings.observation),
        note=state.note,
    )
    if state.parent:
        proposal.parents.append(state.parent)
        proposal.inherit_from = state.parent if settings.inherit else ""
    return response


def _end(why: Ending, state: NacState, detail: str = "") -> pb.ProposeResponse:
    note = f"{why.name}: {why.value}" + (f" ({detail})" if detail else "")
    return pb.ProposeResponse(state=nac_state.dump(state), done=True, note=note)


def _succeed(
    result: pb.Result, state: NacState, space: space_pb2.EnvelopeSpace, settings: NacSettings
) -> pb.ProposeResponse:
    """Restructure by the result's statistics, or end."""
    if not result.trial:
        raise Invalid("RESULT_INVALID", f"results: {state.pending} has no trial name", field="results.trial")
    if state.iteration >= settings.iterations:
        return _end(Ending.ITERATIONS, state, f"{state.iteration}")
    growing = growing_stages(space, state.network)
    if not growing:
        return _end(Ending.STAGES_FULL, state)
    readings = nac_statistics.read(result, space, state.network, settings.statistic)
    descending = settings.rules.descending
    rankings = [rank_branches(state.network.stages[i], readings.branches, descending=descending) for i in growing]
    stable = state.stable + 1 if _unchanged(state.rankings, rankings) else 0
    if 0 < settings.stable_after <= stable:
        return _end(Ending.RANKING_STABLE, state, f"{stable} iterations without a change")
    done = restructure(space, state.network, readings.branches, readings.scalars, settings.rules)
    if not done.added:
        return _end(Ending.NOTHING_PRUNABLE, state)
    following = NacState(
        network=done.network,
        pending=f"nac-{state.iteration + 1}",
        iteration=state.iteration + 1,
        parent=result.trial,
        note=_describe(done),
        rankings=tuple(tuple(ranking) for ranking in rankings),
        stable=stable,
    )
    return _propose(following, space, settings)


def _unchanged(before: tuple[tuple[str, ...], ...], now: list[list[str]]) -> bool:
    """Tell whether the branches ranked both times, at least two, stand in the same order in every stage."""
    earlier = {branch for ranking in before for branch in ranking}
    later = {branch for ranking in now for branch in ranking}
    old = [[branch for branch in ranking if branch in later] for ranking in before]
    new = [[branch for branch in ranking if branch in earlier] for ranking in now]
    comparable = sum(map(len, new)) > 1
    return comparable and [ranking for ranking in old if ranking] == [ranking for ranking in new if ranking]


def _describe(done: Restructuring) -> str:
    dropped = f"; dropped {len(done.skips_dropped)} skips" if done.skips_dropped else ""
    return f"pruned {', '.join(done.pruned)}; added {', '.join(done.added)}{dropped}"


def _recover(
    result: pb.Result | None, state: NacState, space: space_pb2.EnvelopeSpace, settings: NacSettings
) -> pb.ProposeResponse:
    """Try the same network again, or end: larger networks would be infeasible too, and none can be made unmeasured."""
    if result is not None and result.outcome == search_pb2.TRIAL_OUTCOME_INFEASIBLE:
        violated = result.violation
        return _end(Ending.INFEASIBLE, state, f"{violated.constraint.metric} is {violated.value:g}")
    why = _cause(result)
    if state.retries >= settings.retries:
        return _end(Ending.FAILED, state, f"{state.pending}: {why}")
    retries = state.retries + 1
    note = f"try {retries + 1} of the same network ({why})"
    again = replace(state, pending=f"nac-{state.iteration}-retry-{retries}", retries=retries, note=note)
    return _propose(again, space, settings)


def _cause(result: pb.Result | None) -> str:
    if result is None:
        return "no result and nothing in flight"
    outcome = search_pb2.TrialOutcome.Name(result.outcome).removeprefix("TRIAL_OUTCOME_").lower()
    return f"{outcome}, {result.failure.reason[:64]}" if result.failure.reason else outcome
