import math

import pytest

from nasmesh import evaluate_config, training_config
from nasmesh.errors import Invalid
from nasmesh.v1 import evaluation_pb2, measurement_pb2
from nasmesh.v1 import training_pb2 as pb


def test_complete_when_empty_then_has_the_defaults_of_the_contract():
    filled = training_config.complete(pb.TrainConfig(steps=5))
    assert (filled.batch_size, filled.checkpoint_interval_s, filled.data_fraction) == (64, 30, 1)
    assert filled.optimizer.kind == pb.OPTIMIZER_KIND_SGD
    assert (filled.optimizer.learning_rate, filled.optimizer.momentum, filled.optimizer.epsilon) == (0.05, 0.9, 1e-8)
    assert filled.schedule.kind == pb.SCHEDULE_KIND_CONSTANT
    assert (filled.schedule.decay, filled.schedule.decay_epochs, filled.schedule.period_factor) == (0.999, 2, 2)
    assert (filled.compute.precision, filled.compute.layout) == (pb.PRECISION_FLOAT32, pb.LAYOUT_AUTO)
    assert (filled.accumulate_batches, filled.auxiliary_weight, filled.drop_path_rate) == (1, 0.4, 0)
    assert (filled.sam_rho, filled.compute.compile) == (0, pb.COMPILE_MODE_NEVER)
    assert not filled.HasField("dropout_rate")
    assert training_config.complete(filled) == filled


def test_complete_when_one_kind_reads_a_field_then_fills_it_for_that_kind_alone():
    kinds = {
        pb.SCHEDULE_KIND_STEP: ("step_factor", 0.1),
        pb.SCHEDULE_KIND_ONE_CYCLE: ("rise_share", 0.3),
    }
    for kind, (name, value) in kinds.items():
        for other in kinds:
            config = pb.TrainConfig(steps=9, schedule=pb.ScheduleConfig(kind=other, milestones=[1] * (other == 4)))
            filled = training_config.complete(config).schedule
            assert filled.HasField(name) == (other == kind)
            assert other != kind or getattr(filled, name) == value
            training_config.check(training_config.complete(config))
    how = pb.AugmentationConfig(rand_augment_operations=2)
    assert training_config.complete(pb.TrainConfig(augmentation=how)).augmentation.rand_augment_magnitude == 9


def test_complete_when_a_zero_is_set_then_keeps_it():
    filled = training_config.complete(pb.TrainConfig(optimizer=pb.OptimizerConfig(momentum=0), seed=0))
    assert filled.optimizer.momentum == 0


def test_merge_when_fields_are_set_then_replaces_them_whole():
    base = pb.TrainConfig(
        steps=10, batch_size=8, optimizer=pb.OptimizerConfig(kind=pb.OPTIMIZER_KIND_ADAM, learning_rate=0.1)
    )
    over = pb.TrainConfig(epochs=2, optimizer=pb.OptimizerConfig(learning_rate=0.2), label_smoothing=0)
    merged = training_config.merge(base, over)
    assert merged.WhichOneof("budget") == "epochs"
    assert merged.batch_size == 8
    assert merged.optimizer == pb.OptimizerConfig(learning_rate=0.2)
    assert merged.HasField("label_smoothing")
    assert base.steps == 10


GOOD = {"steps": 10}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (pb.TrainConfig(), "budget"),
        (pb.TrainConfig(steps=0), "steps"),
        (pb.TrainConfig(steps=-3), "steps"),
        (pb.TrainConfig(epochs=math.nan), "epochs"),
        (pb.TrainConfig(epochs=-1), "epochs"),
        (pb.TrainConfig(**GOOD, batch_size=0), "batch_size"),
        (pb.TrainConfig(**GOOD, clip_norm=-1), "clip_norm"),
        (pb.TrainConfig(**GOOD, label_smoothing=1), "label_smoothing"),
        (pb.TrainConfig(**GOOD, dropout_rate=1), "dropout_rate"),
        (pb.TrainConfig(**GOOD, ema_decay=1), "ema_decay"),
        (pb.TrainConfig(**GOOD, checkpoint_interval_s=0), "checkpoint_interval_s"),
        (pb.TrainConfig(**GOOD, data_fraction=0), "data_fraction"),
        (pb.TrainConfig(**GOOD, optimizer=pb.OptimizerConfig(learning_rate=0)), "optimizer.learning_rate"),
        (pb.TrainConfig(**GOOD, optimizer=pb.OptimizerConfig(learning_rate=math.inf)), "optimizer.learning_rate"),
        (pb.TrainConfig(**GOOD, optimizer=pb.OptimizerConfig(weight_decay=-1)), "optimizer.weight_decay"),
        (pb.TrainConfig(**GOOD, optimizer=pb.OptimizerConfig(kind=2, momentum=0)), "optimizer.momentum"),
        (pb.TrainConfig(**GOOD, optimizer=pb.OptimizerConfig(kind=77)), "optimizer.kind"),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(decay=0)), "schedule.decay"),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(warmup_steps=10)), "schedule.warmup_steps"),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(min_learning_rate=1)), "schedule.min_learning_rate"),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(period_factor=0.5)), "schedule.period_factor"),
        (pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(contrast=1)), "augmentation.contrast"),
        (pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(crop_padding=-1)), "augmentation.crop_padding"),
        (pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(saturation=1)), "augmentation.saturation"),
        (pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(mixup=-1)), "augmentation.mixup"),
        (pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(cutmix=math.nan)), "augmentation.cutmix"),
        (pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(shift=1)), "augmentation.shift"),
        (pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(noise=-0.1)), "augmentation.noise"),
        (
            pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(rand_augment_operations=17)),
            "augmentation.rand_augment_operations",
        ),
        (
            pb.TrainConfig(
                **GOOD, augmentation=pb.AugmentationConfig(rand_augment_operations=1, rand_augment_magnitude=31)
            ),
            "augmentation.rand_augment_magnitude",
        ),
        (
            pb.TrainConfig(**GOOD, augmentation=pb.AugmentationConfig(rand_augment_magnitude=3)),
            "augmentation.rand_augment_magnitude",
        ),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_STEP)), "schedule.milestones"),
        (
            pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_STEP, milestones=[2, 2])),
            "schedule.milestones",
        ),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(milestones=[2])), "schedule.milestones"),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(step_factor=0.5)), "schedule.step_factor"),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(rise_share=0.5)), "schedule.rise_share"),
        (pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(by_epoch=True)), "schedule.by_epoch"),
        (
            pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_ONE_CYCLE, rise_share=1)),
            "schedule.rise_share",
        ),
        (
            pb.TrainConfig(**GOOD, schedule=pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_ONE_CYCLE, warmup_steps=2)),
            "schedule.warmup_steps",
        ),
        (pb.TrainConfig(**GOOD, loss="Cross Entropy"), "loss"),
        (pb.TrainConfig(**GOOD, loss="huber", label_smoothing=0.1), "label_smoothing"),
        (pb.TrainConfig(**GOOD, accumulate_batches=0), "accumulate_batches"),
        (pb.TrainConfig(**GOOD, accumulate_batches=3), "accumulate_batches"),
        (pb.TrainConfig(**GOOD, auxiliary_weight=-1), "auxiliary_weight"),
        (pb.TrainConfig(**GOOD, drop_path_rate=1), "drop_path_rate"),
        (pb.TrainConfig(**GOOD, sam_rho=-0.1), "sam_rho"),
        (pb.TrainConfig(**GOOD, sam_rho=0.1, compute=pb.ComputePolicy(precision=4)), "sam_rho"),
        (pb.TrainConfig(**GOOD, validate_every_steps=-1), "validate_every_steps"),
        (pb.TrainConfig(**GOOD, compute=pb.ComputePolicy(compile=9)), "compute.compile"),
        (pb.TrainConfig(**GOOD, compute=pb.ComputePolicy(precision=9)), "compute.precision"),
        (pb.TrainConfig(**GOOD, compute=pb.ComputePolicy(threads=-1)), "compute.threads"),
    ],
)
def test_check_when_a_field_is_wrong_then_names_it(config, field):
    with pytest.raises(Invalid) as caught:
        training_config.check(config, "spec.train")
    assert caught.value.reason == "TRAIN_CONFIG_INVALID"
    assert [violation.field for violation in caught.value.violations] == [f"spec.train.{field}"]


def test_check_when_several_fields_are_wrong_then_names_all():
    with pytest.raises(Invalid) as caught:
        training_config.check(pb.TrainConfig(batch_size=-1, clip_norm=math.nan))
    assert {violation.field for violation in caught.value.violations} == {
        "config.budget",
        "config.batch_size",
        "config.clip_norm",
    }


@pytest.mark.parametrize(
    ("probe", "field"),
    [
        (pb.Probe(statistics=[1]), "tap"),
        (pb.Probe(tap=1), "statistics"),
        (pb.Probe(tap=1, statistics=[4]), "statistics"),
        (pb.Probe(tap=3, statistics=[1]), "statistics"),
        (pb.Probe(tap=1, statistics=[0]), "statistics"),
        (pb.Probe(tap=1, statistics=[1], every_steps=-1), "every_steps"),
        (pb.Probe(tap=1, statistics=[1], window_steps=2, every_steps=3), "every_steps"),
    ],
)
def test_check_instrumentation_when_wrong_then_names_the_field(probe, field):
    with pytest.raises(Invalid) as caught:
        training_config.check_instrumentation(pb.InstrumentationPlan(probes=[pb.Probe(tap=1, statistics=[1]), probe]))
    assert caught.value.violations[0].field == f"instrumentation.probes[1].{field}"


def test_evaluate_config_when_empty_then_has_the_defaults_of_the_contract():
    filled = evaluate_config.complete(evaluation_pb2.EvaluateConfig())
    assert (filled.split, filled.batch_size) == (measurement_pb2.SPLIT_VALIDATION, 256)
    assert (filled.latency, filled.latency_runs, filled.threads) == (True, 50, 1)
    kept = evaluate_config.merge(filled, evaluation_pb2.EvaluateConfig(latency=False, batch_size=3))
    assert (kept.latency, kept.batch_size, kept.latency_runs) == (False, 3, 50)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("latency_runs", -1), ("threads", 0), ("split", 9)])
def test_evaluate_config_when_wrong_then_names_the_field(name, value):
    with pytest.raises(Invalid) as caught:
        evaluate_config.check(evaluation_pb2.EvaluateConfig(**{name: value}), "evaluate")
    assert caught.value.reason == "EVALUATE_CONFIG_INVALID"
    assert caught.value.violations[0].field == f"evaluate.{name}"
