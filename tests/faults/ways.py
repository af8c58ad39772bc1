"""Every way from a workload at once, as raw packets that policy forbids, and what arrives.

Each probe is a new flow. Arrivals are counted behind everything of the host's: by packet
sockets in the namespaces of a workload and of the node behind the uplink, and by raw
sockets of the host itself, which get what its input hooks have let pass.
"""

import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.attacks.arena import HOST4, HOST6, NODE4, NODE6, Arena, packet_socket
from tests.attacks.packets import datagram
from tests.netns.dataplane_host import FAMILIES, tier

from tortie.desired.policy import PolicyList, Rule, Side
from tortie.kernel.netns import open_socket_in
from tortie.lib.ip import parse_network

PAUSE_SECONDS = 0.001
_GRACE_SECONDS = 0.05
_MAGIC = b"\x9dway"
_ENDS = {
    "a workload": (),  # `guarded`, whose addresses the field knows
    "the host": (HOST4, HOST6),
    "outside": (NODE4, NODE6),
    "another host's workload": ("10.66.0.9", "fd00:66::9"),
}
WAYS = frozenset(f"{end}, IPv{family}" for end in _ENDS for family in (4, 6))


def forbid(field: Arena) -> None:
    """The attacker may send to workloads of this host, and `guarded` takes nothing."""
    for family, network, via in (("-4", "10.66.0.0/24", NODE4), ("-6", "fd00:66::/64", NODE6)):
        subprocess.run(["ip", family, "route", "add", network, "via", via], check=True)
    here = Side(networks=(parse_network("10.65.0.0/24"), parse_network("fd00:65::/64")))
    only = field.host.policy("only-here", egress=(Rule("Allow", destination=here),))
    field.host.endpoint(field.attacker, egress=PolicyList((tier(only),)))
    field.host.apply()


class Arrived:
    """Complete when nobody sends any more."""

    def __init__(self) -> None:
        self.sent = 0
        """Each way."""
        self.by_way: Counter[str] = Counter()

    def __str__(self) -> str:
        return f"of {self.sent} sent each way arrived {dict(self.by_way)}"


@contextmanager
def sending_everywhere(field: Arena) -> Iterator[Arrived]:
    """All the time, in a thread; what is forbidden is the caller's to see to."""
    arrived, stop = Arrived(), threading.Event()
    sender = threading.Thread(target=_send, args=(field, arrived, stop))
    sender.start()
    try:
        yield arrived
    finally:
        stop.set()
        sender.join()
    assert arrived.sent > 10, "nothing was sent"


def _send(field: Arena, arrived: Arrived, stop: threading.Event) -> None:
    ways = _ways(field)
    with ExitStack() as stack:
        wire = stack.enter_context(packet_socket(field.attacker.namespace, "eth0"))
        ears = [
            stack.enter_context(ear)
            for ear in (
                packet_socket(field.guarded.namespace, "eth0"),
                packet_socket(field.node, "eth0"),
                *(_host_socket(field, family) for family in FAMILIES),
            )
        ]
        while not stop.is_set():
            for number, (source, to) in enumerate(ways.values()):
                payload = _MAGIC + bytes((number,))
                ports = (1024 + arrived.sent % 64000, 1024 + arrived.sent // 64000)
                wire.send(field.frame(datagram(source, to, payload, ports=ports)))
            arrived.sent += 1
            _hear(ears, list(ways), arrived)
            time.sleep(PAUSE_SECONDS)
        time.sleep(_GRACE_SECONDS)
        _hear(ears, list(ways), arrived)


def _ways(field: Arena) -> dict[str, tuple[str, str]]:
    """Source and destination, by the names of ways."""
    found = {}
    for end, addresses in _ENDS.items():
        for place, family in enumerate((4, 6)):
            guarded = field.guarded.address(family).address_text
            to = addresses[place] if addresses else guarded
            found[f"{end}, IPv{family}"] = field.attacker.address(family).address_text, to
    return found


def _host_socket(field: Arena, family: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    return open_socket_in(field.namespace, FAMILIES[family], kind, socket.IPPROTO_UDP)


def _hear(ears: list[socket.socket], ways: list[str], arrived: Arrived) -> None:
    for ear in ears:
        while True:
            try:
                data, sender = ear.recvfrom(2048)
            except BlockingIOError:
                break
            at = data.find(_MAGIC)
            is_own = ear.family == socket.AF_PACKET and sender[2] == socket.PACKET_OUTGOING
            if at >= 0 and not is_own:
                arrived.by_way[ways[data[at + len(_MAGIC)]]] += 1
