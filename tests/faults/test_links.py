"""K6, K8: events are lost; interfaces come, go, and change their names."""

import os
import socket
import subprocess
import time
from collections.abc import Callable

from tests.attacks.arena import Arena
from tests.attacks.packets import datagram
from tests.faults.agent import running
from tests.netns.dataplane_host import HOST_MAC, Workload

from tortie.desired.endpoint import Route, RouteType
from tortie.desired.kinds import Kind
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import VethPeer, parse_mac
from tortie.kernel.rtnl.route import Route as KernelRoute
from tortie.lib.ip import Network, parse_network

BURST = 150


def eventually(holds: Callable[[], bool], patience: float = 5.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < patience, "never came about"
        time.sleep(0.002)
    return time.monotonic() - began


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def routes() -> list[KernelRoute]:
    """By a socket of our own: the agent's belongs to its thread."""
    with Rtnl.open() as rtnl:
        return rtnl.routes(4, protocol=80)


def link_index(name: str) -> int:
    return socket.if_nametoindex(name)


def rp_filter(interface: str) -> str:
    with open(f"/proc/sys/net/ipv4/conf/{interface}/rp_filter") as file:
        return file.read().strip()


def test_k6_lost_link_events(field: Arena) -> None:
    """The queue overflows; all links are read back, and none is forgotten."""
    host = field.host
    # Where a new link begins: open.
    with open("/proc/sys/net/ipv4/conf/default/rp_filter", "w") as file:
        file.write("0")
    with running(field, queue_bytes=2048) as agent:
        eventually(lambda: agent.statistics[0] > 0)

        def everything_at_once() -> None:
            # In the loop's own thread: nobody reads events meanwhile.
            for number in range(BURST):
                host.rtnl.create_veth(f"cali-b{number}", VethPeer(name=f"p{number}"))
            for number in range(BURST):
                host.update(
                    Kind.ROUTE,
                    _address(number),
                    Route(RouteType.LOCAL_WORKLOAD, interface=f"cali-b{number}"),
                )
            subprocess.run(
                ["ip", "-batch", "-"],
                input="".join(f"link set cali-b{n} up\nlink set p{n} up\n" for n in range(BURST)),
                text=True,
                check=True,
            )

        agent.call(everything_at_once)
        waited = eventually(
            lambda: (
                agent.overflows > 0 and all(rp_filter(f"cali-b{n}") == "1" for n in range(BURST))
            )
        )
        eventually(lambda: len(routes()) >= BURST)
    assert agent.overflows, "events were lost"
    assert waited < 2
    assert host.dataplane.in_sync


def _address(number: int) -> Network:
    return parse_network(f"10.66.{number // 250}.{number % 250 + 1}/32")


def reaches(field: Arena, to: Workload, wire: socket.socket | None = None) -> int:
    def build() -> list[bytes]:
        source = field.attacker.ipv4.address_text
        return [field.frame(datagram(source, to.ipv4.address_text, field.mark()))]

    seen = field.send(build, wire=wire)
    return seen.get("open", 0) + seen.get("guarded", 0)


def spoofs(field: Arena) -> bool:
    """Whether the attacker gets past the source check with an address of another."""

    def build() -> list[bytes]:
        return [field.frame(datagram("10.65.0.3", field.open.ipv4.address_text, field.mark()))]

    return bool(field.send(build))


def test_k8_flaps(field: Arena) -> None:
    """Routes and neighbours go with each; they are back, and policy was never away."""
    with running(field) as agent:
        flaps = 0
        for pause in (0.0, 0.001, 0.003, 0.01) * 4:
            ip("link", "set", "cali2", "down")
            time.sleep(pause)
            ip("link", "set", "cali2", "up")
            flaps += 1
            time.sleep(pause)
        eventually(lambda: field.host.dataplane.in_sync and agent.statistics[0] > 3)
        eventually(lambda: any(route.destination == field.open.ipv4 for route in routes()))
    assert flaps == 16
    # The socket that hears arrivals was told that its link went down.
    field.rewire("eth0")
    field.rewire_places()
    assert reaches(field, field.open) == 1
    assert reaches(field, field.guarded) == 0
    assert not spoofs(field)


def test_k8_a_link_that_is_renamed_is_closed(field: Arena) -> None:
    """Policy goes by name: another name of ours is nobody's, a foreign name is not ours at all."""
    with running(field) as agent:
        eventually(lambda: agent.statistics[0] > 0)
        ip("link", "set", "cali1", "down")
        ip("link", "set", "cali1", "name", "cali99")
        ip("link", "set", "cali99", "up")
        eventually(lambda: rp_filter("cali99") == "1")
        source = field.attacker.ipv4.address_text
        field.rewire("eth0")
        # The sentinel, which is the attacker's, cannot arrive: count by hand.
        field.wire.send(field.frame(datagram(source, "10.65.0.2", field.mark())))
        assert field.arrivals_at("open") == set(), "its name is not that of an endpoint"
        ip("link", "set", "cali99", "down")
        ip("link", "set", "cali99", "name", "cali1")
        ip("link", "set", "cali1", "up")
        eventually(lambda: field.host.dataplane.in_sync)
        eventually(lambda: any(route.destination == field.attacker.ipv4 for route in routes()))
        field.rewire("eth0")
        assert reaches(field, field.open) == 1
        assert not spoofs(field)


def test_k8_another_link_with_the_name_of_a_gone_one(field: Arena) -> None:
    """Its index is new, its sysctls are the kernel's: all is written again, nothing is open."""
    with running(field) as agent:
        eventually(lambda: agent.statistics[0] > 0)
        old = link_index("cali3")
        ip("link", "del", "cali3")
        again = _workload(3)
        assert link_index("cali3") != old
        gone, field.guarded = field.guarded, again
        os.close(gone.namespace)
        field.rewire_places()
        eventually(lambda: rp_filter("cali3") == "1" and field.host.dataplane.in_sync)
        new = link_index("cali3")
        eventually(
            lambda: any(
                route.destination == again.ipv4 and route.interface == new for route in routes()
            )
        )
        assert reaches(field, again) == 0
        # The new one may send, as the old one could.
        with field.wire_of(again) as wire:
            mac = parse_mac(again.mac)
            assert field.send(lambda: _numbered(field, again, mac), wire=wire)["open"] == 1


def _workload(number: int) -> Workload:
    with Rtnl.open() as rtnl:
        return Workload(number, rtnl)


def _numbered(field: Arena, sender: Workload, mac: bytes) -> list[bytes]:
    packet = datagram(sender.ipv4.address_text, "10.65.0.2", field.mark())
    return [parse_mac(HOST_MAC) + mac + b"\x08\x00" + packet]
