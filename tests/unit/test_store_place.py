"""URLs and key files of S3 stores: what is refused, and that no refusal shows a secret."""

from pathlib import Path

import pytest

from nasmesh.errors import Invalid
from nasmesh.store.open import open_store
from nasmesh.store.s3_place import Keys, parse_place

SECRET = "wJalrXUtnFEMI"
KEYS = f"access_key=AK\nsecret_key={SECRET}\n"


def test_place_when_all_is_said_then_it_is_taken(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("")
    place = parse_place(f"s3://my-nets?endpoint=store:9000&region=eu-1&ca={tmp_path}/ca.crt")
    assert (place.bucket, place.endpoint, place.region, place.secure) == ("my-nets", "store:9000", "eu-1", True)
    assert place.root == "https://store:9000/my-nets"


@pytest.mark.parametrize(
    ("endpoint", "root"),
    [
        ("s3.example.com", "http://s3.example.com/nets"),
        ("[::1]:9000", "http://[::1]:9000/nets"),
        ("10.0.0.2:9000", "http://10.0.0.2:9000/nets"),
    ],
)
def test_place_when_the_endpoint_has_another_form_then_it_is_kept(endpoint: str, root: str) -> None:
    assert parse_place(f"s3://nets?endpoint={endpoint}&secure=0").root == root


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("s3://nets", "endpoint"),
        ("s3://?endpoint=a:1", "bucket"),
        ("s3://Nets?endpoint=a:1", "bucket"),
        ("s3://n?endpoint=a:1", "bucket"),
        ("s3://a..b?endpoint=a:1", "bucket"),
        ("s3://nets/prefix?endpoint=a:1", "more than a bucket"),
        ("s3://nets?endpoint=https://a:1", "without https"),
        ("s3://nets?endpoint=a:70000", "HOST:PORT"),
        ("s3://nets?endpoint=a b", "HOST:PORT"),
        ("s3://nets?endpoint=a:1&endpoint=b:1", "twice"),
        ("s3://nets?endpoint=a:1&acces_key=x", "acces_key"),
        ("s3://nets?endpoint=a:1&secure=no", "secure"),
        ("s3://nets?endpoint=a:1&ca=/no/such/file", "ca="),
        ("s3://nets?endpoint=a:1&secure=0&ca=/etc/hostname", "TLS"),
        (f"s3://AK:{SECRET}@nets?endpoint=a:1", "no place in a URL"),
        (f"s3://nets?endpoint=a:1&secret_key={SECRET}", "unknown"),
        (f"s3://nets?endpoint=AK:{SECRET}@a:1", ""),
    ],
)
def test_place_when_it_is_wrong_then_refused_without_its_secrets(url: str, word: str) -> None:
    with pytest.raises(Invalid) as caught:
        open_store(url)
    assert caught.value.field == "store"
    assert word in caught.value.message
    assert SECRET not in caught.value.message


def test_keys_when_the_file_changes_then_the_new_ones_are_used(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text("# of the train servers\n\n" + KEYS)
    keys = Keys(path)
    assert (keys.current().access_key, keys.current().secret_key) == ("AK", SECRET)
    assert keys.current().session_token is None
    path.write_text("access_key=BK\nsecret_key=s=t=\nsession_token=T\n")
    assert (keys.current().access_key, keys.current().secret_key, keys.current().session_token) == ("BK", "s=t=", "T")
    path.unlink()
    assert keys.current().access_key == "BK"


@pytest.mark.parametrize(("text", "mode"), [("access_key=BKK\n", 0o600), (KEYS.replace("AK", "BKK"), 0o644)])
def test_keys_when_the_file_is_spoilt_while_they_are_used_then_those_before_stay_until_it_is_mended(
    tmp_path: Path, text: str, mode: int
) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text(KEYS)
    keys = Keys(path)
    path.unlink()
    path.touch(mode)
    path.write_text(text)
    path.chmod(mode)
    for _ in range(2):
        assert keys.current().access_key == "AK"
    path.chmod(0o600)
    assert keys.current().access_key == ("AK" if mode == 0o600 else "BKK")
    path.write_text(KEYS.replace("AK", "the next"))
    assert keys.current().access_key == "the next"


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (KEYS, 0o644, "SECRET_EXPOSED"),
        (KEYS, 0o660, "SECRET_EXPOSED"),
        ("access_key=AK\n", 0o600, "STORE_CREDENTIALS_INVALID"),
        (f"{SECRET}\n", 0o600, "STORE_CREDENTIALS_INVALID"),
        (f"password={SECRET}\n", 0o600, "STORE_CREDENTIALS_INVALID"),
        ("", 0o600, "STORE_CREDENTIALS_INVALID"),
        ("x" * 100_000, 0o600, "STORE_CREDENTIALS_INVALID"),
    ],
)
def test_keys_when_the_file_is_wrong_then_refused(tmp_path: Path, text: str, mode: int, reason: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(Invalid) as caught:
        Keys(path)
    assert (caught.value.reason, caught.value.field) == (reason, "NASMESH_STORE_CREDENTIALS")
    assert SECRET not in caught.value.message


def test_keys_when_there_is_no_file_or_it_is_binary_then_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").touch(0o600)
    (tmp_path / "binary").write_bytes(b"\xff\xfe=")
    for path in (tmp_path / "none", tmp_path, tmp_path / "binary"):
        with pytest.raises(Invalid) as caught:
            Keys(path)
        assert caught.value.reason == "STORE_CREDENTIALS_INVALID"
