"""Finding etcd by name and showing who we are, as an operator's configuration says it."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.datastore.credentials import etcdctl, make_authority, make_certificate
from tests.datastore.etcd_server import EtcdServer

from tortie.ctl.main import main
from tortie.datastore.etcd.discovery import Service, in_order, parse
from tortie.lib.errors import Unavailable

NAMESERVER = "127.53.21.7"
CLUSTER = "calico.test"
TIER = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: sec}\nspec: {}\n"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[EtcdServer]:
    """Wants certificates; its own is for `one.calico.test`."""
    authority = make_authority(tmp_path, "authority")
    files = make_certificate(tmp_path, authority, "server", f"one.{CLUSTER}")
    make_certificate(tmp_path, authority, "client")
    server = EtcdServer(
        tmp_path / "etcd",
        [
            f"--cert-file={files.certificate}",
            f"--key-file={files.key}",
            f"--trusted-ca-file={authority}",
            "--client-cert-auth",
        ],
        scheme="https",
    ).start()
    yield server
    server.kill()


class Nameserver:
    """A real dnsmasq that knows `records` and nothing else, and a resolv.conf that names it."""

    def __init__(self, folder: Path) -> None:
        self._resolv = folder / "resolv.conf"
        self._resolv.write_text(f"nameserver {NAMESERVER}\noptions timeout:1 attempts:1\n")
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, *records: str) -> None:
        self.stop()
        self._process = subprocess.Popen(
            ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
             "--bind-interfaces", f"--listen-address={NAMESERVER}", f"--local=/{CLUSTER}/",
             *records],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None
        assert b"started" in self._process.stderr.readline()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate()
            self._process = None

    def tortie(self, *words: str, config: Path | None = None, **variables: str) -> tuple[int, str]:
        """Exit code and what was printed, on a machine that asks this name server."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        chosen = ["--config", str(config)] if config else []
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, str(self._resolv),
             sys.executable, "-m", "tortie", *words, *chosen],
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def nameserver(tmp_path: Path) -> Iterator[Nameserver]:
    server = Nameserver(tmp_path)
    yield server
    server.stop()


def srv(service: str, host: str, port: int, priority: int = 0) -> str:
    return f"--srv-host={service}._tcp.{CLUSTER},{host}.{CLUSTER},{port},{priority},1"


def test_discovery_and_inline_certificates(
    secured: EtcdServer, nameserver: Nameserver, tmp_path: Path
) -> None:
    """One file with everything in it: no other file, no variable."""
    pem = {
        field: (tmp_path / name).read_text().replace("\n", "\n    ")
        for field, name in (
            ("etcdCACert", "authority.pem"),
            ("etcdCert", "client.pem"),
            ("etcdKey", "client.key"),
        )
    }
    config = tmp_path / "calicoctl.cfg"
    config.write_text(
        f"kind: CalicoAPIConfig\nspec:\n  etcdDiscoverySrv: {CLUSTER}\n"
        + "".join(f"  {field}: |\n    {text}\n" for field, text in pem.items())
    )
    nameserver.serve(
        f"--address=/one.{CLUSTER}/127.0.0.1",
        srv("_etcd-client-ssl", "gone", 1),
        srv("_etcd-client-ssl", "one", secured.client_port, priority=1),
        srv("_etcd-client", "one", 2),
    )
    resource = tmp_path / "tier.yaml"
    resource.write_text(
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: sec}\nspec: {}\n"
    )
    assert nameserver.tortie("apply", "-f", str(resource), config=config) == (
        0,
        "Successfully applied 1 'Tier' resource(s)\n",
    )
    code, text = nameserver.tortie("get", "tiers", "-o", "name", config=config)
    assert (code, "sec" in text) == (0, True), text

    # The server's certificate is for the name that the record gives, and for no other.
    nameserver.serve(
        f"--address=/two.{CLUSTER}/127.0.0.1",
        srv("_etcd-client-ssl", "two", secured.client_port),
    )
    code, text = nameserver.tortie("get", "tiers", config=config)
    assert code == 1
    assert "TLS" in text
    assert "two" in text

    half = config.read_text().replace(pem["etcdKey"][40:120], "")
    config.write_text(half)
    code, text = nameserver.tortie("get", "tiers", config=config)
    assert code == 1
    assert "etcdCert and etcdKey are no PEM" in text
    assert pem["etcdKey"][200:220] not in text


def test_a_certificate_says_who_one_is(secured: EtcdServer, tmp_path: Path) -> None:
    """No password anywhere: the common name is the user that `datastore roles --users` made."""
    authority = tmp_path / "authority.pem"
    for name in ("root", "tortie-read-only"):
        make_certificate(tmp_path, authority, name)

    def tortie(user: str, *words: str) -> tuple[int, str]:
        environment = {
            "DATASTORE_TYPE": "etcdv3",
            "ETCD_ENDPOINTS": secured.endpoint,
            "ETCD_CA_CERT_FILE": str(authority),
            "ETCD_CERT_FILE": str(tmp_path / f"{user}.pem"),
            "ETCD_KEY_FILE": str(tmp_path / f"{user}.key"),
        }
        out = io.StringIO()
        with patch.dict(os.environ, environment):
            return main(words, out, out), out.getvalue()

    assert tortie("client", "datastore", "roles", "--users", "--apply")[0] == 0
    tls = [f"--cacert={authority}", f"--cert={tmp_path}/root.pem", f"--key={tmp_path}/root.key"]
    for words in ("user add root --no-password", "user grant-role root root", "auth enable"):
        etcdctl(secured, *tls, *words.split())
    resource = tmp_path / "tier.yaml"
    resource.write_text(TIER)
    assert tortie("root", "apply", "-f", str(resource))[0] == 0
    code, text = tortie("tortie-read-only", "get", "tiers", "-o", "name")
    assert (code, "tier/sec" in text) == (0, True), text
    code, text = tortie("tortie-read-only", "delete", "tier", "sec")
    assert (code, "permission denied" in text) == (1, True), text
    assert tortie("client", "get", "tiers")[0] == 1, "whom nobody knows"


def test_discovery_without_tls(tmp_path: Path, nameserver: Nameserver) -> None:
    server = EtcdServer(tmp_path / "etcd").start()
    try:
        nameserver.serve(
            f"--address=/one.{CLUSTER}/127.0.0.1", srv("_etcd-client", "one", server.client_port)
        )
        code, text = nameserver.tortie("get", "nodes", ETCD_DISCOVERY_SRV=CLUSTER)
        assert code == 0, text
    finally:
        server.kill()


def test_what_is_not_in_the_domain_name_system(nameserver: Nameserver) -> None:
    nameserver.serve(f"--address=/one.{CLUSTER}/127.0.0.1")
    code, text = nameserver.tortie("get", "nodes", ETCD_DISCOVERY_SRV=CLUSTER)
    assert (code, "there is no SRV record _etcd-client-ssl._tcp.calico.test" in text) == (1, True)
    code, text = nameserver.tortie("get", "nodes", ETCD_DISCOVERY_SRV="-; rm")
    assert (code, "no name of a domain" in text) == (1, True)
    nameserver.stop()
    code, text = nameserver.tortie("get", "nodes", ETCD_DISCOVERY_SRV=CLUSTER)
    assert (code, "no answer of the domain name system" in text) == (1, True), text


def test_priority_comes_before_weight() -> None:
    services = [Service(2, 9, 1, "c"), Service(1, 0, 1, "b"), Service(1, 60_000, 1, "a")]
    orders = ["".join(found.host for found in in_order(services)) for _ in range(200)]
    assert all(order.endswith("c") for order in orders)
    assert orders.count("abc") > 190


QUESTION = b"\0\1\x81\x80\0\1\0\1\0\0\0\0" + b"\1x\4test\0" + b"\0\x21\0\1"
RECORD = b"\xc0\x0c" + b"\0\x21\0\1" + b"\0\0\0\x3c" + b"\0\x0d" + b"\0\1\0\2\x09\x4b"


def test_answers_are_read_whatever_they_are() -> None:
    assert parse(QUESTION + RECORD + b"\4etcd\xc0\x0e") == [Service(1, 2, 2379, "etcd.test")]
    assert parse(QUESTION + RECORD + b"\0") == [], "a lone dot says that there is none"
    for damaged in (
        QUESTION + RECORD[:9],
        QUESTION + RECORD + b"\xc0\x2e",
        QUESTION + RECORD + b"\4a/;b\0",
    ):
        with pytest.raises(Unavailable, match="damaged"):
            parse(damaged)
