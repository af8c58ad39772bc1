"""A6, A7, A14: the host's own services, its loopback, its marks."""

import socket
import subprocess
from functools import partial

import pytest
from tests.attacks import packets
from tests.attacks.arena import HOST4, HOST6, NODE4, NODE6, Arena
from tests.attacks.packets import ICMP, ICMPV6, TCP
from tests.netns.dataplane_host import ALLOW_ALL, tier

from tortie.desired import policy
from tortie.desired.policy import PolicyList
from tortie.lib.ip import parse_network

OWN4, OWN6, OPEN4 = "10.65.0.1", "fd00:65::1", "10.65.0.2"
SERVICES = (22, 53, 179, 2379, 2380, 4789, 5473, 6443, 9091, 9099, 10250)
"""SSH, DNS, BGP, etcd, VXLAN, Typha, Kubernetes, metrics, health, kubelet."""
HOST_ADDRESSES = (HOST4, "169.254.1.1")


def ask(field: Arena, source: str, to: str, ports: tuple[int, ...] = SERVICES) -> list[bytes]:
    """For each port a SYN and a datagram; and an echo request."""
    outer = packets.ipv6 if ":" in to else packets.ipv4
    made = []
    for port in ports:
        ends = (40000, port)
        syn = packets.tcp_syn(source, to, field.mark(), ports=ends)
        made.append(outer(source, to, TCP, syn))
        made.append(packets.datagram(source, to, field.mark(), ports=ends))
    if ":" in to:
        echo = packets.icmpv6(source, to, 128, b"\0\2\0\1" + field.mark())
        made.append(outer(source, to, ICMPV6, echo))
    else:
        made.append(outer(source, to, ICMP, packets.icmp(8, b"\0\2\0\1" + field.mark())))
    return [field.frame(packet) for packet in made]


@pytest.mark.parametrize("to", [HOST4, HOST6])
def test_a6_services_of_the_host(field: Arena, to: str) -> None:
    source = OWN6 if ":" in to else OWN4
    field.assert_stopped(partial(ask, field, source, to), at={"host"})


def test_a6_services_that_really_listen(field: Arena) -> None:
    """With sockets: nothing is answered, not even refused."""
    with socket.create_server((HOST4, 2379)), socket.create_server(("127.0.0.1", 2380)):
        for to in ((HOST4, 2379), ("127.0.0.1", 2380)):

            def connects(to: tuple[str, int] = to) -> bool:
                with field.attacker.socket(4, socket.SOCK_STREAM) as client:
                    try:
                        client.connect(to)
                    except OSError:
                        return False
                    return True

            # A container makes its own 127/8 routable: see route_localnet in docs of the kernel.
            field.attacker.run(
                "sysctl -qw net.ipv4.conf.all.route_localnet=1;"
                "ip addr del 127.0.0.1/8 dev lo 2>/dev/null || true;"
                "ip route replace 127.0.0.0/8 via 169.254.1.1 src 10.65.0.1;"
                "ip route del table local local 127.0.0.0/8 dev lo 2>/dev/null || true"
            )
            with open("/proc/sys/net/ipv4/conf/cali1/route_localnet", "w") as file:
                file.write("1")
            field.host.conntrack.delete(field.host.conntrack.flows())
            assert not connects(), to
            with field.unprotected():
                assert connects(), f"{to}: it listens"
    field.attacker.run("ip addr replace 127.0.0.1/8 dev lo; ip route del 127.0.0.0/8 || true")


LOOPBACK = (
    (OWN4, "127.0.0.1"),
    (OWN4, "127.8.9.10"),
    ("127.0.0.1", HOST4),
    ("127.0.0.1", "127.0.0.1"),
)


@pytest.mark.parametrize(("source", "to"), LOOPBACK)
def test_a6_loopback_with_route_localnet(accepting: Arena, source: str, to: str) -> None:
    """Whoever set route_localnet (kube-proxy does), and whatever workloads may do else."""
    for name in ("all", "cali1"):
        with open(f"/proc/sys/net/ipv4/conf/{name}/route_localnet", "w") as file:
            file.write("1")
    build = partial(ask, accepting, source, to)
    assert accepting.send(build) == {}
    at = {"gate", "host"} if source == OWN4 else {"gate"}
    accepting.assert_stopped(build, at=at)


def test_a6_loopback_of_ipv6(accepting: Arena) -> None:
    """The kernel refuses it before any hook; and so do we."""
    assert accepting.send(partial(ask, accepting, OWN6, "::1")) == {}
    with accepting.unprotected():
        assert accepting.send(partial(ask, accepting, OWN6, "::1")) == {}
        assert accepting.send(partial(ask, accepting, OWN6, HOST6))["host"]


def test_a6_where_workloads_may_reach_the_host(accepting: Arena) -> None:
    """The same packets, which the setting lets in: VXLAN's port is the exception."""
    there = accepting.send(partial(ask, accepting, OWN4, HOST4))
    assert there == {"gate": 2 * len(SERVICES) + 1, "host": 2 * len(SERVICES)}


METADATA4, MANAGEMENT4, METADATA6 = "169.254.169.254", "198.51.100.7", "fd00:ec2::254"


def test_a7_infrastructure(field: Arena) -> None:
    """A deny tier in front of everything holds whatever the tiers behind allow."""
    for address in (METADATA4, MANAGEMENT4):
        subprocess.run(["ip", "route", "add", address, "via", NODE4], check=True)
    subprocess.run(["ip", "route", "add", METADATA6, "via", NODE6], check=True)
    by_family = {
        4: tuple(map(parse_network, (METADATA4, MANAGEMENT4))),
        6: (parse_network(METADATA6),),
    }
    rules = tuple(
        policy.Rule("Deny", family=family, destination=policy.Side(networks=networks))
        for family, networks in by_family.items()
    )
    deny = field.host.policy("infrastructure", egress=rules, tier="infra")
    guarded = PolicyList((tier(deny, name="infra", default="Pass"),), profiles=(ALLOW_ALL,))

    def build() -> list[bytes]:
        return [
            *ask(field, OWN4, METADATA4, (80,)),
            *ask(field, OWN4, MANAGEMENT4, (443,)),
            *ask(field, OWN6, METADATA6, (80,)),
        ]

    assert field.send(build)["node"] == 9, "off by default, as in Calico"
    field.host.endpoint(field.attacker, egress=guarded)
    field.host.apply()
    try:
        field.assert_stopped(build, at={"node"})
    finally:
        field.host.endpoint(field.attacker)
        field.host.apply()


def test_a14_marks(field: Arena) -> None:
    """No mark of ours that a packet brings survives: the Pass bit would skip tiers."""
    foreign = """
table inet marks {
    chain before {
        type filter hook prerouting priority -310
        iifname "cali1" meta mark set 0xffffffff
    }
    chain behind {
        type filter hook prerouting priority -298
        meta mark & 0xffff0000 != 0x0 log prefix "marked" group 7
    }
}"""
    subprocess.run(["nft", "-f", "-"], input=foreign, text=True, check=True)
    passing = field.host.policy("marks-pass", egress=(policy.Rule("Deny"),), tier="second")
    first = field.host.policy("marks-none", tier="first")
    lists = PolicyList(
        (tier(first, name="first"), tier(passing, name="second")), profiles=(ALLOW_ALL,)
    )
    field.host.endpoint(field.guarded, ingress=lists)
    field.host.apply()
    try:
        build = partial(ask, field, OWN4, "10.65.0.3", (80,))
        there = field.send(build)
        assert there == {"gate": 3}, "neither marked nor let through"
        with field.unprotected():
            assert field.send(build) == {"gate": 3, "marked": 3, "forwarded": 3, "guarded": 3}
    finally:
        subprocess.run(["nft", "delete table inet marks"], check=True)
        field.host.endpoint(field.guarded, ingress=PolicyList())
        field.host.apply()


def test_a14_a_socket_s_mark_stays_in_its_namespace(field: Arena) -> None:
    """SO_MARK in the container, with CAP_NET_ADMIN there."""
    watching = """
table inet marks {
    chain first {
        type filter hook prerouting priority -310
        iifname "cali1" meta mark != 0x0 log prefix "marked" group 7
    }
}"""
    subprocess.run(["nft", "-f", "-"], input=watching, text=True, check=True)
    try:

        def build() -> list[bytes]:
            with field.attacker.socket(4, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x7FFF0000)
                sender.sendto(field.mark(), (NODE4, 4001))
            return []

        there = field.send(build)
        assert there["node"] == 1
        assert "marked" not in there
    finally:
        subprocess.run(["nft", "delete table inet marks"], check=True)


def test_a14_no_type_of_service_opens_anything(field: Arena) -> None:
    def build(to4: str = "10.65.0.3", to6: str = "fd00:65::3") -> list[bytes]:
        made = []
        for tos in range(0, 256, 3):
            body = packets.udp(OWN4, to4, field.mark(), ports=(4000, tos + 1))
            made.append(packets.ipv4(OWN4, to4, 17, body, tos=tos))
            body = packets.udp(OWN6, to6, field.mark(), ports=(4000, tos + 1))
            made.append(packets.ipv6(OWN6, to6, 17, body, traffic_class=tos))
        return [field.frame(packet) for packet in made]

    field.assert_stopped(build, at={"guarded"})
    assert field.send(partial(build, OPEN4, "fd00:65::2"))["open"] == 2 * len(range(0, 256, 3))
