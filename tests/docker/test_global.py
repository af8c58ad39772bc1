"""Networks of global scope: made on one host, there on all, by Docker's own cluster store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docker.conftest import Hosts, two_hosts
from tests.docker.dockerd import QUIET, eventually
from tests.e2e.live import LiveLab

from tortie.lab import processes
from tortie.lab.description import ETCD_ORDINAL, FABRIC

pytestmark = pytest.mark.timeout(180)  # daemons, on a machine that may be busy

PORT = 2479


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with two_hosts("gl", QUIET) as made:
        store = start_store(made.live, made.h1.directory.parent)
        for docker in made.dockers:
            advertise = f"--cluster-advertise={docker.host.ipv4.address_text}:2376"
            docker.options = (*QUIET, f"--cluster-store=etcd://{store}", advertise)
            docker.start_service("--scope", "global")
            docker.start_daemon()
            docker.import_image()
        yield made


def start_store(live: LiveLab, directory: Path) -> str:
    """An etcd that speaks the API of version 2, for Docker alone; its host and port."""
    address = f"{FABRIC.address(ETCD_ORDINAL).address_text}:{PORT}"
    peer = f"http://{FABRIC.address(ETCD_ORDINAL).address_text}:{PORT + 1}"
    processes.start(
        live.lab.fabric_namespace,
        ["etcd", "--enable-v2", "--name", "docker", "--data-dir", str(directory / "etcd"),
         "--listen-client-urls", f"http://{address}", "--advertise-client-urls",
         f"http://{address}", "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
         "--initial-cluster", f"docker={peer}"],
        directory / "etcd.log",
    )  # fmt: skip
    return address


def test_a_network_is_made_once_and_names_work_across_hosts(hosts: Hosts) -> None:
    h1, h2 = hosts.h1, hosts.h2
    h1.network("everywhere")
    assert eventually(lambda: "everywhere" in h2.ok("network", "ls"))
    web = h1.run("web", "everywhere", "--label", "org.projectcalico.label.role=web")
    h2.run("peer", "everywhere")
    assert eventually(lambda: h2.reaches("peer", web["IPAddress"]))
    assert any('"role":"web"' in text for text in hosts.endpoints().values())
    # Docker's store tells every daemon of every endpoint, and its name service answers for them.
    said = h2.exec("peer", "nslookup", "web").stdout
    assert web["IPAddress"] in said, said
    # The network goes where it was not made.
    h1.ok("rm", "-f", "web")
    h2.ok("rm", "-f", "peer")
    h2.ok("network", "rm", "everywhere")
    assert eventually(lambda: "everywhere" not in h1.ok("network", "ls"))
    assert eventually(lambda: not hosts.left_overs()), hosts.left_overs()
