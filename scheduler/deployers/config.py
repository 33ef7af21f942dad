"""Reads what a deployer is told: YAML that is a DeployerConfig, with every fault named by its field."""

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from nasmesh.client.spec import SPEC_BYTES, parse_message
from nasmesh.errors import Invalid
from nasmesh.memory import parse_bytes
from nasmesh.settings import parse_addresses
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import Fault, refuse
from scheduler.deployers.rules import (
    DEFAULT_COOL_DOWN_S,
    DEFAULT_START_TIMEOUT_S,
    DEFAULT_STOP_GRACE_S,
    GENERATE,
    TRAIN,
    argument,
)

DEFAULT_NAME = "nasmesh"
DEFAULT_PERIOD_S = 2.0
_POOLS = 64
_SERVERS = 10_000
_SLOTS = 1024
_DEPLOYER = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")
_POOL = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DAY_S = 86_400.0
# Flags that the deployer sets itself: with another value its servers could not be told apart, or would not work.
_OWN_FLAGS = frozenset({"--name", "--scheduler", "--slots", "--work-dir"})
_SECRET = re.compile(r"token|secret|passw|credential|api_?key", re.IGNORECASE)


def read_config(path: Path) -> pb.DeployerConfig:
    """Return the configuration in a YAML file, complete; raises Invalid (CONFIG_UNREADABLE, CONFIG_INVALID, and what
    the reader of specifications raises: SPEC_MALFORMED, FIELD_UNKNOWN, VALUE_INVALID).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Invalid("CONFIG_UNREADABLE", f"{path}: cannot be read ({error.strerror}); give a YAML file") from error
    if len(content) > SPEC_BYTES:
        raise Invalid("CONFIG_INVALID", f"{path}: {len(content)} bytes are no configuration; at most {SPEC_BYTES}")
    return parse_config(content, source=str(path))


def parse_config(content: bytes | str, *, source: str = "the configuration") -> pb.DeployerConfig:
    """Return the configuration in YAML text, complete; raises Invalid as read_config does."""
    return complete_config(parse_message(pb.DeployerConfig(), content, source=source))


def complete_config(given: pb.DeployerConfig) -> pb.DeployerConfig:
    """Return a configuration with its defaults filled in; raises Invalid (CONFIG_INVALID) with every wrong field."""
    config = pb.DeployerConfig()
    config.CopyFrom(given)
    config.name = config.name or DEFAULT_NAME
    _default(config.period, DEFAULT_PERIOD_S, given.HasField("period"))
    for pool in config.pools:
        pool.slots = pool.slots or 1
        _default(pool.cool_down, DEFAULT_COOL_DOWN_S, pool.HasField("cool_down"))
        _default(pool.start_timeout, DEFAULT_START_TIMEOUT_S, pool.HasField("start_timeout"))
        _default(pool.stop_grace, DEFAULT_STOP_GRACE_S, pool.HasField("stop_grace"))
    faults = [*_config_faults(config)]
    for index, pool in enumerate(config.pools):
        faults += [(f"pools.{index}.{field}", what) for field, what in _pool_faults(pool)]
    refuse(faults)
    return config


def _default(duration: Duration, seconds: float, given: bool) -> None:
    if not given:
        duration.FromMilliseconds(round(seconds * 1000))


def _config_faults(config: pb.DeployerConfig) -> Iterator[Fault]:
    if not _DEPLOYER.fullmatch(config.name):
        yield "name", f"{config.name[:40]!r} is not [a-z]([a-z0-9-]{{0,18}}[a-z0-9])?"
    if not 1 <= len(config.pools) <= _POOLS:
        yield "pools", f"{len(config.pools)} pools; 1 to {_POOLS}"
    yield from _duration_fault("period", config.period, 0.1, 300.0)
    if config.scheduler:
        try:
            parse_addresses(config.scheduler, field="scheduler")
        except Invalid as error:
            yield "scheduler", error.message.removeprefix("scheduler: ")
    seen: dict[str, int] = {}
    for index, pool in enumerate(config.pools):
        first = seen.setdefault(pool.name, index)
        if first != index:
            yield f"pools.{index}.name", f"{pool.name!r} is the name of pools.{first} too; choose another"


def _pool_faults(pool: pb.ServerPool) -> Iterator[Fault]:
    if not _POOL.fullmatch(pool.name):
        yield "name", f"{pool.name[:60]!r} is not [a-z]([a-z0-9-]{{0,38}}[a-z0-9])?"
    if not pool.kind:
        yield "kind", "say what its servers do: TASK_KIND_GENERATE, TASK_KIND_TRAIN or TASK_KIND_EVALUATE"
    if not 0 <= pool.max_servers <= _SERVERS:
        yield "max_servers", f"{pool.max_servers} is not between 0 and {_SERVERS}"
    elif not 0 <= pool.min_servers <= pool.max_servers:
        yield "min_servers", f"{pool.min_servers} is not between 0 and max_servers, {pool.max_servers}"
    if not 1 <= pool.slots <= _SLOTS:
        yield "slots", f"{pool.slots} is not between 1 and {_SLOTS}"
    if pool.WhichOneof("engine") is None:
        yield "engine", "say where its servers run: local, kubernetes, slurm, ray or external"
    yield from _resource_faults(pool.resources)
    yield from _duration_fault("cool_down", pool.cool_down, 0.0, _DAY_S)
    yield from _duration_fault("start_timeout", pool.start_timeout, 1.0, _DAY_S)
    yield from _duration_fault("stop_grace", pool.stop_grace, 1.0, 3600.0)
    yield from _limit_faults(pool)
    yield from _text_faults(pool)


def _resource_faults(resources: pb.ServerResources) -> Iterator[Fault]:
    for name in ("cpus", "memory_bytes", "gpus", "gpu_memory_bytes"):
        if getattr(resources, name) < 0:
            yield f"resources.{name}", "cannot be negative"
    if resources.gpu_memory_bytes > 0 and not resources.gpus:
        yield "resources.gpu_memory_bytes", "is the memory of each GPU; say how many in gpus"
    for index, custom in enumerate(resources.custom):
        if not custom.name or custom.amount <= 0:
            yield f"resources.custom.{index}", "needs a name, and an amount above 0"


def _limit_faults(pool: pb.ServerPool) -> Iterator[Fault]:
    if pool.max_servers_per_owner < 0:
        yield "max_servers_per_owner", "cannot be negative; 0: no limit"
    for index, limit in enumerate(pool.owner_limits):
        if limit.max_servers < 0:
            yield f"owner_limits.{index}.max_servers", "cannot be negative; 0: none"


def _text_faults(pool: pb.ServerPool) -> Iterator[Fault]:
    prefix = "generators/" if pool.kind == GENERATE else "datasets/"
    for index, name in enumerate(pool.serves):
        if not name.startswith(prefix):
            yield f"serves.{index}", f"{name[:80]!r} does not begin with {prefix}"
    for index, word in enumerate(pool.arguments):
        if word.split("=")[0] in _OWN_FLAGS:
            yield f"arguments.{index}", f"{word.split('=')[0]} is the deployer's own; see the fields of the pool"
    if pool.kind == TRAIN and (size := argument(pool, "--memory")) is not None:
        try:
            parse_bytes(size)
        except Invalid as error:
            yield "arguments", f"--{error.message}"
    for label, value in pool.labels.items():
        if label == "pool" or not _LABEL.fullmatch(label) or len(value) > 128:
            yield f"labels.{label[:40]}", "no such label: [a-z0-9][a-z0-9._-]{0,62}, not 'pool', with up to 128 letters"
    for variable in pool.environment:
        if not _VARIABLE.fullmatch(variable):
            yield f"environment.{variable[:40]}", "is no name of a variable"
        elif _SECRET.search(variable) and not variable.endswith(("_FILE", "_CREDENTIALS")):
            yield f"environment.{variable}", "looks like a secret, and engines show what they start; name a file"


def _duration_fault(field: str, duration: Duration, least_s: float, most_s: float) -> Iterator[Fault]:
    seconds = duration.seconds + duration.nanos / 1e9
    if not least_s <= seconds <= most_s:
        yield field, f"{seconds:g} s is not between {least_s:g} s and {most_s:g} s"
