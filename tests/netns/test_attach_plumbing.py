"""Real veth pairs between real namespaces."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Collection, Iterator

import pytest

from tortie.attach import namespaces
from tortie.attach.inside import HOST_MAC
from tortie.attach.namespaces import Namespaces
from tortie.attach.plumbing import Veths, Wanted
from tortie.kernel import netns as kernel_netns
from tortie.kernel import sysctl
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange, VethPeer
from tortie.kernel.rtnl.route import SCOPE_LINK, Route
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound
from tortie.lib.ip import parse_address

FOUR, SIX = ADDRESSES = parse_address("10.65.0.7"), parse_address("fd00:65::7")
HOST_FOUR, HOST_SIX = "192.0.2.1", "2001:db8::1"


@pytest.fixture
def helper(netns: None) -> Iterator[Namespaces]:
    started = namespaces.start()
    yield started
    started.close()


@pytest.fixture
def workload() -> Iterator[str]:
    descriptor = kernel_netns.create_anonymous()
    yield f"/proc/{os.getpid()}/fd/{descriptor}"
    os.close(descriptor)


@pytest.fixture
def veths(helper: Namespaces) -> Veths:
    return Veths(helper)


def wanted(workload: str, **changes: object) -> Wanted:
    return Wanted(workload, "eth0", "cali0")._replace(**changes)  # type: ignore[arg-type]


def connect(veths: Veths, wanted: Wanted) -> str:
    """All of it; returns the MAC of the workload's end."""

    async def go() -> str:
        made = await veths.make(wanted)
        try:
            await made.configure(ADDRESSES)
            return made.mac
        finally:
            made.close()

    return asyncio.run(go())


def disconnect(veths: Veths, *interfaces: str) -> list[bool]:
    async def go() -> list[bool]:
        return await asyncio.gather(*map(veths.disconnect, interfaces))

    return asyncio.run(go())


def problems(veths: Veths, wanted: Wanted) -> list[str]:
    return asyncio.run(veths.problems(wanted, ADDRESSES))


def be_the_agent() -> None:
    """What the agent does of its own: addresses of the host, forwarding, and host routes."""
    for text in (HOST_FOUR, HOST_SIX):
        subprocess.run(["ip", "addr", "add", text, "dev", "lo"], check=True)
    sysctl.set_global("ipv4/ip_forward", 1)
    sysctl.set_global("ipv6/conf/all/forwarding", 1)
    with Rtnl.open() as rtnl:
        index = rtnl.link("cali0").index
        for address in (FOUR, SIX):
            scope = SCOPE_LINK if address.family == 4 else 0
            rtnl.replace_route(Route(destination=address, interface=index, scope=scope))


def reaches(workload: str, address: str) -> bool:
    """A TCP connection from the workload to this namespace, there and back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def connect() -> str:
        with socket.create_connection((address, port), timeout=2) as sock:
            return str(sock.getsockname()[0])

    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        expected = SIX if family == socket.AF_INET6 else FOUR
        return kernel_netns.run_in(workload, connect) == expected.address_text


def test_the_workload_reaches_the_host_in_both_families(veths: Veths, workload: str) -> None:
    """Without a default route on the host, so without help from proxy ARP."""
    connect(veths, wanted(workload))
    be_the_agent()
    assert reaches(workload, HOST_FOUR)
    assert reaches(workload, HOST_SIX)
    assert problems(veths, wanted(workload)) == []


def test_again_changes_nothing(veths: Veths, workload: str) -> None:
    first = connect(veths, wanted(workload))
    with Rtnl.open() as rtnl:
        index = rtnl.link("cali0").index
        assert connect(veths, wanted(workload)) == first
        assert rtnl.link("cali0").index == index
        assert rtnl.link("cali0").mac == HOST_MAC


def test_what_is_missing_is_completed(veths: Veths, workload: str, helper: Namespaces) -> None:
    connect(veths, wanted(workload))
    opened = asyncio.run(helper.open(workload))
    inside = opened.rtnl.link("eth0")
    opened.rtnl.change_link(inside.index, LinkChange(up=False))
    [four] = opened.rtnl.addresses(4, interface=inside.index)
    opened.rtnl.delete_address(four)
    opened.close()
    said = problems(veths, wanted(workload))
    for word in ("down", "10.65.0.7", "0.0.0.0/0", "::/0", "169.254.1.1"):
        assert word in " ".join(said)
    connect(veths, wanted(workload))
    assert problems(veths, wanted(workload)) == []


def test_router_advertisements_are_off_on_both_ends(veths: Veths, workload: str) -> None:
    connect(veths, wanted(workload))
    assert sysctl.get_interface(6, "cali0", "accept_ra") == "0"
    read = kernel_netns.run_in(workload, lambda: sysctl.get_interface(6, "eth0", "accept_ra"))
    assert read == "0"


def test_no_address_is_tentative(veths: Veths, workload: str, helper: Namespaces) -> None:
    sysctl.set_interface(6, "default", "addr_gen_mode", 3)  # a host with random addresses
    connect(veths, wanted(workload))
    opened = asyncio.run(helper.open(workload))
    inside = opened.rtnl.link("eth0").index
    # The kernel clears the mark in a thread of its own; looking for duplicates takes a second.
    give_up = time.monotonic() + 0.7
    with Rtnl.open() as host:
        index = host.link("cali0").index
        while any(
            address.tentative
            for address in [
                *host.addresses(interface=index),
                *opened.rtnl.addresses(interface=inside),
            ]
        ):
            assert time.monotonic() < give_up
            time.sleep(0.01)
        [own] = host.addresses(interface=index)
        assert own.address.address_text == "fe80::ecee:eeff:feee:eeee"
    opened.close()


def test_mac_and_mtu(veths: Veths, workload: str) -> None:
    mac = connect(veths, wanted(workload, mac="02:00:00:00:00:42", mtu=1400))
    assert mac == "02:00:00:00:00:42"
    with Rtnl.open() as rtnl:
        assert rtnl.link("cali0").mtu == 1400


def test_an_interface_of_somebody_else_is_not_touched(
    veths: Veths, workload: str, helper: Namespaces
) -> None:
    opened = asyncio.run(helper.open(workload))
    opened.rtnl.create_bridge("eth0")
    opened.close()
    with pytest.raises(AlreadyExists, match="another interface 'eth0'"):
        connect(veths, wanted(workload))
    with Rtnl.open() as rtnl:
        assert [link.name for link in rtnl.links()] == ["lo"]


def test_two_veths_are_not_one_pair(veths: Veths, workload: str, helper: Namespaces) -> None:
    """The host end leads elsewhere, and the workload has a veth of somebody else."""
    older = kernel_netns.create_anonymous()
    connect(veths, wanted(f"/proc/{os.getpid()}/fd/{older}"))
    opened = asyncio.run(helper.open(workload))
    with Rtnl.open() as rtnl:
        rtnl.create_veth("other", VethPeer(name="eth0", namespace=opened.descriptor))
    opened.close()
    assert problems(veths, wanted(workload)) == ["cali0 and eth0 are not two ends of one link"]
    with pytest.raises(AlreadyExists):
        connect(veths, wanted(workload))
    os.close(older)


def test_a_link_to_an_older_instance_is_replaced(veths: Veths, workload: str) -> None:
    older = kernel_netns.create_anonymous()
    connect(veths, wanted(f"/proc/{os.getpid()}/fd/{older}"))
    with Rtnl.open() as rtnl:
        before = rtnl.link("cali0").index
        connect(veths, wanted(workload))
        assert rtnl.link("cali0").index != before
    os.close(older)
    assert problems(veths, wanted(workload)) == []


def test_a_pair_waits_for_who_takes_its_far_end(veths: Veths, workload: str) -> None:
    gateways = parse_address("169.254.1.9"), parse_address("fe80::a9fe:109")
    mac = "02:00:00:00:00:09"
    pair = wanted("", device="pair", inside="tmp0", gateways=gateways, mac=mac)
    assert connect(veths, pair) == mac
    with Rtnl.open() as rtnl:
        near, far = rtnl.link("cali0"), rtnl.link("tmp0")
        assert (near.peer, near.up, near.mac) == (far.index, True, HOST_MAC)
        assert not far.up, "nobody has it yet"
        assert set(gateways) <= {found.address for found in rtnl.addresses(interface=near.index)}
        descriptor = os.open(workload, os.O_RDONLY)
        try:  # as Docker does
            rtnl.change_link(far.index, LinkChange(namespace=descriptor, name="eth0"))
        finally:
            os.close(descriptor)
    assert connect(veths, pair) == mac, "again, with the far end elsewhere"
    with Rtnl.open() as rtnl:
        assert rtnl.link("cali0").index == near.index
        with pytest.raises(NotFound):
            rtnl.link("tmp0")
    assert problems(veths, pair) == []
    assert disconnect(veths, "cali0") == [True]


def test_removing_twice(veths: Veths, workload: str) -> None:
    connect(veths, wanted(workload))
    assert disconnect(veths, "cali0") == [True]
    assert disconnect(veths, "cali0") == [False]
    assert problems(veths, wanted(workload)) == ["the host has no interface cali0"]


def test_many_at_once_are_removed_together(
    veths: Veths, workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"cali{number}" for number in range(12)]
    for name in names:
        connect(veths, wanted(workload, interface=name, inside=f"eth{name[4:]}"))
    batches: list[int] = []
    delete = Rtnl.delete_links

    def counted(rtnl: Rtnl, indexes: Collection[int]) -> None:
        batches.append(len(indexes))
        delete(rtnl, indexes)

    monkeypatch.setattr(Rtnl, "delete_links", counted)
    assert disconnect(veths, *names) == [True] * 12
    with Rtnl.open() as rtnl:
        assert [link.name for link in rtnl.links()] == ["lo"]
    assert sum(batches) == 12
    assert len(batches) < 12, "every removal waited for the kernel by itself"


def test_the_hosts_own_namespace_is_no_workload(veths: Veths) -> None:
    with pytest.raises(InvalidInput, match="host's own"):
        connect(veths, wanted(kernel_netns.OWN))
    with Rtnl.open() as rtnl:
        assert [link.name for link in rtnl.links()] == ["lo"]


def test_a_namespace_that_is_gone(veths: Veths) -> None:
    with pytest.raises(NotFound):
        connect(veths, wanted("/run/netns/no-such-namespace"))
