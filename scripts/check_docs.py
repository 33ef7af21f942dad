"""Fails where a document names a file, make target or nasmesh command that does not exist, or docs/cli.md lacks one.

Reads, runs nothing.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from typer.main import get_command

from clients.cli.main import app
from nasmesh.settings import KNOWN

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
# A path as ARCHITECTURE.md and others name it: below a folder of this repository.
OURS = re.compile(
    r"(?:[a-z]+_svc|nasmesh|scheduler|clients|tests|scripts|benchmarks|deploy|docs|examples|protos)/[\w./@-]*"
)
MADE = {"deploy/access/"}
"""Folders that a document names and a command makes."""
COMMANDS = Path("docs/cli.md")


def documents() -> list[Path]:
    """Return the Markdown files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    return [Path(name) for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def targets() -> set[str]:
    """Return the Makefile's targets."""
    return set(re.findall(r"^([a-z][a-z0-9-]*):", Path("Makefile").read_text(), re.MULTILINE))


def is_command(words: list[str]) -> bool:
    """Tell whether `nasmesh WORDS` names a command that exists."""
    command = get_command(app)
    for word in words:
        children = getattr(command, "commands", None)
        if children is None or word.startswith("-"):
            return True
        if word not in children:
            return False
        command = children[word]
    return True


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command below one that people are shown."""
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            yield from commands(child, (*path, name))
        elif not child.hidden:
            yield (*path, name)


def left_out(text: str, known: Iterable[tuple[str, ...]]) -> list[str]:
    """Return what the page of all commands does not name: commands ("nasmesh a|b" names two), and variables."""
    named: set[tuple[str, ...]] = set()
    for span in SPAN.findall(text.replace("\\|", "|")):
        words = span.split()
        if words[:1] == ["nasmesh"]:
            for chosen in product(*(word.split("|") for word in words[1:])):
                named |= {chosen[:length] for length in range(1, len(chosen) + 1)}
    found = [f"{COMMANDS}: nasmesh {' '.join(path)} is not in it" for path in known if path not in named]
    variables = [name for name, meaning in KNOWN.items() if not meaning.startswith("tests only")]
    return found + [f"{COMMANDS}: {name} is not in it" for name in variables if not re.search(rf"\b{name}\b", text)]


def complaints(path: Path, known_targets: set[str]) -> list[str]:
    """Return what is wrong with one document."""
    text = path.read_text()
    found = [
        f"{path}: link to {link}, which does not exist"
        for link in LINK.findall(text)
        if "://" not in link and not (path.parent / link).exists()
    ]
    found += [
        f"{path}: {span}, which does not exist"
        for span in SPAN.findall(text)
        if OURS.fullmatch(span) and span not in MADE and not Path(span).exists()
    ]
    for block in FENCE.findall(text):
        for line in block.splitlines():
            words = re.sub(r"^(\$ |\.venv/bin/)", "", line.strip()).split()
            if words[:1] == ["make"] and len(words) > 1 and words[1] not in known_targets:
                found.append(f"{path}: make {words[1]} is no target")
            if words[:1] == ["nasmesh"] and not is_command(words[1:]):
                found.append(f"{path}: {line.strip()} is no command")
    return found


def main() -> int:
    """Print every complaint; 1 where there is one."""
    known = targets()
    found = [line for path in documents() for line in complaints(path, known)]
    found += left_out(COMMANDS.read_text(), commands(get_command(app)))
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
