"""README's table «Kill it anywhere»: each row names tests that exist and that run for every change."""

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
