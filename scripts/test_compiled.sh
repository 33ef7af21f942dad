#!/usr/bin/env bash
# The simulator and the scheduler's own tests in the compiled form: what C does otherwise than Python, they must see.
# Without a C compiler there is no such form, and this says so.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
.venv/bin/python scripts/compile.py || status=$?
if [ "$status" = 3 ]; then echo "test-compiled: skipped, this machine cannot compile"; exit 0; fi
[ "$status" = 0 ] || exit "$status"
.venv/bin/python -m scheduler.compiled tests.sim.run --seeds 0:600
# In one process: those that pytest-xdist starts would run the sources.
.venv/bin/python -m scheduler.compiled pytest -p no:xdist -q \
  tests/unit/test_scheduler_{batches,cold,encoding,engine,final,machine,parts,reuse,shares,slips}.py \
  tests/unit/test_scheduler_{standstill,updates,validate,wishes}.py \
  tests/contract/test_{dispatch,dispatch_batches,journal,scheduler_service,scheduler_watch,upgrade}.py
