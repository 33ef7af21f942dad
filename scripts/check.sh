#!/usr/bin/env bash
# Every static check; stops at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf 'check: %-16s' "$1"; shift; local log; log=$(mktemp); local began=$SECONDS
  if "$@" >"$log" 2>&1; then echo "ok ($((SECONDS - began)) s)"; rm -f "$log"; else echo FAILED; cat "$log"; rm -f "$log"; exit 1; fi; }
step format .venv/bin/ruff format --check .
step lint .venv/bin/ruff check .
step types .venv/bin/mypy
step imports .venv/bin/lint-imports
step shape .venv/bin/python scripts/check_shape.py
step protos scripts/protos_check.sh
step documents .venv/bin/python scripts/check_docs.py
