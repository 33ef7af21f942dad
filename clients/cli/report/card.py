"""Writes card.md: what the model is, how it is loaded, how good it is, how it came to be, what is not known of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from clients.cli.display.view import (
    format_duration,
    format_metric,
    is_partly_trained,
    outcome_word,
    short,
    told_note,
    told_partly_trained,
)
from clients.cli.report.artefacts import CHECKPOINT, INT8, LOADER, PYTHON, Artefacts
from clients.cli.report.collect import Collected, split_text
from clients.cli.report.figures import SPLITS, constraints_json, measurements, sample_counts
from clients.cli.report.finals import chosen_by
from clients.cli.report.intervals import interval, measured_ends
from clients.cli.report.verify import ModelFacts
from nasmesh.v1 import dataset_pb2, training_pb2
from nasmesh.v1.search_pb2 import Trial


class Units(NamedTuple):
    """What turns a network's numbers into targets: times `std`, plus `mean`; both empty for classes."""

    mean: Sequence[float] = ()
    std: Sequence[float] = ()


_CLASSES = Units()
_LISTED, _SEVERAL = 100, 2
_HIDDEN = ("class_", "train_", "accuracy_low", "accuracy_high")


def units_of(collected: Collected) -> Units:
    """Return the units of what is predicted, as far as they are known."""
    data = collected.dataset
    return Units(data.target_mean, data.target_std) if data is not None else Units()


def snippet(facts: ModelFacts | None, *, pictures: bool = True, units: Units = _CLASSES) -> str:
    """Return five lines of Python that load best.onnx and ask it about an array of samples."""
    if facts is None or facts.per_image:
        dims = ", ".join(str(dim) for dim in facts.dims) if facts else "1, 28, 28"
        asked = "print(predict.amounts(images))\n"
        if not units.std:
            asked = "classes, probabilities = predict.classify(images)\nprint(classes)\n"
        return (
            "import numpy\n"
            "import predict  # predict.py beside best.onnx\n"
            f'images = numpy.zeros((1, {dims}), "uint8")  # yours: bytes [N, channels, height, width]\n'
            f"{asked}"
        )
    scaled = 'images.astype("float32") / 255' if pictures else "samples"
    rank = len(facts.dims)
    if facts.mean:
        scaled = f"({scaled} - {_constants(facts.mean, rank)})"
    if facts.std:
        scaled = f"{scaled} / {_constants(facts.std, rank)}"
    dims = ", ".join(str(dim) for dim in (1, *facts.dims))
    given = (
        f'images = numpy.zeros(({dims}), "uint8")  # yours: bytes [N, channels, height, width]'
        if pictures
        else f'samples = numpy.zeros(({dims}), "float32")  # yours'
    )
    asked = f'session.run(["{facts.output}"], {{"{facts.input}": x}})[0]'
    return (
        "import numpy, onnxruntime\n"
        'session = onnxruntime.InferenceSession("best.onnx", providers=["CPUExecutionProvider"])\n'
        f"{given}\n"
        f"x = {scaled}\n"
        f"print({asked}{_in_units(units)})\n"
    )


def _in_units(units: Units) -> str:
    if not units.std:
        return ".argmax(axis=1)"
    std, mean = (", ".join(f"{value!r}" for value in values) for values in (units.std, units.mean))
    return f" * numpy.float32([{std}]) + numpy.float32([{mean}])"


def _constants(values: tuple[float, ...], rank: int) -> str:
    if len(values) == 1:
        return f"numpy.float32({values[0]!r})"
    each = ", ".join(["1", "-1", *["1"] * (rank - 1)])
    return f"numpy.float32([{', '.join(repr(value) for value in values)}]).reshape({each})"


def card(collected: Collected, artefacts: Artefacts) -> str:
    """Return card.md."""
    parts = [
        _what(collected),
        _load(collected, artefacts),
        _scores(collected, artefacts),
        _data(collected),
        _training(collected.best),
        _constraints(collected),
        _lineage(collected),
        ["## Checked", "", *(f"* {check}" for check in artefacts.verification.checks)],
        _limits(collected),
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _what(collected: Collected) -> list[str]:
    best, search = collected.best, collected.search
    return [
        f"# Model card: best network of {search.name}",
        "",
        f"Trained on {short(search.spec.data.dataset)}, found by {short(search.spec.generator.generator)} and trained "
        f"by NASMesh {collected.versions['nasmesh']}: {best.network.parameters:,} parameters, {best.network.macs:,} "
        f"multiply-accumulates a sample. Network {best.network.name}, trial {best.name}.",
    ]


def _load(collected: Collected, artefacts: Artefacts) -> list[str]:
    """Return how each file is loaded."""
    units = units_of(collected)
    lines = ["## Load it", "", "```python"]
    lines += [snippet(artefacts.verification.facts, pictures=collected.has_pictures, units=units).rstrip(), "```", ""]
    lines.append(f"* `python {LOADER} SAMPLES.npy` does the same; numpy and onnxruntime only. The batch size is free.")
    if PYTHON in artefacts.files:
        lines.append(f"* `python {PYTHON} SAMPLES.npy`, or `import model; model.load()`: PyTorch, and nothing of ours.")
    if CHECKPOINT in artefacts.files:
        lines.append(
            f"* `{CHECKPOINT}` holds weights and optimiser state: `nasmesh search transfer --weights` trains on."
        )
    if INT8 in artefacts.files:
        lines.append(f"* `{INT8}` is the 8-bit copy, loaded and fed like best.onnx; its scores are below.")
    if units.std:
        shown = f"{_numbers(units.std)} and add {_numbers(units.mean)}"
        lines.append(
            f"* The ONNX files give deviations of the targets: multiply by {shown}. {PYTHON} and {LOADER}, run, do so."
        )
    return lines + [f"* Missing: {text}" for text in artefacts.missing]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _scores(collected: Collected, artefacts: Artefacts) -> list[str]:
    best = collected.best
    rows = []
    for item in measurements(best, artefacts.copied):
        metric, split = str(item["metric"]), str(item["split"])
        if metric.startswith(_HIDDEN):
            continue
        besides = bool(best.evaluate.further_split) and item["split"] == SPLITS[best.evaluate.further_split]
        low, high = (
            measured_ends(best, metric, besides=True) if besides else interval(best, metric, artefacts.evaluation)
        )
        shown = f"{format_metric(metric, low)} to {format_metric(metric, high)}" if low is not None else ""
        rows.append(f"| {metric} | {split} | {format_metric(metric, float(str(item['value'])))} | {shown} |")
    confidence = best.evaluate.confidence if best.evaluate.HasField("confidence") else 0.95
    headers = [f"| metric | split | value | {confidence:.0%} interval |", "| --- | --- | --- | --- |"]
    final = collected.best_final
    found = [f"Final trainings of this network, scored once each on the test split: **{final}**.", ""] if final else []
    by_target = _by_target(collected, artefacts.evaluation)
    return ["## Scores", "", *found, *headers, *rows, "", *by_target, _score_note(collected)]


def _by_target(collected: Collected, evaluation: Mapping[str, object]) -> list[str]:
    """Return the errors of each target, where there are several: each has units of its own."""
    found = evaluation.get("targets")
    if not isinstance(found, list) or len(found) < _SEVERAL:
        return []
    names = list(collected.dataset.target_names) if collected.dataset is not None else []
    rows = []
    for index, entry in enumerate(found[:_LISTED]):
        mae = entry["mae"]
        ends = f"{mae['low']:.4g} to {mae['high']:.4g}" if "low" in mae else ""
        name = _cell(names[index]) if names else str(index)
        rows.append(f"| {name} | {mae['value']:.4g} | {ends} | {entry['rmse']:.4g} | {entry['r2']:.2%} |")
    return ["| target | mae | interval | rmse | r2 |", "| --- | --- | --- | --- | --- |", *rows, ""]


def _score_note(collected: Collected) -> str:
    if collected.test_score is None:
        return (
            "The test split was not used: this network was scored on the validation split that the search decides by."
        )
    seen = "The search saw train and validation only."
    trainings = sum(len(final.trials) for final in collected.finals)
    if trainings < _SEVERAL:
        return f"The test split was used once, by the final evaluation. {seen}"
    chosen = chosen_by(collected.search, collected.best)
    how = "that scored best there: its own score is partly luck." if chosen is None else f"chosen by {chosen}."
    used = f"The test split was used by {trainings} final evaluations, once each"
    return f"{used}, and this training is the one {how} {seen}"


def _data(collected: Collected) -> list[str]:
    spec, best = collected.search.spec.data, collected.best
    counts = "".join(f"; {count:,} samples {name}" for name, count in sample_counts(best).items())
    names = _listed("classes", collected.class_names)
    if collected.dataset is not None:
        word = "channels" if collected.dataset.kind == dataset_pb2.SAMPLE_KIND_SERIES else "columns"
        names += _listed(f"{word}, in this order", collected.dataset.channel_names)
        names += _listed("predicted", collected.dataset.target_names)
    divided = f"{split_text(collected)}{counts}{names}"
    return ["## Data", "", f"{spec.dataset}, content SHA-256 {best.data_digest or 'not recorded'}, {divided}."]


def _cell(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name.replace("|", "/"))


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; {what}: {', '.join(map(_cell, names[:_LISTED]))}{more}" if names else ""


def _training(trial: Trial) -> list[str]:
    """Return how the network was trained."""
    train = trial.train
    budget = f"{train.epochs:g} epochs" if train.WhichOneof("budget") == "epochs" else f"{train.steps:,} steps"
    if train.max_time_s:
        budget = f"{trial.steps:,} steps, of at most {budget}, which fitted into {format_duration(train.max_time_s)},"
    schedule = training_pb2.ScheduleKind.Name(train.schedule.kind).removeprefix("SCHEDULE_KIND_").lower()
    optimizer = training_pb2.OptimizerKind.Name(train.optimizer.kind).removeprefix("OPTIMIZER_KIND_").lower()
    parts = [
        f"seed {train.seed}",
        f"{budget} at batch size {train.batch_size}",
        f"{optimizer}, learning rate {train.optimizer.learning_rate:g}, weight decay {train.optimizer.weight_decay:g}",
        f"schedule {schedule} with {train.schedule.warmup_steps} steps of warm-up",
    ]
    augmentation = [f"{field.name} {value}" for field, value in train.augmentation.ListFields()]
    parts += [f"augmentation: {', '.join(augmentation)}"] if augmentation else ["no augmentation"]
    parts += [f"weights averaged with decay {train.ema_decay:g}"] if train.ema_decay else []
    parts += ["the validation split was trained on as well"] if train.include_validation else []
    cost = f"{format_duration(trial.device_time_s)} of device time"
    if is_partly_trained(trial):
        parts.insert(0, f"**trained {told_partly_trained(trial)}**, since no network of the search was; foreseen was")
    return ["## Training", "", "; ".join(parts) + f". It took {cost}; every setting is in report.json."]


def _constraints(collected: Collected) -> list[str]:
    rows = [
        f"| {item['metric']} | {_bound(item.get('min'))} | {_bound(item.get('max'))} | {_bound(item['value'])} |"
        for item in constraints_json(collected)
    ]
    if not rows:
        return []
    return ["## Constraints", "", "| metric | at least | at most | this network |", "| --- | --- | --- | --- |", *rows]


def _bound(value: object) -> str:
    return f"{value:,.10g}" if isinstance(value, int | float) else ""


def _lineage(collected: Collected) -> list[str]:
    search = collected.search
    steps = [
        f"{index}. {trial.name}{' (final)' if trial.final else ''}: {outcome_word(trial)}"
        f"{', ' + told_note(trial) if told_note(trial) else ''}"
        for index, trial in enumerate(collected.lineage, start=1)
    ]
    counts = search.trials
    cost = (
        f"The search cost {format_duration(search.device_time_s)} of device time: {counts.succeeded} trials scored, "
        f"{counts.infeasible} infeasible, {counts.failed} failed, {counts.stopped} stopped early."
    )
    return ["## Lineage", "", *steps, "", cost]


def _limits(collected: Collected) -> list[str]:
    return [
        "## Limits",
        "",
        f"Trained on {collected.search.spec.data.dataset} only; samples from elsewhere, in other sizes or taken in "
        "other circumstances, were not tried.",
    ]
