"""Large objects go to S3 in parts: several at once, each sent again alone when it is lost."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from xml.etree import ElementTree

from nasmesh import limits
from nasmesh.errors import NasmeshError, NotFound, Unavailable
from nasmesh.store.s3_calls import Calls, Request
from nasmesh.store.s3_refusals import STORE_DOWN, local, not_s3, refusal, said


def send_parts(calls: Calls, key: str, content: bytes, *, part_bytes: int = limits.STORE_PART_BYTES) -> bool:
    """Send an object in parts; it appears whole or not at all. Says whether the store has confirmed it.

    False: its last word was lost, and the store does not know the upload any more: the object may be there. Raises as
    Calls.ask does; what was sent is dropped then, at once or by the bucket's rule for unfinished uploads.
    """
    begun = calls.ask(Request("POST", key, {"uploads": ""}))
    upload = _text(begun.body, "UploadId")
    if not upload:
        raise not_s3(calls.place, "it begins no upload in parts")
    try:
        with ThreadPoolExecutor(limits.STORE_PARTS_AT_ONCE, "part") as pool:
            sent = [
                pool.submit(_send, calls, key, upload, number, part) for number, part in _parts(content, part_bytes)
            ]
            try:
                tags = [each.result() for each in sent]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # the block waits for those under way
                raise
        return _complete(calls, key, upload, tags)
    except BaseException:
        with suppress(NasmeshError):
            calls.ask(Request("DELETE", key, {"uploadId": upload}), fine=(200, 204, 404))
        raise


def tag_of(content: bytes, part_bytes: int) -> str:
    """Return the tag that S3 gives bytes that came in parts of a size, or at once where that is 0."""
    if not part_bytes:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()
    digests = [hashlib.md5(part, usedforsecurity=False).digest() for _, part in _parts(content, part_bytes)]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def _parts(content: bytes, size: int) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(content)
    for number, start in enumerate(range(0, len(content), size), 1):
        yield number, view[start : start + size]


def _send(calls: Calls, key: str, upload: str, number: int, part: memoryview) -> str:
    query = {"partNumber": str(number), "uploadId": upload}
    answer = calls.ask(Request("PUT", key, query, body=part))
    tag = answer.headers.get("etag", "")
    if not tag:
        raise not_s3(calls.place, "it confirms a part without naming it")
    return str(tag)


def _complete(calls: Calls, key: str, upload: str, tags: list[str]) -> bool:
    root = ElementTree.Element("CompleteMultipartUpload")
    for number, tag in enumerate(tags, 1):
        part = ElementTree.SubElement(root, "Part")
        ElementTree.SubElement(part, "PartNumber").text = str(number)
        ElementTree.SubElement(part, "ETag").text = tag
    request = Request(
        "POST", key, {"uploadId": upload}, {"Content-Type": "application/xml"}, ElementTree.tostring(root)
    )
    answer = calls.ask(request, fine=(200, 404))
    if answer.status == 404:
        found = refusal(answer, calls.place, calls.clock.wall())
        if isinstance(found, NotFound) or said(answer).code != "NoSuchUpload":
            raise found
        return False
    if said(answer).code:  # S3 may say 200 first and then that it failed
        raise Unavailable(STORE_DOWN, f"store: {calls.place.endpoint} could not join the parts", field="store")
    return bool(_text(answer.body, "ETag"))


def _text(body: bytes, name: str) -> str:
    """Return the text of the first element of a name."""
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, LookupError, ValueError):
        return ""
    return next((each.text or "" for each in root.iter() if local(each) == name), "")
