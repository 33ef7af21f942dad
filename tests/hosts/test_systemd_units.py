"""deploy/systemd under a real systemd, installed as docs/deploy.md says: a search, a kill, a wrong setting, the end."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import s3_servers
from tests.builders.deployments import ROOT, SYSTEMD
from tests.builders.s3_servers import Certificate, S3Server
from tests.builders.systemd_machine import Machine, missing
from tests.e2e.specs import TINY

UNITS = ("nasmesh-scheduler", "nasmesh-generate", "nasmesh-evaluate", "nasmesh-train@0")
START_S = 120.0
NASMESH = "/opt/nasmesh/bin/nasmesh"
ASK = f"{NASMESH} {{}} --scheduler hub:7400 --ca-file /etc/nasmesh/ca.crt --token-file {{office}}/operator.token"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which our programs are installed and nothing runs yet."""
    why = missing() or s3_servers.absent("minio")
    if why:
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    with Machine(tmp_path_factory.mktemp("systemd")) as made:
        made.install_python()
        made.write("/etc/hosts", "127.0.0.1 localhost hub store\n")
        # What units say goes where it can be read when a test fails.
        output = f"[Service]\nStandardOutput=append:{made.shared}/%n.log\nStandardError=inherit\n"
        made.write("/etc/systemd/system/service.d/log.conf", output)
        install(made)
        store = give_access(made)
        try:
            made.run("systemctl daemon-reload")
            yield made
        finally:
            store.kill()


def install(machine: Machine) -> None:
    """Do what the page says for a machine, and for the scheduler's; what pip would bring is linked."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    (block,) = [text for text in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "useradd" in text]
    lines = block.splitlines()
    assert lines[-1] == "systemctl enable --now nasmesh-train@0"
    for line in lines[:-1]:
        if line.startswith("/opt/nasmesh/bin/pip"):
            machine.install_nasmesh("/opt/nasmesh")
        else:
            machine.run(line)
    machine.run("install --mode=0640 --group=nasmesh deploy/systemd/scheduler.env /etc/nasmesh/scheduler.env")
    for unit in UNITS[:3]:
        machine.run(f"install --mode=0644 deploy/systemd/{unit}.service /etc/systemd/system/")
    assert {path.stem for path in SYSTEMD.glob("*.service")} == {unit.removesuffix("0") for unit in UNITS}


def give_access(machine: Machine) -> S3Server:
    """Make certificates, tokens and keys, and put them where the .env files say; returns the object store, running."""
    office = f"{machine.shared}/office"
    machine.run(f"mkdir {office} && {NASMESH} certs init --dir {office} --host hub --host localhost --host 127.0.0.1")
    machine.run(f"{NASMESH} certs issue --dir {office} --role server --name store --host store --host 127.0.0.1")
    for name, scope in (("gpu1", "agent"), ("operator", "admin")):
        create = f"token create --tokens {office}/tokens.json --name {name} --scope {scope} --out {office}/{name}.token"
        machine.run(f"{NASMESH} {create}")
    made = Path(office)
    tls = Certificate(made / "server-store.crt", made / "server-store.key", made / "ca.crt")
    network = [word for word in machine.enter() if word in ("nsenter", "-t", "-n", "--") or word.isdigit()]
    store = S3Server("minio", machine.shared / "s3", prefix=network, tls=tls)
    store.start()
    port = store.endpoint.rpartition(":")[2]
    machine.run(f"sed -i s/store:9000/store:{port}/ /etc/nasmesh/scheduler.env /etc/nasmesh/server.env")
    own = "install --owner=nasmesh --group=nasmesh --mode=0600"
    for source, name in (
        ("ca.crt", "ca.crt"),
        ("server-scheduler.crt", "server-scheduler.crt"),
        ("server-scheduler.key", "server-scheduler.key"),
        ("tokens.json", "tokens.json"),
        ("gpu1.token", "token"),
    ):
        machine.run(f"{own} {office}/{source} /etc/nasmesh/{name}")
    machine.run(f"{own} {store.credentials} /etc/nasmesh/store")
    url = f"s3://nasmesh?endpoint=store:{port}&ca=/etc/nasmesh/ca.crt"
    machine.run(
        f"NASMESH_STORE='{url}' NASMESH_STORE_CREDENTIALS={store.credentials} {NASMESH} admin bucket init "
        f"--keys {office}/keys"
    )
    return store


def asked(machine: Machine, words: str, *, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run a command of ours as the operator."""
    line = ASK.format(words, office=f"{machine.shared}/office")
    return machine.ask(["sh", "-c", f"NASMESH_HOME=/root/nasmesh {line}"], timeout_s=timeout_s)


def ask(machine: Machine, words: str) -> str:
    """Return what a command of ours prints; a failure shows what the units said."""
    done = asked(machine, words)
    assert done.returncode == 0, f"{done.stderr}{done.stdout}\n{logs(machine)}"
    return done.stdout


def logs(machine: Machine) -> str:
    found = sorted(machine.shared.glob("nasmesh-*.log"))
    return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in found)


def until(machine: Machine, unit: str, **wanted: str) -> None:
    """Wait until systemd says so of a unit."""
    for name, value in wanted.items():
        try:
            machine.until(["systemctl", "show", f"--property={name}", "--value", unit], {value})
        except AssertionError as error:
            raise AssertionError(f"{unit}: {error}\n{logs(machine)}") from None


def await_agents(machine: Machine, names: set[str]) -> None:
    """Wait until these agents, and no others, are connected."""
    connected: set[str] = set()
    ends = time.monotonic() + START_S
    while connected != names:
        assert time.monotonic() < ends, f"connected: {connected}\n{logs(machine)}"
        done = asked(machine, "agents --json")  # the scheduler may not be there yet
        found = json.loads(done.stdout) if done.returncode == 0 else []
        connected = {agent["name"] for agent in found if agent.get("connected")}


def state(machine: Machine, search: str) -> str:
    return str(json.loads(ask(machine, f"search show {search} --json"))["state"])


@pytest.mark.timeout(600)
def test_units_serve_a_search_come_back_when_killed_and_end_by_themselves(machine: Machine) -> None:
    machine.run(f"systemctl enable --now {shlex.join(UNITS)}")
    for unit in UNITS:
        until(machine, unit, ActiveState="active")
    (machine.shared / "tiny.yaml").write_text(TINY)
    names = {"agents/gpu1-generate", "agents/gpu1-evaluate", "agents/gpu1-train-0"}
    await_agents(machine, names)
    told = ask(machine, f"search create -f {machine.shared}/tiny.yaml --id one --wait --json")
    assert json.loads(told.splitlines()[-1])["state"] == "SEARCH_STATE_SUCCEEDED", told
    for unit in UNITS:
        check_shut_in(machine, unit)

    (machine.shared / "other.yaml").write_text(TINY.replace("seed: 1", "seed: 2"))
    ask(machine, f"search create -f {machine.shared}/other.yaml --id two")
    for unit in ("nasmesh-train@0", "nasmesh-scheduler"):
        machine.run(f"systemctl kill --signal=KILL --kill-whom=main {unit}")
    for unit in ("nasmesh-train@0", "nasmesh-scheduler"):
        until(machine, unit, NRestarts="1", ActiveState="active")
    told = ask(machine, "search watch two --json")
    assert state(machine, "two") == "SEARCH_STATE_SUCCEEDED", told

    machine.run(f"systemctl stop {shlex.join(UNITS)}")
    for unit in UNITS:
        assert machine.shown(unit, "Result") == "success", logs(machine)
        assert machine.shown(unit, "ExecMainStatus") == "0", logs(machine)
    assert '"level": "error"' not in logs(machine)


def check_shut_in(machine: Machine, unit: str) -> None:
    """Assert that a unit runs as a user without rights, and was never started again."""
    assert machine.shown(unit, "NRestarts") == "0", logs(machine)
    process = machine.shown(unit, "MainPID")
    status = dict(
        line.split(":\t", 1) for line in machine.run(f"cat /proc/{process}/status").splitlines() if ":\t" in line
    )
    assert status["Uid"].split()[0] == machine.run("id --user nasmesh").strip()
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (status["CapEff"], status["CapBnd"]) == ("0" * 16, "0" * 16)


@pytest.mark.timeout(300)
def test_a_wrong_setting_is_told_once_and_not_tried_again(machine: Machine) -> None:
    machine.run("sed -i s/^TRAIN_SLOTS=.*/TRAIN_SLOTS=none/ /etc/nasmesh/server.env")
    machine.ask(["systemctl", "start", "nasmesh-train@0"])
    until(machine, "nasmesh-train@0", ActiveState="failed", ExecMainStatus="2", NRestarts="0")
    said = (machine.shared / "nasmesh-train@0.service.log").read_text().splitlines()
    assert "--slots" in " ".join(said[-12:])
    assert "Traceback" not in " ".join(said)
