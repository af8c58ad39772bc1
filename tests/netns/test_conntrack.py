"""The connection table with real flows between two namespaces."""

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest
from msgspec.structs import replace
from tests.netns.dataplane_host import wait_until_local

from tortie.kernel import conntrack, netns, sysctl
from tortie.kernel.conntrack import Conntrack, Ended, Flow, FlowTuple
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network

UDP, TCP, ICMP, ICMP6 = 17, 6, 1, 58

SETUP = """
link add near type veth peer name far netns {far}
link set lo up
link set near up
address add 10.7.0.1/24 dev near
address add 10.7.0.3/24 dev near
address add fd07::1/64 dev near nodad
"""
FAR_SETUP = """
link set lo up
link set far up
address add 10.7.0.2/24 dev far
address add 10.7.0.4/24 dev far
address add fd07::2/64 dev far nodad
"""
RULES = """
table inet t {
  chain o { type filter hook output priority 0; ct state new ct mark set 0x17 accept; }
  chain i { type filter hook input priority 0; ct state new accept; }
  chain n { type nat hook output priority -100; ip daddr 10.7.0.9 dnat ip to 10.7.0.2; }
}
"""


class Pair(NamedTuple):
    """Two joined namespaces; the near one tracks connections."""

    near: int
    far: int


def batch(space: int, program: list[str], text: str) -> None:
    child = netns.spawn_in(space, program, stdin=subprocess.PIPE)
    child.communicate(text.encode())
    assert child.returncode == 0


def tool(space: int, *argv: str) -> str:
    child = netns.spawn_in(space, list(argv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return child.communicate()[0].decode()


@pytest.fixture
def pair() -> Iterator[Pair]:
    if os.geteuid() != 0:
        pytest.fail("needs root; run under `unshare --map-root-user --net`")
    near, far = netns.create_anonymous(), netns.create_anonymous()
    far_path = f"/proc/{os.getpid()}/fd/{far}"
    batch(near, ["ip", "-batch", "-"], SETUP.format(far=far_path))
    batch(far, ["ip", "-batch", "-"], FAR_SETUP)
    batch(near, ["nft", "-f", "-"], RULES)
    for space, address in ((near, "fd07::1"), (far, "fd07::2")):
        netns.run_in(space, partial(wait_until_local, parse_address(address)))
    yield Pair(near, far)
    os.close(near)
    os.close(far)


@pytest.fixture
def table(pair: Pair) -> Iterator[Conntrack]:
    with netns.run_in(pair.near, Conntrack.open) as opened:
        yield opened


def udp(pair: Pair, source: str, destination: str, port: int, *, replies: bool = True) -> int:
    """Send one datagram (and get an answer); the source port it used."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    receiver_address = "10.7.0.2" if destination == "10.7.0.9" else destination
    with (
        netns.open_socket_in(pair.near, family, socket.SOCK_DGRAM) as sender,
        netns.open_socket_in(pair.far, family, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((receiver_address, port))
        receiver.settimeout(5)
        sender.settimeout(5)
        sender.bind((source, 0))
        sender.sendto(b"x", (destination, port))
        _, back = receiver.recvfrom(10)
        if replies:
            receiver.sendto(b"y", back)
            assert sender.recv(10) == b"y"
        return int(sender.getsockname()[1])


def echo_request(pair: Pair, address: str, protocol: int, kind: int) -> None:
    """Send one echo request and wait for the kernel's answer to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Type, code, checksum, id 0x1234, sequence 1; the kernel sums ICMPv6 itself.
    checksum = ~(kind << 8) - 0x1234 - 1 & 0xFFFF
    packet = struct.pack("!BBHHH", kind, 0, checksum, 0x1234, 1)
    with netns.open_socket_in(pair.near, family, socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(5)
        raw.sendto(packet, (address, 0))
        while True:
            answer = raw.recv(200)
            body = answer[20:] if family == socket.AF_INET else answer
            if body[4:6] == b"\x12\x34" and body[0] != kind:
                return


def mirror(one: FlowTuple) -> FlowTuple:
    return replace(
        one,
        source=one.destination,
        destination=one.source,
        source_port=one.destination_port,
        destination_port=one.source_port,
    )


def of(flows: list[Flow], protocol: int) -> list[Flow]:
    return [flow for flow in flows if flow.original.protocol == protocol]


@pytest.mark.parametrize(("source", "destination"), [("10.7.0.1", "10.7.0.2"),
                                                     ("fd07::1", "fd07::2")])  # fmt: skip
def test_a_udp_flow_is_decoded(pair: Pair, table: Conntrack, source: str, destination: str) -> None:
    port = udp(pair, source, destination, 5000)

    (flow,) = of(table.flows(6 if ":" in source else 4), UDP)
    assert flow.original == FlowTuple(
        parse_address(source), parse_address(destination), UDP, port, 5000
    )
    assert flow.reply == mirror(flow.original)
    assert flow.mark == 0x17
    assert flow.seen_reply
    assert flow.id


def test_a_one_way_flow_has_seen_no_reply(pair: Pair, table: Conntrack) -> None:
    udp(pair, "10.7.0.1", "10.7.0.2", 5000, replies=False)
    (flow,) = of(table.flows(), UDP)
    assert not flow.seen_reply
    assert not flow.assured


def test_nat_shows_in_the_reply(pair: Pair, table: Conntrack) -> None:
    udp(pair, "10.7.0.1", "10.7.0.9", 5000)
    (flow,) = of(table.flows(), UDP)
    assert flow.original.destination == parse_address("10.7.0.9")
    assert flow.reply.source == parse_address("10.7.0.2")


@pytest.mark.parametrize(
    ("address", "protocol", "echo"),
    [("10.7.0.2", ICMP, 8), ("fd07::2", ICMP6, 128)],
)
def test_an_echo_is_decoded_and_deleted(
    pair: Pair, table: Conntrack, address: str, protocol: int, echo: int
) -> None:
    echo_request(pair, address, protocol, echo)
    (flow,) = of(table.flows(), protocol)
    assert (flow.original.icmp_type, flow.original.icmp_code) == (echo, 0)
    assert flow.original.icmp_id == 0x1234
    assert table.delete([flow]) == 1
    assert of(table.flows(), protocol) == []


def test_a_tcp_flow_can_be_cut_while_it_lives(pair: Pair, table: Conntrack) -> None:
    with (
        netns.open_socket_in(pair.far, socket.AF_INET) as listener,
        netns.open_socket_in(pair.near, socket.AF_INET) as client,
    ):
        listener.bind(("10.7.0.2", 6000))
        listener.listen()
        client.connect(("10.7.0.2", 6000))
        served, _ = listener.accept()
        with served:
            (flow,) = of(table.flows(), TCP)
            assert flow.assured
            assert flow.original.destination_port == 6000

            assert table.delete([flow]) == 1
            assert of(table.flows(), TCP) == []
            assert table.delete([flow]) == 0, "gone is no error"


def test_delete_takes_only_the_flow_it_names(pair: Pair, table: Conntrack) -> None:
    udp(pair, "10.7.0.1", "10.7.0.2", 5000)
    udp(pair, "10.7.0.1", "10.7.0.2", 5001)
    one, two = sorted(of(table.flows(), UDP), key=lambda flow: flow.original.destination_port)
    other_id = Flow(original=one.original, reply=one.reply, id=one.id ^ 1)

    assert table.delete([other_id]) == 0, "a newer flow over the same ports is not this one"
    assert table.delete([one]) == 1
    assert of(table.flows(), UDP) == [two]


@pytest.mark.parametrize("deletes_by_filter", [True, False], ids=["by filter", "one by one"])
@pytest.mark.parametrize("whole_dump_up_to", [0, 8000], ids=["filtered", "whole"])
def test_all_flows_of_an_address_and_no_others(
    pair: Pair,
    table: Conntrack,
    whole_dump_up_to: int,
    deletes_by_filter: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conntrack, "_WHOLE_DUMP_UP_TO", whole_dump_up_to)
    monkeypatch.setattr(table, "_deletes_by_filter", deletes_by_filter)
    udp(pair, "10.7.0.1", "10.7.0.2", 5000)  # its destination
    udp(pair, "10.7.0.3", "10.7.0.9", 5001)  # its destination only after NAT
    udp(pair, "10.7.0.3", "10.7.0.4", 5002)  # not its
    udp(pair, "fd07::1", "fd07::2", 5003)  # not its
    address = parse_address("10.7.0.2")

    found = table.flows_involving([address])
    assert {flow.original.destination_port for flow in found} == {5000, 5001}
    assert table.delete_involving([address]) == 2
    left = {flow.original.destination_port for flow in of(table.flows(), UDP)}
    assert left == {5002, 5003}
    assert table.delete_involving([parse_address("10.7.0.3"), parse_address("fd07::2")]) == 2
    assert of(table.flows(), UDP) == []
    assert table.delete_involving([]) == 0
    assert table._deletes_by_filter is deletes_by_filter, "the kernel can"


def test_flows_of_an_ipv4_address_are_deleted_unlisted(
    pair: Pair, table: Conntrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing takes a lock for each bucket, 10 ms in all."""
    udp(pair, "10.7.0.1", "10.7.0.2", 5000)

    def no_dump(*_: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(table._sock, "dump", no_dump)
    assert table.delete_involving([parse_address("10.7.0.2")]) == 1


def test_the_kernel_is_asked_for_no_ipv6_address(
    pair: Pair, table: Conntrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its filter finds, and would delete, those of all other addresses."""
    monkeypatch.setattr(conntrack, "_WHOLE_DUMP_UP_TO", 0)
    udp(pair, "fd07::1", "fd07::2", 5000)

    def asked(*_: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(conntrack, "_filters", asked)
    (found,) = table.flows_involving([parse_address("fd07::2")])
    assert found.original.destination_port == 5000
    assert table.delete_involving([parse_address("fd07::1")]) == 1


def test_a_kernel_that_does_not_delete_by_filter_is_asked_once(
    pair: Pair, table: Conntrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 6.8 it takes the filter for a tuple of which half is missing."""
    udp(pair, "10.7.0.1", "10.7.0.2", 5000)
    udp(pair, "10.7.0.3", "10.7.0.4", 5001)
    monkeypatch.setattr(conntrack, "_FILTER", 63)  # unknown to every kernel
    assert table.delete_involving([parse_address("10.7.0.2")]) == 1
    assert [flow.original.destination_port for flow in of(table.flows(), UDP)] == [5001]
    assert not table._deletes_by_filter


def test_many_addresses_at_once(pair: Pair, table: Conntrack) -> None:
    for port in range(5000, 5010):
        udp(pair, "10.7.0.1", "10.7.0.2", port)
    udp(pair, "10.7.0.3", "10.7.0.4", 5999)
    many = [Network(4, parse_address("10.7.0.1").value + 256 * i, 32) for i in range(20)]
    assert table.delete_involving(many) == 10
    assert [flow.original.destination_port for flow in of(table.flows(), UDP)] == [5999]


def test_a_network_is_not_an_address(table: Conntrack) -> None:
    with pytest.raises(InvalidInput):
        table.delete_involving([parse_network("10.7.0.0/24")])


def test_the_size_counts_this_namespace(pair: Pair, table: Conntrack) -> None:
    before = table.size()
    udp(pair, "10.7.0.1", "10.7.0.2", 5000)
    assert table.size().entries == before.entries + 1
    assert table.size().limit > 0


def test_conntrack_tool_sees_the_same(pair: Pair, table: Conntrack) -> None:
    udp(pair, "10.7.0.1", "10.7.0.2", 5000)
    udp(pair, "10.7.0.3", "10.7.0.9", 5001)
    listed = tool(pair.near, "conntrack", "-L", "-p", "udp").splitlines()
    assert len(listed) == 2
    for flow in of(table.flows(4), UDP):
        words = (
            f"src={flow.original.source.address_text} dst={flow.original.destination.address_text} "
            f"sport={flow.original.source_port} dport={flow.original.destination_port}"
        )
        reply = f"src={flow.reply.source.address_text} dst={flow.reply.destination.address_text}"
        assert any(words in line and reply in line for line in listed), words


@pytest.mark.usefixtures("netns")
def test_an_empty_table_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing walks the buckets of all namespaces, however few entries there are in this one."""

    def no_dump(*_: object) -> None:
        raise AssertionError("listed")

    with Conntrack.open() as table:
        monkeypatch.setattr(table._sock, "dump", no_dump)
        assert table.flows_involving({parse_address("10.7.0.1")}) == []
        assert table.delete_involving({parse_address("10.7.0.1")}) == 0


@pytest.mark.parametrize(("source", "destination"), [("10.7.0.1", "10.7.0.2"),
                                                     ("fd07::1", "fd07::2")])  # fmt: skip
def test_what_a_flow_has_carried_is_told_when_it_ends(
    pair: Pair, table: Conntrack, source: str, destination: str
) -> None:
    # Of a flow that began when nobody listened, nothing is told.
    udp(pair, source, destination, 4999)
    ended = netns.run_in(pair.near, Ended)
    udp(pair, source, destination, 5000)
    netns.run_in(pair.near, lambda: sysctl.set_global("netfilter/nf_conntrack_acct", 1))
    udp(pair, source, destination, 5001)
    carried = (1, (48 if ":" in source else 28) + 1)
    try:
        (running,) = (flow for flow in table.flows() if flow.original.destination_port == 5001)
        assert running.sent == running.answered == carried
        assert ended.read() == []
        table.delete_involving([parse_address(source)])
        found = {flow.original.destination_port: flow for flow in ended.read()}
        assert {port: (flow.sent, flow.answered) for port, flow in found.items()} == {
            5000: ((0, 0), (0, 0)),
            5001: (carried, carried),
        }
        assert ended.overflow_count == 0
    finally:
        ended.close()
