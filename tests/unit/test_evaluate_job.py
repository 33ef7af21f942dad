import json

import numpy as np
import onnx
import pytest
import torch

from evaluate_svc import footprint, job
from nasmesh import metrics
from nasmesh.clock import SystemClock
from nasmesh.data.load import load
from nasmesh.data.preprocessing import from_metadata
from nasmesh.errors import Invalid, NotFound, Rejected
from nasmesh.jobs.context import Cancelled
from nasmesh.model import runtime
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import load_checkpoint, write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.model.quantization import quantize
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dataset_pb2, evaluation_pb2, measurement_pb2
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import training_pb2 as training
from tests.builders import training_jobs as jobs
from tests.builders.training_jobs import DIGITS, Context
from train_svc import compute

VALIDATION, TEST = measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with a trained network, and the training's result."""
    store = MemoryStore()
    patch = pytest.MonkeyPatch()
    patch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    patch.setattr(compute, "_DEFAULT_THREADS", 1)
    optimizer = training.OptimizerConfig(kind=training.OPTIMIZER_KIND_NESTEROV, learning_rate=0.05)
    network = jobs.tiny()
    network.preprocessing.Clear()
    network.preprocessing.per_image = True
    start = jobs.request(jobs.stored(store, network), epochs=6, batch_size=32, optimizer=optimizer)
    yield store, jobs.run(start, store)
    patch.undo()


def _evaluate(store, model, context=None, **config):
    config.setdefault("latency_runs", 3)
    start = pb.StartEvaluationRequest(
        evaluation_id="e", model=model, config=evaluation_pb2.EvaluateConfig(**config), data=DIGITS
    )
    return job.evaluate(start, context or Context(), store, SystemClock())


def test_evaluate_when_trained_then_gives_every_metric_of_the_vocabulary(trained):
    store, result = trained
    scored = _evaluate(store, result.model)
    found = {m.metric: m for m in scored.measurements}
    assert set(found) == {*metrics.ALWAYS, *metrics.CLASSIFICATION} | {metrics.class_accuracy(i) for i in range(10)}
    assert all(m.unit == metrics.describe(m.metric).unit for m in scored.measurements)
    assert found["accuracy"].value > 0.7
    assert found["accuracy"].split == VALIDATION
    assert found["parameters"].split == measurement_pb2.SPLIT_UNSPECIFIED
    assert found["size_bytes"].value == result.model.size_bytes
    assert 0 < found["latency_p50"].value <= found["latency_p99"].value
    assert scored.data_digest == load(DIGITS).digest == result.data_digest
    assert {"onnxruntime", "cpu", "threads", "device"} <= set(scored.environment)
    assert scored.environment["samples"] == "143"


def test_evaluate_when_computed_by_torch_then_scores_are_the_same(trained):
    store, result = trained
    model = onnx.ModelProto.FromString(store.get(result.model))
    module = to_module(model, seed=None).eval()
    splits = load(DIGITS)
    for split, rows in ((VALIDATION, splits.validation), (TEST, splits.test)):
        values = torch.from_numpy(splits.samples.rows(rows).astype(np.float32) / 255)
        floor = 1 / values[0].numel() ** 0.5
        values = (values - values.mean((1, 2, 3), keepdim=True)) / values.std(
            (1, 2, 3), keepdim=True, correction=0
        ).clamp(min=floor)
        with torch.no_grad():
            logits = module(values)
        labels = torch.from_numpy(splits.labels[rows])
        found = {m.metric: m.value for m in _evaluate(store, result.model, split=split, latency=False).measurements}
        assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
        assert found["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4)
        assert "latency_p50" not in found


def test_evaluate_when_a_checkpoint_is_given_then_scores_its_weights(trained):
    store, result = trained
    by_checkpoint, by_model = (
        {m.metric: m.value for m in _evaluate(store, ref, latency=False, batch_size=50).measurements}
        for ref in (result.checkpoint, result.model)
    )
    for name in ("accuracy", "loss", "parameters", "macs"):
        assert by_checkpoint[name] == by_model[name]


def test_evaluate_when_parameters_are_counted_then_equal_the_networks(trained):
    store, result = trained
    found = {m.metric: m.value for m in _evaluate(store, result.model, latency=False).measurements}
    state = load_checkpoint(store.get(result.model)).state
    trainable = sum(t.numel() for name, t in state.items() if "running_" not in name)
    assert found["parameters"] == trainable


def test_evaluate_when_the_network_has_no_weights_then_refuses(trained):
    store, _ = trained
    with pytest.raises(Rejected) as caught:
        _evaluate(store, jobs.stored(store))
    assert caught.value.reason == "NETWORK_WEIGHTLESS"


def test_evaluate_when_the_network_is_for_other_data_then_refuses(trained):
    store, _ = trained
    for network in (jobs.tiny((1, 6, 6)), jobs.tiny(classes=4)):
        model = lower(network)
        weighted = write_back(model, to_module(model, seed=0).state_dict())
        ref = store.put(ObjectKind.CHECKPOINT, to_bytes(weighted))
        with pytest.raises(Rejected) as caught:
            _evaluate(store, ref)
        assert caught.value.reason == "NETWORK_DATA_MISMATCH"


def test_evaluate_when_logits_overflow_then_says_so(trained):
    store, _ = trained
    model = lower(jobs.tiny())
    state = to_module(model, seed=0).state_dict()
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    with pytest.raises(Invalid) as caught:
        _evaluate(store, store.put(ObjectKind.CHECKPOINT, to_bytes(write_back(model, state))))
    assert caught.value.reason == "OUTPUT_NOT_FINITE"


def test_evaluate_when_cancelled_then_stops_between_batches(trained):
    store, result = trained
    context = Context()
    context.cancelled = True
    with pytest.raises(Cancelled):
        _evaluate(store, result.model, context)


def test_evaluate_when_cancelled_while_the_8_bit_copy_is_scored_then_stops(trained):
    store, result = trained

    def cancel(context: Context) -> None:  # the first scoring is over with its last mark
        context.cancelled = context.marks[-1][0].samples == context.marks[-1][0].total_samples

    with pytest.raises(Cancelled):
        _evaluate(store, result.model, Context(cancel), quantization=evaluation_pb2.QUANTIZATION_DYNAMIC)


def test_evaluate_when_the_object_is_missing_or_junk_then_refuses(trained):
    store, _ = trained
    with pytest.raises(NotFound):
        _evaluate(store, object_ref(ObjectKind.CHECKPOINT, b"gone"))
    with pytest.raises(Rejected):
        _evaluate(store, store.put(ObjectKind.CHECKPOINT, b"\x00junk" * 99))


def test_evaluate_when_finished_then_progress_is_complete(trained):
    store, result = trained
    context = Context()
    _evaluate(store, result.model, context, latency=False)
    last = context.marks[-1][0]
    assert last.samples == last.total_samples == 143
    job.warm()


def test_evaluate_when_pytorch_is_asked_for_then_it_computes_the_same(trained):
    store, result = trained
    model = result.model
    ours = _evaluate(store, model, latency=False)
    torchs = _evaluate(store, model, latency=False, engine=evaluation_pb2.EVALUATE_ENGINE_TORCH)
    by_engine = [{m.metric: m.value for m in found.measurements} for found in (ours, torchs)]
    assert by_engine[0].keys() == by_engine[1].keys()
    for name, value in by_engine[0].items():
        assert by_engine[1][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert (ours.environment["engine"], torchs.environment["engine"]) == ("onnxruntime", "torch")
    assert torchs.environment["torch"] == torch.__version__


def test_evaluate_when_speed_and_memory_are_asked_for_then_measured_and_reported_with_the_machine(trained):
    store, result = trained
    found = _evaluate(store, result.model, throughput_batch_sizes=[1, 200], memory=True, threads=1)
    values = {m.metric: m.value for m in found.measurements}
    told = json.loads(store.get(found.report))
    assert values["throughput_b200"] > values["throughput_b1"] > 0
    assert 100_000 < values["peak_memory_bytes"] < 500 << 20
    assert told["memory"]["peak_bytes"] == values["peak_memory_bytes"]
    assert [one["batch_size"] for one in told["throughput"]] == [1, 200]
    assert len(told["latency"]["repeats"]) == 3
    assert (
        told["latency"]["p50"] == values["latency_p50"] == sorted(one["p50"] for one in told["latency"]["repeats"])[1]
    )
    assert len(told["latency"]["pinned_processors"]) == 1
    assert found.environment["pinned"] == str(told["latency"]["pinned_processors"][0])
    assert told["environment"] == dict(found.environment)
    assert {"cpu", "processors", "load_1m", "threads"} <= found.environment.keys()


def test_memory_when_the_network_is_larger_then_its_peak_is_larger_by_its_weights():
    peaks = []
    for features in (8, 4096):
        network = jobs.tiny()
        network.blocks[1].operation.conv_unit.conv.channels = features
        model = lower(network)
        content = to_bytes(write_back(model, to_module(model, seed=0).state_dict()))
        config = evaluation_pb2.EvaluateConfig(engine=evaluation_pb2.EVALUATE_ENGINE_ONNXRUNTIME, threads=1)
        peaks.append((footprint.peak_bytes(content, config), len(content)))
    (small, small_bytes), (large, large_bytes) = peaks
    assert large - small > (large_bytes - small_bytes) * 0.8


def test_report_when_classes_are_told_apart_then_says_all_that_was_observed(trained):
    store, result = trained
    found = _evaluate(store, result.model, confidence=0.9, metrics=["macro_f1", "brier"])
    values = {m.metric: m.value for m in found.measurements}
    told = json.loads(store.get(found.report))
    assert (told["task"], told["split"], told["samples"], told["confidence"]) == (
        "classification",
        "validation",
        143,
        0.9,
    )
    matrix = np.array(told["confusion"]["matrix"])
    assert matrix.shape == (10, 10)
    assert np.trace(matrix) / matrix.sum() == values["accuracy"] == told["accuracy"]["value"]
    assert told["accuracy"]["low"] == values["accuracy_low"] < values["accuracy"] < values["accuracy_high"]
    assert told["calibration"]["ece"] == values["ece"]
    assert sum(one["samples"] for one in told["calibration"]["bins"]) == 143
    assert [one["recall"] for one in told["classes"]] == [values[metrics.class_accuracy(i)] for i in range(10)]
    assert told["macro"]["f1"] == pytest.approx(values["macro_f1"]) == told["metrics"]["macro_f1"]
    assert told["data_digest"] == found.data_digest


@pytest.mark.parametrize("method", [evaluation_pb2.QUANTIZATION_DYNAMIC, evaluation_pb2.QUANTIZATION_STATIC])
def test_int8_copy_when_asked_for_then_scored_beside_and_stored(trained, method):
    store, result = trained
    found = _evaluate(store, result.model, quantization=method)
    values = {m.metric: m.value for m in found.measurements}
    content = store.get(found.quantized)
    copy = onnx.ModelProto.FromString(content)
    assert values["int8_size_bytes"] == len(content)
    assert abs(values["int8_accuracy"] - values["accuracy"]) < 0.05
    assert values["int8_latency_p50"] > 0
    # What computes it is onnxruntime alone: this is the accuracy of the bytes that are stored.
    session = runtime.open_session(content)
    splits = load(DIGITS)
    entries = {entry.key: entry.value for entry in copy.metadata_props}
    rule = from_metadata(entries, channels=1)
    logits = session.run(None, {session.get_inputs()[0].name: rule.apply(splits.samples.rows(splits.validation))})[0]
    assert (logits.argmax(1) == splits.labels[splits.validation]).mean() == values["int8_accuracy"]
    kinds = {node.op_type for node in copy.graph.node}
    assert kinds & {"ConvInteger", "MatMulInteger", "QuantizeLinear"}
    assert json.loads(store.get(found.report))["int8"]["size_bytes"] == len(content)


def test_int8_copy_of_a_larger_network_is_about_a_quarter():
    network = jobs.tiny()
    network.blocks[1].operation.conv_unit.conv.channels = 2000
    model = lower(network)
    content = to_bytes(write_back(model, to_module(model, seed=0).state_dict()))
    for method in (evaluation_pb2.QUANTIZATION_DYNAMIC, evaluation_pb2.QUANTIZATION_STATIC):
        batches = [np.random.default_rng(1).normal(size=(8, 1, 8, 8)).astype(np.float32)]
        assert len(quantize(content, method, batches)) < 0.35 * len(content)


def test_evaluate_when_a_metric_is_not_for_the_task_then_refuses(trained):
    store, result = trained
    with pytest.raises(Invalid) as caught:
        _evaluate(store, result.model, metrics=["max_error"])
    assert caught.value.reason == "METRIC_NOT_FOR_TASK"


def test_untrained_network_when_measured_then_gives_what_training_does_not_change_and_reads_no_data():
    store = MemoryStore()
    config = evaluation_pb2.EvaluateConfig(
        latency_runs=3, throughput_batch_sizes=[4], memory=True, quantization=evaluation_pb2.QUANTIZATION_STATIC
    )
    data = dataset_pb2.DatasetSpec(dataset="datasets/nowhere")
    start = pb.StartEvaluationRequest(model=jobs.stored(store), config=config, data=data, untrained=True)
    found = job.evaluate(start, Context(), store, SystemClock())
    values = {m.metric: m.value for m in found.measurements}
    learned = {name for name in values if metrics.is_learned(name)}
    assert not learned
    assert {"latency_p50", "throughput_b4", "peak_memory_bytes", "int8_latency_p50", "macs"} <= values.keys()
    assert not any(found.HasField(name) for name in ("report", "quantized"))
    assert {m.split for m in found.measurements} == {measurement_pb2.SPLIT_UNSPECIFIED}


def test_evaluate_when_a_further_split_is_asked_for_then_both_are_scored_and_neither_changes(trained):
    store, result = trained

    def whole(scored, split):
        found = {m.metric: m.value for m in scored.measurements if m.split == split}
        return {metric: value for metric, value in found.items() if not metric.startswith("class_")}

    further = {"split": TEST, "further_split": VALIDATION, "metrics": ["macro_f1"], "calibration_bins": 5}
    both = _evaluate(store, result.model, **further)
    for split in (TEST, VALIDATION):
        alone = _evaluate(store, result.model, split=split, metrics=["macro_f1"], calibration_bins=5)
        assert whole(both, split) == whole(alone, split)
        assert {"accuracy", "accuracy_low", "loss", "ece", "macro_f1"} <= set(whole(both, split))
    assert not [m for m in both.measurements if m.split == VALIDATION and m.metric.startswith("class_")]
    assert both.environment["samples"] == str(len(load(DIGITS, store).test))
    assert json.loads(store.get(both.report))["split"] == "test"


@pytest.mark.parametrize("further", [TEST, 9])
def test_evaluate_when_the_further_split_is_none_or_the_same_then_refused_by_name(trained, further):
    store, result = trained
    with pytest.raises(Invalid) as caught:
        _evaluate(store, result.model, split=TEST, further_split=further)
    assert caught.value.violations[0].field == "config.further_split"
