"""README's tables: each row of «Kill it anywhere» names tests that run for every change, each figure its command."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_kill_table_when_read_then_every_command_names_tests_that_are_collected() -> None:
    section = (ROOT / "README.md").read_text().partition("## Kill it anywhere")[2].partition("\n## ")[0]
    commands = re.findall(r"`pytest ([^`]+)`", section)
    assert len(commands) >= 6
    for place in commands:
        found = ROOT / place
        files = sorted(found.glob("test_*.py")) if found.is_dir() else [found]
        assert files, place
        assert all("def test_" in file.read_text() for file in files), place


def test_figures_when_read_then_each_has_a_command_that_exists() -> None:
    section = (ROOT / "README.md").read_text().partition("## Figures")[2]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 20
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for row in rows:
        figure, value, command = (cell.strip() for cell in row)
        assert figure
        assert any(letter.isdigit() for letter in value), figure
        named = re.findall(r"`(?:python -m )?(benchmarks\.\w+|make [a-z-]+|nasmesh [a-z]+)", command)
        assert named or command == "the same", figure
        for name in named:
            if name.startswith("benchmarks."):
                assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name
            elif name.startswith("make "):
                assert name.removeprefix("make ") in targets, name
    quick = re.search(r"for name in ([\w ]+); do", (ROOT / "Makefile").read_text())
    assert quick is not None
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    measured = {name for page in pages for name in re.findall(r"benchmarks\.(\w+)", page.read_text())}
    assert measured <= set(quick[1].split()), "make bench runs every one that a document names"
