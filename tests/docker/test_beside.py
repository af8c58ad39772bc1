"""Docker with its default settings: bridge, iptables, published ports; and our networks beside."""

import subprocess
from collections.abc import Iterator

import pytest
from tests.docker.conftest import Hosts, two_hosts
from tests.docker.dockerd import IMAGE, WEB, eventually

from tortie.kernel import sysctl

pytestmark = pytest.mark.timeout(180)  # daemons, on a machine that may be busy

OPEN = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: open}
spec: {selector: role == 'open', ingress: [{action: Allow}], egress: [{action: Allow}]}
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """dockerd finds forwarding off, as on a host where it came first."""
    with two_hosts("by", ()) as made:
        for docker in made.dockers:
            made.live.in_host(docker.host.name, lambda: sysctl.set_global("ipv4/ip_forward", 0))
            docker.start_daemon()
            docker.import_image()
            docker.start_service()
        yield made


def from_host(hosts: Hosts, host: str, address: str, port: int) -> bool:
    """Does somebody on that host get an answer?"""

    def ask() -> bytes:
        return subprocess.run(
            ["busybox", "nc", "-w", "1", address, str(port)],
            input=b"GET / HTTP/1.0\r\n\r\n", capture_output=True, check=False,
        ).stdout  # fmt: skip

    return b"here" in hosts.live.in_host(host, ask)


def test_both_work_on_the_same_host(hosts: Hosts) -> None:
    h1, h2 = hosts.h1, hosts.h2
    forward = hosts.live.command_in("h1", "iptables", "-S", "FORWARD").stdout
    assert "-P FORWARD DROP" in forward, "what Docker does"
    for docker in (h1, h2):
        docker.network("net1")
    web = h1.run("web", "net1")["IPAddress"]
    h2.run("peer", "net1")
    assert eventually(lambda: h2.reaches("peer", web)), "in spite of Docker's rules"

    h1.ok("run", "-d", "--name", "shop", "-p", "8080:80", IMAGE, *WEB)
    address = h1.host.ipv4.address_text
    assert eventually(lambda: from_host(hosts, "h2", address, 8080)), "a published port"
    inner = h1.inspect("shop")["NetworkSettings"]["IPAddress"]
    h1.ok("run", "-d", "--name", "neighbour", IMAGE, *WEB)
    assert eventually(lambda: h1.reaches("neighbour", inner)), "on Docker's bridge"

    # One container on both: published on the bridge, a member of ours.
    h1.ok("network", "connect", "net1", "shop")
    assert eventually(lambda: h1.reaches("shop", web))
    assert eventually(lambda: h2.reaches("peer", h1.on("shop", "net1")["IPAddress"]))
    assert from_host(hosts, "h2", address, 8080)
    h2.ok("run", "-d", "--name", "stranger", IMAGE, *WEB)
    assert not h2.reaches("stranger", web), "a bridge is no member"

    # Rules of Docker's and of ours outlive a restart of either.
    h1.stop_daemon()
    h1.start_daemon()
    h1.ok("start", "shop")
    assert eventually(lambda: from_host(hosts, "h2", address, 8080))
    h1.ok("start", "web")
    assert eventually(lambda: h2.reaches("peer", h1.on("web", "net1")["IPAddress"]))
    rules = hosts.live.command_in("h1", "iptables", "-S", "DOCKER-USER").stdout
    assert rules.count("cali+") == 2, rules
