"""`nasmesh admin bucket`: sets up the bucket of an S3 store, and the keys of the roles that use it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.options import AsJson
from clients.cli.output import print_json, print_line
from nasmesh.errors import Conflict, Invalid
from nasmesh.settings import read_settings

if TYPE_CHECKING:
    from nasmesh.store.s3_place import Keys, Place

app = typer.Typer(no_args_is_help=True, help="The bucket of an S3 store: set it up, see what each role may do.")
_SOURCE = Path(__file__).resolve().parents[3]
Store = Annotated[str, typer.Option("--store", metavar="URL", help="s3://BUCKET?endpoint=HOST:PORT [NASMESH_STORE].")]
Policies = Annotated[
    Path | None, typer.Option("--policies", metavar="DIR", help="What roles may do, a file each [deploy/s3].")
]


@app.command("init")
def init(
    store: Store = "",
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Give each role a key of its own (MinIO), in DIR/ROLE.keys."),
    ] = None,
    policies: Policies = None,
    as_json: AsJson = False,
) -> None:
    """Make the bucket or put it in order, as the owner whose keys NASMESH_STORE_CREDENTIALS names; may be repeated."""
    from nasmesh.store import s3_setup
    from nasmesh.store.open import bucket_of
    from nasmesh.store.s3_place import Keys, parse_place

    settings = read_settings()
    url = _s3(store or settings.store)
    place, owner = parse_place(url), Keys(settings.store_credentials)
    allowed = {role: s3_setup.policy(_folder(policies), role, place.bucket) for role in s3_setup.ROLES} if keys else {}
    done = s3_setup.set_up(place, owner)
    written = _give(keys, allowed, place, owner) if keys else {}
    bucket_of(url).check()
    if as_json:
        print_json({"bucket": place.bucket, "made": done.made, "rules": list(done.rules), "keys": written})
        return
    print_line(f"bucket {place.bucket} at {place.endpoint}: {'made' if done.made else 'was there'}")
    if done.versions_ended:
        print_line("versions: no more are kept; those there stay until they are deleted")
    print_line(f"rules: {', '.join(done.rules)}")
    for role, path in written.items():
        print_line(f"{role:10} NASMESH_STORE_CREDENTIALS={path}")


@app.command("policy")
def show_policy(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="scheduler, generate, train, evaluate or reader.")],
    store: Store = "",
    policies: Policies = None,
) -> None:
    """Print what a role may do in the bucket, as AWS, MinIO and others read it."""
    from nasmesh.store import s3_setup
    from nasmesh.store.s3_place import parse_place

    if role not in s3_setup.ROLES:
        raise Invalid("ROLE_UNKNOWN", f"role: {role[:40]!r} is not one of {', '.join(s3_setup.ROLES)}", field="role")
    bucket = parse_place(_s3(store or read_settings().store)).bucket
    print_json(s3_setup.policy(_folder(policies), role, bucket))


def _s3(url: str) -> str:
    if not url.startswith("s3:"):
        raise Invalid(
            "STORE_URL_INVALID",
            "store: only S3 has buckets; name one with --store s3://BUCKET?endpoint=HOST:PORT",
            field="store",
        )
    return url


def _folder(given: Path | None) -> Path:
    """Return the folder of the policies: the one named, the one here, or that of the sources."""
    here = Path("deploy") / "s3"
    return given or (here if here.is_dir() else _SOURCE / here)


def _give(folder: Path, allowed: "dict[str, dict[str, object]]", place: "Place", owner: "Keys") -> dict[str, str]:
    """Give keys and write a file for each, keeping the secrets of the files that are there."""
    from nasmesh.rpc.secret_files import make_private_directory, write_secret
    from nasmesh.store import s3_setup
    from nasmesh.store.s3_place import Keys

    make_private_directory(folder, field="keys")
    paths = {role: folder.absolute() / f"{role}.keys" for role in allowed}
    known = {role: Keys(path).current().secret_key for role, path in paths.items() if path.exists()}
    own = read_settings().store_credentials
    if own and any(path.exists() and path.samefile(own) for path in paths.values()):
        raise Conflict("FILE_EXISTS", f"keys: {folder} holds the owner's own keys; name another folder", field="keys")
    for key in s3_setup.give_keys(place, owner, allowed, known=known):
        content = f"access_key={key.access_key}\nsecret_key={key.secret_key}\n".encode()
        write_secret(paths[key.role], content, field="keys", replace=True)
    return {role: str(path) for role, path in paths.items()}
