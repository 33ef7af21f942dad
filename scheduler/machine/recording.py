"""A new trial as it is recorded: its number, its network, its seed, and the weights that it starts from. Pure."""

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from nasmesh.v1 import training_pb2
from scheduler.domain import SearchRun, State
from scheduler.effects import Work


def mark(work: Work, run: SearchRun, trial: int = 0) -> None:
    """Note that a search or one of its trials changed: for watchers and for the next snapshot."""
    work.touched[(run.id, trial)] = None
    work.state.dirty[f"trial/{run.id}/{trial}" if trial else f"search/{run.id}"] = None


def new(work: Work, run: SearchRun, proposed: dispatch_pb.ProposedTrial) -> pb.Trial:
    """Record a trial, under way, with what its proposal says of it."""
    number = len(run.trials) + 1
    trial = pb.Trial()
    trial.name = run.trial_name(number)
    trial.number = number
    trial.note = proposed.note
    trial.proposal_id = proposed.proposal_id
    trial.phase = pb.TRIAL_PHASE_TRAIN_QUEUED
    if proposed.parents:
        trial.parents.extend(proposed.parents)
    if proposed.HasField("choices"):
        trial.choices.CopyFrom(proposed.choices)
    if proposed.instrumentation.ListFields():
        trial.instrumentation.CopyFrom(proposed.instrumentation)
    trial.create_time.FromMicroseconds(work.time_us)
    if proposed.HasField("network"):
        trial.network.CopyFrom(proposed.network)
        record_network(work.state, trial.network)
    run.trials.append(trial)
    run.active += 1
    if run.ladder is not None:
        run.ladder.climb(number, 0)
    mark(work, run, number)
    mark(work, run)
    return trial


def count_use(state: State, network: str) -> None:
    """Note that one more trial has a network, where uses are counted."""
    if state.network_uses is not None and network:
        state.network_uses[network] = state.network_uses.get(network, 0) + 1


def record_network(state: State, network: pb.Network) -> None:
    """Note a network that a trial has; the first object of equal ones stands."""
    name = network.name
    count_use(state, name)
    if name not in state.networks:
        state.dirty[f"network/{len(state.network_names):012d}"] = None
        state.networks[name] = network
        state.network_names.append(name)


def configure(trial: pb.Trial, train: training_pb2.TrainConfig, seed: int) -> None:
    """Give a trial its control parameters, and a seed where they name none."""
    config = trial.train
    config.CopyFrom(train)
    if not config.HasField("seed"):
        config.seed = seed


def inherit(run: SearchRun, trial: pb.Trial, parent: str) -> pb.Failure | None:
    """Set initial weights from a trained parent; returns why that cannot be. The name was checked before recording."""
    if not parent:
        carry_over(run, trial)
        return None
    source = run.trials[int(parent.rpartition("/")[2]) - 1]
    if source.HasField("checkpoint"):
        trial.initial_weights.CopyFrom(source.checkpoint)
        return None
    return pb.Failure(reason="INHERIT_UNTRAINED", message=f"{parent} has no trained weights to inherit")


def carry_over(run: SearchRun, trial: pb.Trial) -> None:
    """Set the initial weights that the search took over from another, where it did."""
    if run.spec.transfer.HasField("weights"):
        trial.initial_weights.CopyFrom(run.spec.transfer.weights)
