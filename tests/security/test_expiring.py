"""A certificate that nobody renews is told of before it ends: in the log, and to whoever reads metrics."""

from pathlib import Path

import pytest

from nasmesh.clock import ManualClock, SystemClock
from nasmesh.rpc.access import ClientAccess, ServerAccess
from nasmesh.rpc.expiring import Expiring, certificates_watched
from nasmesh.telemetry.samples import Sample
from tests.builders.access import DAY_S, Mesh, make_mesh
from tests.builders.log_lines import Lines


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return make_mesh(tmp_path)


def in_days(days: float) -> ManualClock:
    return ManualClock(wall=SystemClock().wall() + days * DAY_S)


@pytest.mark.parametrize(("days", "told"), [(0, []), (5, []), (5.5, ["tls-cert"]), (8, ["tls-cert"])])
def test_log_when_the_last_quarter_of_a_certificate_has_begun_then_names_it(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, days: float, told: list[str]
) -> None:
    lines = Lines.instead_of(monkeypatch, "nasmesh.rpc.expiring._log")
    assert Expiring(mesh.access(mutual=True), clock=in_days(days)).look() == told
    assert [(line["event"], line["flag"]) for line in lines.told] == [
        ("certificate_ended" if days > 7 else "certificate_ends_soon", flag) for flag in told
    ]


def test_log_when_an_authority_of_years_has_a_month_left_then_names_it(mesh: Mesh) -> None:
    for years, told in ((4.8, []), (4.95, ["ca-file"])):
        assert Expiring(own=mesh.client(), clock=in_days(years * 365)).look() == told


def test_log_when_a_certificate_is_renewed_in_its_place_then_says_no_more(mesh: Mesh) -> None:
    clock = in_days(6)
    expiring = Expiring(mesh.access(), clock=clock)
    assert expiring.look() == ["tls-cert"]
    mesh.authority.pair("server", "test", issued=6)
    assert expiring.look() == []


def test_metrics_tell_when_each_certificate_ends_and_leave_out_what_cannot_be_read(mesh: Mesh) -> None:
    mine = mesh.authority.pair("agent", "gpu", days=2)
    expiring = Expiring(mesh.access(), mesh.client(mine))
    now = SystemClock().wall()
    found = {sample.labels: sample.value for sample in expiring.readings()}
    assert {sample.metric for sample in expiring.readings()} == {"nasmesh_certificate_ends"}
    assert found["tls-cert",] == pytest.approx(now + 7 * DAY_S, abs=3600)
    assert found["cert-file",] == pytest.approx(now + 2 * DAY_S, abs=3600)
    assert set(found) == {("tls-cert",), ("ca-file",), ("cert-file",)}
    mine.cert.write_bytes(b"rubbish")
    assert ("cert-file",) not in {sample.labels for sample in expiring.readings()}


def test_programs_without_certificates_have_nothing_to_tell() -> None:
    with certificates_watched(ServerAccess(), ClientAccess()) as sources:
        assert sources == ()


def test_a_program_with_certificates_tells_of_them(mesh: Mesh) -> None:
    with certificates_watched(mesh.access()) as sources:
        readings = [reading for source in sources for reading in source()]
    assert [reading.labels for reading in readings if isinstance(reading, Sample)] == [("tls-cert",)]
