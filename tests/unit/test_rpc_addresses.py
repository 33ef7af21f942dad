"""Which addresses may be served and dialled in plain text."""

import pytest

from nasmesh.errors import Invalid
from nasmesh.rpc.channel import open_aio_channel, open_channel
from nasmesh.settings import is_loopback
from tests.builders.listening import start_on


@pytest.mark.parametrize("kind", ["threads", "aio"])
@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0"])
def test_plaintext_beyond_this_machine_is_refused(kind: str, listen: str) -> None:
    with pytest.raises(Invalid, match="--insecure") as caught:
        start_on(listen, kind)
    assert (caught.value.reason, caught.value.field) == ("LISTEN_PLAINTEXT", "listen")


@pytest.mark.parametrize("kind", ["threads", "aio"])
def test_plaintext_beyond_this_machine_is_served_when_asked_for(kind: str) -> None:
    start_on("0.0.0.0:0", kind, insecure=True)


@pytest.mark.parametrize("kind", ["threads", "aio"])
@pytest.mark.parametrize(("listen", "reason"), [("nowhere", "ADDRESS_INVALID"), ("127.0.0.1:99999", "ADDRESS_INVALID")])
def test_bad_listen_address_is_refused(kind: str, listen: str, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        start_on(listen, kind)
    assert caught.value.reason == reason


@pytest.mark.parametrize("kind", ["threads", "aio"])
@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_address_of_another_machine_cannot_be_served(kind: str, host: str) -> None:
    with pytest.raises(Invalid) as caught:
        start_on(f"{host}:0", kind, insecure=True)
    assert caught.value.reason == "LISTEN_INVALID"


def test_dialling_another_machine_in_plaintext_must_be_asked_for() -> None:
    for dial in (open_channel, open_aio_channel):
        with pytest.raises(Invalid, match="--insecure") as caught:
            dial("192.0.2.1:7400")
        assert caught.value.reason == "DIAL_PLAINTEXT"
    open_channel("192.0.2.1:7400", insecure=True).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_what_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", ""])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)
