"""T10: ids, resource names and object keys. What is parsed formats to the same text, two ids never make one key, and
nothing outside the grammars is let through: unicode, percent, NUL, traversal. Pure.
"""

import hashlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from nasmesh import ids
from nasmesh.clock import derive_seed
from nasmesh.errors import Invalid
from nasmesh.rpc.certificates import format_spiffe, parse_spiffe
from nasmesh.rpc.identity import check_caller_name
from nasmesh.store import keys
from nasmesh.store.keys import ObjectKind, check_ref, object_ref
from nasmesh.v1 import object_pb2

SEED = 20_261_122
CASES, LONG = 200_000, 5_000_000
COLLECTIONS = ("searches", "generators", "datasets", "agents", "networks")
SPICE = (
    *("", "/", "//", ".", "..", "../", "/..", "%2e", "%2F", "%00", "\x00", "\n", "\r\n", " ", "\t", "\\", ":", "?"),
    *("é", "ﬁ", "ı", "İ", "\u202e", "\u200b", "\ufeff", "𝟎", "٣", "ß", "e\u0301"),
    *("-", "_", "A", "Z", "#", "*", "~", "networks", "sha256"),
)
PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789-."


def strange(draw: random.Random) -> str:
    """Return a text that is nearly an id, or far from one."""
    parts = [draw.choice(SPICE) if draw.random() < 0.3 else draw.choice(PLAIN) for _ in range(draw.randrange(1, 9))]
    if draw.random() < 0.05:
        parts.append(draw.choice(PLAIN) * draw.randrange(60, 140))
    if draw.random() < 0.1:
        parts.insert(0, draw.choice(COLLECTIONS) + "/")
    if draw.random() < 0.05:
        parts.append(f"/trials/{draw.choice(('0', '1', '01', '-1', '9' * 12, '١', '1e3'))}")
    return "".join(parts)


def accepted(check: Callable[[], Any]) -> Any:
    try:
        return check()
    except Invalid:
        return None


def is_plain(text: str) -> bool:
    """Say whether a text could do no harm in a path, a URL, a shell or a log."""
    return text.isascii() and all(letter.isalnum() or letter in "-._" for letter in text) and text not in (".", "..")


def check_id(text: str, made: dict[str, tuple[str, str]]) -> int:
    """Try a text as every kind of id; returns how many took it."""
    took = 0
    for collection in COLLECTIONS:
        name = accepted(lambda: ids.format_name(collection, text))  # noqa: B023 - called at once
        parsed = accepted(lambda: ids.parse_name(collection, f"{collection}/{text}"))  # noqa: B023
        assert (name is None) == (parsed is None), (collection, text)
        if name is None:
            continue
        took += 1
        assert is_plain(text), (collection, text)
        assert parsed == text
        assert name == f"{collection}/{text}"
        assert made.setdefault(name, (collection, text)) == (collection, text)
    for check in (
        lambda: ids.check_job_id(text, field="id"),
        lambda: ids.check_task_id(text),
        lambda: check_caller_name(text, field="name"),
    ):
        if accepted(check) is not None:
            took += 1
            assert is_plain(text), text
    uri = accepted(lambda: format_spiffe("client", text))
    assert (uri is None) == (accepted(lambda: check_caller_name(text, field="name")) is None), text
    assert uri is None or parse_spiffe(uri) == ("client", text)
    trial = accepted(lambda: ids.parse_trial(text))
    assert trial is None or ids.format_trial(*trial) == text, text
    return took


def check_key(text: str, draw: random.Random) -> int:
    """Try a text as a part of an object's key; returns 1 where the key was taken."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    good = f"networks/sha256/{digest[:2]}/{digest}.onnx"
    at = draw.randrange(len(good) + 1)
    key = draw.choice(
        (text, good[:at] + text + good[at:], good.replace("onnx", text), f"{text}{good}", f"{good}{text}")
    )
    ref = object_pb2.ObjectRef(key=key, sha256=digest, size_bytes=1)
    kind = accepted(lambda: check_ref(ref, field="object"))
    if kind is None:
        return 0
    assert key.startswith(f"{kind.value}/sha256/{digest[:2]}/{digest}")
    assert all(is_plain(part) for part in key.split("/")), key
    return 1


@pytest.mark.timeout(3600)  # the long count takes a quarter of an hour
def test_ids_and_keys(request: pytest.FixtureRequest, record_property: Any) -> None:
    draw = random.Random(derive_seed(SEED, "keys"))
    cases = LONG if request.config.getoption("long") else CASES
    made: dict[str, tuple[str, str]] = {}
    taken_ids = taken_keys = 0
    for _ in range(cases // 2):
        text = strange(draw)
        taken_ids += check_id(text, made)
        taken_keys += check_key(text, draw)
    record_property("counts", f"T10: {cases // 2 * 2} ids and keys, {taken_ids} and {taken_keys} taken, seed {SEED}")
    assert cases // 2 * 2 >= CASES
    assert taken_ids > cases // 100  # else nothing but refusals would have been tried
    assert taken_keys > cases // 1000


def test_what_is_made_of_different_contents_has_different_keys() -> None:
    made: dict[str, tuple[ObjectKind, bytes]] = {}
    for number in range(2_000):
        content = number.to_bytes(4, "big")
        for kind in ObjectKind:
            ref = object_ref(kind, content)
            assert check_ref(ref, field="object") is kind
            assert made.setdefault(ref.key, (kind, content)) == (kind, content)
    assert len(made) == 2_000 * len(ObjectKind)


@pytest.mark.parametrize("extension", ["/", "..", "ONNX", "o nnx", "x" * 9, "é", "\x00", "a.b"])
def test_an_extension_outside_the_grammar_makes_no_key(extension: str) -> None:
    with pytest.raises(Invalid):
        object_ref(ObjectKind.NETWORK, b"x", extension=extension)


def test_jobs_of_different_attempts_have_different_ids() -> None:
    pairs = [(f"t-{task}", attempt) for task in range(100) for attempt in range(1, 50)]
    assert len({ids.job_id(task, attempt) for task, attempt in pairs}) == len(pairs)
    assert keys.ObjectKind("networks") is ObjectKind.NETWORK
