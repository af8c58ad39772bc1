"""Look at the packets on the lab's wire, without tcpdump.

An AF_PACKET socket in the switch's namespace hears every frame; a few header
fields are enough to show that what travels is the workloads' own IP.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

from tortie.kernel import netns
from tortie.lab.description import Lab
from tortie.lib.ip import Network, from_packed

_ETH_P_ALL = 0x0003
_IPV4, _IPV6 = 0x0800, 0x86DD
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 4: "IPIP", 41: "IPv6-in-IP", 47: "GRE"}
VXLAN_PORT = 4789


class Frame(NamedTuple):
    source: Network
    destination: Network
    protocol: int
    destination_port: int
    """0 where the protocol has none."""

    @property
    def encapsulated(self) -> bool:
        """An IP packet in another one: IPIP, GRE, or VXLAN."""
        return self.protocol in (4, 41, 47) or (
            self.protocol == 17 and self.destination_port == VXLAN_PORT
        )

    def __str__(self) -> str:
        name = _PROTOCOLS.get(self.protocol, f"protocol {self.protocol}")
        port = f" port {self.destination_port}" if self.destination_port else ""
        return f"{self.source.address_text} > {self.destination.address_text} {name}{port}"


def decode(frame: bytes) -> Frame | None:
    """The outermost IP header of an Ethernet frame; None for other ethertypes."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind == _IPV4 and len(frame) >= 34:
        protocol, addresses, payload = frame[23], frame[26:34], 14 + (frame[14] & 0xF) * 4
    elif kind == _IPV6 and len(frame) >= 54:
        protocol, addresses, payload = frame[20], frame[22:54], 54
    else:
        return None
    half = len(addresses) // 2
    port = 0
    if protocol in (6, 17) and len(frame) >= payload + 4:
        (port,) = struct.unpack_from("!H", frame, payload + 2)
    return Frame(from_packed(addresses[:half]), from_packed(addresses[half:]), protocol, port)


@contextlib.contextmanager
def frames(lab: Lab, interface: str) -> Iterator[list[Frame]]:
    """Collect the IP frames that pass a port of the switch while the block runs."""
    sock = netns.open_socket_in(
        netns.named_path(lab.fabric_namespace), socket.AF_PACKET, socket.SOCK_RAW, 0
    )
    collected: list[Frame] = []
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                found = decode(sock.recv(65536))
                if found is not None:
                    collected.append(found)

    with sock:
        sock.settimeout(0.1)
        netns.run_in(
            netns.named_path(lab.fabric_namespace),
            lambda: sock.bind((interface, _ETH_P_ALL)),
        )
        collector = threading.Thread(target=collect, daemon=True)
        collector.start()
        try:
            yield collected
        finally:
            stop.set()
            collector.join()
