"""K12: a quarter of a million connections, until the kernel has no room for another one."""

import socket
import struct
import time
from itertools import product
from pathlib import Path

import pytest
from tests.attacks.arena import Arena
from tests.netns.dataplane_host import BRIEF, hears

from tortie.desired.policy import PolicyList
from tortie.kernel import netlink
from tortie.kernel.netlink import NETLINK_NETFILTER, NLM_F_CREATE, NLM_F_REQUEST
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.lib.ip import parse_address

pytestmark = pytest.mark.timeout(400)

_HEADER = struct.Struct("=BBH")
_CT_NEW = 1 << 8


def fill_connections(how_many: int) -> None:
    """Assured entries, which nothing new pushes out, of addresses that nobody has."""
    ports = struct.Struct("!HH")

    def tuple_of(source: bytes, destination: bytes, first: int, second: int) -> bytes:
        one, other = ports.pack(first, second)[:2], ports.pack(first, second)[2:]
        return netlink.nested(
            1, netlink.attribute(1, source), netlink.attribute(2, destination)
        ) + netlink.nested(
            2,
            netlink.attribute_u8(1, socket.IPPROTO_UDP),
            netlink.attribute(2, one),
            netlink.attribute(3, other),
        )

    source, destination = socket.inet_aton("198.18.0.1"), socket.inet_aton("198.18.0.2")
    tail = netlink.attribute_be32(3, 0x4 | 0x8 | 0x2) + netlink.attribute_be32(7, 600)
    with NetlinkSocket.open(NETLINK_NETFILTER) as door:
        batch: list[bytes] = []
        for number, (first, second) in enumerate(product(range(1, 60_000), range(1, 60_000))):
            if number == how_many:
                break
            body = (
                _HEADER.pack(2, 0, 0)
                + netlink.nested(1, tuple_of(source, destination, first, second))
                + netlink.nested(2, tuple_of(destination, source, second, first))
                + tail
            )
            flags = NLM_F_REQUEST | NLM_F_CREATE
            batch.append(netlink.message(_CT_NEW, flags, number + 1, body))
            if len(batch) == 500:
                door.send(b"".join(batch))
                door.drain()
                batch.clear()
        door.send(b"".join(batch))
        door.drain()


def test_k12_the_connection_table_is_full(field: Arena) -> None:
    """New connections fail and those that are go on; what is denied stays denied, and nothing of
    ours stops: the rules can be changed, and cut connections."""
    most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    with (
        field.open.socket(4, socket.SOCK_STREAM) as server,
        field.attacker.socket(4, socket.SOCK_STREAM) as client,
    ):
        server.bind((field.open.ipv4.address_text, 77))
        server.listen()
        client.connect(server.getsockname())
        answering = server.accept()[0]
        fill_connections(most)
        assert int(count.read_text()) >= most, "the table is full"
        assert not hears(field.attacker, field.open, 9100, patience=BRIEF), "no room for a new one"
        assert not hears(field.attacker, field.guarded, 9100, patience=BRIEF)
        with answering:
            client.send(b"goes on")
            assert answering.recv(16) == b"goes on"
            field.host.endpoint(field.open, ingress=PolicyList())
            field.host.apply()
            while (pause := field.host.dataplane.retry_seconds) is not None:
                time.sleep(pause)
                field.host.apply()
            client.send(b"is cut")
            answering.settimeout(0.3)
            with pytest.raises(TimeoutError):
                answering.recv(16)
    field.host.conntrack.delete_involving(frozenset({parse_address("198.18.0.1")}))
    field.host.endpoint(field.open)
    field.host.apply()
    assert hears(field.attacker, field.open, 9101), "and then there is room again"
    assert not hears(field.attacker, field.guarded, 9101, patience=BRIEF)
