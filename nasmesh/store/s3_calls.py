"""Signed requests to one S3 store: kept connections, short waits, few and bounded tries.

The client `minio` signs; its own requests wait six seconds for a dead endpoint, hash twice what has its digest in its
name already, and cannot ask for an object to be made only where there is none.
"""

import hashlib
import io
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import urllib3
from minio.signer import sign_v4_s3
from urllib3.exceptions import HTTPError, SSLError
from urllib3.response import BaseHTTPResponse

from nasmesh import limits
from nasmesh.clock import Clock, SystemClock, new_seed, seeded_random
from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.store.s3_place import Keys, Place
from nasmesh.store.s3_refusals import STORE_DOWN, Answer, not_s3, passes, refusal, said, unreached
from nasmesh.store.s3_watch import Watch
from nasmesh.v1 import object_pb2 as pb

# Bytes of an object that are read and hashed at once.
_PIECE = 1024 * 1024
_EMPTY = hashlib.sha256(b"").hexdigest()
_PIECE_BYTES = 256 * limits.KIB
_CONNECTIONS = 32
OBJECT_CORRUPT = "OBJECT_CORRUPT"


class Patience(NamedTuple):
    """How long to wait, in seconds, and how often to try."""

    connect_s: float = limits.STORE_CONNECT_S
    read_s: float = limits.STORE_READ_S
    tries: int = limits.STORE_TRIES
    pause_s: float = 0.1


class Request(NamedTuple):
    """What to ask of a bucket. `path`: a key; empty: the bucket itself. `digest`: SHA-256 of the body, hexadecimal."""

    method: str
    path: str = ""
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes | memoryview = b""
    digest: str = ""


class Budget:
    """How many requests may be made again: a share of those that succeeded, after the first few."""

    def __init__(self) -> None:
        """Start full."""
        self._left = limits.STORE_RETRY_BURST
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Note a success."""
        with self._lock:
            self._left = min(limits.STORE_RETRY_BURST, self._left + limits.STORE_RETRY_SHARE)

    def spend(self) -> bool:
        """Say whether one more may be made again, and count it."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


class Calls:
    """Asks one store. Safe to use from several threads."""

    def __init__(
        self, place: Place, keys: Keys, *, patience: Patience | None = None, clock: Clock | None = None
    ) -> None:
        """Prepare; nothing is connected before something is asked."""
        self.place = place
        self.keys = keys
        self.clock = clock or SystemClock()
        self._patience = patience or Patience()
        self._budget = Budget()
        self._watch = Watch(SystemClock())
        self._random = seeded_random(new_seed())
        self._http = urllib3.PoolManager(
            num_pools=1,
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=self._patience.connect_s, read=self._patience.read_s),
            retries=False,
            blocksize=_PIECE_BYTES,
            ca_certs=str(place.ca) if place.ca else None,
        )

    def ask(self, request: Request, *, fine: Collection[int] = (200,), once: bool = False) -> Answer:
        """Return the answer with one of the statuses that are fine; raises what `refusal` and `unreached` return.

        `once`: never send it again, for what must not be done a second time.
        """

        def sent() -> Answer:
            with self._sent(request) as response:
                return Answer(response.status, response.headers, _bounded(response, self.place))

        return self._patiently(sent, fine, 1 if once else self._patience.tries)

    def read(self, ref: pb.ObjectRef) -> bytes | None:
        """Return an object's verified bytes; None where there is none.

        Raises Invalid (OBJECT_CORRUPT) where they are others every time, and as ask does.
        """

        def sent() -> Answer:
            with self._sent(Request("GET", ref.key)) as response:
                whole = response.status == 200
                content = self._whole(response, ref) if whole else _bounded(response, self.place)
                return Answer(response.status, response.headers, content)

        answer = self._patiently(sent, (200, 404), self._patience.tries)
        if answer.status == 404 and said(answer).code != "NoSuchKey":
            raise refusal(answer, self.place, self.clock.wall())
        return answer.body if answer.status == 200 else None

    def _patiently(self, sent: Callable[[], Answer], fine: Collection[int], tries: int) -> Answer:
        """Try, with pauses between, until an answer is fine or asking again cannot help or is too much."""
        for left in range(tries - 1, -1, -1):
            failure: NasmeshError
            try:
                answer = sent()
            except Invalid as error:
                if error.reason != OBJECT_CORRUPT:
                    raise
                failure = error  # a torn answer, or a torn object: the next one tells
            except (HTTPError, OSError) as error:
                failure = unreached(error, self.place)
                if isinstance(error, SSLError) or failure.reason != STORE_DOWN:
                    raise failure from None
            else:
                if answer.status in fine:
                    self._budget.earn()
                    return answer
                failure = refusal(answer, self.place, self.clock.wall())
                if not passes(answer):
                    raise failure
            if not left or not self._budget.spend():
                raise failure
            threading.Event().wait(self._random.uniform(0, self._patience.pause_s * 2 ** (tries - left)))
        raise Unavailable(STORE_DOWN, "store: no try was made", field="store")

    @contextmanager
    def _sent(self, request: Request) -> Iterator[BaseHTTPResponse]:
        """Sign and send a request; its connection goes back for the next when the block has read the answer whole."""
        url, headers = self._signed(request)
        body: bytes | io.BytesIO = b""
        if len(request.body) > 0:
            # As a file: each piece has the time-out for itself, where a whole body would have one for all of it.
            body = io.BytesIO(request.body)
        response = self._http.request(
            request.method, url, body=body, headers=headers, preload_content=False, redirect=False, decode_content=False
        )
        try:
            yield response
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()

    def _signed(self, request: Request) -> tuple[str, dict[str, str]]:
        query = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(request.query.items()))
        url = f"{self.place.root}{'/' if request.path else ''}{request.path}{'?' if query else ''}{query}"
        parts = urlsplit(url)
        now = datetime.fromtimestamp(self.clock.wall(), UTC)
        keys = self.keys.current()
        digest = request.digest or (hashlib.sha256(request.body).hexdigest() if len(request.body) else _EMPTY)
        headers = {
            "Host": parts.netloc,
            "x-amz-content-sha256": digest,
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
            **request.headers,
        }
        if keys.session_token:
            headers["X-Amz-Security-Token"] = keys.session_token
        signed = sign_v4_s3(
            method=request.method,
            url=parts,
            region=self.place.region,
            headers=headers,  # type: ignore[arg-type]  # a dict of texts, which it may fill with lists
            credentials=keys,
            content_sha256=digest,
            date=now,
        )
        length = {"Content-Length": str(len(request.body))} if request.method in ("PUT", "POST") else {}
        return url, {**{name: str(value) for name, value in signed.items()}, "Accept-Encoding": "identity", **length}

    def _whole(self, response: BaseHTTPResponse, ref: pb.ObjectRef) -> bytes:
        """Return the object's bytes, checked: no more than there should be, and not for ever."""
        length = response.headers.get("content-length", str(ref.size_bytes))
        if length != str(ref.size_bytes):
            response.close()
            raise corrupt(ref, f"it has {length[:20]} bytes, not {ref.size_bytes}")
        with self._watch.over(response, self._patience.read_s + ref.size_bytes / limits.STORE_SLOWEST_BYTES_PER_S):
            content, digest = _read(response, ref.size_bytes)
        if len(content) != ref.size_bytes or digest != ref.sha256:
            raise corrupt(ref, "the bytes do not have the digest that names them")
        return content


def _read(response: BaseHTTPResponse, size: int) -> tuple[bytes, str]:
    """Return the first bytes of a body, so many where it has them, and the SHA-256 of those and one beyond.

    A large one is hashed piece by piece, which costs no time where the network is what is waited for: over 1 Gbit/s a
    client that hashes nothing was no quicker, and 50 MB hashed once they were whole took a fifth longer. On loopback
    smaller reads cost up to a tenth.
    """
    if size <= _PIECE:
        content = response.read(size) if size else b""
        digest = hashlib.sha256(content)
    else:
        digest, at, room = hashlib.sha256(), 0, io.BytesIO(bytes(size))
        with room.getbuffer() as view:
            while at < size and (came := response.readinto(view[at : at + _PIECE])):
                digest.update(view[at : at + came])
                at += came
        room.truncate(at)
        content = room.getvalue()
    digest.update(response.read(1))  # beyond the end there is nothing; also read for what ends a body in chunks
    return content, digest.hexdigest()


def _bounded(response: BaseHTTPResponse, place: Place) -> bytes:
    """Return a body that is an answer, not an object."""
    body = response.read(limits.STORE_ANSWER_BYTES + 1)
    if len(body) > limits.STORE_ANSWER_BYTES:
        response.close()
        raise not_s3(place, "its answer has no end")
    return body


def corrupt(ref: pb.ObjectRef, why: str) -> Invalid:
    """Return the error of an object that is not what its name says."""
    return Invalid(OBJECT_CORRUPT, f"object {ref.key}: {why}", field="object")


def told(error: NasmeshError) -> Unavailable:
    """Return what a job is told of a store that cannot be used for whatever reason: one that may pass."""
    if isinstance(error, Unavailable):
        return error
    return Unavailable(STORE_DOWN, error.message, field=error.field, metadata={"cause": error.reason})
