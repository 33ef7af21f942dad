#!/usr/bin/env bash
# Makes .venv with everything that a set of programs needs. Usage: scripts/setup.sh run|dev
# Each step is skipped when it is already done for the present pyproject.toml and constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=${1:?usage: scripts/setup.sh run|dev}
python=${PYTHON:-python3}

fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no $python; install Python 3.11 or newer, or set PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old; set PYTHON to 3.11 or newer"

digest=$(cat pyproject.toml constraints.txt | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
done_already() { [ -f ".venv/.$1" ] && [ "$(cat ".venv/.$1")" = "$digest" ]; }

if [ "$wanted" = run ] && { done_already run || done_already dev; }; then exit 0; fi
if [ "$wanted" = dev ] && done_already dev; then exit 0; fi

started=$(date +%s)
if [ ! -x .venv/bin/python ]; then
  "$python" -m venv .venv || fail "could not make .venv; on Debian: apt-get install python3-venv"
fi
# setuptools warns about editable installs in general, which helps nobody here.
pip() { PYTHONWARNINGS=ignore .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet --constraint constraints.txt 'pip>=25.1' setuptools
echo "setup: installing the Python packages into .venv (the largest is torch; some minutes on a slow line)"
if [ "$wanted" = dev ]; then
  pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
else
  pip install --quiet --constraint constraints.txt --editable '.[all]'
fi
echo "$digest" > ".venv/.$wanted"
echo "setup: done in $(($(date +%s) - started)) s, $(du -sh .venv | cut -f1) in .venv"
