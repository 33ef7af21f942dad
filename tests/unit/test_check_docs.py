"""What scripts/check_docs.py has against a document that is wrong, and that it has nothing against ours."""

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    return runpy.run_path("scripts/check_docs.py")


def test_wrong_document_when_read_then_each_fault_is_named(check: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[here](nowhere.md), `scheduler/plannner.py`, `tests/unit`\n\n"
        "```sh\nmake tset\nnasmesh serch list\nnasmesh search list\nmake test\n```\n"
    )
    assert check["complaints"](page, check["targets"]()) == [
        f"{page}: link to nowhere.md, which does not exist",
        f"{page}: scheduler/plannner.py, which does not exist",
        f"{page}: make tset is no target",
        f"{page}: nasmesh serch list is no command",
    ]


def test_page_of_commands_when_one_is_missing_then_it_is_named(check: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    known = [("agent", "drain"), ("agent", "undrain"), ("network", "link")]
    assert check["left_out"](text, known) == []
    shorter = text.replace("`nasmesh network link NETWORK`", "").replace("NASMESH_STORE_CACHE_BYTES", "")
    assert check["left_out"](shorter.replace("undrain AGENT", " AGENT"), known) == [
        "docs/cli.md: nasmesh agent undrain is not in it",
        "docs/cli.md: nasmesh network link is not in it",
        "docs/cli.md: NASMESH_STORE_CACHE_BYTES is not in it",
    ]


def test_our_documents_when_read_then_nothing_is_wrong(
    check: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check["main"]() == 0, capsys.readouterr().out
