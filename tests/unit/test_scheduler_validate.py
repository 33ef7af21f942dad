"""Specifications: defaults filled in, and every fault named with its fix."""

import pytest

from nasmesh.errors import Invalid, Unavailable
from nasmesh.v1 import measurement_pb2, space_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.validate import complete_spec
from tests.builders import scheduling as make

NAN = float("nan")


def faults(spec: pb.SearchSpec) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        complete_spec(spec, [make.make_generator()])
    assert caught.value.reason == "SPEC_INVALID"
    return {violation.field: violation.description for violation in caught.value.violations}


def test_spec_when_right_then_complete_and_the_given_one_untouched() -> None:
    spec = make.make_spec(final=True)
    spec.final.train.optimizer.learning_rate = 0.5
    before = pb.SearchSpec.FromString(spec.SerializeToString())
    full = complete_spec(spec, [make.make_generator()])
    assert spec == before
    assert (full.train.steps, full.train.batch_size, full.train.HasField("seed")) == (10, 64, False)
    assert (full.final.train.steps, full.final.train.optimizer.learning_rate) == (50, 0.5)
    assert full.final.train.batch_size == 64
    assert full.evaluate.split == measurement_pb2.SPLIT_VALIDATION
    assert full.final.evaluate.split == measurement_pb2.SPLIT_TEST
    assert (full.final.choice, full.evaluate.further_split) == (pb.FINAL_CHOICE_VALIDATION, 0)
    assert full.final.evaluate.further_split == measurement_pb2.SPLIT_VALIDATION
    assert (full.final.top_k, full.final.repeats, full.parallelism) == (1, 1, 2)
    assert full.data.validation_fraction == 0.1
    assert full.generator.settings["width"] == 4
    assert complete_spec(full, [make.make_generator()]) == full


def test_final_when_it_trains_on_the_validation_split_then_that_does_not_choose() -> None:
    spec = make.make_spec(final=True)
    spec.final.train.include_validation = True
    full = complete_spec(spec, [make.make_generator()])
    assert (full.final.choice, full.final.evaluate.further_split) == (pb.FINAL_CHOICE_RANK, 0)
    assert complete_spec(full, [make.make_generator()]) == full
    spec.final.choice = pb.FINAL_CHOICE_VALIDATION
    assert "use RANK" in faults(spec)["spec.final.choice"]


def test_spec_when_seed_is_given_then_kept() -> None:
    spec = make.make_spec(final=True)
    spec.train.seed = 0
    full = complete_spec(spec, [make.make_generator()])
    assert full.train.HasField("seed")


def test_spec_when_everything_is_wrong_then_every_field_is_named() -> None:
    spec = make.make_spec(final=True)
    spec.data.dataset = "datasets/digit"
    spec.objectives[0].metric = "acuracy"
    spec.constraints.add(metric="parameters", min=5)
    spec.constraints.add(metric="parameters", max=4)
    spec.budget.max_wall_time_s = -1
    spec.budget.max_device_time_s = NAN
    spec.parallelism = 100_000
    spec.priority = 101
    spec.train.optimizer.learning_rate = NAN
    spec.train.include_validation = True
    spec.evaluate.split = measurement_pb2.SPLIT_TEST
    spec.final.top_k = -1
    spec.final.scale_up.width_multiplier = NAN
    spec.space.chain.ClearField("channels")
    spec.generator.settings["widht"] = 3
    found = faults(spec)
    for field, part in {
        "spec.data.dataset": "did you mean datasets/digits?",
        "spec.objectives[0].metric": "did you mean accuracy?",
        "spec.constraints[1]": "no parameters is at least 5 and at most 4",
        "spec.budget.max_wall_time_s": "positive",
        "spec.budget.max_device_time_s": "nan",
        "spec.parallelism": "1 to 1000",
        "spec.priority": "-100 to 100",
        "spec.train.optimizer.learning_rate": "above 0",
        "spec.train.include_validation": "final.train",
        "spec.evaluate.split": "SPLIT_VALIDATION",
        "spec.final.top_k": "1 to 100",
        "spec.final.scale_up.width_multiplier": "above 0",
        "spec.space.chain.channels": "empty",
        "spec.generator.settings.widht": "did you mean width?",
    }.items():
        assert part in found[field], (field, found)


def test_spec_when_its_data_is_wrong_then_rungs_do_not_ask_how_much_there_is() -> None:
    spec = make.make_spec()
    spec.early_stopping.median.SetInParent()
    spec.data.test_fraction = float("inf")
    assert "spec.data.test_fraction" in faults(spec)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s.ClearField("budget"), "spec.budget"),
        (lambda s: s.ClearField("space"), "spec.space"),
        (lambda s: s.ClearField("objectives"), "spec.objectives"),
        (lambda s: s.ClearField("train"), "spec.train.budget"),
        (lambda s: s.ClearField("data"), "spec.data.dataset"),
        (lambda s: s.ClearField("generator"), "spec.generator.generator"),
        (lambda s: s.space.envelope.SetInParent(), "spec.space"),
        (lambda s: s.space.fixed.SetInParent(), "spec.space.fixed"),
        (lambda s: setattr(s.objectives[0], "goal", 0), "spec.objectives[0].goal"),
        (lambda s: setattr(s, "cache", 7), "spec.cache"),
        (lambda s: setattr(s, "judging", 7), "spec.judging"),
        (lambda s: setattr(s.final, "pick", 7), "spec.final.pick"),
        (lambda s: s.objectives.add(metric="accuracy", goal=1), "spec.objectives[1].metric"),
        (lambda s: s.constraints.add(metric="macs"), "spec.constraints[0]"),
        (lambda s: s.constraints.add(metric="macs", max=NAN), "spec.constraints[0]"),
        (lambda s: setattr(s.objectives[0], "metric", "class_10_accuracy"), "spec.objectives[0].metric"),
        (lambda s: s.constraints.add(metric="speed", max=1), "spec.constraints[0].metric"),
        (lambda s: setattr(s.budget, "max_trials", -1), "spec.budget.max_trials"),
        (lambda s: setattr(s.budget, "target", NAN), "spec.budget.target"),
        (lambda s: s.labels.update({f"k{i}": "v" for i in range(33)}), "spec.labels"),
        (lambda s: s.labels.update({"a=b": "v"}), "spec.labels[a=b]"),
        (lambda s: s.generator.settings.update({"width": 0}), "spec.generator.settings.width"),
        (lambda s: s.generator.settings.update({"width": "wide"}), "spec.generator.settings.width"),
        (lambda s: s.final.scale_up.SetInParent(), "spec.final.scale_up"),
        (lambda s: s.final.scale_up.space.fixed.SetInParent(), "spec.final.scale_up.space"),
        (lambda s: setattr(s.final.evaluate, "split", 2), "spec.final.evaluate.split"),
        (lambda s: setattr(s.final.evaluate, "further_split", 1), "spec.final.evaluate.further_split"),
        (lambda s: setattr(s.evaluate, "further_split", 3), "spec.evaluate.further_split"),
        (lambda s: setattr(s.final, "choice", 7), "spec.final.choice"),
        (lambda s: s.instrumentation.probes.add(), "spec.instrumentation.probes[0].tap"),
        (lambda s: setattr(s.data, "validation_fraction", 1.5), "spec.data.validation_fraction"),
    ],
)
def test_spec_when_one_thing_is_wrong_then_that_field_is_named(change, field) -> None:  # type: ignore[no-untyped-def]
    spec = make.make_spec(final=True)
    change(spec)
    assert field in faults(spec)


def test_training_when_the_data_has_no_use_for_a_field_then_refused_once_and_not_by_every_trial() -> None:
    """Digits are grey images with classes."""
    spec = make.make_spec(final=True)
    spec.train.augmentation.saturation = 0.2
    spec.train.augmentation.shift = 0.1
    spec.train.loss = "huber"
    spec.final.train.label_smoothing = 0.1
    found = faults(spec)
    assert "has 1 channel" in found["spec.train.augmentation.saturation"]
    assert "is for series" in found["spec.train.augmentation.shift"]
    assert "use one of binary_cross_entropy, cross_entropy" in found["spec.train.loss"]
    assert not any(field.startswith("spec.final.train.augmentation") for field in found)
    spec = make.make_spec(final=True)
    spec.train.loss = "installed-somewhere"
    spec.final.train.augmentation.noise = 0.1
    assert list(faults(spec)) == ["spec.final.train.augmentation.noise"]


def test_objective_when_latency_is_not_measured_then_refused() -> None:
    spec = make.make_spec()
    spec.objectives[0].metric = "latency_p50"
    spec.evaluate.latency = False
    assert "evaluate.latency: true" in faults(spec)["spec.objectives[0].metric"]


def test_generator_when_absent_then_unavailable_with_the_nearest() -> None:
    spec = make.make_spec()
    spec.generator.generator = "generators/fakes"
    with pytest.raises(Unavailable, match="did you mean generators/fake") as caught:
        complete_spec(spec, [make.make_generator()])
    assert caught.value.reason == "GENERATOR_ABSENT"


def test_generator_schema_when_broken_or_pointing_elsewhere_then_refused_not_followed() -> None:
    for schema in ({"width": {"$ref": "http://127.0.0.1:1/schema"}}, {"width": {"type": "nonsense"}}):
        spec = make.make_spec()
        spec.generator.settings["width"] = 3
        with pytest.raises(Invalid, match="schema is broken"):
            complete_spec(spec, [make.make_generator(**schema)])


def test_spec_when_huge_then_refused_first() -> None:
    spec = make.make_spec()
    spec.generator.settings["text"] = "x" * 300_000
    with pytest.raises(Invalid, match="at most"):
        complete_spec(spec, [make.make_generator()])


def _cells(space: space_pb2.Space, *, drop_path: bool) -> None:
    space.cell.nodes, space.cell.drop_path = 3, drop_path


@pytest.mark.parametrize(
    ("searched", "enlarged", "rate", "final_rate", "named"),
    [
        (False, None, 0.2, None, {"spec.train.drop_path_rate"}),
        (False, None, None, 0.2, {"spec.final.train.drop_path_rate"}),
        (False, True, None, 0.2, set()),
        (True, None, 0.2, None, set()),
        (False, False, None, 0.2, {"spec.final.train.drop_path_rate"}),
        (True, False, 0.2, None, set()),  # what the enlarged space leaves out is taken from the search's
        (True, False, 0.2, 0.0, set()),
        (False, None, 0.0, 0.0, set()),
    ],
)
def test_drop_path_when_the_space_marks_no_paths_then_refused_by_name(searched, enlarged, rate, final_rate, named):  # type: ignore[no-untyped-def]
    spec = make.make_spec(final=True)
    _cells(spec.space, drop_path=searched)
    if enlarged is not None:
        _cells(spec.final.scale_up.space, drop_path=enlarged)
    if rate is not None:
        spec.train.drop_path_rate = rate
    if final_rate is not None:
        spec.final.train.drop_path_rate = final_rate
    generator = make.make_generator()
    del generator.spaces[:]
    if not named:
        complete_spec(spec, [generator])
        return
    with pytest.raises(Invalid) as caught:
        complete_spec(spec, [generator])
    assert {violation.field for violation in caught.value.violations} == named
    assert "drop_path" in caught.value.violations[0].description


def test_drop_path_when_the_space_is_a_chain_then_it_has_none() -> None:
    spec = make.make_spec()
    spec.train.drop_path_rate = 0.1
    assert "a chain has no paths" in faults(spec)["spec.train.drop_path_rate"]


def test_metrics_by_name_when_of_the_other_task_then_refused_before_anything_is_trained() -> None:
    spec = make.make_spec(final=True)
    spec.evaluate.metrics.extend(["macro_f1", "mape", "of_a_package"])
    spec.final.evaluate.metrics.extend(["max_error"])
    found = faults(spec)
    assert found.keys() == {"spec.evaluate.metrics[1]", "spec.final.evaluate.metrics[0]"}
    assert "mape is of the other task" in found["spec.evaluate.metrics[1]"]
    assert "macro_f1" in found["spec.final.evaluate.metrics[0]"]


def test_cells_when_more_than_any_network_may_have_then_refused() -> None:
    spec = make.make_spec()
    spec.space.cell.cells[:] = [1, 65, 64]
    assert "1 to 64 cells" in faults(spec)["spec.space.cell.cells"]
