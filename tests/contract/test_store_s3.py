"""What an S3 store says of everything that can be wrong with it, what it keeps here, and how large objects go."""

import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nasmesh.clock import ManualClock, SystemClock
from nasmesh.errors import Denied, Invalid, NasmeshError, NotFound, Unavailable
from nasmesh.limits import MIB
from nasmesh.rpc.authority import init
from nasmesh.store.cached import CachedStore
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.store.open import bucket_of, open_store
from nasmesh.store.s3 import S3Store
from nasmesh.store.s3_calls import Calls, Patience
from nasmesh.store.s3_place import Keys, parse_place
from tests.builders.s3_proxy import Asked
from tests.builders.s3_servers import KINDS, Certificate, minio_server, weed_server, write_credentials
from tests.builders.s3_stores import Bucket, Servers, new_bucket, servers_below

CONTENT = b"some network" * 100
SECRET = "a-secret-that-nobody-may-see"
QUICK = Patience(connect_s=0.5, read_s=0.5, tries=2, pause_s=0.01)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    yield from servers_below(tmp_path_factory.mktemp("s3"))


@pytest.fixture(params=KINDS)
def bucket(request: pytest.FixtureRequest, servers: Servers) -> Bucket:
    return new_bucket(servers.server(request.param))


@pytest.fixture
def weed(servers: Servers) -> Bucket:
    return new_bucket(servers.server("weed"))


def store_at(url: str, credentials: Path, *, skew_s: float = 0.0) -> S3Store:
    clock = ManualClock(wall=SystemClock().wall() + skew_s)
    return S3Store(Calls(parse_place(url), Keys(credentials), patience=QUICK, clock=clock))


def told(store: S3Store) -> tuple[NasmeshError, Unavailable]:
    """Return what a check raises, and what a job is told of the same."""
    with pytest.raises(NasmeshError) as checked:
        store.check()
    with pytest.raises(Unavailable) as put:
        store.put(ObjectKind.NETWORK, CONTENT)
    assert put.value.reason == "STORE_DOWN"  # of no attempt's making, whatever it is
    return checked.value, put.value


class TestWrong:
    def test_bucket_that_is_not_there(self, bucket: Bucket) -> None:
        error, _ = told(store_at(bucket.server.url("no-such-bucket"), bucket.server.credentials))
        assert isinstance(error, NotFound)
        assert error.reason == "STORE_BUCKET_MISSING"
        assert "nasmesh admin bucket init" in error.message

    @pytest.mark.parametrize("wrong", ["access", "secret"])
    def test_key_that_is_denied(self, bucket: Bucket, tmp_path: Path, wrong: str) -> None:
        server = bucket.server
        access = server.access_key if wrong == "secret" else "somebody-else"
        error, put = told(store_at(server.url(bucket.name), write_credentials(tmp_path / "keys", access, SECRET)))
        assert isinstance(error, Denied)
        assert error.reason == "STORE_DENIED"
        assert "NASMESH_STORE_CREDENTIALS" in error.message
        assert put.metadata["cause"] == "STORE_DENIED"
        assert SECRET not in error.message + put.message

    @pytest.mark.parametrize("hours", [-1, 1])
    def test_clock_that_is_off(self, bucket: Bucket, hours: int) -> None:
        store = store_at(bucket.server.url(bucket.name), bucket.server.credentials, skew_s=hours * 3600.0)
        error, _ = told(store)
        assert isinstance(error, Denied)
        assert error.reason == "STORE_CLOCK_SKEWED"
        assert f"s {'ahead of' if hours > 0 else 'behind'}" in error.message

    def test_endpoint_that_is_a_web_server(self, weed: Bucket) -> None:
        for status in (200, 404, 405):
            with answering(status, b"<html><body>welcome</body></html>") as endpoint:
                error, put = told(store_at(weed.server.url("any-bucket", endpoint=endpoint), weed.server.credentials))
            assert (type(error), error.reason) == (Invalid, "STORE_NOT_S3"), status
            assert "does not speak S3" in put.message

    def test_endpoint_that_is_no_web_server(self, weed: Bucket) -> None:
        with talking(lambda peer: peer.sendall(b"220 mail.example ESMTP\r\n")) as endpoint:
            error, _ = told(store_at(weed.server.url("any-bucket", endpoint=endpoint), weed.server.credentials))
        assert error.reason == "STORE_DOWN"
        assert "hangs up" in error.message

    @pytest.mark.parametrize("silent", ["refused", "silent"])
    def test_endpoint_that_does_not_answer_costs_little_time(self, weed: Bucket, silent: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as door:
            endpoint = f"127.0.0.1:{door.getsockname()[1]}"
            if silent == "refused":
                door.close()
            began = time.monotonic()
            error, _ = told(store_at(weed.server.url("any-bucket", endpoint=endpoint), weed.server.credentials))
        assert (error.reason, endpoint in error.message) == ("STORE_DOWN", True)
        assert time.monotonic() - began < 15  # with usual patience it would be a minute

    def test_answer_without_end_is_given_up(self, weed: Bucket) -> None:
        with answering(200, b"<x>" * 3_000_000) as endpoint:
            error, _ = told(store_at(weed.server.url("any-bucket", endpoint=endpoint), weed.server.credentials))
        assert error.reason == "STORE_NOT_S3"

    def test_bytes_that_drip_are_given_up(self, weed: Bucket) -> None:
        ref = object_ref(ObjectKind.NETWORK, CONTENT)

        def drip(peer: socket.socket) -> None:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT))
            for at in range(len(CONTENT)):
                peer.sendall(CONTENT[at : at + 1])
                threading.Event().wait(0.2)

        with talking(drip) as endpoint:
            began = time.monotonic()
            store = bucket_store(weed, endpoint)
            with pytest.raises(Unavailable):
                store.get(ref)
            assert time.monotonic() - began < 60  # of eight minutes

    def test_keys_that_are_taken_away_while_it_runs(self, weed: Bucket, tmp_path: Path) -> None:
        server = weed.server
        path = write_credentials(tmp_path / "keys", server.access_key, server.secret_key)
        store = store_at(server.url(weed.name), path)
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        write_credentials(path, server.access_key, SECRET)
        with pytest.raises(Unavailable) as caught:
            store.get(ref)
        assert caught.value.metadata["cause"] == "STORE_DENIED"
        write_credentials(path, server.access_key, server.secret_key)
        assert store.get(ref) == CONTENT


class TestTls:
    @pytest.mark.parametrize("kind", KINDS)
    def test_own_authority(self, tmp_path: Path, kind: str) -> None:
        issued = init(tmp_path / "certs", ["127.0.0.1"], days=1)
        certificate = Certificate(issued.certificate, issued.key, tmp_path / "certs" / "ca.crt")
        run = weed_server if kind == "weed" else minio_server
        with run(tmp_path / "server", tls=certificate) as server:
            with pytest.raises(NotFound) as missing:
                store_at(server.url("my-bucket"), server.credentials).check()
            assert missing.value.reason == "STORE_BUCKET_MISSING"
            for url, what in (
                (f"s3://my-bucket?endpoint={server.endpoint}", "&ca=FILE"),
                (
                    f"s3://my-bucket?endpoint={server.endpoint.replace('127.0.0.1', 'localhost')}&ca={certificate.ca}",
                    "&ca=",
                ),
            ):
                error, _ = told(store_at(url, server.credentials))
                assert (error.reason, what in error.message) == ("STORE_UNTRUSTED", True)
            plain, _ = told(store_at(f"s3://my-bucket?endpoint={server.endpoint}&secure=0", server.credentials))
            assert plain.reason in ("STORE_NOT_S3", "STORE_DOWN")

    def test_endpoint_without_tls(self, weed: Bucket) -> None:
        error, _ = told(store_at(f"s3://any-bucket?endpoint={weed.server.endpoint}", weed.server.credentials))
        assert (error.reason, "&secure=0" in error.message) == ("STORE_UNTRUSTED", True)


class TestLarge:
    def test_parts_are_one_object(self, bucket: Bucket) -> None:
        content = os.urandom(11 * MIB)
        store = bucket.store(part_bytes=5 * MIB)
        ref = store.put(ObjectKind.CHECKPOINT, content)
        assert store.get(ref) == content
        assert "-3" in str(bucket.raw.stat_object(bucket.name, ref.key).etag)

    @pytest.mark.parametrize("damage", [b"short", bytes(11 * MIB), bytes(12 * MIB), None])
    def test_one_that_is_damaged_or_gone_is_told_from_one_that_is_right(
        self, bucket: Bucket, damage: bytes | None
    ) -> None:
        store = bucket.store(part_bytes=5 * MIB)
        ref = store.put(ObjectKind.CHECKPOINT, os.urandom(11 * MIB))
        if damage is None:
            bucket.raw.remove_object(bucket.name, ref.key)
        else:
            bucket.overwrite(ref, damage)
        with pytest.raises(NasmeshError) as caught:
            store.get(ref)
        assert caught.value.reason == ("OBJECT_MISSING" if damage is None else "OBJECT_CORRUPT")

    def test_an_object_that_is_there_is_not_sent_again(self, bucket: Bucket, servers: Servers) -> None:
        content, proxy = os.urandom(11 * MIB), servers.proxy(bucket.server.kind)
        store = bucket.store(endpoint=proxy.endpoint, part_bytes=5 * MIB)
        ref = store.put(ObjectKind.CHECKPOINT, content)
        before = proxy.bytes_up
        assert store.put(ObjectKind.CHECKPOINT, content) == ref
        assert proxy.bytes_up == before

    def test_one_that_fails_in_the_middle_is_not_sent_to_its_end(self, bucket: Bucket, servers: Servers) -> None:
        proxy, ended = servers.proxy(bucket.server.kind), threading.Event()
        parts: list[str] = []

        def decide(asked: Asked) -> str:
            if asked.method != "PUT" or "partNumber" not in asked.query:
                return ""
            parts.append(asked.query)
            if len(parts) > 1:  # so that the others are under way, or wait, when the first is refused
                ended.wait(1.0)
            return "full"

        store = bucket.store(endpoint=proxy.endpoint, part_bytes=100_000)
        proxy.decide = decide
        try:
            with pytest.raises(Unavailable, match="is full"):
                store.put(ObjectKind.CHECKPOINT, os.urandom(3_000_000))
        finally:
            ended.set()
            proxy.decide = lambda _asked: ""
        assert len(parts) < 20, "of thirty"

    def test_a_damaged_one_is_sent_again(self, bucket: Bucket) -> None:
        content = os.urandom(6 * MIB)
        store = bucket.store(part_bytes=5 * MIB)
        ref = store.put(ObjectKind.CHECKPOINT, content)
        bucket.overwrite(ref, bytes(len(content)))
        store.put(ObjectKind.CHECKPOINT, content)
        assert store.get(ref) == content


class TestLinks:
    def test_whoever_has_it_reads_the_object_and_no_more(self, bucket: Bucket) -> None:
        store = bucket.store()
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        url = store.link(ref, seconds=60)
        assert bucket.server.secret_key not in url
        assert urllib.request.urlopen(url, timeout=10).read() == CONTENT
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url.replace(ref.key, "networks/other"), timeout=10)

    def test_directories_say_that_they_have_none(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid) as caught:
            open_store(str(tmp_path)).link(object_ref(ObjectKind.NETWORK, CONTENT), seconds=60)
        assert caught.value.reason == "LINK_UNSUPPORTED"


class TestOpened:
    def test_everything_follows_from_the_environment(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
        monkeypatch.setenv("NASMESH_STORE_CREDENTIALS", str(bucket.server.credentials))
        store = open_store(bucket.server.url(bucket.name), check=True)
        assert store.kind_name == "s3"
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        assert store.get(ref) == CONTENT
        assert (tmp_path / "cache" / "objects" / ref.key).read_bytes() == CONTENT
        monkeypatch.setenv("NASMESH_STORE_CACHE_BYTES", "0")
        assert isinstance(open_store(bucket.server.url(bucket.name)), S3Store)

    def test_a_store_that_is_away_is_opened_and_one_that_is_wrong_is_not(
        self, weed: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NASMESH_STORE_CREDENTIALS", str(weed.server.credentials))
        assert open_store("s3://any-bucket?endpoint=127.0.0.1:9&secure=0", check=True).kind_name == "s3"
        with pytest.raises(NotFound):
            open_store(weed.server.url("no-such-bucket"), check=True)

    def test_aws_variables_will_do(self, weed: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NASMESH_STORE_CREDENTIALS", raising=False)
        with pytest.raises(Invalid) as caught:
            bucket_of(weed.server.url(weed.name))
        assert caught.value.reason == "STORE_CREDENTIALS_MISSING"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", weed.server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", weed.server.secret_key)
        bucket_of(weed.server.url(weed.name)).check()


class TestCopies:
    def test_what_was_read_once_is_read_here(self, weed: Bucket, tmp_path: Path) -> None:
        cached = CachedStore(weed.store(), tmp_path, 10_000)
        ref = cached.put(ObjectKind.NETWORK, CONTENT)
        assert cached.get(ref) == CONTENT
        weed.raw.remove_object(weed.name, ref.key)
        assert cached.get(ref) == CONTENT

    def test_a_damaged_copy_is_fetched_anew(self, weed: Bucket, tmp_path: Path) -> None:
        cached = CachedStore(weed.store(), tmp_path, 10_000)
        ref = cached.put(ObjectKind.NETWORK, CONTENT)
        assert cached.get(ref) == CONTENT
        (tmp_path / ref.key).write_bytes(CONTENT[:-1] + b"?")
        assert cached.get(ref) == CONTENT
        assert (tmp_path / ref.key).read_bytes() == CONTENT

    def test_a_folder_that_cannot_be_used_costs_nothing(self, weed: Bucket, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        cached = CachedStore(weed.store(), tmp_path / "file" / "copies", 10_000)
        assert cached.get(cached.put(ObjectKind.NETWORK, CONTENT)) == CONTENT


def bucket_store(bucket: Bucket, endpoint: str) -> S3Store:
    place = parse_place(bucket.server.url(bucket.name, endpoint=endpoint))
    return S3Store(Calls(place, Keys(bucket.server.credentials), patience=QUICK))


class answering:  # noqa: N801 - reads as the verb it is
    """A web server that answers everything alike, for the length of a block."""

    def __init__(self, status: int, body: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: object) -> None:
                """Say nothing."""

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class talking:  # noqa: N801
    """Something that answers each connection by a function, for the length of a block."""

    def __init__(self, talk: Callable[[socket.socket], object]) -> None:
        self._door = socket.create_server(("127.0.0.1", 0))
        self._talk = talk

    def __enter__(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"127.0.0.1:{self._door.getsockname()[1]}"

    def __exit__(self, *_error: object) -> None:
        self._door.close()

    def _serve(self) -> None:
        try:
            while True:
                peer, _ = self._door.accept()
                threading.Thread(target=self._one, args=(peer,), daemon=True).start()
        except OSError:
            return

    def _one(self, peer: socket.socket) -> None:
        with peer:
            try:
                self._talk(peer)
            except OSError:
                return
