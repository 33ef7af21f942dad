"""`python -m scheduler.admin COMMAND`: what `nasmesh admin` becomes; flags, words, exit codes."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from nasmesh.exits import guarded_command
from nasmesh.flags import FlagParser
from nasmesh.logs import configure
from nasmesh.rpc.access import add_client_flags, client_access
from nasmesh.settings import Settings, read_settings
from nasmesh.store.open import open_store
from scheduler.admin import telling
from scheduler.admin.checking import check
from scheduler.admin.compacting import compact
from scheduler.admin.copying import backup, restore
from scheduler.admin.explaining import explain
from scheduler.admin.migrating import migrate
from scheduler.admin.places import existing, store_beside
from scheduler.admin.rederiving import replay
from scheduler.journal.places import place_of
from scheduler.piped import PipedGenerator


def parse_flags(argv: Sequence[str] | None, settings: Settings) -> argparse.Namespace:
    """Return what a command line says; raises Invalid (USAGE)."""
    parser = FlagParser("nasmesh admin", description="What an operator does with a journal.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    checks = commands.add_parser("check", help="read a whole journal, live or copied, and say what does not hold")
    checks.add_argument("--store", metavar="URL", default="", help="read and verify every object there as well")
    explains = commands.add_parser("explain", help="tell the story of a task or a trial")
    explains.add_argument("subject", metavar="TASK", help='a task id, or "searches/{id}/trials/{n}"')
    compacts = commands.add_parser("compact", help="with the scheduler stopped: drop events that nobody needs")
    backups = commands.add_parser("backup", help="copy a journal, live or not, to one file")
    backups.add_argument("file", metavar="FILE", type=Path)
    restores = commands.add_parser("restore", help="with the scheduler stopped: put a backup in place")
    restores.add_argument("file", metavar="FILE", type=Path)
    restores.add_argument("--force", action="store_true", help="replace a journal that is there; it is kept aside")
    replays = commands.add_parser("replay", prog="nasmesh replay", help="derive every decision of a search again")
    replays.add_argument("search", metavar="SEARCH", help='id of the search, or "searches/{id}"')
    replays.add_argument("--target", default="", metavar="HOST:PORT", help="generate server [one of this version]")
    replays.add_argument("--store", default="", metavar="URL", help="objects that no proposal made [{home}/objects]")
    replays.add_argument("--insecure", action="store_true", help="dial a target beyond this machine without TLS")
    add_client_flags(replays, settings)
    migrates = commands.add_parser(
        "migrate", help="with the scheduler stopped: copy a journal to another kind of place"
    )
    migrates.add_argument("--from", dest="source", metavar="URL", required=True, help="sqlite:PATH or postgresql://…")
    migrates.add_argument("--to", dest="target", metavar="URL", required=True, help="where there is none yet")
    for command in (checks, explains, compacts, backups, restores, replays):
        command.add_argument(
            "--journal", default=settings.journal, metavar="URL", help="sqlite:PATH or postgresql://… [%(default)s]"
        )
    for command in (checks, explains, compacts, backups, restores, replays, migrates):
        command.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    return parser.parse_args(argv)


def run(flags: argparse.Namespace) -> int:
    """Carry a command out and return the exit code: 0, or 1 where a check found something."""
    if flags.command == "migrate":
        telling.migrated(migrate(place_of(flags.source), place_of(flags.target)), as_json=flags.json)
        return 0
    journal = place_of(flags.journal)
    match flags.command:
        case "check":
            report = check(journal, open_store(existing(flags.store)) if flags.store else None)
            telling.report(report, as_json=flags.json)
            return 1 if report.violations else 0
        case "explain":
            telling.story(explain(journal, flags.subject), as_json=flags.json)
        case "replay":
            store = store_beside(flags.store, read_settings())
            with PipedGenerator(
                target=flags.target, store=store, insecure=flags.insecure, access=client_access(flags)
            ) as generator:
                done = replay(journal, flags.search, generator)
            telling.replayed(done, as_json=flags.json)
            return 1 if done.differences else 0
        case "compact":
            telling.compaction(compact(journal), as_json=flags.json)
        case "backup":
            telling.copied(backup(journal, flags.file.expanduser().absolute()), as_json=flags.json)
        case _:
            source = flags.file.expanduser().absolute()
            telling.restored(restore(source, journal, force=flags.force), as_json=flags.json)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 violations or differences, 2 wrong, 3 in use or unreadable, 4 missing, 5 exists."""

    def work() -> int:
        settings = read_settings()
        flags = parse_flags(argv, settings)
        configure("admin", settings=settings, stream=io.StringIO())  # what it has to say are sentences
        return run(flags)

    return guarded_command(work, as_json="--json" in (sys.argv if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
