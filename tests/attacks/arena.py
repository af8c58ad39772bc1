"""A host with an attacker among its workloads, and everywhere an attack could turn up.

    attacker ─ cali1 ┐          ┌ uplink ─ node   another machine, outside of the pool
    open     ─ cali2 ┤ the host ┤
    guarded  ─ cali3 ┘          └ its own sockets

`open` and the attacker may do whatever policy can allow; nothing may reach `guarded`.

Every packet of an attack carries a number. Where it has come to is told by
packet sockets on the workloads' and the node's wires, and on the host by the
rules of a foreign table, `witness`, that log behind each hook of ours. So an
attack that the kernel itself would refuse later is still seen to be refused by us.
"""

import os
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from itertools import count

from tests.attacks.packets import IPV4, IPV6, datagram, ethernet, is_ipv6
from tests.netns.dataplane_host import HOST_MAC, Host, Workload, wait_until_local

from tortie.dataplane.settings import Settings
from tortie.desired.policy import PolicyList
from tortie.kernel.netlink import (
    NETLINK_NETFILTER,
    Message,
    Request,
    attribute,
    attribute_be32,
    attribute_map,
    attribute_u8,
)
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.netns import create_anonymous, enter, open_socket_in, run_in
from tortie.kernel.rtnl.link import VethPeer, parse_mac
from tortie.lib.ip import parse_address

Build = Callable[[], list[bytes]]
"""Makes an attack's frames, with a new number in each."""

DELIVERED = frozenset({"host", "forwarded", "open", "guarded", "node"})
"""Places where no attack may turn up. `gate` (behind the source check) and `arp` are others."""

NODE4, NODE6 = "192.0.2.2", "fd00:2::2"
HOST4, HOST6 = "192.0.2.1", "fd00:2::1"
NODE_MAC = "02:00:00:00:02:02"
GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"

_MAGIC = b"\x9dtortie\x9d"
_NUMBER = struct.Struct("!I")
_PATIENCE_SECONDS = 2.0
_QUIET_SECONDS = 0.01

_WITNESS = """
table inet witness {
    chain at-gate {
        type filter hook prerouting priority -299
        log prefix "gate" group 7
    }
    chain at-forward {
        type filter hook forward priority 300
        log prefix "forwarded" group 7
    }
    chain at-host {
        type filter hook input priority 300
        log prefix "host" group 7
    }
}
table arp witness {
    chain at-arp {
        type filter hook input priority 300
        log prefix "arp" group 7
    }
}
"""

_LINK_DEFAULTS = {
    "ipv4": {"rp_filter": 0, "accept_redirects": 1, "accept_source_route": 1, "route_localnet": 1},
    "ipv6": {"accept_ra": 2, "accept_redirects": 1, "accept_source_route": 1},
}
"""Without protection: what the kernel does at its most credulous."""


class Arena:
    """Made, and used, in the calling thread's namespace, which is empty before."""

    def __init__(
        self, namespace: int, settings: Settings | None = None, *, owned: bool = False
    ) -> None:
        self.namespace = namespace
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.host = Host(settings, owned=owned)
        self.attacker, self.open, self.guarded = (
            Workload(number, self.host.rtnl) for number in (1, 2, 3)
        )
        self.node = self._make_node()
        self._numbers = count(1)
        self._witness = open_log()
        _nft(_WITNESS)
        self.wire = self.wire_of(self.attacker)
        self._wires: dict[str, socket.socket] = {}
        self.rewire_places()
        self.host.allow_all_profile()
        self.host.endpoint(self.attacker)
        self.host.endpoint(self.open)
        self.host.endpoint(self.guarded, ingress=PolicyList())
        self.host.resync()
        assert self.host.dataplane.in_sync

    def close(self) -> None:
        for wire in (self.wire, *self._wires.values()):
            wire.close()
        self._witness.close()
        self.host.close()
        for workload in (self.attacker, self.open, self.guarded):
            os.close(workload.namespace)
        os.close(self.node)

    # Making packets.

    def mark(self) -> bytes:
        """A new number, as payload."""
        return _MAGIC + _NUMBER.pack(next(self._numbers))

    def frame(self, packet: bytes, *, destination: bytes | None = None) -> bytes:
        """An IP packet from the attacker's MAC to the host's, or to `destination`."""
        ethertype = IPV6 if is_ipv6(packet) else IPV4
        to = parse_mac(HOST_MAC) if destination is None else destination
        return ethernet(to, parse_mac(self.attacker.mac), ethertype, packet)

    # Sending them.

    def send(self, build: Build, *, wire: socket.socket | None = None) -> dict[str, int]:
        """Send what `build` makes; how many of these packets came to which place.

        Args:
            wire: whose; the attacker's by default.
        """
        self._forget_connections()
        self._listen(None)
        first = next(self._numbers)
        for frame in build():
            (wire or self.wire).send(frame)
        # Behind all of them one that is allowed: when it is there, they would be too.
        sentinel = next(self._numbers)
        self._send_sentinel(sentinel)
        seen = self._listen(sentinel)
        places: dict[str, int] = {}
        for place, number in seen:
            if first < number < sentinel:
                places[place] = places.get(place, 0) + 1
        return places

    @contextmanager
    def unprotected(self) -> Iterator[None]:
        """Without our tables, and with links as the kernel has them by default."""
        gone = "add table inet tortie; delete table inet tortie"
        gone += f"; {gone.replace('inet', 'arp')}"
        subprocess.run(["nft", gone], check=True)
        links = [link.name for link in self.host.rtnl.links() if link.name != "lo"]
        for name in ("all", *links):
            _write_sysctls(name, _LINK_DEFAULTS)
        try:
            yield
        finally:
            for name in ("all", "uplink"):
                _write_sysctls(name, {"ipv4": {"rp_filter": 0, "route_localnet": 0}})
            self.host.resync()
            assert self.host.dataplane.in_sync
            # What router advertisements have left.
            for what in (["route", "flush", "proto", "ra"], ["addr", "flush", "dynamic"]):
                subprocess.run(["ip", "-6", *what], check=True)
            subprocess.run(["ip", "-6", "route", "flush", "2001:db8::/64"], check=True)

    def assert_stopped(self, build: Build, *, at: Set[str]) -> None:
        """Nothing gets to a place of `at`, or is delivered; unprotected it gets to each of them."""
        with self.unprotected():
            unprotected = self.send(build)
        for place in at:
            assert unprotected.get(place), f"unprotected it is at {unprotected}, not at {place}"
        protected = self.send(build)
        through = {place: protected[place] for place in protected.keys() & (at | DELIVERED)}
        assert not through, f"got through to {through}"

    def rewire(self, interface: str) -> None:
        """The attacker's interface has another name, or was down: a new socket."""
        self.wire.close()
        self.wire = packet_socket(self.attacker.namespace, interface)

    def rewire_places(self) -> None:
        """After links were down: a socket is told so, and hears nothing more."""
        for wire in self._wires.values():
            wire.close()
        self._wires = {
            "open": self.wire_of(self.open),
            "guarded": self.wire_of(self.guarded),
            "node": packet_socket(self.node, "eth0"),
        }

    def wire_of(self, workload: Workload) -> socket.socket:
        return packet_socket(workload.namespace, "eth0")

    def arrivals_at(self, place: str) -> set[int]:
        """Numbers that have come to one of the wires, once all is quiet."""
        return {number for where, number in self._listen(None) if where == place}

    def _send_sentinel(self, number: int) -> None:
        source, to = self.attacker.ipv4.address_text, self.open.ipv4.address_text
        payload = _MAGIC + _NUMBER.pack(number)
        self.wire.send(self.frame(datagram(source, to, payload, ports=(4000, 9))))

    def _listen(self, until: int | None) -> set[tuple[str, int]]:
        """Places and numbers, until `until` has come to `open` and all is quiet."""
        seen: set[tuple[str, int]] = set()
        poll = select.poll()
        poll.register(self._witness, select.POLLIN)
        for wire in self._wires.values():
            poll.register(wire, select.POLLIN)
        waiting = until is not None
        while poll.poll((_PATIENCE_SECONDS if waiting else _QUIET_SECONDS) * 1000):
            for message in self._witness.events():
                seen.update(_logged(message))
            for place, wire in self._wires.items():
                seen.update((place, number) for number in _numbers_on(wire))
            waiting = until is not None and ("open", until) not in seen
        assert not waiting, "nothing at all gets through: the arena is broken"
        return seen

    def _forget_connections(self) -> None:
        self.host.conntrack.delete(self.host.conntrack.flows())

    def _make_node(self) -> int:
        node = create_anonymous()
        peer = VethPeer(name="eth0", namespace=node, mac=parse_mac(NODE_MAC))
        self.host.rtnl.create_veth("uplink", peer)
        script = f"""ip link set uplink up
            ip addr add {HOST4}/24 dev uplink; ip addr add {HOST6}/64 dev uplink nodad
            ip neigh add {NODE4} lladdr {NODE_MAC} dev uplink
            ip neigh add {NODE6} lladdr {NODE_MAC} dev uplink"""
        subprocess.run(["sh", "-ec", script], check=True)
        inside = f"""ip link set lo up; ip link set eth0 up
            ip addr add {NODE4}/24 dev eth0; ip addr add {NODE6}/64 dev eth0 nodad
            ip route add default via {HOST4}; ip -6 route add default via {HOST6}"""
        run_in(node, lambda: subprocess.run(["sh", "-ec", inside], check=True))
        wait_until_local(parse_address(HOST6))
        run_in(node, lambda: wait_until_local(parse_address(NODE6)))
        return node


@contextmanager
def arena(settings: Settings | None = None, *, owned: bool = False) -> Iterator[Arena]:
    """One in a namespace of its own; whoever uses it enters `namespace`."""
    namespace = create_anonymous()
    try:
        with enter(namespace):
            made = Arena(namespace, settings, owned=owned)
        try:
            yield made
        finally:
            with enter(namespace):
                made.close()
    finally:
        os.close(namespace)


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


def _write_sysctls(interface: str, wanted: dict[str, dict[str, int]]) -> None:
    for family, values in wanted.items():
        for key, value in values.items():
            path = f"/proc/sys/net/{family}/conf/{interface}/{key}"
            with open(path, "w") as file:
                file.write(str(value))


def packet_socket(namespace: int, interface: str) -> socket.socket:
    """A packet socket for every ethertype, which does not wait."""
    every = 0x0003  # ETH_P_ALL
    wire = open_socket_in(namespace, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every))
    wire.bind((interface, every))
    wire.setblocking(False)
    return wire


def _numbers_on(wire: socket.socket) -> Iterator[int]:
    while True:
        try:
            frame, (_, _, kind, *_) = wire.recvfrom(65536)
        except BlockingIOError:
            return
        if kind != socket.PACKET_OUTGOING and (number := _number_in(frame)) is not None:
            yield number


def _number_in(data: bytes) -> int | None:
    at = data.find(_MAGIC)
    end = at + len(_MAGIC) + _NUMBER.size
    return None if at < 0 or end > len(data) else _NUMBER.unpack_from(data, at + len(_MAGIC))[0]


# Logging to us, include/uapi/linux/netfilter/nfnetlink_log.h.

_LOG_GROUP = 7
_NFULNL_MSG_CONFIG = 4 << 8 | 1
_NFULA_PAYLOAD, _NFULA_PREFIX = 9, 10
_NFULA_CFG_CMD, _NFULA_CFG_MODE, _NFULA_CFG_QTHRESH = 1, 2, 5
_BIND, _COPY_PACKET = 1, 2


def open_log() -> NetlinkSocket:
    opened = NetlinkSocket.open(NETLINK_NETFILTER)
    header = struct.pack("!BBH", 0, 0, _LOG_GROUP)
    mode = struct.pack("!IBB", 0xFFFF, _COPY_PACKET, 0)
    for payload in (
        attribute_u8(_NFULA_CFG_CMD, _BIND),
        attribute(_NFULA_CFG_MODE, mode) + attribute_be32(_NFULA_CFG_QTHRESH, 1),
    ):
        opened.request(Request("listen to the log", _NFULNL_MSG_CONFIG, 0, header + payload))
    return opened


def _logged(message: Message) -> Iterator[tuple[str, int]]:
    attributes = attribute_map(message.payload[4:])
    if _NFULA_PAYLOAD in attributes and _NFULA_PREFIX in attributes:
        number = _number_in(bytes(attributes[_NFULA_PAYLOAD]))
        if number is not None:
            yield bytes(attributes[_NFULA_PREFIX]).rstrip(b"\0").decode(), number
