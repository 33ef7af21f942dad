import itertools
import math
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nasmesh.data.load import load
from nasmesh.data.preprocessing import from_metadata
from nasmesh.errors import Invalid
from nasmesh.jobs.context import Cancelled, JobContext
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.store.open import open_store
from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import training_pb2 as pb
from nasmesh.v1.train_service_pb2 import TrainProgress, TrainResult
from tests.builders import training_jobs as jobs
from tests.builders.training_jobs import DIGITS, Context
from train_svc import fit, publish
from train_svc.job import run, warm

NESTEROV = pb.OptimizerConfig(kind=pb.OPTIMIZER_KIND_NESTEROV, learning_rate=0.05, weight_decay=3e-4)
EVERY_STEP = 1e-9  # seconds between checkpoints: one after each update


pytestmark = pytest.mark.usefixtures("job_home")


def _rich(network, **more):
    """A training that uses everything that has state."""
    start = jobs.request(
        network,
        steps=30,
        seed=5,
        optimizer=more.pop("optimizer", NESTEROV),
        schedule=pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_COSINE, warmup_steps=3),
        clip_norm=5,
        label_smoothing=0.1,
        ema_decay=0.9,
        augmentation=pb.AugmentationConfig(crop_padding=1, flip=True, cutout=2, brightness=0.1, contrast=0.1),
        **more,
    )
    every = [pb.STATISTIC_MEAN, pb.STATISTIC_VARIANCE, pb.STATISTIC_MEAN_SQUARE]
    start.instrumentation.probes.add(tap=pb.TAP_ACTIVATION, statistics=every)
    start.instrumentation.probes.add(tap=pb.TAP_OUTPUT, statistics=every[:1], window_steps=4)
    start.instrumentation.probes.add(tap=pb.TAP_EDGE_SCALE, statistics=[pb.STATISTIC_VALUE])
    return start


def _weights(store, ref):
    return {name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(store.get(ref)).state.items()}


def _step(store, ref):
    return load_checkpoint(store.get(ref)).scalars["step"]


def _essence(result):
    """All that a result says but for times."""
    return (result.model.sha256, [m.SerializeToString(deterministic=True) for m in result.measurements])


def test_train_when_digits_then_learns_and_returns_what_the_contract_says(store):
    result = jobs.run(jobs.request(jobs.stored(store), epochs=8, batch_size=32, optimizer=NESTEROV), store)
    found = {m.metric: m for m in result.measurements}
    assert found["train_accuracy"].value > 0.8
    assert found["train_loss"].value < 0.8
    assert found["train_loss"].split == measurement_pb2.SPLIT_TRAIN
    assert found["train_loss"].step == 8 * (1295 // 32)
    assert result.data_digest == load(DIGITS).digest
    assert result.device_time_s > 0
    for key in ("torch", "onnxruntime", "device", "cpu", "threads", "precision", "layout", "export_max_abs_diff"):
        assert result.environment[key]
    assert result.environment["samples"] == "1295"
    assert float(result.environment["export_max_abs_diff"]) < 1e-4
    assert result.checkpoint.size_bytes > result.model.size_bytes
    model = onnx.ModelProto.FromString(store.get(result.model))
    assert not model.training_info
    entries = {prop.key: prop.value for prop in model.metadata_props}
    assert from_metadata(entries, channels=1).mean == (0.3,)
    assert onnx.ModelProto.FromString(store.get(result.checkpoint)).training_info


def test_train_when_published_then_classifies_validation_images_in_onnxruntime(store):
    result = jobs.run(jobs.request(jobs.stored(store), epochs=8, batch_size=32, optimizer=NESTEROV), store)
    splits = load(DIGITS)
    session = onnxruntime.InferenceSession(store.get(result.model), providers=["CPUExecutionProvider"])
    images = splits.samples.rows(splits.validation).astype(np.float32) / 255
    logits = session.run(None, {"x": (images - 0.3) / np.float32(0.4)})[0]
    assert (logits.argmax(1) == splits.labels[splits.validation]).mean() > 0.8


def test_train_when_repeated_then_gives_the_same_bits_and_another_seed_others(store):
    network = jobs.stored(store)
    first, second = jobs.run(_rich(network), store), jobs.run(_rich(network), store)
    assert _essence(first) == _essence(second)
    assert _weights(store, first.checkpoint) == _weights(store, second.checkpoint)
    other = _rich(network)
    other.config.seed = 6
    assert jobs.run(other, store).model != first.model


OPTIMIZERS = [NESTEROV, pb.OptimizerConfig(kind=pb.OPTIMIZER_KIND_ADAMW, learning_rate=0.01, weight_decay=0.01)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["nesterov", "adamw"])
@pytest.mark.parametrize("stop_after", [7, 12])
def test_train_when_killed_and_resumed_then_gives_the_same_bits(store, optimizer, stop_after):
    network = jobs.stored(store)
    whole = jobs.run(_rich(network, optimizer=optimizer), store)

    class PowerCutError(Exception):
        pass

    def die(context):
        if context.checkpoints and _step(store, context.checkpoints[-1]) >= stop_after:
            raise PowerCutError

    context = Context(die)
    broken = _rich(network, optimizer=optimizer, checkpoint_interval_s=EVERY_STEP)
    with pytest.raises(PowerCutError):
        jobs.run(broken, store, context)
    resumed = _rich(network, optimizer=optimizer)
    resumed.resume_from.CopyFrom(context.checkpoints[-1])
    torch.manual_seed(99)  # whatever the process did in between must not matter
    continued = Context()
    result = jobs.run(resumed, store, continued)
    assert stop_after <= _step(store, context.checkpoints[-1]) < 30
    assert _essence(result) == _essence(whole)
    assert _weights(store, result.checkpoint) == _weights(store, whole.checkpoint)
    assert continued.marks[-1][0].elapsed_s > context.marks[-1][0].elapsed_s


def test_train_when_resumed_from_its_end_then_publishes_the_same(store):
    network = jobs.stored(store)
    whole = jobs.run(_rich(network), store)
    again = _rich(network)
    again.resume_from.CopyFrom(whole.checkpoint)
    assert _essence(jobs.run(again, store)) == _essence(whole)


def test_train_when_resumed_from_another_training_then_refuses(store):
    network = jobs.stored(store)
    other = jobs.run(jobs.request(network, steps=2), store)
    start = jobs.request(network, steps=3)
    start.resume_from.CopyFrom(other.checkpoint)
    with pytest.raises(Invalid) as caught:
        jobs.run(start, store)
    assert (caught.value.reason, caught.value.field) == ("CHECKPOINT_MISMATCH", "resume_from")


def test_train_when_cancelled_then_writes_a_checkpoint_within_a_step_and_can_go_on(store):
    network = jobs.stored(store)

    def cancel(context):
        context.cancelled = len(context.checkpoints) >= 3

    context = Context(cancel)
    start = jobs.request(network, steps=30, optimizer=NESTEROV, checkpoint_interval_s=EVERY_STEP)
    with pytest.raises(Cancelled):
        jobs.run(start, store, context)
    assert context.marks[-1][0].step == _step(store, context.checkpoints[-1])
    assert context.marks[-1][0].step < 30
    rest = jobs.request(network, steps=30, optimizer=NESTEROV)
    rest.resume_from.CopyFrom(context.checkpoints[-1])
    assert jobs.run(rest, store).model == jobs.run(jobs.request(network, steps=30, optimizer=NESTEROV), store).model


def test_train_when_the_loss_diverges_then_says_where_and_with_which_rate(store):
    start = jobs.request(jobs.stored(store), steps=60, optimizer=pb.OptimizerConfig(learning_rate=1e30))
    with pytest.raises(Invalid) as caught:
        jobs.run(start, store)
    assert caught.value.reason == "NETWORK_DIVERGED"
    assert caught.value.metadata["learning_rate"] == "1e+30"
    assert 0 < int(caught.value.metadata["step"]) < 60


def test_train_when_it_diverges_while_a_checkpoint_is_written_then_that_is_over_before_it_ends(store, monkeypatch):
    put, kinds = store.put, []

    def slow(kind, content):
        threading.Event().wait(0.3)
        kinds.append(kind)
        return put(kind, content)

    network = jobs.stored(store)
    monkeypatch.setattr(store, "put", slow)
    diverging = pb.OptimizerConfig(learning_rate=1e30)
    start = jobs.request(network, steps=60, optimizer=diverging, checkpoint_interval_s=EVERY_STEP)
    with pytest.raises(Invalid, match="not finite"):
        jobs.run(start, store)
    assert kinds, "it was begun, and is not written later"


def test_train_when_an_earlier_try_stored_a_checkpoint_then_it_goes_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setenv("NASMESH_STORE", f"dir:{tmp_path / 'objects'}")
    store = open_store(f"dir:{tmp_path / 'objects'}")
    start = _rich(jobs.stored(store))
    whole = TrainResult.FromString(run(start.SerializeToString(), _child_context()))
    half = _rich(start.network)
    half.until_step = 10
    marked = TrainResult.FromString(run(half.SerializeToString(), _child_context())).checkpoint
    marks = []
    again = TrainResult.FromString(run(start.SerializeToString(), _child_context(marked, marks)))
    assert again.model == whole.model
    assert min(TrainProgress.FromString(mark.progress).step for mark in marks) > 10


def _child_context(checkpoint=None, marks=None):
    kept = [] if marks is None else marks
    return JobContext("t", send=kept.append, cancelled=threading.Event(), checkpoint=checkpoint)


def test_train_when_the_export_disagrees_then_refuses(store, monkeypatch):
    monkeypatch.setattr(publish, "TOLERANCE", -1.0)
    with pytest.raises(Invalid) as caught:
        jobs.run(jobs.request(jobs.stored(store), steps=1), store)
    assert caught.value.reason == "EXPORT_DISAGREES"


def test_train_when_smoothed_then_the_first_loss_is_the_closed_form(store):
    network = jobs.stored(store, jobs.tiny(dropout=0))
    plain, smooth = (
        jobs.run(jobs.request(network, steps=1, label_smoothing=value), store).measurements[0].value
        for value in (0.0, 0.4)
    )
    module, x, y = _first_batch(network, store)
    logs = torch.log_softmax(module(x), 1)
    exact = -logs[torch.arange(len(y)), y].mean().detach()
    uniform = -logs.mean().detach()
    assert plain == pytest.approx(float(exact), rel=1e-5)
    assert smooth == pytest.approx(float(0.6 * exact + 0.4 * uniform), rel=1e-5)


def _first_batch(network, store):
    from nasmesh.clock import SystemClock
    from train_svc.training import assemble

    training = assemble(jobs.request(network, steps=1), store, SystemClock())
    batch = training.feed.batch(training.feed.draw(0), 0)
    return training.module.train(), batch.x, batch.y


def test_train_when_averaging_then_the_average_is_published_and_the_checkpoint_keeps_both(store):
    network = jobs.stored(store)
    plain = jobs.run(jobs.request(network, steps=8), store)
    averaged = jobs.run(jobs.request(network, steps=8, ema_decay=0.99), store)
    assert _weights(store, plain.checkpoint) == _weights(store, averaged.checkpoint)
    assert averaged.model != plain.model
    kept = load_checkpoint(store.get(averaged.checkpoint)).optimizer_state["fc.weight"]["ema"]
    published = load_checkpoint(store.get(averaged.model)).state["fc.weight"]
    assert torch.equal(kept, published)


def test_train_when_dropout_is_replaced_then_the_graph_stays_and_the_result_differs(store):
    network = jobs.stored(store)
    plain = jobs.run(jobs.request(network, steps=3), store)
    replaced = jobs.run(jobs.request(network, steps=3, dropout_rate=0.7), store)
    assert _weights(store, plain.checkpoint) != _weights(store, replaced.checkpoint)
    nodes = [onnx.ModelProto.FromString(store.get(result.model)).graph.node for result in (plain, replaced)]
    assert [node.SerializeToString() for node in nodes[0]] == [node.SerializeToString() for node in nodes[1]]


def test_train_when_weights_are_inherited_then_starts_from_them_where_name_and_shape_agree(store):
    parent = jobs.run(jobs.request(jobs.stored(store), epochs=6, batch_size=32, optimizer=NESTEROV), store)
    start = jobs.request(jobs.stored(store, jobs.tiny(dropout=0.3)), steps=1, optimizer=NESTEROV)
    scratch = jobs.run(start, store).measurements[0].value
    start.initial_weights.CopyFrom(parent.model)
    child = jobs.run(start, store)
    assert child.measurements[0].value < 0.6 * scratch
    assert (child.inheritance.taken_share, list(child.inheritance.initialized)) == (1.0, [])


def test_train_when_a_part_is_inherited_then_the_result_says_which_also_after_a_resumption(store):
    network = jobs.tiny()
    network.blocks[1].operation.conv_unit.conv.channels = 8
    parent = jobs.run(jobs.request(jobs.stored(store), steps=1), store)
    start = jobs.request(jobs.stored(store, network), steps=4)
    assert not jobs.run(start, store).HasField("inheritance")
    start.initial_weights.CopyFrom(parent.checkpoint)
    first = jobs.Context()
    start.until_step = 2
    half = jobs.run(start, store, first)
    start.until_step = 0
    start.resume_from.CopyFrom(half.checkpoint)
    result = jobs.run(start, store)
    taken = ["a.conv.weight", "a.norm.bias", "a.norm.running_mean", "a.norm.running_var", "a.norm.weight"]
    report = result.inheritance
    assert report == half.inheritance
    # Block b has 8 channels instead of 12, so what it has and what reads it start anew; its skip's scale stays.
    initialized = {"b.conv.weight", "fc.weight"} | {
        f"b.norm.{role}" for role in ("weight", "bias", "running_mean", "running_var")
    }
    assert set(report.initialized) == set(report.unused) == initialized
    assert report.taken == len([*taken, "b.scale.x", "fc.bias"])
    assert 0 < report.taken_share < 1


def test_train_when_initial_weights_are_of_another_network_then_refuses(store):
    other = jobs.tiny()
    for block in other.blocks:
        block.id = f"other_{block.id}"
        for edge in block.inputs:
            edge.source = edge.source if edge.source == "x" else f"other_{edge.source}"
    other.output = f"other_{other.output}"
    start = jobs.request(jobs.stored(store), steps=1)
    start.initial_weights.CopyFrom(jobs.run(jobs.request(jobs.stored(store, other), steps=1), store).checkpoint)
    with pytest.raises(Invalid) as caught:
        jobs.run(start, store)
    assert (caught.value.reason, caught.value.field) == ("CHECKPOINT_MISMATCH", "initial_weights")


def test_train_when_it_reports_then_marks_are_sparse_and_complete(store):
    context = Context()
    jobs.run(jobs.request(jobs.stored(store), steps=60), store, context)
    times = [progress.elapsed_s for progress, _ in context.marks[:-1]]
    assert all(after - before >= fit.MARK_INTERVAL_S * 0.99 for before, after in itertools.pairwise(times))
    last = context.marks[-1][0]
    assert (last.step, last.total_steps, last.epoch) == (60, 60, 60 / 12)
    assert math.isfinite(last.loss)
    assert last.learning_rate == 0.05


def test_job_when_imported_and_warmed_then_has_not_loaded_the_compiler():
    import subprocess

    code = (
        "import sys, train_svc.job as job; job.warm(); from train_svc import compute;"
        "from nasmesh.v1 import training_pb2; compute.prepare(training_pb2.ComputePolicy(), macs_per_step=1);"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'sklearn', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    warm()
