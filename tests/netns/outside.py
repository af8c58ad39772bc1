"""Another machine, on a link of the host: for tests of what passes the host's own interfaces."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Protocol

from tests.netns.dataplane_host import FAMILIES, PATIENCE, Host, wait_until_local

from tortie.kernel.netns import create_anonymous, open_socket_in, run_in
from tortie.kernel.rtnl.link import VethPeer
from tortie.lib.ip import Network, parse_address

HOST = {4: parse_address("192.0.2.1"), 6: parse_address("fd00:2::1")}
"""This host's addresses on its uplink."""
OTHER = {4: parse_address("192.0.2.2"), 6: parse_address("fd00:2::2")}


class End(Protocol):
    """Where a packet may come from or go to."""

    def socket(self, family: int, kind: int) -> socket.socket: ...


class Machine:
    """A namespace at the other end of one of this host's links."""

    def __init__(self, host: Host, link: str = "up0", number: int = 0) -> None:
        self.link = link
        self.namespace = create_anonymous()
        host.rtnl.create_veth(link, VethPeer(name="eth0", namespace=self.namespace))
        self.near = {family: _shifted(address, number) for family, address in HOST.items()}
        self.addresses = {family: _shifted(address, number) for family, address in OTHER.items()}
        near, far = self.near, self.addresses
        subprocess.run(
            [
                "sh",
                "-ec",
                f"""{_no_detection(link)}
                ip link set {link} up; ip addr add {near[4].address_text}/24 dev {link}
                ip -6 addr add {near[6].address_text}/64 dev {link} nodad""",
            ],
            check=True,
        )
        self.run(
            f"""{_no_detection("eth0")}
            ip link set lo up; ip link set eth0 up
            ip addr add {far[4].address_text}/24 dev eth0
            ip -6 addr add {far[6].address_text}/64 dev eth0 nodad
            ip route add default via {near[4].address_text}
            ip -6 route add default via {near[6].address_text}"""
        )
        wait_until_local(near[6])
        run_in(self.namespace, lambda: wait_until_local(far[6]))

    def run(self, script: str) -> None:
        """Run shell commands there; each must succeed."""
        run_in(self.namespace, lambda: subprocess.run(["sh", "-ec", script], check=True))

    def address(self, family: int) -> Network:
        return self.addresses[family]

    def socket(self, family: int, kind: int) -> socket.socket:
        return open_socket_in(self.namespace, FAMILIES[family], kind)

    def close(self) -> None:
        os.close(self.namespace)


class ThisHost:
    """The host itself as an end."""

    def socket(self, family: int, kind: int) -> socket.socket:
        return socket.socket(FAMILIES[family], kind)


THIS_HOST = ThisHost()


def _no_detection(link: str) -> str:
    """The link's own address is usable at once, for neighbour discovery."""
    return f"sysctl -qw net.ipv6.conf.{link}.accept_dad=0"


def _shifted(address: Network, number: int) -> Network:
    """The same in another subnet."""
    step = 1 << (8 if address.family == 4 else 64)
    return Network(address.family, address.value + number * step, address.length)


@contextmanager
def machines(host: Host, *links: str) -> Iterator[list[Machine]]:
    made = [Machine(host, link, number) for number, link in enumerate(links)]
    try:
        yield made
    finally:
        for one in made:
            one.close()


def udp(
    client: End,
    server: End,
    to: Network,
    port: int,
    *,
    serving: Network | None = None,
    source_port: int = 0,
    answered: bool = True,
    patience: float = PATIENCE,
) -> bool:
    """Whether a datagram on a new flow arrives and, unless not asked for, its answer comes back.

    Args:
        to: where it is sent; may be another address than `serving`.
        patience: seconds to wait for each.
    """
    family = to.family
    with (
        closing(server.socket(family, socket.SOCK_DGRAM)) as there,
        closing(client.socket(family, socket.SOCK_DGRAM)) as here,
    ):
        for one in (there, here):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.settimeout(patience)
        there.bind(((serving or to).address_text, port))
        here.bind(("::" if family == 6 else "0.0.0.0", source_port))
        try:
            here.sendto(b"ask", (to.address_text, port))
            _, peer = there.recvfrom(16)
            if not answered:
                return True
            there.sendto(b"answer", peer)
            return here.recv(16) == b"answer"
        except OSError:  # silence, or EPERM for a packet of our own that is dropped
            return False


def tcp(
    client: End,
    server: End,
    to: Network,
    port: int,
    *,
    serving: Network | None = None,
    patience: float = PATIENCE,
) -> bool:
    """Whether a connection comes about."""
    family = to.family
    with (
        closing(server.socket(family, socket.SOCK_STREAM)) as there,
        closing(client.socket(family, socket.SOCK_STREAM)) as here,
    ):
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        here.settimeout(patience)
        there.bind(((serving or to).address_text, port))
        there.listen()
        try:
            here.connect((to.address_text, port))
        except OSError:
            return False
        return True
