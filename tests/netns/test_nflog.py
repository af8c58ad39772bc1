"""Logged packets, and counters, as the kernel hands them out."""

import contextlib
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tortie.agent import observing
from tortie.agent.config import Local, resolve
from tortie.dataplane.rules import seen
from tortie.kernel import headers
from tortie.kernel.nflog import Nflog, Packet
from tortie.kernel.nft import counters
from tortie.kernel.nft.constants import Family
from tortie.kernel.nft.objects import TableName
from tortie.lib.errors import AlreadyExists

GROUP = 4711
RULES = f"""
table inet t {{
    chain out {{
        type filter hook output priority 0
        udp dport 99 meta mark set 0x12345678 log group {GROUP} prefix "denied-egress" counter drop
        udp dport 98 counter comment "counter"
        udp dport 97 comment "counter"
    }}
}}
"""


@pytest.fixture
def log(netns: None) -> Iterator[Nflog]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["nft", "-f", "-"], input=RULES.encode(), check=True)
    with Nflog.open(GROUP) as made:
        yield made


def send(port: int, family: int = socket.AF_INET, count: int = 1) -> None:
    to = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            with contextlib.suppress(PermissionError):  # the rule drops it
                sender.sendto(b"x" * 200, (to, port))


def received(log: Nflog) -> list[Packet]:
    """What comes within the time that the kernel may collect, and nothing later."""
    select.select([log], [], [], 2)
    return log.read()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_logged_packet_tells_all(log: Nflog, family: socket.AddressFamily) -> None:
    send(99, family)
    (packet,) = received(log)
    loopback = socket.if_nametoindex("lo")
    assert packet.family == (4 if family == socket.AF_INET else 6)
    assert (packet.prefix, packet.mark) == ("denied-egress", 0x12345678)
    assert (packet.hook, packet.in_link, packet.out_link) == (3, 0, loopback)
    found = headers.parse(packet.payload)
    assert found is not None
    assert (found.protocol, found.destination_port) == (17, 99)
    # The packet's own length, though only its beginning comes.
    assert found.length == 200 + 8 + (20 if family == socket.AF_INET else 40)
    assert log.read() == []


def test_a_group_has_one_listener(log: Nflog) -> None:
    with pytest.raises(AlreadyExists, match="another listener"):
        Nflog.open(GROUP)
    log.close()
    Nflog.open(GROUP).close()


def test_an_agent_that_cannot_listen_enforces_nevertheless(log: Nflog) -> None:
    config = resolve(Local({"flowlogslocalreporter": "Enabled"}, {}, "felix.cfg"))
    with Nflog.open(seen.GROUP):
        found = observing.open_logging(config)
    assert (found.logged, found.ended) == (None, None)
    assert "another listener" in found.why
    found = observing.open_logging(config)
    assert found.logged is not None
    assert found.ended is not None
    found.close()


def test_what_has_no_room_is_counted(log: Nflog) -> None:
    sent = 30_000
    send(99, count=sent)
    packets = received(log)
    assert 0 < len(packets) < sent
    # The next ones say how many were left out between.
    send(99)
    last = received(log)
    assert len(packets) + log.lost_count + len(last) == sent + 1
    assert log.lost_count


def test_counters_of_rules(log: Nflog) -> None:
    send(98, count=3)
    table = TableName(Family.INET, "t")
    found = sorted(counters.read(table).values())
    assert [one.packets for one in found] == [0, 3], "the third rule only talks of counters"
    assert found[1].bytes == 3 * 228
    assert counters.read(TableName(Family.INET, "none")) == {}
