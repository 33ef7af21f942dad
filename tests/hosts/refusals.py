"""A host that should not be let in: what is wrong with what it was given, and the sentence that its operator reads."""

import shutil
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from tests.builders.netns import Program
from tests.hosts.fleet import PORT, PYTHON, Fleet

HOST = "spare"
_SAYS_S = 60.0
_LOOK_S = 0.05
_SECOND_IN_DAYS = "0.00001"


class Wrong(NamedTuple):
    """One host's mistake: the flags that replace the right ones, and what its log must say."""

    flags: dict[str, str]
    reason: str
    sentence: str
    is_final: bool
    """Whether the program ends by itself, at once."""


MISTAKES = {
    # The first that is looked at: it waits for the name, but not for ever (nasmesh.agent.loop.NAME_TAKEN_S).
    "two hosts with one name": Wrong(
        {"token-file": "gpu1.token", "cert-file": "gpu1.crt", "key-file": "gpu1.key", "name": "gpu1-train"},
        "AGENT_NAME_TAKEN",
        "agents/gpu1-train works on host gpu1 (GPU1) already; start this one, on host spare, with another --name",
        False,
    ),
    "revoked token": Wrong({"token-file": "revoked.token"}, "TOKEN_REVOKED", "is revoked; ask for a new one", True),
    "stale token": Wrong({"token-file": "stale.token"}, "TOKEN_EXPIRED", "is expired; ask for a new one", True),
    "token of another host": Wrong(
        {"token-file": "gpu1.token"},
        "CREDENTIALS_DISAGREE",
        "the certificate is that of agents/spare, the token that of agents/gpu1",
        True,
    ),
    "name of another host": Wrong(
        {"name": "gpu1-train"}, "AGENT_NAME_FORBIDDEN", "start it with --name as the credential says", True
    ),
    "certificate for another host": Wrong(
        {"scheduler": "HUB"},
        "SERVER_OTHER_HOST",
        "its certificate is for other hosts; issue one with this --host",
        False,
    ),
}


def prepare(fleet: Fleet) -> None:
    """Add the host, with everything that it was given, right and wrong."""
    fleet.network.add(HOST)
    fleet.credentials(HOST)
    tokens = str(fleet.office / "tokens.json")
    for name, days in (("revoked", "1"), ("stale", _SECOND_IN_DAYS)):
        file = fleet.office / f"{name}.token"
        made = ("--name", HOST, "--scope", "agent", "--ca", str(fleet.office / "certs/ca.crt"), "--out", str(file))
        fleet.operator("token", "create", "--tokens", tokens, "--days", days, *made)
        fleet.give(HOST, file)
    fleet.operator("token", "revoke", "--tokens", tokens, token_id(fleet, "revoked"))
    for file in ("gpu1.token", "gpu1.crt", "gpu1.key", "store.keys"):
        fleet.give(HOST, fleet["gpu1"].files / file)
    shutil.copy(fleet.office / "tokens.json", fleet["hub"].files)


def token_id(fleet: Fleet, name: str) -> str:
    """Return the id of the token in a file: the beginning of its hash."""
    text = (fleet.office / f"{name}.token").read_text().split()[0]
    return sha256(text.encode()).hexdigest()[:8]


class Attempt(NamedTuple):
    """A server started with a mistake."""

    program: Program
    log: Path


def start(fleet: Fleet, number: int, wrong: Wrong) -> Attempt:
    """Start a server with a mistake."""
    host = fleet[HOST]
    given = {"scheduler": f"hub:{PORT}", "token-file": f"{HOST}.token", "cert-file": f"{HOST}.crt"}
    given |= {"key-file": f"{HOST}.key", "name": f"{HOST}-{number}", **wrong.flags}
    given["scheduler"] = given["scheduler"].replace("HUB", f"{fleet['hub'].address}:{PORT}")
    flags = [f"--listen=127.0.0.1:{7500 + number}", f"--work-dir={host.home}/{number}"]
    for name, value in given.items():
        flags.append(f"--{name}={host.home}/{value}" if name.endswith("-file") else f"--{name}={value}")
    log = host.files / f"wrong-{number}.log"
    command = [PYTHON, "-m", "generate_svc", *flags]
    return Attempt(host.popen(command, log=log, environment=fleet.environment(HOST)), log)


def await_text(attempt: Attempt, text: str) -> str:
    """Return the log once it has a text, or as it is when the program has ended or the time is over."""
    until = time.monotonic() + _SAYS_S
    while True:
        ended = attempt.program.process.poll() is not None
        said = attempt.log.read_text(errors="replace")
        if text in said or ended or time.monotonic() > until:
            return said
        threading.Event().wait(_LOOK_S)
