import pytest

from nasmesh.data import fashion_mnist
from nasmesh.data import load as loading
from nasmesh.errors import NotFound, Rejected
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.v1 import dataset_pb2
from nasmesh.v1 import training_pb2 as pb
from tests.builders import training_jobs as jobs
from tests.builders.training_jobs import Context
from train_svc import compiling, compute

pytestmark = pytest.mark.usefixtures("job_home")


def test_train_when_the_layout_or_precision_is_given_then_is_used_and_recorded(store):
    network = jobs.stored(store)
    for layout, name in ((pb.LAYOUT_NCHW, "nchw"), (pb.LAYOUT_NHWC, "nhwc")):
        policy = pb.ComputePolicy(layout=layout, precision=pb.PRECISION_BFLOAT16, threads=1)
        result = jobs.run(jobs.request(network, steps=2, compute=policy), store)
        assert (result.environment["layout"], result.environment["precision"]) == (name, "bfloat16")
        assert result.environment["threads"] == "1"


@pytest.mark.parametrize("layout", [pb.LAYOUT_UNSPECIFIED, pb.LAYOUT_AUTO])
def test_train_when_no_layout_is_asked_for_then_it_is_the_same_everywhere_and_no_clock_is_asked(
    store, monkeypatch, layout
):
    monkeypatch.setattr(compute, "PROBE_FROM_STEPS", 1)
    monkeypatch.setattr(compute, "fastest", lambda *_: pytest.fail("it was measured"))
    network = jobs.stored(store)
    found = jobs.run(jobs.request(network, steps=3, compute=pb.ComputePolicy(layout=layout)), store)
    assert found.environment["layout"] == "nhwc"
    told = jobs.run(jobs.request(network, steps=3, compute=pb.ComputePolicy(layout=pb.LAYOUT_NHWC)), store)
    assert found.model == told.model


def test_train_when_resumed_where_another_arithmetic_is_faster_then_keeps_that_of_its_checkpoint(store, monkeypatch):
    def faster(precision):
        return lambda options, *_: next(option for option in options if option.precision == precision)

    monkeypatch.setattr(compute, "PROBE_FROM_STEPS", 1)
    monkeypatch.setattr(compute, "fastest", faster("float32"))
    start = jobs.request(jobs.stored(store), steps=6, compute=pb.ComputePolicy(precision=pb.PRECISION_AUTO))
    whole = jobs.run(start, store)
    start.until_step = 3
    begun = jobs.run(start, store)
    start.until_step = 0
    monkeypatch.setattr(compute, "fastest", faster("bfloat16"))
    other = jobs.run(start, store)
    assert (other.environment["precision"], other.model == whole.model) == ("bfloat16", False)
    start.resume_from.CopyFrom(begun.checkpoint)
    resumed = jobs.run(start, store)
    assert resumed.environment["precision"] == whole.environment["precision"] == "float32"
    assert resumed.model == whole.model


def test_train_when_the_policy_is_auto_then_the_probe_is_remembered(store, monkeypatch):
    monkeypatch.setattr(compute, "PROBE_FROM_STEPS", 1)
    policy = pb.ComputePolicy(precision=pb.PRECISION_AUTO)
    start = jobs.request(jobs.stored(store), steps=2, compute=policy)
    first = jobs.run(start, store)
    monkeypatch.setattr(compute, "probe_seconds", lambda *_: lambda *_: pytest.fail("it was probed again"))
    second = jobs.run(start, store)
    assert first.model == second.model
    assert first.environment["precision"] == second.environment["precision"]


def test_train_when_a_batch_is_computed_in_parts_then_arithmetic_is_measured_on_one_of_them(store, monkeypatch):
    probed, asked = [], []
    monkeypatch.setattr(compute, "PROBE_FROM_STEPS", 1)
    monkeypatch.setattr(compute, "probe_seconds", lambda _, x, *_rest: probed.append(len(x)) or (lambda *_: 1.0))
    monkeypatch.setattr(compiling, "worthwhile", lambda _, question, *_rest: asked.append(question) or False)
    policy = pb.ComputePolicy(precision=pb.PRECISION_AUTO, compile=pb.COMPILE_MODE_AUTO)
    config = {"steps": 3, "batch_size": 40, "compute": policy}
    network = jobs.stored(store)
    for parts in (1, 4):
        jobs.run(jobs.request(network, accumulate_batches=parts, **config), store)
    assert probed == [40, 10], "each batch size is a question of its own, and a part is as large as in training"
    assert [(len(question.x), question.passes) for question in asked] == [(40, 3), (10, 12)]


def test_train_when_the_data_do_not_fit_the_network_then_refuses(store):
    for network in (jobs.tiny((1, 6, 6)), jobs.tiny((3, 8, 8)), jobs.tiny(classes=7)):
        with pytest.raises(Rejected) as caught:
            jobs.run(jobs.request(jobs.stored(store, network)), store)
        assert caught.value.reason == "NETWORK_DATA_MISMATCH"


def test_train_when_the_object_is_missing_or_no_network_then_refuses(store):
    with pytest.raises(NotFound):
        jobs.run(jobs.request(object_ref(ObjectKind.NETWORK, b"gone")), store)
    with pytest.raises(Rejected):
        jobs.run(jobs.request(store.put(ObjectKind.NETWORK, b"junk" * 1000)), store)


def test_train_when_the_set_is_smaller_than_a_batch_then_trains_on_all_of_it(store):
    start = jobs.request(jobs.stored(store), epochs=2, batch_size=4096, data_fraction=0.05)
    context = Context()
    jobs.run(start, store, context)
    assert context.marks[-1][0].total_steps == 2


def test_train_when_fashion_is_absent_then_names_the_command(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASMESH_DATA", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "_SYSTEM", tmp_path / "none")
    loading.forget()
    start = jobs.request(jobs.stored(store))
    start.data.CopyFrom(dataset_pb2.DatasetSpec(dataset="datasets/fashion-mnist"))
    with pytest.raises(NotFound, match="make data"):
        jobs.run(start, store)
