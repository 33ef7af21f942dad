"""Which agents work for which scheduler, and what the others are told to upgrade."""

import pytest

from nasmesh import __version__
from nasmesh.errors import Stale
from nasmesh.versions import UNFIT, check_fit


@pytest.mark.parametrize(
    ("agent", "scheduler"),
    [
        ("0.1.0", "0.1.0"),
        ("0.1.9", "0.1.0"),
        ("0.1.0", "0.2.0"),
        ("1.4.2rc1", "1.4.0+local"),
        ("1.4.0.dev3", "1.5"),
        ("", "0.1.0"),
        ("0.1.0", ""),
        (__version__, __version__),
    ],
)
def test_versions_that_fit(agent: str, scheduler: str) -> None:
    check_fit(agent, scheduler)


@pytest.mark.parametrize(
    ("agent", "scheduler", "advice"),
    [
        ("0.2.0", "0.1.0", "upgrade the scheduler to 0.2 first, or install 0.1 here"),
        ("0.1.0", "0.3.0", "upgrade nasmesh to 0.3 on the agent's host"),
        ("0.10.0", "0.9.0", "upgrade the scheduler to 0.10 first"),
        ("1.9.0", "2.0.0", "upgrade nasmesh to 2.0 on the agent's host"),
        ("2.0.0", "1.9.0", "upgrade the scheduler to 2.0 first"),
        ("newest", "0.1.0", "'newest' is no version"),
        ("0.1", "1" * 4000, "is no version"),
        ("1", "0.1.0", "'1' is no version"),
    ],
)
def test_versions_that_do_not_fit(agent: str, scheduler: str, advice: str) -> None:
    with pytest.raises(Stale) as caught:
        check_fit(agent, scheduler, who="agents/gpu1")
    assert caught.value.reason == UNFIT
    assert advice in caught.value.message
    assert len(caught.value.message) < 300
