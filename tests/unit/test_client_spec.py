"""A specification is SearchSpec in protobuf's JSON mapping; every fault names its path and the fix."""

from pathlib import Path

import pytest
import yaml
from google.protobuf.json_format import MessageToDict

from nasmesh.client import parse_spec, read_spec
from nasmesh.client.spec import SPEC_BYTES
from nasmesh.errors import Invalid
from nasmesh.v1 import search_pb2

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_reads_and_survives_a_round_trip_through_yaml(path: Path) -> None:
    spec = read_spec(path)
    assert spec.objectives[0].goal == search_pb2.GOAL_MAXIMIZE
    assert parse_spec(yaml.safe_dump(MessageToDict(spec))) == spec
    assert parse_spec(yaml.safe_dump(MessageToDict(spec, preserving_proto_field_name=True))) == spec


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("budgte: {}", "budgte", "did you mean 'budget'"),
        ("train: {epoch: 3}", "train.epoch", "did you mean 'epochs'"),
        ("train: {optimizer: {lr: 1}}", "train.optimizer.lr", "learningRate"),
        ("space: {envelope: {stages: [{cells: 1}]}}", "space.envelope.stages.0.cells", "Cells"),
        ("train: {epochs: 3, steps: 4}", "train.steps", "together with epochs"),
        ("train: {epochs: two}", "train.epochs", "finite number"),
        ("train: {steps: 1.5}", "train.steps", "whole number"),
        ("train: {batchSize: 99999999999}", "train.batchSize", "below 2^31"),
        ("budget: {maxWallTimeS: .nan}", "budget.maxWallTimeS", "finite number"),
        ("budget: {maxWallTimeS: .inf}", "budget.maxWallTimeS", "finite number"),
        ("seed: 1e400", "seed", "whole number"),
        ("train: {includeValidation: 'yes'}", "train.includeValidation", "true or false"),
        ("train: {includeValidation: 1}", "train.includeValidation", "true or false"),
        ("data: {dataset: 5}", "data.dataset", "quote it"),
        ("data: digits", "data", "mapping with fields dataset"),
        ("objectives: {metric: accuracy}", "objectives", "must be a list"),
        ("objectives: [{goal: maximize}]", "objectives.0.goal", "did you mean GOAL_MAXIMIZE"),
        ("objectives: [{goal: 1}]", "objectives.0.goal", "is not a value"),
        ("labels: {team: 1}", "labels", "quote numbers"),
        ("generator: {settings: 3}", "generator.settings", "must be a mapping"),
        ("space:", "space", "has no value"),
        ("seed: 1\nseed: 2", "seed", "given twice, again in line 2"),
    ],
)
def test_a_wrong_field_is_named_with_its_path_and_fix(text: str, field: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_spec(text)
    assert caught.value.field == field
    assert words in caught.value.message
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(
    "text", ["", "- a", "just text", "a: [", "\x00", b"\xff\xfe\x00", "? [a]\n: 1", "a: !!python/x 1"]
)
def test_text_that_is_no_specification_is_refused(text: str | bytes) -> None:
    with pytest.raises(Invalid) as caught:
        parse_spec(text)
    assert caught.value.reason == "SPEC_MALFORMED"


def test_an_alias_that_contains_itself_is_refused() -> None:
    with pytest.raises(Invalid):
        parse_spec("space: &s {envelope: {stages: [*s]}}")


def test_a_number_that_yaml_reads_as_text_is_a_number() -> None:
    assert parse_spec("train: {optimizer: {learningRate: 1e-3}}").train.optimizer.learning_rate == 0.001


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (SPEC_BYTES + 1))
    with pytest.raises(Invalid, match="no specification"):
        read_spec(huge)


def test_overrides_set_one_field_each_in_either_spelling() -> None:
    text = "train: {epochs: 3, batch_size: 8}\nobjectives: [{metric: accuracy}]\ngenerator: {settings: {a: 1}}"
    spec = parse_spec(
        text,
        [
            "train.steps=10",
            "train.batchSize=16",
            "objectives.0.metric=loss",
            "labels.team=a",
            "generator.settings.iterations=2",
            "final.scaleUp.space.envelope.stem.width=32",
        ],
    )
    assert spec.train.WhichOneof("budget") == "steps"
    assert spec.train.batch_size == 16
    assert spec.objectives[0].metric == "loss"
    assert spec.labels["team"] == "a"
    assert dict(spec.generator.settings) == {"a": 1, "iterations": 2}
    assert spec.final.scale_up.space.envelope.stem.width == 32


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", "did you mean 'epochs'"),
        ("train", "write path.to.field=value"),
        ("=3", "write path.to.field=value"),
        ("train..epochs=3", "write path.to.field=value"),
        ("objectives.1.metric=loss", "there are 1 elements"),
        ("train.epochs.x=3", "has no fields"),
        ("train.epochs=", "finite number"),
        ("train.epochs=[", "expected"),
    ],
)
def test_a_wrong_override_is_refused(override: str, words: str) -> None:
    with pytest.raises(Invalid, match=words.replace("[", r"\[").replace(".", r"\.")):
        parse_spec("train: {epochs: 3}\nobjectives: [{metric: accuracy}]", [override])
