"""Checks of `tortie doctor` that need a clock, a version or a file that no machine here has."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.datastore.credentials import make_authority, make_certificate
from tests.unit.ctl.shell import Shell

from tortie.ctl import doctor, doctor_datastore
from tortie.ctl.cluster_facts import Cluster
from tortie.ctl.diagnosis import Finding, Host, State, good, read_environment_file
from tortie.datastore.etcd.tls import TLSFiles
from tortie.lib.errors import KernelRefused


def host(tmp_path: Path, **environment: str) -> Host:
    return Host(
        environment,
        run_directory=tmp_path / "run",
        state_directory=tmp_path / "state",
        felix_config=tmp_path / "felix.cfg",
        config_file=None,
        environment_file=tmp_path / "calico.env",
    )


@contextmanager
def etcd(version: str, ahead: timedelta, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answers /version as etcd does; returns its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"etcdserver": version, "etcdcluster": version}).encode()
            self.send_response_only(200)
            self.send_header("Date", format_datetime(datetime.now(UTC) + ahead, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tls_etcd(folder: Path, days: int) -> "AbstractContextManager[tuple[str, TLSFiles]]":
    """The same behind a certificate that ends in so many days; with what a client needs."""

    @contextmanager
    def serve() -> Iterator[tuple[str, TLSFiles]]:
        authority = make_authority(folder, "authority", days=365)
        files = make_certificate(folder, authority, "server", days=days)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        assert files.certificate is not None
        context.load_cert_chain(files.certificate, files.key)
        with etcd("3.5.0", timedelta(0), context) as endpoint:
            yield endpoint.replace("http:", "https:"), files

    return serve()


@pytest.mark.parametrize(
    ("days", "state"), [(365, State.GOOD), (3, State.WARNING), (-1, State.PROBLEM)]
)
def test_certificates(tmp_path: Path, days: int, state: State) -> None:
    with tls_etcd(tmp_path, days) as (endpoint, files):
        examined = host(tmp_path, ETCD_ENDPOINTS=endpoint, ETCD_CA_CERT_FILE=str(files.ca))
        found = doctor_datastore.certificates(examined)
        assert found.state is state, found
        version = doctor_datastore.etcd_versions(examined)
    assert (version.state is State.GOOD) == (days > 0)


def reports(said: dict[str, timedelta]) -> Cluster:
    now = datetime.now(UTC)
    times = {name: now + ahead for name, ahead in said.items()}
    return Cluster({}, (), (), 1, 0.0, times)


@pytest.mark.parametrize(
    ("version", "state"), [("3.4.27", State.GOOD), ("3.2.0", State.PROBLEM), ("4.0", State.GOOD)]
)
def test_versions_of_etcd(tmp_path: Path, version: str, state: State) -> None:
    with etcd(version, timedelta(0)) as endpoint:
        found = doctor_datastore.etcd_versions(host(tmp_path, ETCD_ENDPOINTS=endpoint))
    assert found.state is state
    assert version in found.detail


@pytest.mark.parametrize(("seconds", "state"), [(0, State.GOOD), (-60, State.PROBLEM)])
def test_etcds_clock(tmp_path: Path, seconds: int, state: State) -> None:
    with etcd("3.5.0", timedelta(seconds=seconds)) as endpoint:
        examined = host(tmp_path, ETCD_ENDPOINTS=endpoint)
        examined.__dict__["cluster"] = reports({})
        found = doctor_datastore.clocks(examined)
    assert found.state is state


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(0, State.GOOD), (-40, State.GOOD), (30, State.PROBLEM), (-200, State.PROBLEM)],
)
def test_other_agents_clocks(tmp_path: Path, ahead: int, state: State) -> None:
    """A report is up to 30 s old, and never of the future."""
    examined = host(tmp_path, DATASTORE_TYPE="embedded")
    examined.__dict__["cluster"] = reports({"n1": timedelta(0), "n2": timedelta(seconds=ahead)})
    found = doctor_datastore.clocks(examined)
    assert found.state is state
    assert ("n2" in found.detail) == (state is State.PROBLEM)


def test_settings_of_the_unit_count(tmp_path: Path) -> None:
    """Where this shell says nothing."""
    (tmp_path / "calico.env").write_text(
        "# a comment\nNODENAME=\"N1\"\nETCD_ENDPOINTS='http://a:1'\nFELIX_INTERFACEPREFIX=tap\n"
        '; another\nnonsense\nIP=x \\\ny\nODD="\n'
    )
    examined = host(tmp_path, ETCD_ENDPOINTS="http://b:2")
    assert examined.name == "n1"
    assert examined.interface_prefixes == ("tap",)
    assert examined.datastore.endpoints == ("http://b:2",)
    assert read_environment_file(tmp_path / "none") == {}


def test_mistakes_in_settings(tmp_path: Path) -> None:
    (tmp_path / "felix.cfg").write_text("[global]\nHealthPort = no\nChainInsertMode = append\n")
    found = doctor_datastore.settings(host(tmp_path, FELIX_LOGSEVERITYSCREEN="loud"))
    assert found.state is State.PROBLEM
    assert "felix.cfg: HealthPort = 'no'" in found.detail
    assert "environment: LogSeverityScreen = 'loud'" in found.detail
    assert "ChainInsertMode" not in found.detail, "Calico has it; that is no mistake"
    (tmp_path / "felix.cfg").write_text("[global\n")
    assert "felix.cfg" in doctor_datastore.settings(host(tmp_path)).detail


def test_a_check_that_fails_disturbs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Host) -> Finding:
        raise KernelRefused("list tables", 1)

    checks = (
        doctor.Check(1, "a", fails),
        doctor.Check(2, "b", lambda _: good("fine")),
    )
    monkeypatch.setattr(doctor, "CHECKS", checks)
    first, second = doctor.examine(host(tmp_path))
    assert first.finding.state is State.UNKNOWN
    assert "it could not be told: list tables" in first.finding.detail
    assert second.finding == good("fine")


def test_without_anything(tortie: Shell, tmp_path: Path) -> None:
    """No agent, no systemd, an empty datastore: findings, no tracebacks."""
    directories = ["--run-directory", str(tmp_path), "--state-directory", str(tmp_path)]
    outcome = tortie("doctor", *directories, "-o", "json", "--environment-file", "/nonexistent")
    assert outcome.code == 1, outcome.err
    found = {one["name"]: one for one in json.loads(outcome.out)["checks"]}
    assert found["agent"]["state"] == "problem"
    assert found["datastore"]["state"] == "good"
    assert found["datastore ready"]["state"] == "problem"
    for one in found.values():
        assert one["detail"]
        assert one["remedy"] or one["state"] in ("good", "unknown")
    assert [one.number for one in doctor.CHECKS] == sorted({one.number for one in doctor.CHECKS})
