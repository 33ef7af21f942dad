"""Sets a bucket up: makes it, keeps no versions, clears what is temporary, and gives each role a key that fits it."""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import StaticProvider
from minio.error import InvalidResponseError, MinioAdminException, MinioException, S3Error, ServerError
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule
from minio.minioadmin import MinioAdmin
from minio.versioningconfig import OFF, SUSPENDED, VersioningConfig

from nasmesh import limits
from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid, NotFound
from nasmesh.store.s3_place import Keys, Place
from nasmesh.store.s3_refusals import Answer, not_s3, refusal, unreached

ROLES = ("scheduler", "generate", "train", "evaluate", "reader")
TEMPORARY = "temporary/"
"""Below it is what may go after a day: the marks of a sweep that died."""
_DAYS = 1
_RULES = "nasmesh-"
_PLACEHOLDER = "arn:aws:s3:::BUCKET"


class Done(NamedTuple):
    """What setting up has changed."""

    made: bool
    versions_ended: bool
    rules: tuple[str, ...]


def set_up(place: Place, keys: Keys) -> Done:
    """Make a bucket, or put one that is there in order; what else its owner has set stays.

    Raises what S3Store.check raises, but for STORE_BUCKET_MISSING.
    """
    client = _client(place, keys)
    with _refusals(place):
        made = not client.bucket_exists(place.bucket)
        if made:
            client.make_bucket(place.bucket, place.region)
        ended = not made and client.get_bucket_versioning(place.bucket).status not in (None, OFF, SUSPENDED)
        if ended:
            client.set_bucket_versioning(place.bucket, VersioningConfig(SUSPENDED))
        return Done(made, ended, _set_rules(client, place.bucket))


def policy(folder: Path, role: str, bucket: str) -> dict[str, Any]:
    """Return what a role may do in a bucket, from the files that are deployed.

    Raises NotFound (POLICY_MISSING), Invalid (POLICY_INVALID).
    """
    path = folder / f"{role}.json"
    try:
        text = path.read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text.replace(_PLACEHOLDER, f"arn:aws:s3:::{bucket}"))
    except FileNotFoundError:
        raise NotFound(
            "POLICY_MISSING", f"policies: there is no {path}; name the project's folder deploy/s3", field="policies"
        ) from None
    except (OSError, ValueError) as error:
        raise Invalid("POLICY_INVALID", f"policies: {path}: {str(error)[:120]}", field="policies") from None
    if _PLACEHOLDER not in text or not isinstance(found, dict):
        raise Invalid("POLICY_INVALID", f"policies: {path} names no resource {_PLACEHOLDER}", field="policies")
    return found


class Key(NamedTuple):
    """A key that a role got, and its secret."""

    role: str
    access_key: str
    secret_key: str


def give_keys(place: Place, keys: Keys, policies: dict[str, dict[str, Any]], *, known: dict[str, str]) -> list[Key]:
    """Give each role a user of its own with its policy, by MinIO's interface; `known` secrets are kept, by role.

    Raises Invalid (POLICIES_UNSUPPORTED) for another store, and what S3Store.check raises.
    """
    current = keys.current()
    provider = StaticProvider(current.access_key, current.secret_key, current.session_token)
    admin = MinioAdmin(
        endpoint=place.endpoint,
        credentials=provider,
        region=place.region,
        secure=place.secure,
        http_client=_pool(place),
    )
    made = []
    with _refusals(place):
        for role, allowed in policies.items():
            name = re.sub(r"[^a-z0-9-]", "-", f"{_RULES}{place.bucket}-{role}")
            key = Key(role, name[:_KEY_CHARS], known.get(role) or secrets.token_hex(20))
            admin.policy_add(name, policy=allowed)
            admin.user_add(key.access_key, key.secret_key)
            admin.policy_set(name, user=key.access_key)
            made.append(key)
    return made


_KEY_CHARS = 100


def _set_rules(client: Minio, bucket: str) -> tuple[str, ...]:
    """Have the store clear what is temporary; returns the rules that it took."""
    present = client.get_bucket_lifecycle(bucket)
    others = [rule for rule in present.rules if not (rule.rule_id or "").startswith(_RULES)] if present else []
    expire = Rule(ENABLED, Filter(prefix=TEMPORARY), rule_id=f"{_RULES}temporary", expiration=Expiration(days=_DAYS))
    abort = Rule(
        ENABLED,
        Filter(prefix=""),
        rule_id=f"{_RULES}unfinished-uploads",
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(_DAYS),
    )
    for mine in ([expire, abort], [expire]):  # MinIO ends unfinished uploads by itself, and may refuse to be told
        try:
            client.set_bucket_lifecycle(bucket, LifecycleConfig([*others, *mine]))
        except S3Error as error:
            if len(mine) == 1 or error.code == "AccessDenied":
                raise
        else:
            return tuple(rule.rule_id or "" for rule in mine)
    return ()


def _client(place: Place, keys: Keys) -> Minio:
    current = keys.current()
    provider = StaticProvider(current.access_key, current.secret_key, current.session_token)
    return Minio(
        place.endpoint, secure=place.secure, region=place.region, credentials=provider, http_client=_pool(place)
    )


def _pool(place: Place) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=limits.STORE_CONNECT_S, read=limits.STORE_READ_S)
    return urllib3.PoolManager(timeout=timeout, retries=False, ca_certs=str(place.ca) if place.ca else None)


@contextmanager
def _refusals(place: Place) -> Iterator[None]:
    """Turn what the client raises into errors of ours."""
    try:
        yield
    except S3Error as error:
        answer = Answer(error.response.status, error.response.headers, _body(error))
        raise refusal(answer, place, SystemClock().wall()) from None
    except (InvalidResponseError, ServerError):
        raise not_s3(place, "its answer is not S3's") from None
    except MinioAdminException:
        raise Invalid(
            "POLICIES_UNSUPPORTED",
            f"keys: {place.endpoint} does not take users by MinIO's interface, or not from this key; print the "
            "policies with nasmesh admin bucket policy, and set them with the store's own tools",
            field="keys",
        ) from None
    except (urllib3.exceptions.HTTPError, OSError, MinioException) as error:
        raise unreached(error, place) from None


def _body(error: S3Error) -> bytes:
    """Return an error's XML; of a HEAD, which has none, the code that the client made of the status."""
    return error.response.data or f"<Error><Code>{error.code}</Code></Error>".encode()
