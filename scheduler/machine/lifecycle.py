"""What people decide about what exists: hold, let go on, change or delete a search, add a network, drain. Pure."""

from nasmesh.v1 import dataset_pb2, generate_service_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.domain import OPEN_SEARCHES, RESULTS_CHUNK, SearchRun, SearchState, State, TaskKind, TaskState
from scheduler.effects import Drained, Gone, IllegalTransitionError, Rearranged, Recalled, Work
from scheduler.machine import recording, reuse, searching, tasks, trials, waiting
from scheduler.wishes import AgentDrained

PAUSED = "the search is paused"


def pause(work: Work, run: SearchRun) -> None:
    """Hold a search: nothing of it is leased, running trainings are asked back; the rest may finish.

    Trials of others wait for none of it any more; what it has begun goes on when it does.
    """
    if run.paused:
        raise IllegalTransitionError(f"search {run.id} is paused already")
    run.paused = True
    for task_id in run.open_tasks:
        task = work.state.tasks[task_id]
        if task.kind is TaskKind.TRAIN and task.state is TaskState.RUNNING:
            attempt = task.current()
            work.effects.append(Recalled(task.id, attempt.number, attempt.epoch, attempt.agent, PAUSED))
    work.effects.append(Rearranged(run.id))
    waiting.rearrange(work)
    trials.mark(work, run)


def resume(work: Work, run: SearchRun) -> None:
    """Let a held search go on."""
    if not run.paused:
        raise IllegalTransitionError(f"search {run.id} is not paused")
    run.paused = False
    work.effects.append(Rearranged(run.id))
    waiting.rearrange(work)
    trials.mark(work, run)


def update(work: Work, run: SearchRun, spec: pb.SearchSpec) -> None:
    """Go on with another specification; what is beyond a lowered budget already is allowed to be there."""
    before, free = run.spec, searching.room(run)
    run.spec = spec
    work.effects.append(Rearranged(run.id))
    waiting.rearrange(work)
    trials.mark(work, run)
    if run.state is SearchState.RUNNING and (spec.budget, spec.parallelism) != (before.budget, before.parallelism):
        budget = spec.budget
        run.overdrawn_trials = max(0, searching.committed(run) - budget.max_trials) if budget.max_trials else 0
        run.overdrawn_iterations = max(0, run.iterations - budget.max_iterations) if budget.max_iterations else 0
        searching.reconsider(work, run, searching.room(run), more=searching.room(run) > max(0, free))


def enqueue(work: Work, run: SearchRun, proposal: generate_service_pb2.Proposal) -> None:
    """Add a network: a trial that waits for an agent to build and admit it."""
    if run.state is not SearchState.RUNNING:
        raise IllegalTransitionError(f"search {run.id} is {run.state.name}: trials are added in the search phase only")
    trial = trials.enqueue(work, run, proposal)
    tasks.create(work, run, TaskKind.GENERATE, trial=trial.number, proposal=proposal)
    if run.spec.budget.max_trials:
        searching.reconsider(work, run, run.spec.budget.max_trials - searching.committed(run))


def drain(work: Work, change: AgentDrained) -> None:
    """Give an agent no more work, or work again."""
    if change.draining:
        work.state.drained[change.agent] = change.release
    else:
        work.state.drained.pop(change.agent, None)
    work.effects.append(Drained(change.agent))


def add_dataset(work: Work, dataset: dataset_pb2.Dataset) -> None:
    """Give a name to an added data set."""
    if dataset.name in work.state.datasets:
        raise IllegalTransitionError(f"{dataset.name} exists")
    added = dataset_pb2.Dataset()
    added.CopyFrom(dataset)
    added.create_time.FromMicroseconds(work.time_us)
    work.state.datasets[dataset.name] = added
    work.state.dirty[f"dataset/{dataset.name.rpartition('/')[2]}"] = None


def delete_dataset(work: Work, name: str) -> None:
    """Forget the name of an added data set; searches keep its manifest."""
    if name not in work.state.datasets:
        raise IllegalTransitionError(f"there is no {name}")
    del work.state.datasets[name]
    work.state.dirty[f"dataset/{name.rpartition('/')[2]}"] = None


def delete(work: Work, run: SearchRun) -> None:
    """Take an ended search out of the state with everything that nothing else names; its id stays used."""
    state = work.state
    if run.state in OPEN_SEARCHES or any(run.id in other.reused for other in state.searches.values()):
        raise IllegalTransitionError(f"search {run.id} is {run.state.name}, or others took measurements over from it")
    for task_id in state.tasks.drop(run.id):
        state.dirty[f"task/{task_id}"] = None
    _forget_networks(state, run)
    reuse.hand_over(state, run)
    for number in range(1, len(run.trials) + 1):
        state.dirty[f"trial/{run.id}/{number}"] = None
    for chunk in range(-(-len(run.results) // RESULTS_CHUNK)):
        state.dirty[f"results/{run.id}/{chunk}"] = None
    state.dirty[f"search/{run.id}"] = None
    del state.searches[run.id]
    state.deleted[run.id] = None
    work.effects.append(Gone(run.id))


def _forget_networks(state: State, run: SearchRun) -> None:
    """Take out the networks that only this search used. The first deletion counts the uses, later ones know them."""
    if state.network_uses is None:
        state.network_uses = {}
        for other in state.searches.values():
            for trial in other.trials:
                recording.count_use(state, trial.network.name)
    gone = set()
    for trial in run.trials:
        name = trial.network.name
        if name:
            state.network_uses[name] -= 1
            if not state.network_uses[name]:
                del state.network_uses[name]
                gone.add(name)
    for index, name in enumerate(state.network_names):
        if name in gone:
            del state.networks[name]
            state.network_names[index] = ""
            state.dirty[f"network/{index:012d}"] = None
    while state.network_names and not state.network_names[-1]:
        state.network_names.pop()
