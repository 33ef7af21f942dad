"""What a report says of networks that predict numbers, and of data whose columns have names."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.cli.report import artefacts
from clients.cli.report import folder as report_folder
from clients.cli.report.artefacts import Artefacts, Wanted, gather
from clients.cli.report.card import card
from clients.cli.report.collect import Collected, collect, facts_of
from clients.cli.report.intervals import interval
from clients.cli.report.loader import predict_py
from nasmesh.v1.dataset_pb2 import SAMPLE_KIND_TABLE, Dataset
from nasmesh.v1.search_pb2 import Trial
from tests.builders.fake_scheduler import played_search

MEAN, STD = [float(number) for number in range(10)], [2.0 + number for number in range(10)]
# Somebody's text: marks of the template, quotes, line ends and what closes a cell of a table.
NAMES = ["@CLASSES@", "@TARGETS@", "']+open('/x')#", "a\nb", "c|d", "\x1b[31m", "g", "h", "i", "j"]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Collected, Artefacts]]:
    """A report's parts as those of pictures that ten numbers are predicted from."""
    monkeypatch.setattr(report_folder, "growth_png", lambda _collected: None)
    monkeypatch.setattr(artefacts, "written_out", lambda _content, _facts, _name: artefacts.WrittenOut({}, ""))
    with played_search() as (_, client):
        data = Dataset(target_mean=MEAN, target_std=STD, target_names=NAMES, targets=10)
        collected = replace(collect(client, "one"), dataset=data)
        yield collected, gather(client, collected, Wanted())


def run(code: str, where: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_five_lines_of_pictures_give_the_targets_that_predict_py_gives(
    found: tuple[Collected, Artefacts], tmp_path: Path
) -> None:
    collected, written = found
    for name, content in written.files.items():
        (tmp_path / name).write_bytes(content)
    images = np.random.default_rng(5).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    lines = card(collected, written).split("```python\n")[1].split("```")[0].splitlines()
    lines[2] = "images = numpy.load('images.npy')"
    lines[-1] = f"print(({lines[-1].removeprefix('print(')}.tolist())"
    told = json.loads(run("\n".join(lines), tmp_path))
    asked = "import predict, numpy; print(predict.amounts(numpy.load('images.npy')).tolist())"
    np.testing.assert_allclose(told, json.loads(run(asked, tmp_path)), rtol=1e-4, atol=1e-4)


def test_names_of_columns_and_targets_are_in_the_card_and_the_loader(
    found: tuple[Collected, Artefacts], tmp_path: Path
) -> None:
    collected, written = found
    data = Dataset(kind=SAMPLE_KIND_TABLE, channel_names=NAMES, target_names=["price", "size"], target_std=[1, 1])
    scores = {"mae": {"value": 2.0, "low": 1.0, "high": 3.0}, "mse": {"value": 5.0}, "rmse": 2.2, "r2": 0.5}
    text = card(
        replace(collected, dataset=data),
        replace(written, evaluation={"targets": [scores, scores]}),
    )
    assert "columns, in this order: @CLASSES@, @TARGETS@, ']+open('/x')#, a?b, c/d, ?[31m, g" in text
    assert "predicted: price, size" in text
    assert "| price | 2 | 1 to 3 | 2.2 | 50.00% |" in text
    (tmp_path / "predict.py").write_text(predict_py(data, NAMES))
    asked = "import json, predict; print(json.dumps([predict.COLUMNS, predict.TARGETS, predict.CLASS_NAMES]))"
    assert json.loads(run(asked, tmp_path)) == [NAMES, ["price", "size"], NAMES]
    facts = facts_of(collected.best, collected.search, data)
    assert (facts["channel_names"], facts["target_names"]) == (NAMES, ["price", "size"])


def test_one_target_has_the_interval_of_the_whole() -> None:
    one = {"mae": {"value": 2.0, "low": 1.0, "high": 3.0}, "mse": {"value": 5.0, "low": 4.0, "high": 9.0}}
    assert interval(Trial(), "mae", {"mae": 2.0, "targets": [one]}) == (1, 3)
    assert interval(Trial(), "rmse", {"rmse": 2.2, "targets": [one]}) == (2, 3)
    assert interval(Trial(), "rmse", {"rmse": 2.2, "targets": [one, one]}) == (None, None)
    assert interval(Trial(), "mae", {"targets": [{"mae": {"value": 2.0}}]}) == (None, None)
