"""Fails where a document names a file, make target or nasmesh command that does not exist. Reads, runs nothing."""

import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from clients.cli.main import app

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    """Return the Markdown files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    return [Path(name) for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def targets() -> set[str]:
    """Return the Makefile's targets."""
    return set(re.findall(r"^([a-z][a-z-]*):", Path("Makefile").read_text(), re.MULTILINE))


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


def complaints(path: Path, known_targets: set[str]) -> list[str]:
    """Return what is wrong with one document."""
    text = path.read_text()
    found = [
        f"{path}: link to {link}, which does not exist"
        for link in LINK.findall(text)
        if "://" not in link and not (path.parent / link).exists()
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
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
