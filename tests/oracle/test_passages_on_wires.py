"""What a host's kernel does with packets at host endpoints is what the reference evaluator says.

As `test_packets`, for packets to the host, from it, and passing by, where interfaces have host
endpoints: forward, normal and untracked policy, failsafe ports, the endpoint-to-host action.
"""

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.attacks.arena import open_log, packet_socket
from tests.graph.resources import State
from tests.netns.dataplane_host import HOST_MAC, Host, Workload
from tests.oracle.clusters import SLOTS
from tests.oracle.frames import ETHERNET_BYTES, frame, number_in
from tests.oracle.host_worlds import BACK, UPLINK, host_interfaces, host_world, passages
from tests.oracle.test_passages_on_paper import HOST, is_possible, settings_for

from tortie.calc.graph import Graph
from tortie.explain.oracle import workload_with
from tortie.explain.passage import Passage, decide_passage, settings_of
from tortie.kernel import netlink
from tortie.kernel.netns import create_anonymous, enter
from tortie.kernel.rtnl.link import VethPeer, parse_mac
from tortie.lib.ip import Network

SEEDS_PER_CHUNK, CHUNKS, PACKETS = 15, 4, 120
QUIET_SECONDS = 0.15
PEER_MACS = {UPLINK: "02:00:00:00:01:02", BACK: "02:00:00:00:01:03"}
_LOG_PAYLOAD = 9
"""NFULA_PAYLOAD."""

# A redirect quotes the packet that it is about, dropped or not: it would count as arrived.
_ROUTES = """
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.netfilter.nf_conntrack_checksum=0
sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.uplink.send_redirects=0
sysctl -qw net.ipv4.conf.uplink.rp_filter=0 net.ipv4.conf.back.rp_filter=0
ip route add 203.0.113.0/24 via 192.168.7.2
ip -6 route add 2001:db8::/64 via fd07::2
"""
_WITNESS = """table inet seen {
    chain at-host { type filter hook input priority 350; log prefix "host" group 7; }
}
"""


class HostOnWires:
    """Made in an empty namespace, the calling thread's."""

    def __init__(self) -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.host = Host()
        self._peers = {name: self._join(name) for name in (UPLINK, BACK)}
        self._workloads = {
            slot.interface: Workload(slot.number, self.host.rtnl)
            for slot in SLOTS
            if slot.host == HOST
        }
        routes = _ROUTES + "".join(
            f"ip route add {slot.ipv4} via 192.168.7.2\nip -6 route add {slot.ipv6} via fd07::2\n"
            for slot in SLOTS
            if slot.host != HOST
        )
        subprocess.run(["sh", "-ec", routes], check=True)
        subprocess.run(["nft", "-f", "-"], input=_WITNESS, text=True, check=True)
        self._log = open_log()
        self._wires = {name: packet_socket(one, "eth0") for name, one in self._peers.items()}
        self._wires |= {
            name: packet_socket(one.namespace, "eth0") for name, one in self._workloads.items()
        }
        self._raw = {
            4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
            6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        }

    def close(self) -> None:
        for wire in (*self._wires.values(), *self._raw.values()):
            wire.close()
        self._log.close()
        self.host.close()
        for namespace in (*self._peers.values(), *(w.namespace for w in self._workloads.values())):
            os.close(namespace)

    def enforce(self, state: State) -> None:
        self.host.settings = settings_for(settings_of(state, HOST), seen=False)
        graph = Graph(HOST, self.host.restart().on_update)
        for key, value in state.items():
            graph.on_update(key, value)
        graph.flush()
        self.host.resync()
        assert not self.host.dataplane.refused
        self.host.conntrack.delete(self.host.conntrack.flows())

    def arrivals(self, sent: list[Passage]) -> list[bool]:
        """Whether each has come to where it should go."""
        self._listen()
        for number, passage in enumerate(sent):
            self._send(passage, number)
        found = self._listen()
        return [
            (passage.goes_out.name if passage.goes_out else "host", number) in found
            for number, passage in enumerate(sent)
        ]

    def _send(self, passage: Passage, number: int) -> None:
        came_in = passage.came_in
        source = PEER_MACS.get(came_in.name, "") if came_in else ""
        if came_in and came_in.workload:
            source = self._workloads[came_in.name].mac
        macs = {"source_mac": parse_mac(source or HOST_MAC), "destination_mac": parse_mac(HOST_MAC)}
        data = frame(passage.packet, number, **macs)
        if came_in:
            self._wires[came_in.name].send(data)
            return
        to = passage.packet.destination
        with suppress(PermissionError):  # how the kernel tells of a drop on the way out
            self._raw[to.family].sendto(data[ETHERNET_BYTES:], (to.address_text, 0))

    def _listen(self) -> set[tuple[str, int]]:
        """Places and numbers, until nothing has come for a while."""
        found = set()
        poll = select.poll()
        poll.register(self._log, select.POLLIN)
        for wire in self._wires.values():
            poll.register(wire, select.POLLIN)
        while poll.poll(QUIET_SECONDS * 1000):
            for message in self._log.events():
                attributes = netlink.attribute_map(message.payload[4:])
                payload = bytes(attributes.get(_LOG_PAYLOAD, b""))
                found.add(("host", number_in(payload)))
            for name, wire in self._wires.items():
                found.update((name, number_in(one)) for one in _received(wire))
        return {(place, number) for place, number in found if number is not None}

    def _join(self, name: str) -> int:
        """A wire to somebody outside."""
        namespace = create_anonymous()
        mac = PEER_MACS[name]
        peer = VethPeer(name="eth0", namespace=namespace, mac=parse_mac(mac))
        self.host.rtnl.create_veth(name, peer, mac=parse_mac(HOST_MAC))
        addresses = host_interfaces(HOST)[name].addresses
        script = f"ip link set {name} up\n"
        for address in addresses:
            length, rest = (24, "") if address.family == 4 else (64, " nodad")
            script += f"ip addr add {address.address_text}/{length} dev {name}{rest}\n"
        if name == UPLINK:
            for other in ("192.168.7.2", "fd07::2"):
                script += f"ip neigh add {other} lladdr {mac} dev {name}\n"
        subprocess.run(["sh", "-ec", script], check=True)
        with enter(namespace):
            subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)
        return namespace


def _received(wire: socket.socket) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        while True:
            data, (_, _, kind, *_) = wire.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING:
                yield data


def _own() -> frozenset[Network]:
    return frozenset(a for one in host_interfaces(HOST).values() for a in one.addresses)


def can_be_sent(state: State, passage: Passage) -> bool:
    """The others are for paper: translated ones, those on loopback, and ways that routing here
    would not take."""
    packet, goes_out = passage.packet, passage.goes_out
    loopback = host_interfaces(HOST)["lo"].addresses
    if passage.translated or packet.source in loopback or packet.destination in loopback:
        return False
    if passage.came_in is not None and packet.source in _own():
        return False
    if goes_out is None:
        return passage.came_in is not None and is_possible(state, passage)
    if goes_out.workload:
        return workload_with(state, packet.destination) is not None and is_possible(state, passage)
    return goes_out.name == UPLINK and is_possible(state, passage)


@pytest.fixture(scope="module")
def wires() -> Iterator[HostOnWires]:
    namespace = create_anonymous()
    with enter(namespace):
        made = HostOnWires()
        yield made
        made.close()
    os.close(namespace)


def distinct(sent: Iterator[Passage]) -> list[Passage]:
    """No two of one connection."""
    found: dict[frozenset[object], Passage] = {}
    for one in sent:
        packet = one.packet
        ends = frozenset(
            {(packet.source, packet.source_port), (packet.destination, packet.destination_port)}
        )
        found.setdefault(frozenset({ends, packet.protocol}), one)
    return list(found.values())


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_packets_at_host_endpoints_meet_the_fate_that_the_reference_says(
    wires: HostOnWires, chunk: int
) -> None:
    first = 300_000 + chunk * SEEDS_PER_CHUNK
    passed = count = 0
    for seed in range(first, first + SEEDS_PER_CHUNK):
        state = host_world(seed)
        wires.enforce(state)
        possible = (one for one in passages(state, HOST, seed, PACKETS) if can_be_sent(state, one))
        sent = distinct(possible)
        for passage, arrived in zip(sent, wires.arrivals(sent), strict=True):
            decision = decide_passage(state, passage)
            assert arrived == decision.allowed, (seed, passage, decision)
            passed += arrived
            count += 1
    assert count > SEEDS_PER_CHUNK * PACKETS * 0.15
    assert 0.1 < passed / count < 0.9, "both happen often"
