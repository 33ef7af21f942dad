"""The specification of a search that takes a found network over to other data, depth or width, as a recorded step."""

from dataclasses import dataclass

from nasmesh import spaces
from nasmesh.client import Client
from nasmesh.errors import Invalid, Rejected
from nasmesh.v1 import architecture_pb2, dataset_pb2, search_pb2, space_pb2
from nasmesh.v1.search_pb2 import Search, Trial

GENERATOR = "generators/fixed"


@dataclass(frozen=True, slots=True)
class Wish:
    """What changes: data set (empty: the same), cells of a stage (0: as found), widths; seeds; whether weights stay."""

    data: str = ""
    cells: int = 0
    width_multiplier: float = 1.0
    repeats: int = 1
    inherit_weights: bool = False


def find_trial(client: Client, subject: str) -> Trial:
    """Return the trial that a person names: "searches/{id}/trials/{n}", "{id}/{n}", or a search for its best trial.

    Raises NotFound, Stale (NOT_TRAINED) for a search without a scored network.
    """
    search, slash, number = subject.partition("/")
    if slash and number.isdigit():
        return client.get_trial(f"searches/{search}/trials/{number}")
    return client.get_trial(subject) if "/trials/" in subject else client.best(subject)


def carried_over(client: Client, trial: Trial, wish: Wish) -> search_pb2.SearchSpec:
    """Return the specification: that of the trial's search, for this one network, as wished.

    Raises Invalid (TRANSFER_IMPOSSIBLE, ONNX_MISSING) and Rejected where the network cannot be had in that form.
    """
    source = client.get_search(trial.name.partition("/trials/")[0])
    spec = search_pb2.SearchSpec()
    spec.CopyFrom(source.spec)
    for name in ("constraints", "instrumentation", "early_stopping", "budget", "generator", "parallelism", "transfer"):
        spec.ClearField(name)
    for evaluate in (spec.evaluate, spec.final.evaluate):
        evaluate.ClearField("table")
        evaluate.ClearField("table_seed")
    spec.transfer.trial, spec.transfer.inherit_weights = trial.name, wish.inherit_weights
    dataset = _data(client, spec, wish)
    spec.generator.generator = GENERATOR
    spec.budget.max_trials = 1
    _network(client, spec, source, trial, wish, dataset)
    spec.final.ClearField("scale_up")
    spec.final.top_k, spec.final.repeats = 1, wish.repeats
    spec.final.pick = search_pb2.FINAL_PICK_BEST
    return spec


def _data(client: Client, spec: search_pb2.SearchSpec, wish: Wish) -> dataset_pb2.Dataset:
    """Change the data, and return it; what of the division is the old data's own goes."""
    name = spec.data.dataset
    if wish.data:
        name = wish.data if "/" in wish.data else f"datasets/{wish.data}"
    found = client.get_dataset(name)
    if name != spec.data.dataset:
        kept = spec.data.validation_fraction
        spec.data.Clear()
        spec.data.dataset, spec.data.validation_fraction = name, kept
    return found


def _network(
    client: Client, spec: search_pb2.SearchSpec, source: Search, trial: Trial, wish: Wish, dataset: dataset_pb2.Dataset
) -> None:
    """Say which network: the values of its choices in a changed space where that can be, else its architecture."""
    space = _space_of(source, trial)
    changed = _changed(space, wish) if trial.HasField("choices") and space is not None else None
    if changed is not None:
        spec.space.CopyFrom(changed)
        spec.generator.settings.update({"choices": dict(trial.choices.values)})
        return
    if wish.cells:
        kind = source.spec.space.WhichOneof("kind")
        raise Invalid(
            "TRANSFER_IMPOSSIBLE",
            f"--cells: the depth of a network of the space {kind} is no number of cells; leave it out, or name a "
            "network of the cell space",
            field="cells",
        )
    spec.space.fixed.architecture.CopyFrom(_architecture(client, trial, wish, dataset))


def _space_of(source: Search, trial: Trial) -> space_pb2.Space | None:
    """Return the space in which a trial's values were built; None where its network was changed beyond a space."""
    if not trial.final or not source.spec.final.HasField("scale_up"):
        return source.spec.space
    scale = source.spec.final.scale_up
    return spaces.overlay(source.spec.space, scale.space) if scale.HasField("space") else None


def _changed(space: space_pb2.Space, wish: Wish) -> space_pb2.Space | None:
    """Return the space with the depth and width wished for, None where its choices do not reach that far."""
    full = spaces.complete(space)
    kind = full.WhichOneof("kind")
    if kind == "cell":
        if wish.cells:
            full.cell.cells[:] = [wish.cells] * len(full.cell.cells)
        full.cell.width = max(1, round(full.cell.width * wish.width_multiplier))
        return full
    if wish.cells:
        return None
    if kind == "envelope":
        full.envelope.stem.width = max(1, round(full.envelope.stem.width * wish.width_multiplier))
        return full
    return full if wish.width_multiplier == 1.0 and kind != "fixed" else None


def _architecture(
    client: Client, trial: Trial, wish: Wish, dataset: dataset_pb2.Dataset
) -> architecture_pb2.Architecture:
    """Return the architecture that a trial's network carries, for the data and in the width wished for."""
    try:
        import onnx

        from nasmesh.model.recover import recover_architecture
        from nasmesh.model.transform import fit_to, scale_width
    except ModuleNotFoundError as error:
        raise Invalid(
            "ONNX_MISSING",
            f"search: the network of {trial.name} is changed here, and {error.name} is not installed; "
            "pip install 'nasmesh[generate]'",
            field="search",
        ) from error
    exported = client.export(trial.network.name)
    found = recover_architecture(onnx.ModelProto.FromString(exported.content))
    if found is None:
        raise Rejected(
            "ARCHITECTURE_MISSING",
            f"{trial.name} was given as ONNX and carries no architecture, so it cannot be rebuilt for other data",
            field="search",
        )
    preprocessing = architecture_pb2.Preprocessing(mean=dataset.mean, std=dataset.std)
    outputs = dataset.classes or dataset.targets
    fitted = fit_to(found, list(dataset.sample_dims), outputs, preprocessing)
    return scale_width(fitted, wish.width_multiplier) if wish.width_multiplier != 1.0 else fitted
