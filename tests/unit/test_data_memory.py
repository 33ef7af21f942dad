"""Data larger than memory: what is held does not grow with the data, whether it is added, fetched or read."""

from pathlib import Path

from benchmarks import data_stream


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    steps = ("add", "fetch", "read")
    small = data_stream.measure(tmp_path / "small", 36, steps)
    large = data_stream.measure(tmp_path / "large", 100, steps)
    for step in steps:
        grown = {size: told[step]["grown_mib"] for size, told in (("small", small), ("large", large))}
        # 64 MiB more data; a shard has 16, and is held about twice once there is a full one.
        assert grown["large"] - grown["small"] < 32, (step, grown)
    assert large["add"]["grown_mib"] < 160
    assert large["fetch"]["grown_mib"] < 100
    assert large["read"]["grown_mib"] < 16
