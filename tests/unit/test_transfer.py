"""A found network for other data, depth or width: the architecture is fitted, the specification says what changes."""

import random
import sys
from collections.abc import Iterator

import pytest

from clients.cli.carrying import Wish, carried_over, find_trial
from nasmesh import spaces
from nasmesh.client import Client, read_spec
from nasmesh.client.spec import parse_spec
from nasmesh.client.written import dump_spec, override_spec
from nasmesh.errors import Invalid, Rejected
from nasmesh.model.architecture import shapes
from nasmesh.model.lower import lower
from nasmesh.model.transform import fit_to
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import search_pb2, space_pb2
from tests.builders.architectures import small_cnn
from tests.builders.fake_scheduler import EXAMPLES, FakeScheduler, make_trial, played_search
from tests.unit.test_model_standalone import built

OTHER = arch.Preprocessing(mean=[0.5], std=[0.2])


@pytest.fixture
def played() -> Iterator[tuple[FakeScheduler, Client]]:
    with played_search() as found:
        yield found


def of_space(fake: FakeScheduler, space: space_pb2.Space, number: int = 1, **values: str) -> search_pb2.Trial:
    """Have the played search be one in this space, its trial with these choices."""
    search = fake.searches["searches/one"]
    search.spec.space.CopyFrom(space)
    search.spec.final.ClearField("scale_up")
    trial = fake.trials["searches/one"][number]
    trial.choices.values.update(values or {"edge_0_1": "skip_connect"})
    return trial


@pytest.mark.parametrize("kind", ["envelope", "chain", "cell"])
def test_networks_of_each_space_fit_other_data_and_are_lowered(kind: str) -> None:
    seed = 4
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    for _ in range(5):
        fitted = fit_to(built(kind, rng), (1, 16, 16), 7, OTHER)
        assert list(fitted.inputs[0].dims) == [1, 16, 16]
        assert shapes(fitted)[fitted.output] == (7,)
        assert fitted.preprocessing == OTHER
        lower(fitted)


def test_a_network_without_such_an_output_is_refused() -> None:
    made = small_cnn()
    del made.blocks[-1]
    made.output = "head_pool"  # its width is that of the convolution before, which then is the number of outputs
    assert shapes(fit_to(made, (1, 8, 8), 3, OTHER))["head_pool"] == (3,)
    with pytest.raises(Rejected):
        fit_to(small_cnn(), (1,), 3, OTHER)


def test_a_cell_is_taken_to_other_data_deeper_and_wider_by_its_choices(played: tuple[FakeScheduler, Client]) -> None:
    fake, client = played
    trial = of_space(fake, space_pb2.Space(cell=space_pb2.CellSpace(cells=[1, 1], width=4)))
    fake.searches["searches/one"].spec.constraints.add(metric="parameters", max=10)
    wish = Wish("fashion-mnist", cells=5, width_multiplier=2.0, repeats=3, inherit_weights=True)
    spec = carried_over(client, trial, wish)
    assert (list(spec.space.cell.cells), spec.space.cell.width) == ([5, 5], 8)
    assert dict(spec.generator.settings["choices"]) == {"edge_0_1": "skip_connect"}
    assert (spec.generator.generator, spec.budget.max_trials, spec.final.repeats) == ("generators/fixed", 1, 3)
    assert (spec.transfer.trial, spec.transfer.inherit_weights) == (trial.name, True)
    assert (spec.data.dataset, spec.final.HasField("scale_up")) == ("datasets/fashion-mnist", False)
    assert not spec.constraints
    assert spec.train == fake.searches["searches/one"].spec.train
    again = override_spec(spec, ["train.epochs=7"])
    spec.train.epochs = 7
    assert again == spec


def test_a_final_network_is_taken_over_in_the_space_of_the_final_phase(played: tuple[FakeScheduler, Client]) -> None:
    fake, client = played
    trial = fake.trials["searches/one"][7]
    trial.choices.values["stage_1.cells"] = "1"
    spec = carried_over(client, trial, Wish(width_multiplier=1.5))
    assert spec.space.envelope.stem.width == 24  # 16 in the final phase, 8 in the search
    assert len(spec.space.envelope.stages) == 3


def test_a_network_without_choices_is_taken_over_by_its_architecture(played: tuple[FakeScheduler, Client]) -> None:
    fake, client = played
    trial = fake.trials["searches/one"][2]
    fake.model = lower(small_cnn(classes=4)).SerializeToString()
    spec = carried_over(client, trial, Wish(width_multiplier=2.0))
    found = spec.space.fixed.architecture
    assert shapes(found)[found.output] == (10,)  # the data has ten classes
    assert found.blocks[0].operation.conv_unit.conv.channels == 16
    assert spaces.kind(spec.space) == "fixed"


def test_depth_that_is_no_number_of_cells_is_refused(played: tuple[FakeScheduler, Client]) -> None:
    with pytest.raises(Invalid, match="space envelope is no number of cells") as caught:
        carried_over(played[1], played[0].trials["searches/one"][2], Wish(cells=3))
    assert (caught.value.reason, caught.value.field) == ("TRANSFER_IMPOSSIBLE", "cells")


def test_a_trial_is_found_by_each_of_its_names(played: tuple[FakeScheduler, Client]) -> None:
    client = played[1]
    assert find_trial(client, "one/2").number == 2
    assert find_trial(client, "searches/one/trials/2").number == 2
    assert find_trial(client, "one").number == make_trial("searches/one", 7, final=True).number


def test_a_specification_is_written_as_it_is_read() -> None:
    for path in EXAMPLES.glob("*.yaml"):
        spec = read_spec(path)
        text = dump_spec(spec, comment="from\nhere")
        assert text.startswith("# from\n# here\n")
        assert override_spec(spec, ["seed=9"]).seed == 9
        assert override_spec(spec, [f"seed={spec.seed}"]) == spec


def test_a_specification_is_written_with_numbers_as_people_write_them() -> None:
    spec = search_pb2.SearchSpec(seed=2**63 - 1, labels={"year": "2026"})
    spec.budget.max_trials, spec.train.epochs, spec.train.optimizer.learning_rate = 20, 3.0, 1e-5
    spec.generator.settings.update({"fields": 5, "seed": "7", "share": 0.5})
    text = dump_spec(spec)
    for line in ("seed: 9223372036854775807", "maxTrials: 20", "epochs: 3", "fields: 5", "seed: '7'", "year: '2026'"):
        assert f"{line}\n" in text
    assert parse_spec(text) == spec
