"""Packets for services that nobody serves do not go round between this host and its router."""

import errno
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from tests.netns.dataplane_host import (
    ALLOW_ALL,
    BRIEF,
    Host,
    Workload,
    hears,
    wait_until_local,
    workloads,
)
from tests.netns.outside import End, Machine, machines, udp

from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList
from tortie.kernel.netns import run_in
from tortie.lib.ip import Network, parse_address, parse_network

pytestmark = pytest.mark.usefixtures("netns")

both_families = pytest.mark.parametrize("family", [4, 6])
SERVICES = {4: parse_network("10.96.0.0/12"), 6: parse_network("fd96::/112")}
SERVICE = {4: parse_address("10.96.0.10"), 6: parse_address("fd96::a")}
WEB = 8080


@pytest.fixture
def host(request: pytest.FixtureRequest, netns: None) -> Iterator[Host]:
    made = Host(Settings(host="h1", service_loops=getattr(request, "param", "Drop")))
    made.allow_all_profile()
    yield made
    made.close()


rejecting = pytest.mark.parametrize("host", ["Reject"], indirect=True)
without = pytest.mark.parametrize("host", ["Disabled"], indirect=True)


@pytest.fixture
def router(host: Host) -> Iterator[Machine]:
    """This host's, that has been told by BGP that services are here. It counts what it gets."""
    with machines(host, "up0") as made:
        far, near = made[0].addresses, made[0].near
        default = (
            f"ip route add default via {far[4].address_text}; "
            f"ip -6 route add default via {far[6].address_text}"
        )
        subprocess.run(["sh", "-ec", default], check=True)
        # Redirects share the limit of other ICMP to the same machine.
        quiet = ("all.send_redirects=0", "up0.send_redirects=0")
        subprocess.run(["sysctl", "-qw", *(f"net.ipv4.conf.{one}" for one in quiet)], check=True)
        made[0].run(
            f"""sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            ip route add {SERVICES[4]} via {near[4].address_text}
            ip -6 route add {SERVICES[6]} via {near[6].address_text}
            nft -f - <<END
            table inet count {{
                counter got {{
                }}
                chain prerouting {{
                    type filter hook prerouting priority 0;
                    ip daddr {SERVICES[4]} counter name got
                    ip6 daddr {SERVICES[6]} counter name got
                }}
            }}
END"""
        )
        yield made[0]


@pytest.fixture
def pair(host: Host) -> Iterator[tuple[Workload, Workload]]:
    with workloads(host, 2) as made:
        for one in made:
            host.endpoint(one)
        yield made[0], made[1]


def rounds(router: Machine, client: End, family: int) -> int:
    """How often the router gets one datagram for a service."""

    def count() -> int:
        command = ["nft", "reset", "counter", "inet", "count", "got"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r"packets (\d+)", listed)
        assert found is not None
        return int(found[1])

    run_in(router.namespace, count)
    with closing(client.socket(family, socket.SOCK_DGRAM)) as here:
        here.settimeout(BRIEF)
        here.sendto(b"ask", (SERVICE[family].address_text, WEB))
        with suppress(OSError):
            here.recv(16)
    return run_in(router.namespace, count)


def is_there(host: Host) -> bool:
    return any("services4" in block for block in host.ruleset())


@both_families
def test_it_ends_here_while_these_are_networks_of_services(
    host: Host, router: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    client, _ = pair
    host.apply()
    assert not is_there(host)
    assert rounds(router, client, family) > 5, "it goes round"
    host.update(Kind.SERVICE_NETWORK, SERVICES[family], True)
    host.update(Kind.SERVICE_NETWORK, SERVICE[family], True)  # inside the other one
    host.apply()
    assert rounds(router, client, family) == 0, "nor does it get there"
    assert rounds(router, router, family) == 0, "what comes from there does not come back"
    host.update(Kind.SERVICE_NETWORK, SERVICES[family], None)
    host.apply()
    assert rounds(router, client, family) == 0, "by its own"
    host.update(Kind.SERVICE_NETWORK, SERVICE[family], None)
    host.apply()
    assert rounds(router, client, family) > 5
    assert not is_there(host)
    host.update(Kind.SERVICE_NETWORK, SERVICES[10 - family], True)
    host.apply()
    assert rounds(router, client, family) > 5, "the other family's"


@without
def test_not_where_that_is_not_wanted(
    host: Host, router: Machine, pair: tuple[Workload, Workload]
) -> None:
    for network in SERVICES.values():
        host.update(Kind.SERVICE_NETWORK, network, True)
    host.apply()
    assert not is_there(host)
    assert rounds(router, pair[0], 4) > 5
    host.update(Kind.SERVICE_NETWORK, SERVICES[4], None)
    host.apply()


@rejecting
@both_families
def test_who_asks_is_told(
    host: Host, router: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    host.update(Kind.SERVICE_NETWORK, SERVICES[family], True)
    host.apply()
    for client in (pair[0], router):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with closing(client.socket(family, kind)) as here:
                here.settimeout(5)
                with pytest.raises(OSError) as caught:  # noqa: PT012 - either may be told
                    here.connect((SERVICE[family].address_text, WEB))
                    here.send(b"ask")
                    here.recv(16)
                assert caught.value.errno == errno.ECONNREFUSED, (client, kind)
        assert rounds(router, client, family) == 0


@both_families
def test_what_is_served_gets_there(
    host: Host, router: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    """By translation, as kube-proxy serves it; or by a workload that has such an address."""
    client, server = pair
    host.update(Kind.SERVICE_NETWORK, SERVICES[family], True)
    host.apply()
    word = {4: "ip", 6: "ip6"}[family]
    to = server.address(family)
    assert not udp(client, server, SERVICE[family], WEB, serving=to, answered=False, patience=BRIEF)
    table = f"""table {word} services {{
        chain prerouting {{
            type nat hook prerouting priority -100;
            {word} daddr {SERVICE[family].address_text} dnat to {to.address_text}
        }}
    }}"""
    subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)
    assert udp(client, server, SERVICE[family], WEB, serving=to, patience=2)
    assert udp(router, server, SERVICE[family], WEB, serving=to, patience=2)
    subprocess.run(["nft", "delete", "table", word, "services"], check=True)
    own = Network(family, SERVICE[family].value + 1, SERVICE[family].length)
    server.run(f"ip addr add {own} dev eth0 {'nodad' if family == 6 else ''}")
    if family == 6:
        run_in(server.namespace, lambda: wait_until_local(own))
    endpoint = Endpoint(server.interface, (own, server.ipv4, server.ipv6), server.mac, OPEN, OPEN)
    host.update(Kind.ENDPOINT, server.id, endpoint)
    host.update(Kind.ROUTE, own, Route(RouteType.LOCAL_WORKLOAD, interface=server.interface))
    host.apply()
    for one in (client, router):
        assert udp(one, server, own, WEB, patience=2)
    assert hears(client, server, WEB, family), "nothing else is concerned"


@both_families
def test_clients_among_the_services_are_answered(
    host: Host, router: Machine, pair: tuple[Workload, Workload], family: int
) -> None:
    """Networks of external addresses may be those where clients are, too."""
    host.update(Kind.SERVICE_NETWORK, router.address(family), True)
    host.apply()
    server = pair[1]
    assert udp(router, server, server.address(family), WEB)
    to = router.address(family)
    assert not udp(server, router, to, WEB, answered=False, patience=BRIEF), "but not asked"


OPEN = PolicyList(profiles=(ALLOW_ALL,))


def test_a_restart_writes_nothing(host: Host) -> None:
    for _ in range(2):
        host.update(Kind.SERVICE_NETWORK, SERVICES[4], True)
        host.update(Kind.SERVICE_NETWORK, SERVICES[6], True)
        host.apply()
        assert is_there(host)
        generation = host.generation()
        host.restart()
        host.allow_all_profile()
    host.update(Kind.SERVICE_NETWORK, SERVICES[4], True)
    host.update(Kind.SERVICE_NETWORK, SERVICES[6], True)
    host.apply()
    assert host.generation() == generation
    host.restart()
    host.apply()
    assert not is_there(host), "nor stays what nobody wants any more"
