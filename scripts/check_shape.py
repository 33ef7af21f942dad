"""Fails where a file or function is too long, a name says nothing (the project's style), or two tests have one name.

Reads code, runs none.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

FILE_LINES = 300
# Tests hold tables of cases, which read better in one place.
TEST_FILE_LINES = 400
FUNCTION_LINES = 60
EMPTY_WORDS = {"util", "utils", "common", "helper", "helpers", "manager", "misc", "handler"}


def committed_files() -> list[Path]:
    """Return the Python files that git tracks or would track, without generated stubs."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return [
        Path(name) for name in listing if not name.startswith(("nasmesh/v1/", "nasmesh/keda/")) and Path(name).exists()
    ]


def complaints(path: Path) -> list[str]:
    """Return what is wrong with one file, a line each."""
    text = path.read_text()
    found = []
    lines = text.count("\n")
    limit = TEST_FILE_LINES if path.parts[0] == "tests" else FILE_LINES
    if lines > limit:
        found.append(f"{path}: {lines} lines; split it by idea (limit {limit})")
    if EMPTY_WORDS & set(path.stem.split("_")):
        found.append(f"{path}: the name says nothing about what is inside")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines (limit {FUNCTION_LINES})")
    if path.name == "service.py":
        found += [f"{path}:{n}: a servicer does not use context" for n in context_uses(text)]
    return found


def context_uses(text: str) -> list[int]:
    """Return the lines on which a servicer uses its gRPC context."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "context"
    ]


def clashes(paths: Iterable[Path]) -> list[str]:
    """Return the names that several files of folders without __init__.py have: pytest imports only one of them."""
    listed = set(paths)
    places: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(listed):
        if path.parts[0] == "tests" and path.parent / "__init__.py" not in listed and path.name != "conftest.py":
            places[path.name].append(path)
    return [
        f"{', '.join(map(str, found))}: one name; call each by what it tests, or one run cannot collect both"
        for found in places.values()
        if len(found) > 1
    ]


def main() -> int:
    """Print every complaint; 1 where there is one."""
    files = committed_files()
    found = [line for path in files for line in complaints(path)] + clashes(files)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
