"""A host with workloads, as namespaces: what the dataplane tests are played on."""

import asyncio
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import count

from tests.netns.marking import MarkingRtnl

from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.driver.nftables import INET
from tortie.dataplane.settings import Settings
from tortie.desired import policy as desired
from tortie.desired.endpoint import Endpoint, EndpointId, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.desired.policy import Policy, PolicyId, PolicyList, TierPolicies
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.netlink import NETLINK_ROUTE
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.netns import create_anonymous, open_socket_in, run_in
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.objects import Rule
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import VethPeer, parse_mac
from tortie.kernel.rtnl.monitor import Group, decode
from tortie.lib.ip import Network, parse_address

HOST_MAC = "ee:ee:ee:ee:ee:ee"
ALLOW_ALL = PolicyId("Profile", "allow-all")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PATIENCE = 5.0
"""Seconds, for what should arrive: a busy machine makes it late, or a neighbour is asked again."""
BRIEF = 0.15
"""Seconds, for what should not arrive, or may or may not."""


def patience_for(arrives: bool) -> float:
    """Seconds, for what should arrive or should not."""
    return PATIENCE if arrives else BRIEF


def wait_until_local(*addresses: Network) -> None:
    """Return when the calling thread's namespace takes packets for these of its IPv6 addresses.

    `ip address add … nodad` is done before: a worker of the kernel's makes the route.
    """
    wanted = {f"{address.value:032x}" for address in addresses}
    give_up = time.monotonic() + PATIENCE
    while True:
        with open("/proc/thread-self/net/ipv6_route") as routes:
            rows = [line.split() for line in routes]
        if wanted <= {row[0] for row in rows if int(row[8], 16) & _RTF_LOCAL}:
            return
        assert time.monotonic() < give_up, addresses
        time.sleep(0.001)


_RTF_LOCAL = 0x80000000
"""Source: include/uapi/linux/ipv6_route.h."""


class Workload:
    """A namespace with one interface, joined to the calling thread's namespace."""

    def __init__(self, number: int, rtnl: Rtnl, *, prefix: str = "cali") -> None:
        self.interface = f"{prefix}{number}"
        self.mac = f"02:00:00:00:00:{number:02x}"
        self.ipv4 = parse_address(f"10.65.0.{number}")
        self.ipv6 = parse_address(f"fd00:65::{number}")
        self.id = EndpointId("default", f"w{number}")
        self.namespace = create_anonymous()
        rtnl.create_veth(
            self.interface,
            VethPeer(
                name="eth0",
                namespace=self.namespace,
                mac=parse_mac(self.mac),
            ),
            mac=parse_mac(HOST_MAC),
        )
        self.run(
            f"""ip link set lo up; ip link set eth0 up
            ip addr add {self.ipv4} dev eth0; ip -6 addr add {self.ipv6} dev eth0 nodad
            ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1
            ip neigh add 169.254.1.1 lladdr {HOST_MAC} dev eth0
            ip -6 neigh add fe80::1 lladdr {HOST_MAC} dev eth0
            ip -6 route add default via fe80::1 dev eth0"""
        )
        subprocess.run(["ip", "link", "set", self.interface, "up"], check=True)
        run_in(self.namespace, lambda: wait_until_local(self.ipv6))

    def address(self, family: int) -> Network:
        return self.ipv4 if family == 4 else self.ipv6

    def run(self, script: str) -> None:
        """Run shell commands inside; each must succeed."""
        run_in(self.namespace, lambda: subprocess.run(["sh", "-ec", script], check=True))

    def socket(self, family: int, kind: int) -> socket.socket:
        made = open_socket_in(self.namespace, FAMILIES[family], kind)
        made.settimeout(BRIEF)
        return made

    def pings(self, to: Network | str, *, patience: float = PATIENCE) -> bool:
        return run_in(self.namespace, lambda: pings(to, patience=patience))

    def send_icmpv6(self, kind: int, to: str) -> None:
        """A message of this type with nothing in it, from the link-local address."""

        def send() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                raw.sendto(bytes((kind, 0)) + bytes(14), (to, 0, 0, socket.if_nametoindex("eth0")))

        run_in(self.namespace, send)

    def seen_by(self, other: "Workload") -> str:
        """The source address under which a datagram of ours reaches `other`."""
        with (
            other.socket(4, socket.SOCK_DGRAM) as server,
            self.socket(4, socket.SOCK_DGRAM) as client,
        ):
            server.settimeout(PATIENCE)
            server.bind((other.ipv4.address_text, 80))
            client.sendto(b"who", server.getsockname())
            source: str = server.recvfrom(16)[1][0]
            return source

    def arp_is_answered(
        self, *, sender: str, mac: str, target: str, patience: float = PATIENCE
    ) -> bool:
        """Ask for `target` as `sender` at `mac`."""
        made = run_in(
            self.namespace,
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)),
        )
        with made as raw:
            raw.bind(("eth0", 0x0806))
            raw.settimeout(patience)
            packed = bytes.fromhex(mac.replace(":", ""))
            ethernet = b"\xff" * 6 + packed + b"\x08\x06"
            request = b"\0\x01\x08\0\x06\x04\0\x01" + packed + socket.inet_aton(sender)
            raw.send(ethernet + request + bytes(6) + socket.inet_aton(target))
            try:
                while True:
                    frame = raw.recv(128)
                    if frame[20:22] == b"\0\x02" and frame[28:32] == socket.inet_aton(target):
                        return True
            except TimeoutError:
                return False

    def endpoint(self, ingress: PolicyList, egress: PolicyList) -> Endpoint:
        return Endpoint(self.interface, (self.ipv4, self.ipv6), self.mac, ingress, egress)


_echo_ids = count(1)
"""Each ping is a new connection to the kernel."""


def pings(to: Network | str, source: str = "", *, patience: float = PATIENCE) -> bool:
    """Whether an echo request from the calling thread's namespace is answered."""
    text = to if isinstance(to, str) else to.address_text
    family = 6 if ":" in text else 4
    kind, answer = (8, 0) if family == 4 else (128, 129)
    protocol = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
    with socket.socket(FAMILIES[family], socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(patience)
        if source:
            raw.bind((source, 0))
        number = next(_echo_ids)
        # The kernel fills in ICMPv6's checksum; ICMP's over these 8 bytes is this.
        checksum = 0xFFFF - ((kind << 8) + number + 1)
        echo = struct.pack("!BBHHH", kind, 0, checksum, number, 1)
        try:
            raw.sendto(echo, socket.getaddrinfo(text, 0, FAMILIES[family])[0][4])
            while True:
                packet = raw.recv(256)
                message = packet[20:] if family == 4 else packet
                if message[0] == answer and message[4:6] == number.to_bytes(2, "big"):
                    return True
        except (TimeoutError, PermissionError):  # the latter if our own output hook drops it
            return False


def hears(
    sender: Workload,
    target: Workload,
    port: int,
    family: int = 4,
    *,
    source: str = "",
    patience: float = PATIENCE,
) -> bool:
    """Whether one UDP datagram on a new connection arrives.

    Args:
        source: address to send from; empty means the sender's own.
        patience: seconds to wait for it.
    """
    to = target.address(family).address_text
    with (
        target.socket(family, socket.SOCK_DGRAM) as server,
        sender.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.settimeout(patience)
        server.bind((to, port))
        client.bind((source or sender.address(family).address_text, 0))
        client.sendto(b"hello", (to, port))
        try:
            return server.recv(16) == b"hello"
        except TimeoutError:
            return False


def hears_tcp(
    sender: Workload,
    target: Workload,
    port: int,
    family: int = 4,
    *,
    patience: float = PATIENCE,
) -> bool:
    """Whether a TCP connection comes about."""
    to = target.address(family).address_text
    with (
        target.socket(family, socket.SOCK_STREAM) as server,
        sender.socket(family, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(patience)
        server.bind((to, port))
        server.listen()
        try:
            client.connect((to, port))
        except TimeoutError:
            return False
        return True


class Talk:
    """A UDP connection that goes on whenever asked, and its reply."""

    def __init__(self, a: Workload, b: Workload, port: int) -> None:
        self.server, self.client = (one.socket(4, socket.SOCK_DGRAM) for one in (b, a))
        self.server.bind((b.ipv4.address_text, port))
        self.client.connect((b.ipv4.address_text, port))

    def goes_on(self, *, patience: float = PATIENCE) -> bool:
        for one in (self.server, self.client):
            one.settimeout(patience)
        self.client.send(b"more")
        try:
            _, back = self.server.recvfrom(16)
            self.server.sendto(b"reply", back)
            return self.client.recv(16) == b"reply"
        except TimeoutError:
            return False

    def close(self) -> None:
        self.server.close()
        self.client.close()


class Host:
    """The calling thread's namespace with a dataplane that programs it."""

    def __init__(self, settings: Settings | None = None, *, owned: bool = False) -> None:
        self.settings = settings or Settings(host="h1")
        self._owned = owned
        self.nft = Nft.open()
        self.rtnl = MarkingRtnl.open()
        self.conntrack = Conntrack.open()
        self.dataplane = self.restart()
        self._events = NetlinkSocket.open(NETLINK_ROUTE, groups=(Group.LINK,))

    def restart(self) -> Dataplane:
        """A new dataplane that knows nothing, as after a restart of the agent."""
        self.dataplane = Dataplane(
            self.settings, self.nft, self.rtnl, self.conntrack, owned_tables=self._owned
        )
        return self.dataplane

    def update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        self.dataplane.on_update(kind, name, value)

    def policy(
        self,
        name: str,
        *,
        ingress: tuple[desired.Rule, ...] = (),
        egress: tuple[desired.Rule, ...] = (),
        tier: str = "default",
    ) -> PolicyId:
        policy_id = PolicyId("GlobalNetworkPolicy", name)
        self.update(Kind.POLICY, policy_id, Policy(ingress, egress, tier))
        return policy_id

    def allow_all_profile(self) -> None:
        allow = (desired.Rule("Allow"),)
        self.update(Kind.POLICY, ALLOW_ALL, Policy(allow, allow))

    def endpoint(
        self,
        workload: Workload,
        *,
        ingress: PolicyList | None = None,
        egress: PolicyList | None = None,
    ) -> None:
        """Add it, allowing what is not given, with its routes."""
        open_list = PolicyList(profiles=(ALLOW_ALL,))
        value = workload.endpoint(ingress or open_list, egress or open_list)
        self.update(Kind.ENDPOINT, workload.id, value)
        for address in value.networks:
            route = Route(RouteType.LOCAL_WORKLOAD, interface=workload.interface)
            self.update(Kind.ROUTE, address, route)

    def remove(self, workload: Workload) -> None:
        for address in (workload.ipv4, workload.ipv6):
            self.update(Kind.ROUTE, address, None)
        self.update(Kind.ENDPOINT, workload.id, None)

    def apply(self) -> None:
        asyncio.run(self.dataplane.apply())

    def resync(self) -> None:
        asyncio.run(self.dataplane.resync())

    def generation(self) -> int:
        return asyncio.run(self.nft.generation())

    def rules(self) -> dict[int | None, Rule]:
        """Every rule of the inet table, by handle; equal whatever they have counted."""
        return {rule.handle: rule for rule in asyncio.run(self.nft.rules(INET))}

    def ruleset(self, *tables: str) -> list[str]:
        """Blocks as nft(8) lists them, without counts, in an order of their own."""
        blocks: list[str] = []
        for table in tables or ("inet tortie", "arp tortie"):
            listed = subprocess.run(
                ["nft", "-s", "list", "table", *table.split()], capture_output=True, text=True
            ).stdout
            _, _, body = listed.partition("{\n")
            blocks += (
                f"{table}: {_sorted_elements(block).strip()}" for block in body.split("\n\t}\n")
            )
        return sorted(blocks)

    def sysctl(self, key: str) -> str:
        return subprocess.run(
            ["sysctl", "-n", key], capture_output=True, text=True, check=True
        ).stdout.strip()

    def read_link_events(self) -> None:
        """Give the dataplane what the kernel has told of links since the last call."""
        for message in self._events.events():
            event = decode(message)
            if event is not None:
                self.dataplane.on_link_event(event)

    def close(self) -> None:
        self._events.close()
        self.nft.close()
        self.rtnl.close()
        self.conntrack.close()


def _sorted_elements(block: str) -> str:
    return re.sub(
        r"elements = \{(.*?)\}",
        lambda found: ",".join(sorted(one.strip() for one in found[1].split(","))),
        block,
        flags=re.DOTALL,
    )


@contextmanager
def workloads(host: Host, how_many: int) -> Iterator[list[Workload]]:
    made = [Workload(number + 1, host.rtnl) for number in range(how_many)]
    try:
        yield made
    finally:
        for one in made:
            os.close(one.namespace)


def settle(host: Host) -> None:
    """Apply until nothing is left to do."""
    host.apply()
    while (pause := host.dataplane.retry_seconds) is not None:
        time.sleep(pause)
        host.apply()


def tier(*policies: PolicyId, name: str = "default", default: str = "Deny") -> TierPolicies:
    assert default in ("Deny", "Pass")
    return TierPolicies(name, "Deny" if default == "Deny" else "Pass", policies)
