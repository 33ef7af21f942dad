"""What the answers of an S3 store that are none of the wanted ones become: an error with the fix in it."""

import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from xml.etree import ElementTree

import urllib3.exceptions as transport

from nasmesh.errors import Denied, Invalid, NasmeshError, NotFound, Unavailable
from nasmesh.store.s3_place import Place

STORE_DOWN = "STORE_DOWN"
SKEW_S = 300.0
"""A clock is to blame for a refusal only beyond this; stores forgive fifteen minutes."""
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_AGAIN_CODES = frozenset({"RequestTimeout", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict"})
_KEY_CODES = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
_SKEW_CODES = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_REGION_CODES = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"})


class Answer(NamedTuple):
    """What a store answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Said(NamedTuple):
    """What an error's XML says; both empty where it is no XML of S3."""

    code: str
    message: str


def said(answer: Answer) -> Said:
    """Return the code and message of an error."""
    try:
        root = ElementTree.fromstring(answer.body)
    except (ElementTree.ParseError, LookupError, ValueError):
        return Said("", "")
    if local(root) != "Error":
        return Said("", "")
    texts = {local(child): (child.text or "").strip() for child in root}
    return Said(texts.get("Code", "")[:80], texts.get("Message", "")[:200])


def local(element: ElementTree.Element) -> str:
    """Return an element's name without its name space."""
    return element.tag.rpartition("}")[2]


def date(headers: Mapping[str, str], name: str) -> float | None:
    """Return the time that a header tells, in seconds since 1970; None where it tells none."""
    try:
        return parsedate_to_datetime(headers.get(name, "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def passes(answer: Answer) -> bool:
    """Say whether asking again may help."""
    return answer.status in AGAIN or (answer.status < 500 and said(answer).code in _AGAIN_CODES)


def refusal(answer: Answer, place: Place, wall: float) -> NasmeshError:
    """Return the error that an answer is; `wall`: this machine's time.

    Denied (STORE_DENIED, STORE_CLOCK_SKEWED), NotFound (STORE_BUCKET_MISSING), Invalid (STORE_REGION_WRONG,
    STORE_NOT_S3), Unavailable (STORE_DOWN).
    """
    code, message = said(answer)
    where = f"the object store at {place.endpoint}"
    if code == "NoSuchBucket":
        return NotFound(
            "STORE_BUCKET_MISSING",
            f"store: {where} has no bucket {place.bucket}; name another, or make it with nasmesh admin bucket init",
            field="store",
        )
    theirs = date(answer.headers, "date")
    skew = wall - theirs if theirs is not None else 0.0
    if code in _SKEW_CODES or (answer.status == 403 and abs(skew) > SKEW_S):
        apart = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'}" if theirs is not None else "apart from"
        return Denied(
            "STORE_CLOCK_SKEWED",
            f"store: this machine's clock is {apart} that of {where}, which refuses it; set the clock",
            field="store",
        )
    if code in _KEY_CODES or answer.status in (401, 403):
        why = "the access key or its secret is wrong" if code in _KEY_CODES else "the key may not do this"
        return Denied(
            "STORE_DENIED",
            f"store: {where} refuses (bucket {place.bucket}): {why}{_quoted(code)}; see NASMESH_STORE_CREDENTIALS",
            field="store",
        )
    if code in _REGION_CODES or 300 <= answer.status < 400:
        named = answer.headers.get("x-amz-bucket-region", "")
        return Invalid(
            "STORE_REGION_WRONG",
            f"store: bucket {place.bucket} is not in region {place.region}{_quoted(message)}; "
            f"use &region={named or '…'} in --store",
            field="store",
        )
    if code in ("XMinioStorageFull", "StorageFull", "QuotaExceeded") or answer.status == 507:
        return Unavailable(STORE_DOWN, f"store: {where} is full; make room there", field="store")
    if answer.status >= 500 or code:
        return Unavailable(
            STORE_DOWN, f"store: {where} answers {answer.status}{_quoted(code or message)}", field="store"
        )
    if b"HTTPS" in answer.body[:400]:
        return Invalid(
            "STORE_NOT_S3", f"store: {place.endpoint} speaks TLS; leave secure=0 out of --store", field="store"
        )
    return not_s3(place, f"it answers {answer.status} without what S3 would say")


def not_s3(place: Place, why: str) -> Invalid:
    """Return the error of an endpoint that is something else."""
    return Invalid(
        "STORE_NOT_S3",
        f"store: {place.endpoint} does not speak S3: {why}; name the store's own address in endpoint=",
        field="store",
    )


def unreached(error: Exception, place: Place) -> NasmeshError:
    """Return the error of a request that got no answer: Unavailable (STORE_DOWN), Invalid (STORE_UNTRUSTED)."""
    if isinstance(error, transport.SSLError):
        return _tls(error, place)
    if isinstance(error, transport.NameResolutionError):
        why = "its name is not known; mend endpoint="
    elif isinstance(error, transport.NewConnectionError):
        why = "it refuses connections; start it, or mend endpoint="
    elif isinstance(error, transport.ConnectTimeoutError):
        why = "nothing answers there; start it, or mend endpoint="
    elif isinstance(error, transport.TimeoutError):
        why = "it has stopped answering"
    else:
        why = "it hangs up in the middle"
    return Unavailable(STORE_DOWN, f"store: cannot use the object store at {place.endpoint}: {why}", field="store")


def _tls(error: Exception, place: Place) -> Invalid:
    cause = next((arg for arg in error.args if isinstance(arg, ssl.SSLError)), error)
    text = str(cause)
    if "CERTIFICATE_VERIFY_FAILED" in text or "match" in text:
        why = "its certificate is by no authority that is known here, or for another host; use &ca=FILE in --store"
    elif "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text:
        why = "it speaks no TLS; use &secure=0 in --store for plain HTTP"
    else:
        why = f"TLS fails ({getattr(cause, 'reason', None) or type(cause).__name__})"
    return Invalid("STORE_UNTRUSTED", f"store: {place.endpoint}: {why}", field="store")


def _quoted(text: str) -> str:
    return f" ({text})" if text else ""
