"""Marks tests that need root: elsewhere they are skipped with the reason; where CI=true they run, so none is missed."""

import os

import pytest

from nasmesh.errors import Unavailable
from nasmesh.jobs.confinement import require_tools


def _missing() -> str:
    try:
        require_tools()
    except Unavailable as error:
        return error.message
    return ""


needs_root = pytest.mark.skipif(bool(_missing()) and os.environ.get("CI") != "true", reason=f"needs root: {_missing()}")
