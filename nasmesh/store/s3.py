"""An object store in a bucket of any S3: MinIO, SeaweedFS, a cloud's.

An object is made only where there is none (If-None-Match), so that the usual put is one request and never touches what
a sweep may be about to delete. One that is there already is looked at: young and whole, it stays; else it is written
again. A store that ignores the condition writes it each time, which is as good but for a sweep at that very moment.

The sweep deletes by name, and S3 cannot make that depend on age. So it leaves a mark first, looks at the age again, and
only then deletes; who renews an object looks for the mark afterwards, and once it is gone, whether the object still is.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple
from xml.etree import ElementTree

from minio import Minio
from minio.credentials.providers import StaticProvider

from nasmesh import limits
from nasmesh.errors import NasmeshError, NotFound, Unavailable
from nasmesh.logs import get_logger
from nasmesh.store.base import Stored, check_size
from nasmesh.store.keys import ObjectKind, check_key, check_ref, is_key, object_ref
from nasmesh.store.s3_calls import Calls, Request, told
from nasmesh.store.s3_parts import send_parts, tag_of
from nasmesh.store.s3_refusals import STORE_DOWN, date, local, not_s3
from nasmesh.v1 import object_pb2 as pb

SWEEPING = "temporary/sweeping/"
"""Below it are the marks of objects that a sweep is about to delete; the bucket's rules clear what is left."""
_WAIT_S = 0.1
_log = get_logger("s3")


class Found(NamedTuple):
    """What a store says of an object without giving it. `age_s`: by the store's own clock."""

    size_bytes: int
    age_s: float
    tag: str


class S3Store:
    """Keeps objects in one bucket."""

    kind_name = "s3"

    def __init__(self, calls: Calls, *, part_bytes: int = limits.STORE_PART_BYTES) -> None:
        """Use a bucket that is there; nothing is asked before something is wanted. Larger objects go in parts."""
        self._calls = calls
        self._part_bytes = part_bytes
        self._conditional = True

    def check(self) -> None:
        """Ask once whether all is well: reached, S3, its bucket, keys, clocks.

        Raises Unavailable (STORE_DOWN), Denied (STORE_DENIED, STORE_CLOCK_SKEWED), NotFound (STORE_BUCKET_MISSING),
        Invalid (STORE_NOT_S3, STORE_UNTRUSTED, STORE_REGION_WRONG), each with what to do.
        """
        self._page(ObjectKind.NETWORK.value, "", 1)

    def put(self, kind: ObjectKind, content: bytes, *, extension: str = "onnx") -> pb.ObjectRef:
        """Keep the bytes; see ObjectStore.put. A damaged object of the same key is replaced."""
        check_size(kind, len(content))
        ref = object_ref(kind, content, extension=extension)
        with _outages():
            if len(content) > self._part_bytes:
                found = self._look(ref.key)
                if found is not None and self._keeps(found, content):
                    return ref
                if self._write_large(ref, content) and found is None:
                    return ref
                self._await_sweep(ref, content)
            elif not self._make(ref, content):
                self._renew(ref, content)
        return ref

    def get(self, ref: pb.ObjectRef) -> bytes:
        """Return the verified bytes; see ObjectStore.get."""
        check_ref(ref, field="object")
        with _outages():
            content = self._calls.read(ref)
        if content is None:
            where = f"{self._calls.place.bucket} at {self._calls.place.endpoint}"
            raise NotFound("OBJECT_MISSING", f"object {ref.key} is not in the store {where}", field="object")
        return content

    def exists(self, ref: pb.ObjectRef) -> bool:
        """Say whether the object is there; see ObjectStore.exists."""
        check_ref(ref, field="object")
        with _outages():
            found = self._look(ref.key)
        return found is not None and found.size_bytes == ref.size_bytes

    def objects(self) -> Iterator[Stored]:
        """Yield every object; see ObjectStore.objects. What is no object is left out."""
        for kind in ObjectKind:
            token = ""
            while True:
                with _outages():
                    found, token = self._page(f"{kind.value}/sha256/", token, 1000)
                yield from found
                if not token:
                    break

    def delete(self, key: str, *, min_age_s: float) -> bool:
        """Delete an object; see ObjectStore.delete."""
        check_key(key, field="key")
        with _outages():
            if not self._is_old(key, min_age_s):
                return False
            mark, clock = Request("PUT", SWEEPING + key), self._calls.clock
            self._calls.ask(mark)
            began = clock.monotonic()
            if self._is_old(key, min_age_s) and clock.monotonic() - began < limits.STORE_SWEEP_WINDOW_S:
                # Once: had the first been carried out and its answer lost, a second would take what was put since.
                self._calls.ask(Request("DELETE", key), fine=(200, 204), once=True)
                gone = True
            else:
                gone = False
            # Not where that failed: it may still be carried out, and the mark must stand for as long.
            self._calls.ask(mark._replace(method="DELETE"), fine=(200, 204, 404))
        return gone

    def location(self, ref: pb.ObjectRef) -> str:
        """Return where it is, for people."""
        check_ref(ref, field="object")
        return f"s3://{self._calls.place.bucket}/{ref.key} at {self._calls.place.endpoint}"

    def link(self, ref: pb.ObjectRef, *, seconds: int) -> str:
        """Return an address from which anybody may read the object for so long; see ObjectStore.link."""
        check_ref(ref, field="object")
        place, keys = self._calls.place, self._calls.keys.current()
        provider = StaticProvider(keys.access_key, keys.secret_key, keys.session_token)
        client = Minio(place.endpoint, secure=place.secure, region=place.region, credentials=provider)
        return str(client.presigned_get_object(place.bucket, ref.key, timedelta(seconds=seconds)))

    def _make(self, ref: pb.ObjectRef, content: bytes) -> bool:
        """Write an object that is not there; says whether it was not."""
        request = Request("PUT", ref.key, body=content, digest=ref.sha256)
        if self._conditional:
            answer = self._calls.ask(request._replace(headers={"If-None-Match": "*"}), fine=(200, 412, 501))
            if answer.status == 412:
                return False
            if answer.status == 200:
                self._confirmed(answer.headers.get("etag", ""))
                return True
            self._conditional = False
            _log.warning("store_without_conditions", advice="sweep this bucket while nothing else writes to it")
        self._confirmed(self._calls.ask(request).headers.get("etag", ""))
        return True

    def _renew(self, ref: pb.ObjectRef, content: bytes) -> None:
        """See to it that an object that was there is whole and young."""
        found = self._look(ref.key)
        if found is not None and self._keeps(found, content):
            return
        self._confirmed(self._calls.ask(Request("PUT", ref.key, body=content, digest=ref.sha256)).headers.get("etag"))
        self._await_sweep(ref, content)

    def _await_sweep(self, ref: pb.ObjectRef, content: bytes) -> None:
        """Having written an object that a sweep may have been looking at: wait for it, and write again what it took."""
        clock = self._calls.clock
        until = clock.monotonic() + 2 * limits.STORE_SWEEP_WINDOW_S
        mark = self._look(SWEEPING + ref.key)
        while mark is not None and mark.age_s < 4 * limits.STORE_SWEEP_WINDOW_S and clock.monotonic() < until:
            threading.Event().wait(_WAIT_S)
            mark = self._look(SWEEPING + ref.key)
        if self._look(ref.key) is None:
            if len(content) > self._part_bytes:
                self._write_large(ref, content)
            else:
                self._make(ref, content)

    def _write_large(self, ref: pb.ObjectRef, content: bytes) -> bool:
        """Write in parts; says whether the store confirmed it rather than was found to have it."""
        if send_parts(self._calls, ref.key, content, part_bytes=self._part_bytes):
            return True
        found = self._look(ref.key)
        if found is None or found.size_bytes != ref.size_bytes:
            raise Unavailable(STORE_DOWN, f"store: {ref.key} was sent, and is not there", field="store")
        return False

    def _keeps(self, found: Found, content: bytes) -> bool:
        """Say whether what is there can stay: it is young, and as far as its tag tells, it is these bytes."""
        if found.size_bytes != len(content) or found.age_s >= limits.STORE_YOUNG_S:
            return False
        return found.tag == tag_of(content, self._part_bytes if "-" in found.tag else 0)

    def _confirmed(self, tag: str | None) -> None:
        """Raise for a success that names nothing: whoever said it has not stored anything."""
        if not tag:
            raise not_s3(self._calls.place, "it says that an object is stored and does not say which")

    def _is_old(self, key: str, min_age_s: float) -> bool:
        """Say whether an object is there whose last put, which may have left it as it was, is so long ago."""
        found = self._look(key)
        return found is not None and found.age_s >= min_age_s + limits.STORE_YOUNG_S

    def _look(self, path: str) -> Found | None:
        """Return what the store says of an object; None where there is none."""
        answer = self._calls.ask(Request("HEAD", path), fine=(200, 404))
        if answer.status == 404:
            return None
        size = answer.headers.get("content-length", "")
        put = date(answer.headers, "last-modified")
        if not size.isdigit() or put is None:
            raise not_s3(self._calls.place, "it does not say how large or how old an object is")
        now = date(answer.headers, "date") or self._calls.clock.wall()
        return Found(int(size), max(0.0, now - put), answer.headers.get("etag", "").strip('"'))

    def _page(self, prefix: str, token: str, most: int) -> tuple[list[Stored], str]:
        """Return objects whose keys begin alike, and the word for the next page, empty after the last."""
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(most)}
        answer = self._calls.ask(Request("GET", query={**query, **({"continuation-token": token} if token else {})}))
        try:
            root = ElementTree.fromstring(answer.body)
        except (ElementTree.ParseError, LookupError, ValueError):
            raise not_s3(self._calls.place, "it answers a listing with something else") from None
        if local(root) != "ListBucketResult":
            raise not_s3(self._calls.place, "it answers a listing with something else")
        now = date(answer.headers, "date") or self._calls.clock.wall()
        found, more, token = [], False, ""
        for element in root:
            if local(element) == "Contents":
                texts = {local(child): child.text or "" for child in element}
                key = texts.get("Key", "")
                if is_key(key):
                    put = datetime.fromisoformat(texts["LastModified"]).timestamp()
                    found.append(Stored(key, int(texts["Size"]), max(0.0, now - put)))
            elif local(element) == "IsTruncated":
                more = element.text == "true"
            elif local(element) == "NextContinuationToken":
                token = element.text or ""
        return found, token if more else ""


@contextmanager
def _outages() -> Iterator[None]:
    """Have whatever is wrong with the store itself be an outage: it costs no attempt, and ends when it is mended."""
    try:
        yield
    except NasmeshError as error:
        if not error.reason.startswith("STORE_"):
            raise
        raise told(error) from None
