"""Where a journal is: a scheduler on a file never loads the driver of a database."""

import subprocess
import sys


def test_driver_when_no_database_is_named_then_not_imported() -> None:
    script = (
        "import sys, scheduler.program, scheduler.admin.__main__\n"
        "from scheduler.journal.places import journal_at\n"
        "journal_at('sqlite:journal.db'); journal_at('memory:')\n"
        "assert 'psycopg' not in sys.modules\n"
        "journal_at('postgresql://u@127.0.0.1/d')\n"
        "assert 'psycopg' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
