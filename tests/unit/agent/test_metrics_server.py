"""Metrics over HTTP: what is answered, with TLS and without, and what ends in nothing worse."""

import asyncio
import http.client
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tortie.agent import observing
from tortie.agent.config import Config, Local, resolve
from tortie.agent.http import HttpServer, Response


async def answer(path: str) -> Response:
    if path == "/metrics":
        return Response("200 OK", "ü 1\n", "text/plain; version=0.0.4; charset=utf-8")
    return Response("404 Not Found", "try /metrics\n")


def serve(act: Callable[[int], None], context: ssl.SSLContext | None = None) -> None:
    async def run() -> None:
        server = HttpServer(answer)
        port = await server.start("127.0.0.1", 0, context)
        try:
            await asyncio.to_thread(act, port)
        finally:
            await server.close()

    asyncio.run(run())


def config(**settings: str) -> Config:
    environment = {name.lower(): value for name, value in settings.items()}
    return resolve(Local(environment, {}, "felix.cfg"))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("GET", "/metrics?name[]=x", 200),
        ("GET", "/", 404),
        ("GET", "/debug/pprof/", 404),
        ("POST", "/metrics", 405),
    ],
)
def test_answers(method: str, path: str, status: int) -> None:
    def act(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(method, path)
        found = connection.getresponse()
        body = found.read().decode()
        assert found.status == status
        if status == 200:
            assert body == "ü 1\n"
            assert found.getheader("Content-Type", "").startswith("text/plain; version=0.0.4")
        connection.close()

    serve(act)


def test_metrics_are_off_and_on_loopback_unless_asked_for() -> None:
    found = config()
    assert found["PrometheusMetricsEnabled"] is False
    assert (found["PrometheusMetricsHost"], found["PrometheusMetricsPort"]) == ("localhost", 9091)
    found = config(PrometheusMetricsEnabled="true", PrometheusMetricsHost="0.0.0.0")
    assert (found["PrometheusMetricsEnabled"], found["PrometheusMetricsHost"]) == (True, "0.0.0.0")


def test_what_is_logged_follows_the_settings() -> None:
    off = observing.open_logging(config(FlowLogsDenied="false", FlowLogsLocalReporter="Enabled"))
    assert (off.logged, off.ended, off.why) == (None, None, "FlowLogsDenied is off")
    limited = config(LogActionRateLimit="10/minute", LogActionRateLimitBurst="7")
    assert limited["LogActionRateLimit"] == (10, 60)
    assert config(LogActionRateLimit="0/minute")["LogActionRateLimit"] is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, found = folder / "key.pem", folder / "cert.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    subprocess.run(
        ["openssl", *words.split(), "-subj", "/CN=h1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(found)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return found, key


def tls(certificate: tuple[Path, Path], **settings: str) -> ssl.SSLContext:
    found, key = map(str, certificate)
    context = observing.metrics_tls(
        config(PrometheusMetricsCertFile=found, PrometheusMetricsKeyFile=key, **settings)
    )
    assert context is not None
    return context


def get(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status
    finally:
        connection.close()


def test_metrics_over_tls(certificate: tuple[Path, Path]) -> None:
    client = ssl.create_default_context(cafile=str(certificate[0]))
    serve(lambda port: _is(get(port, client), 200), tls(certificate))


def test_a_client_without_a_certificate_is_refused(certificate: tuple[Path, Path]) -> None:
    wanted = {
        "PrometheusMetricsCAFile": str(certificate[0]),
        "PrometheusMetricsClientAuth": "RequireAndVerifyClientCert",
    }

    def act(port: int) -> None:
        client = ssl.create_default_context(cafile=str(certificate[0]))
        with pytest.raises((OSError, http.client.HTTPException)):
            get(port, client)
        client.load_cert_chain(*map(str, certificate))
        assert get(port, client) == 200

    serve(act, tls(certificate, **wanted))


def test_what_cannot_be_is_said_and_keeps_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    wanted = config(PrometheusMetricsEnabled="true", PrometheusMetricsCertFile="/none")
    assert asyncio.run(observing.serve_metrics(wanted, None)) is None  # type: ignore[arg-type]
    assert "no metrics at localhost port 9091" in caplog.text


def _is(found: int, wanted: int) -> None:
    assert found == wanted
