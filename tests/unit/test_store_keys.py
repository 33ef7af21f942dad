"""Object keys: one key per content and kind, and no other text passes for one."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasmesh.errors import Invalid
from nasmesh.store.keys import ObjectKind, check_content, check_ref, object_ref
from nasmesh.v1 import object_pb2 as pb

GRAMMAR = re.compile(
    r"(networks|checkpoints|datasets|reports|states)/sha256/[0-9a-f]{2}/[0-9a-f]{64}(\.[a-z0-9]{1,8})?", re.ASCII
)


@given(st.sampled_from(ObjectKind), st.binary(max_size=64), st.sampled_from(["", "onnx", "json", "npz"]))
def test_a_made_reference_is_accepted_and_names_its_content(kind: ObjectKind, content: bytes, extension: str) -> None:
    ref = object_ref(kind, content, extension=extension)
    assert GRAMMAR.fullmatch(ref.key)
    assert check_ref(ref, field="network") is kind
    assert check_content(ref, content) == content


@given(st.sampled_from(ObjectKind), st.sampled_from(ObjectKind), st.binary(max_size=8), st.binary(max_size=8))
def test_two_objects_never_share_a_key(one: ObjectKind, other: ObjectKind, first: bytes, second: bytes) -> None:
    same = object_ref(one, first).key == object_ref(other, second).key
    assert same == ((one, first) == (other, second))


@given(st.text(max_size=120))
def test_other_text_is_no_key(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_ref(pb.ObjectRef(key=text, sha256="0" * 64), field="network")
    assert (caught.value.reason, caught.value.field) == ("OBJECT_REF_INVALID", "network")


@given(st.integers(min_value=0, max_value=200), st.sampled_from("/.%\0\n A\u0661\uff41"))
def test_one_changed_character_is_refused(position: int, character: str) -> None:
    ref = object_ref(ObjectKind.NETWORK, b"x")
    at = position % len(ref.key)
    changed = ref.key[:at] + character + ref.key[at + 1 :]
    if changed == ref.key:
        return
    with pytest.raises(Invalid):
        check_ref(pb.ObjectRef(key=changed, sha256=ref.sha256, size_bytes=1), field="network")


@pytest.mark.parametrize("content", [b"y", b"", b"xx"])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        check_content(object_ref(ObjectKind.NETWORK, b"x"), content)
    assert caught.value.reason == "OBJECT_CORRUPT"


def test_a_negative_size_is_refused() -> None:
    ref = object_ref(ObjectKind.NETWORK, b"x")
    ref.size_bytes = -1
    with pytest.raises(Invalid):
        check_ref(ref, field="network")


def test_the_digest_is_sha256_of_the_bytes() -> None:
    assert object_ref(ObjectKind.STATE, b"abc").sha256 == hashlib.sha256(b"abc").hexdigest()
