"""Settings of every test run."""

import os

# Tests open sessions of their own; see nasmesh/model/runtime.py.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
