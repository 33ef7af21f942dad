"""`nasmesh certs` and `nasmesh token`: who may call, made on the operator's machine. Talks to no server."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.options import AsJson
from clients.cli.output import print_json, print_line, print_table
from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid
from nasmesh.limits import CERTIFICATE_DAYS, CERTIFICATE_DAYS_MAX, TOKEN_DAYS, TOKEN_DAYS_MAX
from nasmesh.settings import home, read_settings

if TYPE_CHECKING:
    from nasmesh.rpc.authority import Issued
    from nasmesh.rpc.certificates import Certificate
    from nasmesh.rpc.tokens import Token

certs = typer.Typer(help="A private certificate authority for one mesh.", no_args_is_help=True)
token = typer.Typer(help="Tokens that servers ask callers for.", no_args_is_help=True)

Hosts = Annotated[
    list[str] | None, typer.Option("--host", metavar="NAME", help="Name or address that callers dial. Repeatable.")
]
CertificateDays = Annotated[
    float, typer.Option("--days", metavar="D", help=f"Days it is good for, at most {CERTIFICATE_DAYS_MAX:g}.")
]
TokenDays = Annotated[
    float, typer.Option("--days", metavar="D", help=f"Days it is good for, at most {TOKEN_DAYS_MAX:g}.")
]
Name = Annotated[
    str, typer.Option("--name", metavar="N", help="Whose; of an agent the name, or its part before a hyphen.")
]
Scope = Annotated[
    str, typer.Option("--scope", metavar="SCOPES", help="client:read, client:write, agent (comma-separated), or admin.")
]
TokenOut = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write it here, mode 0600, instead of showing it.")
]
TokenAuthority = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Put this authority into the file too: whoever has it needs no other."),
]
Authority = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="Directory of the authority [{home}/certs].")
]
Tokens = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="FILE", help="The servers' file [NASMESH_TOKENS or {home}/tokens.json]."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(certs, name="certs")
    app.add_typer(token, name="token")


@certs.command("init")
def init(
    place: Annotated[Path | None, typer.Argument(metavar="DIR", help="As --dir.", hidden=True)] = None,
    directory: Authority = None,
    host: Hosts = None,
    days: CertificateDays = CERTIFICATE_DAYS,
    as_json: AsJson = False,
) -> None:
    """Make an authority, and the scheduler's certificate for the names given (this machine's where there are none)."""
    from nasmesh.rpc import authority

    if place is not None and directory is not None:
        raise Invalid("USAGE", f"--dir: {directory} or {place}? Name one directory", field="dir")
    directory = _authority(directory or place)
    issued = authority.init(directory, host or ["localhost", "127.0.0.1", "::1"], days=days)
    if as_json:
        print_json({"ca": str(directory / authority.CA_CERTIFICATE), **_paths(issued)})
        return
    print_line(f"authority    {directory / authority.CA_CERTIFICATE}  (give it to everybody)")
    print_line(f"its key      {directory / authority.CA_KEY}  (stays here)")
    print_line(f"certificate  {issued.certificate}\nkey          {issued.key}")
    print_line(f"nasmesh serve scheduler --tls-cert {issued.certificate} --tls-key {issued.key} …")


@certs.command("issue")
def issue(
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="agent, client, admin or server.")],
    name: Name,
    days: CertificateDays = CERTIFICATE_DAYS,
    host: Hosts = None,
    directory: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Issue a certificate, or renew it: servers present the new one from the next connection on."""
    from nasmesh.rpc import authority

    issued = authority.issue(_authority(directory), authority.Wish(role, name, days, host or ()))
    if as_json:
        print_json(_paths(issued))
    else:
        print_line(f"certificate  {issued.certificate}\nkey          {issued.key}")


@certs.command("show")
def show(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="A certificate, or a directory with *.crt [{home}/certs].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whose certificates are, for which hosts, and until when."""
    from nasmesh.rpc.certificates import format_time, parse_certificates
    from nasmesh.rpc.secret_files import read_public

    path = _authority(path)
    files = sorted(path.glob("*.crt")) if path.is_dir() else [path]
    if not files:
        raise Invalid("FILE_UNREADABLE", f"path: {path} holds no *.crt", field="path")
    found = [
        (file, facts) for file in files for facts in parse_certificates(read_public(file, field="path"), field="path")
    ]
    now = SystemClock().wall()
    if as_json:
        print_json([_certificate(file, facts, now) for file, facts in found])
        return
    rows = []
    for file, facts in found:
        role = facts.role or ("authority" if facts.is_authority else "")
        until = format_time(facts.not_after)
        rows.append((str(file), role, facts.name, " ".join(facts.hosts), until, _state(facts, now)))
    print_table(["file", "role", "name", "hosts", "until", "state"], rows, empty="no certificates")


@token.command("create")
def create(  # noqa: PLR0913 - a flag each
    name: Name,
    scope: Scope,
    days: TokenDays = TOKEN_DAYS,
    out: TokenOut = None,
    ca: TokenAuthority = None,
    tokens: Tokens = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is shown once: the servers' file holds only its hash."""
    from nasmesh.rpc import tokens as kept
    from nasmesh.rpc.secret_files import write_secret

    authority = _checked_authority(ca, out) if ca is not None else b""

    if out is not None and out.exists():
        raise Invalid("FILE_EXISTS", f"out: {out} exists and is left as it is; name another", field="out")
    path = _tokens(tokens)
    text, made = kept.create(path, name, kept.parse_scopes(scope), days=days)
    if out is not None:
        try:
            write_secret(out, text.encode() + b"\n" + authority, field="out", replace=False)
        except Invalid:
            kept.revoke(path, made.id)  # nobody has it, and a list of tokens should not say otherwise
            raise
    if as_json:
        shown = {"path": str(out)} if out is not None else {"token": text}
        print_json({**_record(made, SystemClock().wall()), **shown})
    elif out is not None:
        print_line(f"token {made.id} of {made.name} is in {out}")
    else:
        print_line(text)


@token.command("list")
def list_tokens(tokens: Tokens = None, as_json: AsJson = False) -> None:
    """List tokens: whose, for what, until when. None of them can be shown again."""
    from nasmesh.rpc import tokens as kept

    now = SystemClock().wall()
    path = _tokens(tokens)
    records = [_record(found, now) for found in kept.load(path)]
    if as_json:
        print_json(records)
        return
    rows = ([str(row[key]) for key in ("id", "name", "scopes", "expires", "state")] for row in records)
    print_table(["id", "name", "scopes", "until", "state"], rows, empty=f"no tokens in {path}")


@token.command("revoke")
def revoke(
    which: Annotated[str, typer.Argument(metavar="TOKEN", help="Id of a token, or a name: then all of that name.")],
    tokens: Tokens = None,
    as_json: AsJson = False,
) -> None:
    """Revoke tokens at once: servers that use the file refuse the next call, and end open streams within seconds."""
    from nasmesh.rpc import tokens as kept

    revoked = kept.revoke(_tokens(tokens), which)
    if as_json:
        print_json([_record(found, SystemClock().wall()) for found in revoked])
        return
    for found in revoked:
        print_line(f"revoked {found.id} of {found.name}")


def _checked_authority(ca: Path, out: Path | None) -> bytes:
    """Return an authority's certificate; raises Invalid for a file that is none, before a token is made."""
    from nasmesh.rpc.certificates import check_authority, parse_certificates
    from nasmesh.rpc.secret_files import read_public

    if out is None:
        raise Invalid("USAGE", "ca: an authority goes into a file; add --out", field="ca")
    pem = read_public(ca, field="ca")
    for facts in parse_certificates(pem, field="ca"):
        check_authority(facts, field="ca")
        facts.check_time(SystemClock().wall(), field="ca")
    return pem


def _authority(given: Path | None) -> Path:
    return given or home() / "certs"


def _tokens(given: Path | None) -> Path:
    return given or read_settings().tokens or home() / "tokens.json"


def _paths(issued: "Issued") -> dict[str, object]:
    return {"certificate": str(issued.certificate), "key": str(issued.key)}


def _state(facts: "Certificate", now: float) -> str:
    return "expired" if now >= facts.not_after else "not yet valid" if now < facts.not_before else "good"


def _certificate(file: Path, facts: "Certificate", now: float) -> dict[str, object]:
    return {
        "path": str(file),
        "role": facts.role or ("authority" if facts.is_authority else ""),
        "name": facts.name,
        "hosts": list(facts.hosts),
        "serial": facts.serial,
        "notBefore": _time(facts.not_before),
        "notAfter": _time(facts.not_after),
        "state": _state(facts, now),
    }


def _record(found: "Token", now: float) -> dict[str, object]:
    return {
        "id": found.id,
        "name": found.name,
        "scopes": ",".join(found.scopes),
        "created": _time(found.created),
        "expires": _time(found.expires),
        "state": found.state(now),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
