"""Checkpoints: bit-exact weights, bit-exact resumption, inheritance by name, and refusal of what cannot be one."""

import numpy as np
import onnx
import onnx.checker
import pytest
import torch
from onnx import numpy_helper

from benchmarks import networks
from nasmesh.errors import Invalid, Rejected
from nasmesh.limits import CHECKPOINT_BYTES
from nasmesh.model.engine.checkpoint import inherit, load_checkpoint, save_checkpoint, write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.model.weights import has_weights, strip_training, weightless
from tests.builders.architectures import small_cnn
from tests.builders.training import batch, disturb, serve, train

torch.set_num_threads(1)

_OPTIMIZERS = {
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def _feed(step: int):
    return batch(networks.INPUT_DIMS, seed=100 + step, size=8)


def _model():
    return lower(networks.nac_architecture(8, 1, dropout=0.2))


def _save(model, module, optimizer, scalars) -> bytes:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    slots = {names[id(parameter)]: tensors for parameter, tensors in optimizer.state.items()}
    rng = torch.get_rng_state()
    return save_checkpoint(model, module.state_dict(), optimizer_state=slots, rng=rng, scalars=scalars)


def _resume(content: bytes, make):
    checkpoint = load_checkpoint(content)
    module = to_module(checkpoint.model, seed=None)
    optimizer = make(module.parameters())
    for name, parameter in module.named_parameters():
        optimizer.state[parameter] = dict(checkpoint.optimizer_state[name])
    torch.set_rng_state(checkpoint.rng)
    return module, optimizer, checkpoint


@pytest.mark.parametrize("kind", sorted(_OPTIMIZERS))
def test_resume_when_split_over_two_objects_then_bits_equal_an_unbroken_training(kind):
    make, model = _OPTIMIZERS[kind], _model()
    whole = to_module(model, seed=5)
    torch.manual_seed(7)
    train(whole, make(whole.parameters()), _feed, range(6))

    first = to_module(model, seed=5)
    optimizer = make(first.parameters())
    torch.manual_seed(7)
    train(first, optimizer, _feed, range(3))
    content = _save(model, first, optimizer, {"step": 3, "loss": 0.1, "note": None})
    torch.manual_seed(999)
    second, optimizer, checkpoint = _resume(content, make)
    train(second, optimizer, _feed, range(3, 6))

    assert checkpoint.scalars == {"step": 3, "loss": 0.1, "note": None}
    assert list(second.state_dict()) == list(whole.state_dict())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_checkpoint_when_checked_and_served_then_it_is_a_plain_network():
    model = _model()
    module = to_module(model, seed=5)
    train(module, optimizer := _OPTIMIZERS["adamw"](module.parameters()), _feed, range(1))
    content = _save(model, module, optimizer, {})
    stored = onnx.load_from_string(content)
    onnx.checker.check_model(stored, full_check=True)
    x, _ = _feed(0)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    assert np.abs(serve(stored, x) - expected).max() <= 1e-5
    slots = [tensor.name for tensor in stored.training_info[0].algorithm.initializer]
    assert "stem_conv.conv.weight::exp_avg" in slots
    assert slots[-1] == "::rng"
    assert _save(model, module, optimizer, {}) == content
    published = strip_training(stored)
    assert published == load_checkpoint(content).model
    assert weightless(published).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_write_back_when_read_again_then_every_bit_is_kept():
    model = _model()
    module = to_module(model, seed=5).to(memory_format=torch.channels_last)
    disturb(module)
    with torch.no_grad():
        module.get_parameter("stem_conv.conv.weight")[0, :, 0, 0] = torch.tensor([-0.0, 1e-42, float("inf")])
    state = module.state_dict()
    before = model.SerializeToString(deterministic=True)
    written = write_back(model, state)
    assert model.SerializeToString(deterministic=True) == before
    assert has_weights(written)
    assert [value.name for value in written.graph.input] == ["x"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    again = to_module(written, seed=None).state_dict()
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert value.contiguous().numpy().tobytes() == stored[name].tobytes() == again[name].numpy().tobytes()
    twice = write_back(written, again)
    assert twice == written


def test_write_back_when_state_does_not_fit_then_names_the_parameter():
    model = lower(small_cnn())
    state = to_module(model, seed=1).state_dict()
    for broken, reason in (
        ({name: value for name, value in state.items() if name != "head_fc.bias"}, "STATE_MISSING"),
        ({**state, "head_fc.bias": torch.zeros(11)}, "STATE_SHAPE"),
        ({**state, "head_fc.extra": torch.zeros(1)}, "STATE_UNKNOWN"),
        ({**state, "head_fc.bias": torch.zeros(10, dtype=torch.float64)}, "STATE_TYPE"),
    ):
        with pytest.raises(Invalid) as caught:
            write_back(model, broken)
        assert caught.value.reason == reason
        assert caught.value.field.startswith("head_fc.")


def test_save_when_over_the_limit_then_refused_before_any_copy():
    model = lower(small_cnn())
    state = to_module(model, seed=1).state_dict()
    huge = torch.zeros(1).expand(CHECKPOINT_BYTES // 4)  # no memory behind it
    slots = {"head_fc.bias": {"momentum_buffer": huge}}
    with pytest.raises(Invalid) as caught:
        save_checkpoint(model, state, optimizer_state=slots, rng=None, scalars={})
    assert caught.value.reason == "CHECKPOINT_TOO_LARGE"


@pytest.mark.parametrize("scalars", [{"loss": float("nan")}, {"rng": b"x"}])
def test_save_when_scalars_are_no_json_then_refused(scalars):
    model = lower(small_cnn())
    state = to_module(model, seed=1).state_dict()
    with pytest.raises(Invalid) as caught:
        save_checkpoint(model, state, optimizer_state={}, rng=None, scalars=scalars)
    assert caught.value.reason == "SCALARS_NOT_JSON"


def test_load_when_not_a_checkpoint_then_refused():
    model = lower(small_cnn())
    with pytest.raises(Rejected, match="no ONNX"):
        load_checkpoint(b"\xff" * 1000)
    with pytest.raises(Invalid) as caught:
        load_checkpoint(model.SerializeToString())
    assert caught.value.reason == "STATE_MISSING"
    written = write_back(model, to_module(model, seed=1).state_dict())
    written.training_info.add().algorithm.initializer.add(name="nonsense")
    with pytest.raises(Rejected) as refused:
        load_checkpoint(written.SerializeToString())
    assert refused.value.reason == "TRAINING_INFO"
    del written.training_info[:]
    written.graph.initializer[-1].raw_data = b"abc"
    with pytest.raises(Rejected) as refused:
        load_checkpoint(written.SerializeToString())
    assert refused.value.reason == "DATA_LENGTH"


def test_inherit_when_names_and_shapes_agree_then_taken_and_the_rest_reported():
    parent = lower(small_cnn(8))
    trained = to_module(parent, seed=1)
    disturb(trained)
    content = save_checkpoint(parent, trained.state_dict(), optimizer_state={}, rng=None, scalars={})
    wider = small_cnn(8)
    wider.blocks[-1].operation.linear.features = 12
    wider.blocks[2].id = "renamed"
    wider.blocks[3].inputs[0].source = "renamed"
    child = to_module(lower(wider), seed=2)
    start = {name: value.clone() for name, value in child.state_dict().items()}
    report = inherit(child, load_checkpoint(content))
    skipped = dict(report.skipped)
    assert skipped["head_fc.weight"] == skipped["head_fc.bias"] == "shape"
    assert skipped["renamed.depthwise.weight"] == "absent"
    assert {name.split(".")[0] for name in report.taken} == {"stem_conv"}
    assert set(report.taken) | set(skipped) == set(start)
    assert set(report.taken) | set(report.unused) == set(trained.state_dict())
    sizes = {name: value.numel() for name, value in start.items()}
    assert report.taken_share == sum(sizes[name] for name in report.taken) / sum(sizes.values())
    for name, value in child.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name] if name in report.taken else start[name])
