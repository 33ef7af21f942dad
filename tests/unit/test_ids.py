"""Ids and names: building and parsing are inverse, and nothing hostile passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasmesh import ids
from nasmesh.errors import Invalid

GRAMMARS = {
    "searches": r"[a-z][a-z0-9-]{0,62}",
    "generators": r"[a-z][a-z0-9-]{0,62}",
    "datasets": r"[a-z][a-z0-9-]{0,62}",
    "agents": r"[a-z0-9][a-z0-9.-]{0,62}",
    "networks": r"[0-9a-f]{64}",
}
HOSTILE = ["", "a/b", "../a", "A", "a_b", "a\n", "a\0", "é", "%2e", "a" * 65, "-a", " a", "a ", "ａ"]


@given(st.data())
def test_parse_of_format_is_the_identity(data: st.DataObject) -> None:
    collection = data.draw(st.sampled_from(sorted(GRAMMARS)))
    identifier = data.draw(st.from_regex(GRAMMARS[collection], fullmatch=True))
    assert ids.parse_name(collection, ids.format_name(collection, identifier)) == identifier


@given(
    st.from_regex(GRAMMARS["searches"], fullmatch=True),
    st.integers(min_value=1, max_value=9_999_999_999),
)
def test_parse_of_trial_is_the_identity(search: str, number: int) -> None:
    assert ids.parse_trial(ids.format_trial(search, number)) == (search, number)


@given(st.text(max_size=40))
def test_what_parses_as_a_name_is_in_its_one_form(text: str) -> None:
    for collection in GRAMMARS:
        try:
            identifier = ids.parse_name(collection, text)
        except Invalid:
            continue
        assert text == f"{collection}/{identifier}"


@pytest.mark.parametrize("identifier", HOSTILE)
@pytest.mark.parametrize("collection", ["searches", "networks"])
def test_hostile_id_is_refused_with_the_field(collection: str, identifier: str) -> None:
    for call in (
        lambda: ids.format_name(collection, identifier, field="search_id"),
        lambda: ids.parse_name(collection, f"{collection}/{identifier}", field="search_id"),
    ):
        with pytest.raises(Invalid, match="search_id") as caught:
            call()
        assert caught.value.field == "search_id"


@pytest.mark.parametrize(
    "name",
    ["searches/a/trials/0", "searches/a/trials/01", "searches/a/trials/-1", "searches/a/trials/1/", "searches/a", ""],
)
def test_other_forms_of_trial_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        ids.parse_trial(name)


@pytest.mark.parametrize("identifier", ["a" * 129, "-a", "a_b", "a/b", "A", "", "a\n"])
def test_bad_job_id_is_refused(identifier: str) -> None:
    with pytest.raises(Invalid):
        ids.check_job_id(identifier, field="training_id")


def test_job_ids_of_attempts_are_job_ids_and_differ() -> None:
    task = ids.check_task_id("t" * 101)
    assert ids.check_job_id(ids.job_id(task, 2_147_483_647), field="id")
    assert ids.job_id(task, 1) != ids.job_id(task, 2)


@pytest.mark.parametrize("identifier", HOSTILE[:8])
def test_bad_task_id_is_refused(identifier: str) -> None:
    with pytest.raises(Invalid):
        ids.check_task_id(identifier)
