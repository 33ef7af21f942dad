"""A report is written whole, checked, loadable by the five lines it prints, and never over foreign files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from clients.cli.display.summary import summary_lines
from clients.cli.display.view import view_of
from clients.cli.report import artefacts
from clients.cli.report import folder as report_folder
from clients.cli.report.artefacts import EVALUATION, INT8, Artefacts, Wanted
from clients.cli.report.card import card, snippet
from clients.cli.report.collect import collect
from clients.cli.report.figures import report_json
from clients.cli.report.folder import FILES, check_folder, write_report
from clients.cli.report.loader import predict_py
from clients.cli.report.markdown import report_md
from clients.cli.report.verify import ModelFacts, Verification, verify
from nasmesh.client import Client, read_spec
from nasmesh.errors import Conflict, Invalid, NasmeshError, Stale
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1.dataset_pb2 import Dataset
from tests.builders.fake_scheduler import EXAMPLES, FakeScheduler, make_trial, played_search, running_fake

PLOT = b"\x89PNG\r\n\x1a\n and so on"
WRITTEN_OUT = artefacts.written_out
NOTHING = Artefacts({}, Verification((), None), {}, ())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second, and torch three; the last test draws, and one has the network written out."""
    monkeypatch.setattr(report_folder, "growth_png", lambda _collected: PLOT)
    written = artefacts.WrittenOut({"model.py": b"# written by another test", "model.npz": b"PK"}, "was not run")
    monkeypatch.setattr(artefacts, "written_out", lambda _content, _facts, _name: written)


@pytest.fixture
def ended() -> Iterator[tuple[FakeScheduler, Client]]:
    with played_search() as found:
        yield found


def run(code: str, where: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_report_has_every_file_and_the_figures_of_the_search(
    ended: tuple[FakeScheduler, Client], tmp_path: Path
) -> None:
    written = write_report(ended[1], "one", tmp_path / "out", force=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES) - {INT8, EVALUATION}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["search"] == "searches/one"
    assert figures["seed"] == 1
    assert figures["data"]["digest"] == "d" * 64
    assert figures["test"] == {"accuracy": 0.978, "metric": "accuracy", "value": 0.978, "scored": 1}
    assert [row["validationAccuracy"] for row in figures["networks"]][:2] == [0.912, 0.935]
    assert figures["networks"][1]["stages"][0] == {"name": "stage 1", "cells": 2, "branches": 10}
    assert figures["lineage"] == [f"searches/one/trials/{number}" for number in range(1, 8)]
    assert figures["cost"]["wallTimeS"] == 42
    assert figures["versions"]["generators/nac"] == "1"
    assert figures["environment"]["torch"] == "2.13.0"
    assert figures["best"]["object"]["sha256"] == written.collected.best.model.sha256
    assert figures["spec"]["budget"] == {"maxIterations": "6"}
    assert all("element" not in item for item in figures["best"]["measurements"])
    assert any("onnxruntime" in check and "batch of 2" in check for check in figures["verification"])


def test_the_five_lines_of_the_card_and_the_report_run(ended: tuple[FakeScheduler, Client], tmp_path: Path) -> None:
    write_report(ended[1], "one", tmp_path / "out", force=False)
    for name in ("card.md", "report.md"):
        code = (tmp_path / "out" / name).read_text().split("```python\n")[1].split("```")[0]
        assert len(code.strip().splitlines()) == 5
        label = run(code, tmp_path / "out")
        assert label.strip().strip("[]").isdigit()


def test_predict_py_agrees_with_the_five_lines(ended: tuple[FakeScheduler, Client], tmp_path: Path) -> None:
    write_report(ended[1], "one", tmp_path / "out", force=False)
    images = np.random.default_rng(5).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = (tmp_path / "out" / "card.md").read_text().split("```python\n")[1].split("```")[0]
    lines = code.splitlines()
    lines[2] = "import sys; images = numpy.load(sys.argv[1])"
    expected = run("\n".join(lines), tmp_path / "out", str(tmp_path / "images.npy")).strip(" []\n").split()
    done = subprocess.run(
        [sys.executable, "out/predict.py", "images.npy"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [line.split("class ")[1].split(" ")[0] for line in done.stdout.splitlines()] == expected
    names = [f"'{letter}\\" for letter in "abcdefghij"]  # as awkward in Python as folders may be called
    (tmp_path / "out" / "predict.py").write_text(predict_py(class_names=names))
    told = run(
        "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')",
        tmp_path / "out",
        "predict.py",
        "../images.npy",
    )
    assert [line.split("class ")[1].split(" (")[0] for line in told.splitlines()] == [names[int(it)] for it in expected]


def test_per_image_standardisation_is_done_by_predict_py() -> None:
    facts = ModelFacts("x", "logits", (3, 32, 32), (), (), True)
    assert "predict.classify(images)" in snippet(facts)
    three = snippet(ModelFacts("x", "logits", (3, 4, 4), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), False))
    assert "reshape(1, -1, 1, 1)" in three
    assert len(three.strip().splitlines()) == 5


def test_the_network_is_written_out_as_python_that_says_the_same_as_predict_py(
    ended: tuple[FakeScheduler, Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "written_out", WRITTEN_OUT)
    write_report(ended[1], "one", tmp_path / "out", force=False)
    images = np.random.default_rng(6).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    said = []
    for name in ("model.py", "predict.py"):
        done = subprocess.run(
            [sys.executable, "-I", f"out/{name}", "images.npy"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        said.append([line.split("class ")[1].split(" ")[0] for line in done.stdout.splitlines()])
    assert len(said[0]) == 4
    assert said[0] == said[1]
    checked = (tmp_path / "out" / "card.md").read_text()
    assert re.search(r"model.py computes what best.onnx does \(largest difference [0-9.e-]+\)", checked)


def test_the_best_so_far_is_written_while_the_search_runs(tmp_path: Path) -> None:
    with running_fake() as (fake, address), Client(address) as client:
        client.create_search(read_spec(EXAMPLES / "digits.yaml"), search_id="one")
        fake.trials["searches/one"][1] = make_trial("searches/one", 1)
        fake.trials["searches/one"][2] = make_trial("searches/one", 2, scored=False)
        fake.searches["searches/one"].best_trial = "searches/one/trials/1"
        write_report(client, "one", tmp_path / "out", force=False)
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (figures["state"], figures["best"]["trial"]) == ("running", "searches/one/trials/1")
    assert figures["finals"] == []


def test_another_opset_is_written_and_computes_the_same(ended: tuple[FakeScheduler, Client], tmp_path: Path) -> None:
    write_report(ended[1], "one", tmp_path / "out", force=False, wanted=Wanted(opset=17))
    model = onnx.load(tmp_path / "out" / "best.onnx")
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert any(entry.key == "nasmesh.preprocessing" for entry in model.metadata_props)
    checks = json.loads((tmp_path / "out" / "report.json").read_text())["verification"]
    assert any("opset 17" in check and "computes the same" in check for check in checks)


@pytest.mark.parametrize("opset", [1, 15, 24, 99])
def test_an_opset_out_of_reach_is_refused_by_name(
    ended: tuple[FakeScheduler, Client], tmp_path: Path, opset: int
) -> None:
    with pytest.raises(Invalid) as caught:
        write_report(ended[1], "one", tmp_path / "out", force=False, wanted=Wanted(opset=opset))
    assert (caught.value.reason, caught.value.field) == ("OPSET_INVALID", "opset")
    assert not (tmp_path / "out").exists()


def test_an_8_bit_copy_that_was_never_made_is_told_with_the_setting(
    ended: tuple[FakeScheduler, Client], tmp_path: Path
) -> None:
    with pytest.raises(Stale, match=r"evaluate\.quantization") as caught:
        write_report(ended[1], "one", tmp_path / "out", force=False, wanted=Wanted(int8=True))
    assert caught.value.reason == "NOT_QUANTIZED"


def test_the_card_tells_the_interval_the_seed_the_constraints_and_where_the_network_comes_from(
    ended: tuple[FakeScheduler, Client], tmp_path: Path
) -> None:
    fake, client = ended
    best = fake.trials["searches/one"][7]
    best.measurements.add(metric="accuracy_low", value=0.961, split=best.measurements[0].split)
    best.measurements.add(metric="accuracy_high", value=0.988, split=best.measurements[0].split)
    best.train.seed = 41
    fake.searches["searches/one"].spec.constraints.add(metric="parameters", max=200_000)
    write_report(client, "one", tmp_path / "out", force=False)
    text = (tmp_path / "out" / "card.md").read_text()
    assert "| accuracy | test | 97.80% | 96.10% to 98.80% |" in text
    assert "seed 41" in text
    assert f"content SHA-256 {'d' * 64}" in text
    assert f"| parameters |  | 200,000 | {best.network.parameters:,} |" in text
    assert "7. searches/one/trials/7 (final)" in text


def test_writing_again_replaces_only_a_report(ended: tuple[FakeScheduler, Client], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_report(ended[1], "one", out, force=False)
    (out / "notes.txt").write_text("mine")
    write_report(ended[1], "one", out, force=False)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "report.json").write_text('{"format": "other"}')
    with pytest.raises(Conflict) as caught:
        write_report(ended[1], "one", out, force=False)
    assert caught.value.reason == "OUT_FOREIGN"
    write_report(ended[1], "one", out, force=True)


def test_a_foreign_best_onnx_is_not_overwritten(ended: tuple[FakeScheduler, Client], tmp_path: Path) -> None:
    (tmp_path / "best.onnx").write_bytes(b"mine")
    with pytest.raises(Conflict):
        write_report(ended[1], "one", tmp_path, force=False)
    assert (tmp_path / "best.onnx").read_bytes() == b"mine"


def test_a_file_or_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Invalid) as caught:
            check_folder(place, force=False)
        assert caught.value.field == "out"


def test_a_full_disk_leaves_the_old_report_whole(
    ended: tuple[FakeScheduler, Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_report(ended[1], "one", out, force=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_folder.os, "fsync", full)
    with pytest.raises(NasmeshError, match="No space left on device") as caught:
        write_report(ended[1], "one", out, force=False)
    assert caught.value.reason == "OUT_UNWRITABLE"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]


def test_the_search_placeholder_names_a_folder_of_its_own(ended: tuple[FakeScheduler, Client], tmp_path: Path) -> None:
    written = write_report(ended[1], "one", tmp_path / "{search}", force=False)
    assert written.folder == tmp_path / "one"


@pytest.mark.parametrize("junk", [b"junk", b""])
def test_a_model_that_does_not_load_is_not_written(junk: bytes) -> None:
    ref = object_ref(ObjectKind.NETWORK, junk or b"\x00")
    trial = search_pb2.Trial(model=ref)
    with pytest.raises(NasmeshError) as caught:
        verify(junk, ref, trial)
    assert caught.value.reason == "MODEL_UNVERIFIED"


def test_a_model_with_another_digest_than_recorded_is_refused() -> None:
    trial = make_trial("searches/one", 1)
    with pytest.raises(NasmeshError, match="is not the recorded"):
        verify(b"x", object_ref(ObjectKind.NETWORK, b"x"), trial)


def test_without_a_final_phase_the_report_claims_no_test_score(
    ended: tuple[FakeScheduler, Client], tmp_path: Path
) -> None:
    fake, client = ended
    del fake.searches["searches/one"].final_trials[:]
    del fake.trials["searches/one"][7]
    write_report(client, "one", tmp_path / "out", force=False)
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["test"] == {"accuracy": None, "metric": "accuracy", "value": None, "scored": 0}
    assert "test split was not used" in (tmp_path / "out" / "report.md").read_text()
    assert "was not used" in (tmp_path / "out" / "card.md").read_text()


def test_several_final_trainings_are_reported_with_mean_and_spread(ended: tuple[FakeScheduler, Client]) -> None:
    fake, client = ended
    second = make_trial("searches/one", 8, final=True)
    second.parents[:] = fake.trials["searches/one"][7].parents
    second.measurements[0].value = 0.970
    fake.trials["searches/one"][8] = second
    collected = collect(client, "one")
    text = report_md(collected, Verification((), None), plot=False)
    assert "2 final trainings were scored once each, and this is the one that scored best, which is partly luck" in text
    assert "partly luck" in card(collected, NOTHING)
    ended_search = client.get_search("one")
    lines = summary_lines(ended_search, view_of(ended_search, collected.trials), None)
    assert "97.80%, the best of 2 final trainings, scored once each, so partly luck" in lines[1]
    assert "97.40% ± 0.57%" in lines[2]
    assert "searches/one/trials/6: 97.40% ± 0.57% (mean ± s.d. of 2 seeds)" in text
    (final,) = report_json(collected, verification=(), files=())["finals"]
    assert final["values"] == [0.978, 0.97]
    assert final["mean"] == pytest.approx(0.974)
    assert final["standardDeviation"] == pytest.approx(0.008 / 2**0.5)
    assert final["trials"] == ["searches/one/trials/7", "searches/one/trials/8"]


def test_of_several_final_trainings_it_is_told_by_what_the_best_was_chosen(ended: tuple[FakeScheduler, Client]) -> None:
    fake, client = ended
    best, second = fake.trials["searches/one"][7], make_trial("searches/one", 8, final=True)
    second.parents[:] = best.parents
    fake.trials["searches/one"][8] = second
    fake.searches["searches/one"].spec.final.choice = search_pb2.FINAL_CHOICE_VALIDATION
    for further, by in ((0, "its place in the search"), (measurement_pb2.SPLIT_VALIDATION, "its validation accuracy")):
        best.evaluate.further_split = further
        if further:
            for end in ("", "_low", "_high"):
                best.measurements.add(
                    metric=f"accuracy{end}", value={"": 0.96, "_low": 0.94}.get(end, 0.97), split=further
                )
        collected = collect(client, "one")
        text = report_md(collected, Verification((), None), plot=False)
        assert f"this is the one chosen by {by}, whatever its test score" in text
        assert f"this training is the one chosen by {by}." in card(collected, NOTHING)
        assert ("| accuracy | validation | 96.00% | 94.00% to 97.00% |" in card(collected, NOTHING)) is bool(further)
        assert card(collected, NOTHING).count("94.00% to 97.00%") == bool(further)
        found = client.get_search("one")
        lines = summary_lines(found, view_of(found, collected.trials), None)
        assert f"97.80%, the one of 2 final trainings, scored once each, chosen by {by}" in lines[1]
        assert "luck" not in text + card(collected, NOTHING) + lines[1]


def test_samples_are_told_as_the_servers_counted_them(ended: tuple[FakeScheduler, Client]) -> None:
    fake, client = ended
    collected = collect(client, "one")
    assert report_json(collected, verification=(), files=())["data"]["samples"] == {}  # not recorded then
    fake.trials["searches/one"][7].environment.update({"train.samples": "1438", "evaluate.samples": "359"})
    fake.trials["searches/one"][7].evaluate.split = measurement_pb2.SPLIT_TEST
    collected = collect(client, "one")
    assert report_json(collected, verification=(), files=())["data"]["samples"] == {"trained": 1438, "tested": 359}
    assert "1,438 samples trained; 359 samples tested" in card(collected, NOTHING)


def test_a_search_without_a_result_has_no_report(tmp_path: Path) -> None:
    with running_fake() as (_, address), Client(address) as client:
        client.create_search(read_spec(EXAMPLES / "digits.yaml"), search_id="one")
        with pytest.raises(Stale):
            write_report(client, "one", tmp_path / "out", force=False)
    assert not (tmp_path / "out").exists()


def test_the_growth_plot_is_a_png_also_for_spaces_without_stages(ended: tuple[FakeScheduler, Client]) -> None:
    from clients.cli.report.plots import growth_png

    fake, client = ended
    staged = growth_png(collect(client, "one"))
    for trial in fake.trials["searches/one"].values():
        trial.network.summary.clear()
    plain = growth_png(collect(client, "one"))
    assert staged is not None
    assert plain is not None
    assert staged[:8] == plain[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(staged[20:24]) > int.from_bytes(plain[20:24])  # two rows, one row


def test_predict_py_tells_numbers_in_their_own_units(ended: tuple[FakeScheduler, Client], tmp_path: Path) -> None:
    write_report(ended[1], "one", tmp_path / "out", force=False)
    mean, std = [float(number) for number in range(10)], [2.0] * 10
    images = np.random.default_rng(8).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = "import predict, numpy; numpy.save('given.npy', predict.run(numpy.load('../images.npy')))"
    run(code, tmp_path / "out")
    (tmp_path / "out" / "predict.py").write_text(predict_py(Dataset(target_mean=mean, target_std=std)))
    told = subprocess.run(
        [sys.executable, "out/predict.py", "images.npy"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = [[float(value) for value in line.split(": ")[1].split()] for line in told.stdout.splitlines()]
    expected = np.load(tmp_path / "out" / "given.npy") * np.float32(std) + np.float32(mean)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
