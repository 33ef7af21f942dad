"""What an update can do besides the plain one: it does what it says, and a kill within an epoch costs no bit."""

import onnx
import pytest
import torch
from torch.nn import functional

from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid
from nasmesh.model.admission import admit
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import training_pb2 as pb
from tests.builders import training_jobs as jobs
from tests.builders.training_jobs import Context
from train_svc.step import Update
from train_svc.training import assemble

NESTEROV = pb.OptimizerConfig(kind=pb.OPTIMIZER_KIND_NESTEROV, learning_rate=0.05, weight_decay=3e-4)
ADAMW = pb.OptimizerConfig(kind=pb.OPTIMIZER_KIND_ADAMW, learning_rate=0.01, weight_decay=0.01)
MIXED = pb.AugmentationConfig(
    crop_padding=1, flip=True, brightness=0.1, mixup=0.4, cutmix=1, rand_augment_operations=2, cutout=2
)
EVERYTHING = {
    "mixed in parts": {
        "optimizer": NESTEROV,
        "schedule": pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_ONE_CYCLE),
        "augmentation": MIXED,
        "accumulate_batches": 4,
        "drop_path_rate": 0.4,
        "auxiliary_weight": 0.3,
        "ema_decay": 0.9,
        "clip_norm": 5,
        "validate_every_steps": 5,
    },
    "sharpness-aware": {
        "optimizer": ADAMW,
        "schedule": pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_STEP, milestones=[1, 2], by_epoch=True),
        "sam_rho": 0.05,
        "accumulate_batches": 2,
        "label_smoothing": 0.1,
        "drop_path_rate": 0.2,
    },
    "bfloat16, one against all": {
        "optimizer": NESTEROV,
        "loss": "binary_cross_entropy",
        "augmentation": pb.AugmentationConfig(mixup=1),
        "compute": pb.ComputePolicy(precision=pb.PRECISION_BFLOAT16),
    },
}


pytestmark = pytest.mark.usefixtures("job_home")


def _weights(store, ref):
    return {name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(store.get(ref)).state.items()}


def _training(store, network, **config):
    training = assemble(jobs.request(network, **config), store, SystemClock())
    training.module.train()
    return training


def _after(training, updates):
    update = Update(training)
    draws = training.feed.draw(0)
    for number in range(updates):
        update.run(draws, number)
    return {name: tensor.clone() for name, tensor in training.module.state_dict().items()}


@pytest.mark.parametrize("features", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_train_when_killed_in_an_epoch_then_resumes_to_the_same_bits(store, features):
    network = jobs.stored(store, jobs.headed())
    whole = jobs.run(jobs.request(network, steps=30, seed=5, **features), store)

    class PowerCutError(Exception):
        pass

    def die(context):
        if context.checkpoints and load_checkpoint(store.get(context.checkpoints[-1])).scalars["step"] >= 7:
            raise PowerCutError

    context = Context(die)
    with pytest.raises(PowerCutError):
        jobs.run(jobs.request(network, steps=30, seed=5, checkpoint_interval_s=1e-9, **features), store, context)
    resumed = jobs.request(network, steps=30, seed=5, **features)
    resumed.resume_from.CopyFrom(context.checkpoints[-1])
    torch.manual_seed(99)
    result = jobs.run(resumed, store)
    assert result.model.sha256 == whole.model.sha256
    assert _weights(store, result.checkpoint) == _weights(store, whole.checkpoint)
    assert result.steps == 30


def test_until_step_when_gone_on_from_then_ends_as_without_it(store):
    network = jobs.stored(store, jobs.headed())
    features = EVERYTHING["mixed in parts"]
    whole = jobs.run(jobs.request(network, steps=30, **features), store)
    rung = jobs.request(network, steps=30, **features)
    for until in (5, 19, 0):
        rung.until_step = until
        result = jobs.run(rung, store)
        assert result.steps == (until or 30)
        rung.resume_from.CopyFrom(result.checkpoint)
    assert result.model.sha256 == whole.model.sha256


def test_accumulating_when_samples_do_not_see_each_other_then_is_the_whole_batch(store):
    network = jobs.stored(store, jobs.plain())
    config = {"steps": 8, "optimizer": NESTEROV, "augmentation": MIXED, "sam_rho": 0.05}
    whole = _after(_training(store, network, **config), 8)
    parts = _after(_training(store, network, accumulate_batches=5, **config), 8)
    for name, tensor in whole.items():
        assert torch.allclose(parts[name], tensor, atol=2e-6), name


def test_sharpness_aware_when_one_update_then_is_foret_by_hand(store):
    network = jobs.stored(store, jobs.plain())
    plain = pb.OptimizerConfig(learning_rate=0.1, momentum=0)
    training = _training(store, network, steps=1, optimizer=plain, sam_rho=0.5)
    batch = training.feed.batch(training.feed.draw(0), 0)
    names, start = zip(*((n, p.detach().clone()) for n, p in training.module.named_parameters()), strict=True)

    def gradients(values):
        leaves = [value.clone().requires_grad_() for value in values]
        with torch.no_grad():
            for parameter, value in zip(training.module.parameters(), values, strict=True):
                parameter.copy_(value)
        training.module.zero_grad()
        functional.cross_entropy(training.module(training.choice.arrange(batch.x)), batch.y).backward()
        return [p.grad.clone() for p in training.module.parameters()], leaves

    first, _ = gradients(start)
    norm = torch.sqrt(sum(g.square().sum() for g in first))
    second, _ = gradients([w + 0.5 * g / norm for w, g in zip(start, first, strict=True)])
    with torch.no_grad():
        for parameter, value in zip(training.module.parameters(), start, strict=True):
            parameter.copy_(value)
    found = _after(training, 1)
    for name, weight, gradient in zip(names, start, second, strict=True):
        assert torch.allclose(found[name], weight - 0.1 * gradient, atol=1e-6), name


def test_sharpness_aware_when_norms_and_observers_watch_then_they_see_one_pass(store):
    network = jobs.stored(store, jobs.tiny(dropout=0))
    start = jobs.request(network, steps=1, sam_rho=1e-9)
    start.instrumentation.probes.add(tap=pb.TAP_ACTIVATION, statistics=[pb.STATISTIC_MEAN])
    sharp = jobs.run(start, store)
    start.config.sam_rho = 0
    plain = jobs.run(start, store)
    assert [m.value for m in sharp.measurements] == pytest.approx([m.value for m in plain.measurements])
    states = [load_checkpoint(store.get(result.checkpoint)).state for result in (sharp, plain)]
    for name in (name for name in states[0] if "running" in name):
        assert torch.equal(states[0][name], states[1][name]), name


def test_auxiliary_when_trained_then_adds_its_loss_and_is_not_published(store):
    network = jobs.stored(store, jobs.headed())
    result = jobs.run(jobs.request(network, steps=2), store)
    published = onnx.ModelProto.FromString(store.get(result.model))
    assert [value.name for value in published.graph.output] == ["logits"]
    names = {tensor.name for tensor in published.graph.initializer}
    assert "fc.weight" in names
    assert "fc2.weight" not in names
    admitted = admit(store.get(result.model), checkpoint=True)
    assert [block.id for block in admitted.architecture.blocks] == ["a", "b", "gap", "fc"]
    assert "fc2.weight" in load_checkpoint(store.get(result.checkpoint)).state
    without, with_it = (
        _after(_training(store, network, steps=1, auxiliary_weight=weight), 1)["fc2.weight"] for weight in (0, 0.4)
    )
    start = _training(store, network, steps=1).module.state_dict()["fc2.weight"]
    assert torch.equal(without, start)
    assert not torch.equal(with_it, start)


def test_counts_when_there_is_an_auxiliary_classifier_then_it_costs_only_activations(store):
    headed, bare = (admit(store.get(jobs.stored(store, network))).counts for network in (jobs.headed(), jobs.tiny()))
    assert (headed.parameters, headed.macs) == (bare.parameters, bare.macs)
    assert headed.activations > bare.activations


def test_drop_path_when_the_training_goes_on_then_more_samples_lose_the_branch(store):
    training = _training(store, jobs.stored(store, jobs.headed()), steps=100, drop_path_rate=0.8)
    (drop,) = (module for module in training.module.modules() if type(module).__name__ == "DropPath")
    x = torch.ones(4000, 3, 2, 2)
    for share, kept in ((0.0, 1.0), (0.5, 0.6), (1.0, 0.2)):
        training.paths.at(share)
        out = drop.train()(x)
        whole = out.flatten(1)
        assert bool(((whole == 0).all(1) | (whole == whole.max()).all(1)).all())
        assert float((whole[:, 0] > 0).float().mean()) == pytest.approx(kept, abs=0.04)
        assert float(out.mean()) == pytest.approx(1.0, abs=0.15)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_when_the_network_has_no_mark_then_refuses(store):
    with pytest.raises(Invalid) as caught:
        jobs.run(jobs.request(jobs.stored(store), steps=1, drop_path_rate=0.1), store)
    assert (caught.value.reason, caught.value.field) == ("TRAIN_CONFIG_INVALID", "config.drop_path_rate")


def test_marks_when_nothing_is_dropped_then_the_graph_has_none_and_trains_alike(store):
    marked = jobs.tiny()
    marked.blocks[1].inputs[0].drop_path = True
    left, right = (
        jobs.run(jobs.request(jobs.stored(store, network), steps=3, dropout_rate=0.5), store)
        for network in (marked, jobs.tiny())
    )
    assert _weights(store, left.checkpoint) == _weights(store, right.checkpoint)


def test_validation_when_asked_for_then_is_reported_and_leaves_no_trace(store):
    network = jobs.stored(store)
    context = Context()
    config = {"steps": 24, "ema_decay": 0.9, "optimizer": NESTEROV}
    measured = jobs.run(jobs.request(network, validate_every_steps=8, **config), store, context)
    assert measured.model == jobs.run(jobs.request(network, **config), store).model
    steps = [progress.validated_step for progress, _ in context.marks]
    assert sorted(set(steps) - {0}) == [8, 16, 24]
    last = context.marks[-1][0]
    assert {m.metric: (m.step, m.split) for m in last.validation} == {
        "loss": (24, measurement_pb2.SPLIT_VALIDATION),
        "accuracy": (24, measurement_pb2.SPLIT_VALIDATION),
    }
    assert 0 <= next(m.value for m in last.validation if m.metric == "accuracy") <= 1


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"augmentation": pb.AugmentationConfig(shift=0.1)}, "augmentation.shift"),
        ({"augmentation": pb.AugmentationConfig(noise=0.1)}, "augmentation.noise"),
        ({"augmentation": pb.AugmentationConfig(saturation=0.1)}, "augmentation.saturation"),
        ({"loss": "huber"}, "loss"),
        ({"loss": "never-installed"}, "loss"),
        ({"compute": pb.ComputePolicy(precision=pb.PRECISION_FLOAT16)}, "compute.precision"),
    ],
)
def test_train_when_the_data_or_server_has_no_use_for_a_field_then_names_it(store, config, field):
    if field == "compute.precision" and torch.cuda.is_available():
        pytest.skip("this machine can do it")
    with pytest.raises(Invalid) as caught:
        jobs.run(jobs.request(jobs.stored(store), steps=1, **config), store)
    assert caught.value.reason == "TRAIN_CONFIG_INVALID"
    assert [violation.field for violation in caught.value.violations] == [f"config.{field}"]
