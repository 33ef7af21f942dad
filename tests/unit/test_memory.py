"""What a training will hold: what it depends on, what a host learns, and sizes as people write them."""

from pathlib import Path

import pytest

from nasmesh import host, memory, training_config
from nasmesh.errors import Invalid
from nasmesh.memory import Data, Learned, Network, factor_of, parse_bytes, predict, show_bytes
from nasmesh.v1 import training_pb2 as pb

MIB = 2**20
NETWORK = Network(parameters=1_000_000, activations=200_000, training_peak=220_000, forward_peak=20_000)
DIGITS = Data(numbers=64, width=1, samples=1797)


def config(**fields: object) -> pb.TrainConfig:
    return training_config.complete(pb.TrainConfig(**{"steps": 10, **fields}))


def mib(device: str = "cpu", data: Data = DIGITS, network: Network = NETWORK, **fields: object) -> float:
    return predict(network, config(**fields), data, device) / MIB


def test_prediction_when_known_then_its_parts_add_up() -> None:
    weights, sample = 1e6 * 4 / MIB, 220_000 * 4 / MIB
    state = weights * (2 + 1 + 4 * 2)  # weights and momentum, gradients, and four copies of what a checkpoint has
    samples = (2 * 1797 + 3 * 64 * 4) * 64 / MIB
    assert mib(batch_size=64) == pytest.approx(40 + state + samples + 1.35 * 64 * sample, rel=1e-3)


@pytest.mark.parametrize(
    "more",
    [
        {"batch_size": 128},
        {"optimizer": {"kind": pb.OPTIMIZER_KIND_ADAM}},
        {"ema_decay": 0.9},
        {"sam_rho": 0.1},
        {"augmentation": {"flip": True}},
        {"compute": {"compile": pb.COMPILE_MODE_ALWAYS}},
        {"validate_every_steps": 1, "batch_size": 1},
    ],
)
def test_prediction_when_a_training_does_more_then_it_holds_more(more: dict[str, object]) -> None:
    plain = {name: value for name, value in more.items() if name == "batch_size" and value == 1}
    assert mib(**more) > mib(**plain)


@pytest.mark.parametrize(
    "less",
    [
        {"accumulate_batches": 4},
        {"optimizer": {"kind": pb.OPTIMIZER_KIND_SGD, "momentum": 0.0}},
        {"batch_size": 16},
    ],
)
def test_prediction_when_a_training_does_less_then_it_holds_less(less: dict[str, object]) -> None:
    assert mib(**less) < mib()


def test_prediction_when_arithmetic_is_half_then_a_gpu_holds_less() -> None:
    half = {"compute": {"precision": pb.PRECISION_BFLOAT16}, "batch_size": 512}
    assert mib("cuda", **half) < 0.85 * mib("cuda", batch_size=512)
    assert mib("cpu", **half) == mib("cpu", batch_size=512) + 24, "a processor computes it in float32 all the same"


def test_prediction_when_a_batch_is_larger_than_the_data_then_only_the_data_counts() -> None:
    few = Data(numbers=64, width=1, samples=100)
    assert mib(data=few, batch_size=100) == mib(data=few, batch_size=5000)


def test_prediction_when_data_is_streamed_then_its_size_does_not_count() -> None:
    huge, larger = (Data(numbers=3 * 2**20, width=1, samples=count) for count in (10**5, 10**6))
    assert mib(data=huge, batch_size=1) == mib(data=larger, batch_size=1)


def test_learning_when_nothing_is_known_then_the_estimate_stands(tmp_path: Path) -> None:
    assert Learned("cpu", tmp_path).factor() == 1.0


def test_learning_when_trainings_held_more_then_estimates_grow_and_odd_ones_move_little(tmp_path: Path) -> None:
    learned = Learned("NVIDIA H100 80GB/HBM3", tmp_path)
    learned.note(100, 1000)
    assert learned.factor() <= 4.0
    assert factor_of([10.0, *[1.0] * 60]) == 1.0, "one of sixty is odd"
    for _ in range(60):
        learned.note(1000, 1500)
    assert learned.factor() == 1.5
    assert Learned("cpu", tmp_path).factor() == 1.0, "another device, another file"


def test_learning_when_trainings_held_less_then_estimates_shrink_within_bounds(tmp_path: Path) -> None:
    learned = Learned("cpu", tmp_path)
    for _ in range(60):
        learned.note(1000, 10)
    assert learned.factor() == 0.5
    for _ in range(300):
        learned.note(10, 1000)
    assert learned.factor() == 3.0


def test_learning_when_the_file_holds_anything_then_it_is_bounded_and_nothing_breaks(tmp_path: Path) -> None:
    learned = Learned("cpu", tmp_path)
    (tmp_path / "cpu").write_bytes(b"\xff\xfe\n1 2 3\nnan inf\n-1 5\n5 0\n" + b"9" * 5000 + b"\n100 110\n")
    assert learned.factor() == pytest.approx(1.1)
    for _ in range(2000):
        learned.note(100, 90)
    assert len((tmp_path / "cpu").read_bytes().splitlines()) <= 512
    (tmp_path / "cpu").unlink()
    (tmp_path / "cpu").mkdir()
    learned.note(100, 90)
    assert learned.factor() == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GiB", 8 * 2**30), ("512 MiB", 512 * MIB), ("1.5gib", 3 * 2**29), ("4000000", 4_000_000), ("2GB", 2 * 10**9)],
)
def test_size_when_written_as_people_do_then_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "-1GiB", "8 gigs", "1e9", "8GiBs"])
def test_size_when_it_is_none_then_refused_with_an_example(text: str) -> None:
    with pytest.raises(Invalid, match="8GiB") as refused:
        parse_bytes(text)
    assert (refused.value.reason, refused.value.field) == ("SIZE_INVALID", "memory")


def test_size_when_shown_then_in_the_unit_that_fits() -> None:
    assert [show_bytes(number) for number in (12, 2048, 1.5 * MIB, 8 * 2**30)] == ["12 B", "2 KiB", "1.5 MiB", "8 GiB"]


def test_machine_when_a_container_bounds_it_then_the_bound_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "unbounded").write_text("max\n")
    whole = host.usable_memory_bytes([tmp_path / "unbounded", tmp_path / "absent"])
    assert whole > 2**30
    assert host.usable_memory_bytes([tmp_path / "memory.max", tmp_path / "unbounded"]) == 2**30


def test_metric_when_a_training_is_outside_it_then_it_has_the_name_that_the_scheduler_takes() -> None:
    assert memory.METRIC == "train_memory_bytes"
