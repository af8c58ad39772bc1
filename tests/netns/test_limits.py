"""Limits of endpoints against the real kernel: how many packets and connections come through."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from msgspec.structs import replace
from tests.netns.dataplane_host import Host, Workload, wait_until_local, workloads
from tests.netns.outside import HOST, THIS_HOST, End, Machine, machines, udp

from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Bandwidth, Limits, PacketRate, Pool
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyList
from tortie.kernel.nft.constants import MetaKey
from tortie.kernel.nft.expressions import Meta
from tortie.kernel.nft.operations import AddSet, Operation
from tortie.lib.ip import Network, parse_network

from tests.netns.test_dataplane_refusal import spoilt  # isort: skip

pytestmark = pytest.mark.usefixtures("netns")

both_families = pytest.mark.parametrize("family", [4, 6])
WEB = 8080
FEW = Limits(egress_rate=PacketRate(10, 5))


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host(Settings(host="h1", endpoint_to_host_action="Accept"))
    made.allow_all_profile()
    yield made
    made.close()


@pytest.fixture
def three(host: Host) -> Iterator[tuple[Workload, Workload, Workload]]:
    with workloads(host, 3) as made:
        for one in made:
            host.endpoint(one)
        yield made[0], made[1], made[2]


def limit(host: Host, workload: Workload, limits: Limits) -> None:
    old = host.dataplane._endpoints.endpoints[workload.id]
    host.update(Kind.ENDPOINT, workload.id, replace(old, limits=limits))
    host.apply()


def arrived(sender: End, target: End, to: Network, sent: int = 60) -> int:
    """How many of as many datagrams, sent at once, of one connection."""
    with (
        closing(target.socket(to.family, socket.SOCK_DGRAM)) as there,
        closing(sender.socket(to.family, socket.SOCK_DGRAM)) as here,
    ):
        there.settimeout(0.2)
        there.bind((to.address_text, WEB))
        for _ in range(sent):
            here.sendto(b"x", (to.address_text, WEB))
        count = 0
        try:
            while True:
                there.recv(16)
                count += 1
        except TimeoutError:
            return count


def few_arrive(sender: End, target: End, to: Network, least: int = 1) -> bool:
    """A few at once, and what ten a second make of the time that sending took."""
    began = time.monotonic()
    count = arrived(sender, target, to)
    return least <= count <= 6 + 10 * (time.monotonic() - began)


@both_families
def test_packets_that_a_workload_sends(
    host: Host, three: tuple[Workload, Workload, Workload], family: int
) -> None:
    a, b, c = three
    host.apply()
    to = c.address(family)
    assert arrived(a, c, to) == 60
    limit(host, a, FEW)
    assert few_arrive(a, c, to)
    assert arrived(b, c, to) == 60, "others are not limited"
    assert arrived(c, a, a.address(family)) == 60, "nor is what it gets"
    assert few_arrive(a, THIS_HOST, host_address(family), least=0), "this host gets no more"
    limit(host, b, FEW)
    time.sleep(1)
    assert arrived(a, c, to) >= 2, "each has a limit of its own"
    assert arrived(b, c, to) >= 2
    limit(host, a, Limits())
    assert arrived(a, c, to) == 60


@both_families
def test_a9_a_flood_costs_no_connection_tracking(
    host: Host, three: tuple[Workload, Workload, Workload], family: int
) -> None:
    """Each datagram from another port would be an entry of a table that all share."""
    a, _, c = three
    of_sender = frozenset({a.address(family)})

    def flood() -> int:
        with ExitStack() as stack:
            for _ in range(200):
                sender = stack.enter_context(a.socket(family, socket.SOCK_DGRAM))
                sender.sendto(b"x", (c.address(family).address_text, WEB))
        return len(host.conntrack.flows_involving(of_sender))

    host.apply()
    assert flood() == 200
    host.conntrack.delete_involving(of_sender)
    limit(host, a, FEW)
    assert flood() <= 20


def host_address(family: int) -> Network:
    text = HOST[family].address_text
    command = ["ip", f"-{family}", "addr", "replace", f"{text}/{32 if family == 4 else 128}"]
    # With its check for duplicates an address cannot be used for a moment.
    subprocess.run([*command, "dev", "lo", *(["nodad"] if family == 6 else [])], check=True)
    if family == 6:
        wait_until_local(HOST[family])
    return HOST[family]


@both_families
def test_packets_that_a_workload_gets(
    host: Host, three: tuple[Workload, Workload, Workload], family: int
) -> None:
    a, _, c = three
    limit(host, c, Limits(ingress_rate=PacketRate(10, 5)))
    assert few_arrive(a, c, c.address(family))
    assert arrived(c, a, a.address(family)) == 60
    host_address(family)
    assert arrived(THIS_HOST, c, c.address(family)) == 60, "its host is not asked"


@both_families
@pytest.mark.parametrize("ingress", [False, True])
def test_connections_at_a_time(
    host: Host, three: tuple[Workload, Workload, Workload], family: int, ingress: bool
) -> None:
    a, b, c = three
    limited = Limits(ingress_connections=3) if ingress else Limits(egress_connections=3)
    limit(host, c if ingress else a, limited)
    with ExitStack() as stack:
        server = stack.enter_context(c.socket(family, socket.SOCK_STREAM))
        server.bind((c.address(family).address_text, WEB))
        server.listen()

        def connects(client: Workload) -> bool:
            made = stack.enter_context(client.socket(family, socket.SOCK_STREAM))
            try:
                made.connect((c.address(family).address_text, WEB))
            except ConnectionRefusedError:
                return False
            opened.append(made)
            return True

        opened: list[socket.socket] = []
        assert [connects(a) for _ in range(5)] == [True, True, True, False, False]
        assert connects(b) is not ingress, "from another workload: only what c gets is counted"
        # The end of one makes room for another.
        opened[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        opened[0].close()
        give_up = time.monotonic() + 15
        while not connects(a):
            assert time.monotonic() < give_up, "there is no room again"
            time.sleep(0.5)


def code_point(sender: Workload, target: Machine, to: Network) -> tuple[int, bool]:
    """With which a datagram arrives, and whether its ECN bits are as they were sent."""
    family = to.family
    level, option = (
        (socket.IPPROTO_IP, socket.IP_TOS)
        if family == 4
        else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    )
    ask = socket.IP_RECVTOS if family == 4 else socket.IPV6_RECVTCLASS
    with (
        closing(target.socket(family, socket.SOCK_DGRAM)) as there,
        closing(sender.socket(family, socket.SOCK_DGRAM)) as here,
    ):
        there.settimeout(1)
        there.setsockopt(level, ask, 1)
        there.bind((to.address_text, WEB))
        here.setsockopt(level, option, 2)
        here.sendto(b"x", (to.address_text, WEB))
        _, extra, _, _ = there.recvmsg(16, 64)
        found = extra[0][2][0]
        return found >> 2, found & 3 == 2


@both_families
def test_the_mark_of_what_leaves_the_pools(
    host: Host, three: tuple[Workload, Workload, Workload], family: int
) -> None:
    a, b, _ = three
    with machines(host, "up0") as (outside,):
        to = outside.address(family)
        host.apply()
        assert code_point(a, outside, to) == (0, True)
        limit(host, a, Limits(dscp=46))
        assert code_point(a, outside, to) == (46, True)
        assert code_point(b, outside, to) == (0, True)
        limit(host, b, Limits(dscp=10))
        assert code_point(b, outside, to) == (10, True)
        pool = parse_network("192.0.2.0/24" if family == 4 else "fd00:2::/64")
        host.update(Kind.POOL, pool, Pool())
        host.apply()
        assert code_point(a, outside, to) == (0, True), "within the pools it stays as it was"


def test_a_known_value_is_a_change_of_elements_and_none_leaves_nothing(
    host: Host, three: tuple[Workload, Workload, Workload]
) -> None:
    a, b, _ = three
    host.apply()
    before = host.ruleset()
    limits = Limits(PacketRate(100, 5), PacketRate(200, 9), 10, 20, 46)
    limit(host, a, limits)
    rules = host.rules()
    limit(host, b, limits)
    assert host.rules() == rules
    generation = host.generation()
    old = dict(host.dataplane._endpoints.endpoints)
    host.restart()
    host.allow_all_profile()
    for workload in three:
        host.endpoint(workload)
        host.update(Kind.ENDPOINT, workload.id, old[workload.id])
    host.apply()
    assert host.generation() == generation, "a restart writes nothing"
    limit(host, a, Limits())
    limit(host, b, Limits())
    assert host.ruleset() == before


def test_a_limit_that_the_kernel_does_not_take_is_reported_and_left_out() -> None:
    """As on a kernel that cannot count connections."""
    host, nft = spoilt()
    host.allow_all_profile()

    def spoil(operation: Operation) -> Operation:
        if isinstance(operation, AddSet) and operation.set.name.startswith("connections"):
            wrong = Meta(MetaKey.MARK)  # keeps no state, so it cannot be an element's
            return replace(operation, set=replace(operation.set, each=wrong))
        return operation

    nft.spoil = spoil
    with workloads(host, 2) as (a, b):
        for one in (a, b):
            host.endpoint(one)
        limit(host, a, Limits(egress_rate=PacketRate(10, 5), egress_connections=3))
        (refused,) = host.dataplane.refused
        assert "connections-e-3" in refused
        assert 1 <= arrived(a, b, b.ipv4) <= 10, "the other limit is in force"
        assert udp(b, a, a.ipv4, WEB)
    host.close()


# Bandwidth.

SLOW = Bandwidth(rate=400_000, burst=80_000)
"""50 KB a second, 10 KB at once."""


def kilobytes(sender: End, target: End, to: Network, sent: int = 100) -> int:
    """How much of as much comes through in less than a second, in datagrams of 1,000 bytes."""
    with (
        closing(target.socket(to.family, socket.SOCK_DGRAM)) as there,
        closing(sender.socket(to.family, socket.SOCK_DGRAM)) as here,
    ):
        there.settimeout(0.5)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        there.bind((to.address_text, WEB))
        for _ in range(sent):
            here.sendto(bytes(1000), (to.address_text, WEB))
        count = 0
        give_up = time.monotonic() + 1
        try:
            while time.monotonic() < give_up:
                there.recv(2000)
                count += 1
        except TimeoutError:
            pass
        return count


ONCE = 2 * 10 + 5
"""What the bucket holds, what waits, and some more."""


@both_families
def test_bandwidth_of_what_a_workload_gets(
    host: Host, three: tuple[Workload, Workload, Workload], family: int
) -> None:
    a, b, c = three
    host.apply()
    assert kilobytes(a, c, c.address(family)) == 100
    limit(host, c, Limits(ingress_bandwidth=SLOW))
    assert 5 <= kilobytes(a, c, c.address(family)) <= ONCE
    assert kilobytes(c, a, a.address(family)) == 100, "what it sends is not slowed down"
    assert kilobytes(a, b, b.address(family)) == 100
    limit(host, c, Limits())
    assert kilobytes(a, c, c.address(family)) == 100
    assert shaped() == ""


@both_families
def test_bandwidth_of_what_a_workload_sends(
    host: Host, three: tuple[Workload, Workload, Workload], family: int
) -> None:
    a, b, c = three
    limit(host, a, Limits(egress_bandwidth=SLOW))
    assert 5 <= kilobytes(a, c, c.address(family)) <= ONCE
    assert kilobytes(b, c, c.address(family)) == 100
    assert kilobytes(c, a, a.address(family)) == 100
    # The detour changes nothing of who it is: source checks and policy are as they were.
    host.endpoint(c, ingress=PolicyList())
    host.apply()
    assert kilobytes(a, c, c.address(family)) == 0
    limit(host, a, Limits())
    host.endpoint(c)
    host.apply()
    assert kilobytes(a, c, c.address(family)) == 100
    assert shaped() == ""
    assert links_beside() == []


def shaped() -> str:
    """Buckets, as tc(8) lists them."""
    listed = subprocess.run(["tc", "qdisc"], capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in listed.splitlines() if " tbf " in line)


def links_beside() -> list[str]:
    shown = ["ip", "-br", "link", "show", "type", "ifb"]
    listed = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    return listed.splitlines()


BOTH = Limits(
    ingress_bandwidth=Bandwidth(10**6, 10**5, 2 * 10**6, 0),
    egress_bandwidth=Bandwidth(10**10, 1 << 32),
)


def test_a_restart_keeps_bandwidth_and_takes_away_what_nobody_wants(
    host: Host, three: tuple[Workload, Workload, Workload]
) -> None:
    a, b, _ = three
    limit(host, a, BOTH)
    limit(host, b, BOTH)
    before = shaped()
    assert before.count("tbf") == 4
    old = dict(host.dataplane._endpoints.endpoints)
    host.restart()
    host.allow_all_profile()
    for workload in three:
        host.endpoint(workload)
    host.update(Kind.ENDPOINT, a.id, old[a.id])
    host.apply()
    assert host.dataplane.in_sync
    assert set(shaped().splitlines()) < set(before.splitlines())
    assert shaped().count("tbf") == 2
    assert len(links_beside()) == 1
    assert kilobytes(b, a, a.ipv4, 20) >= 5
    assert kilobytes(b, three[2], three[2].ipv4) == 100, "it is not diverted any more"


def test_bandwidth_comes_again_with_its_link_and_after_others(
    host: Host, three: tuple[Workload, Workload, Workload]
) -> None:
    a, _, c = three
    limit(host, a, Limits(ingress_bandwidth=SLOW, egress_bandwidth=SLOW))
    subprocess.run(["tc", "qdisc", "del", "dev", a.interface, "root"], check=True)
    assert kilobytes(c, a, a.ipv4) == 100
    host.resync()
    assert kilobytes(c, a, a.ipv4) <= ONCE
    (beside,) = links_beside()
    subprocess.run(["ip", "link", "del", beside.split()[0]], check=True)
    host.read_link_events()
    host.resync()
    assert 5 <= kilobytes(a, c, c.ipv4) <= ONCE
    host.remove(a)
    host.apply()
    assert links_beside() == []
    assert shaped() == ""


def test_a_bandwidth_that_cannot_be_keeps_nothing_else_waiting(
    host: Host, three: tuple[Workload, Workload, Workload]
) -> None:
    a, _, c = three
    wrong = Bandwidth(rate=10**6, burst=10**5, peak_rate=1000, peak_burst=1)
    limit(host, a, Limits(ingress_bandwidth=wrong, egress_rate=PacketRate(10, 5)))
    assert host.dataplane.statistics().pending == 1
    assert 1 <= arrived(a, c, c.ipv4) <= 10
    limit(host, a, Limits())
    assert host.dataplane.in_sync
