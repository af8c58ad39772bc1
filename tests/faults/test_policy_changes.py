"""K9, K10, K13, K14: addresses twice, changes without end, connections that were allowed."""

import os
import socket
import time

import pytest
from tests.attacks.arena import Arena
from tests.attacks.packets import datagram
from tests.faults.agent import running
from tests.faults.monitor import monitored
from tests.graph import resources
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF, HOST_MAC, PATIENCE, Workload, hears, tier

from tortie.calc.graph import Graph
from tortie.desired.policy import PolicyList, Rule
from tortie.kernel.rtnl.link import parse_mac

FLAPS = 80


@pytest.mark.parametrize("first_goes", [True, False])
def test_k9_two_endpoints_with_one_address(field: Arena, first_goes: bool) -> None:
    """From the datastore on: one of them has it, the same one whoever came first; when it
    goes the other gets it."""
    routed = []
    for order in (("a", "b"), ("b", "a")):
        field.host.restart()
        graph = Graph("h1", field.host.dataplane.on_update)
        entries = dict(
            [
                resources.profile("all", ingress=[resources.allow()], egress=[resources.allow()]),
                resources.pool("pool", "10.65.0.0/24"),
            ]
        )
        twins = {
            "a": resources.workload(
                "ns/a", "h1", "10.65.0.1/32", interface="cali1", profiles=["all"]
            ),
            "b": resources.workload(
                "ns/b", "h1", "10.65.0.1/32", interface="cali2", profiles=["all"]
            ),
        }
        for key, value in (*entries.items(), *(twins[name] for name in order)):
            graph.on_update(key, value)
        graph.flush()
        field.host.resync()
        winner = _interface_of(field, "10.65.0.1")
        routed.append(winner)
        gone, left = ("a", "cali2") if first_goes else ("b", "cali1")
        graph.on_update(twins[gone][0], None)
        graph.flush()
        field.host.apply()
        assert field.host.dataplane.in_sync
        assert _interface_of(field, "10.65.0.1") == left
        for interface, allowed in (("cali1", left == "cali1"), ("cali2", left == "cali2")):
            workload = field.attacker if interface == "cali1" else field.open
            assert _gets_out(field, workload) == allowed, interface
    assert routed[0] == routed[1], "decided by what they are, not by when they came"


def _interface_of(field: Arena, address: str) -> str:
    (index,) = {
        route.interface
        for route in field.host.rtnl.routes(4, protocol=80)
        if route.destination.address_text == address and route.destination.length == 32
    }
    return next(link.name for link in field.host.rtnl.links() if link.index == index)


def _gets_out(field: Arena, sender: Workload) -> bool:
    """A datagram from 10.65.0.1, of whoever sends it, to the other machine."""
    field.host.conntrack.delete(field.host.conntrack.flows())
    with field.wire_of(sender) as wire:
        mark = field.mark()
        packet = datagram("10.65.0.1", "192.0.2.2", mark)
        wire.send(parse_mac(HOST_MAC) + parse_mac(sender.mac) + b"\x08\x00" + packet)
    number = int.from_bytes(mark[-4:], "big")
    return number in field.arrivals_at("node")


def test_k10_policies_that_flap(field: Arena) -> None:
    """Changes come faster than they are written: they coalesce, and the last one counts."""
    deny = field.host.policy("flap", ingress=(Rule("Deny"),))
    lists = PolicyList((tier(deny, default="Pass"),), profiles=(ALLOW_ALL,))
    field.host.endpoint(field.open, ingress=lists)
    field.host.apply()
    commits = field.host.dataplane.statistics().nftables.commits
    began = time.monotonic()
    with running(field) as agent, monitored(field) as seen:
        for number in range(FLAPS):
            rule = Rule("Deny") if number % 2 else Rule("Allow")
            agent.call(lambda rule=rule: field.host.policy("flap", ingress=(rule,)))  # type: ignore[misc]
        last = time.monotonic()
        while not field.host.dataplane.in_sync:
            assert time.monotonic() - last < 2
            time.sleep(0.005)
    took = time.monotonic() - began
    written = field.host.dataplane.statistics().nftables.commits - commits
    assert 1 < written <= FLAPS + 2, written
    assert seen.leaked == 0, str(seen)
    assert 0 < seen.delivered < seen.allowed, f"it did flap: {seen}"
    assert took < 20
    # The last one denies.
    assert not _talks(field, field.open, patience=BRIEF)
    field.host.policy("flap", ingress=(Rule("Allow"),))
    field.host.apply()
    assert _talks(field, field.open)


def _talks(field: Arena, to: Workload, *, patience: float = PATIENCE) -> bool:
    return hears(field.attacker, to, 9000, patience=patience)


def test_k13_a_flow_that_policy_now_denies(field: Arena) -> None:
    """The same ports go on; the flow is cut with the policy, before the change is acknowledged."""
    with (
        field.open.socket(4, socket.SOCK_DGRAM) as server,
        field.attacker.socket(4, socket.SOCK_DGRAM) as client,
    ):
        server.bind((field.open.ipv4.address_text, 9001))
        client.bind((field.attacker.ipv4.address_text, 9002))
        client.connect(server.getsockname())

        def heard() -> bool:
            client.send(b"x")
            try:
                server.sendto(b"y", server.recvfrom(8)[1])
                client.recv(8)
            except TimeoutError:
                return False
            return True

        assert heard()
        assert heard()
        field.host.endpoint(field.open, ingress=PolicyList())
        field.host.apply()
        give_up = time.monotonic() + 2
        while (pause := field.host.dataplane.retry_seconds) is not None:
            assert time.monotonic() < give_up
            time.sleep(pause)
            field.host.apply()
        assert not heard()


def test_k14_a_flow_does_not_reach_the_next_owner(field: Arena) -> None:
    """The address goes to another workload, whose policy allows nothing; the old flow is there."""
    with (
        field.open.socket(4, socket.SOCK_DGRAM) as server,
        field.attacker.socket(4, socket.SOCK_DGRAM) as client,
    ):
        server.bind((field.open.ipv4.address_text, 9001))
        client.connect(server.getsockname())
        client.send(b"x")
        server.sendto(b"y", server.recvfrom(8)[1])
        assert client.recv(8) == b"y"
        before = len(field.host.conntrack.flows_involving([field.open.ipv4]))
        assert before == 1
        next_owner = Workload(9, field.host.rtnl)
        next_owner.run(f"ip addr add {field.open.ipv4} dev eth0")
        field.host.remove(field.open)
        address, next_owner.ipv4 = next_owner.ipv4, field.open.ipv4
        field.host.endpoint(next_owner, ingress=PolicyList())
        field.host.read_link_events()
        field.host.apply()
        assert field.host.conntrack.flows_involving([field.open.ipv4]) == []
        assert address != next_owner.ipv4
        with next_owner.socket(4, socket.SOCK_DGRAM) as again:
            again.bind((next_owner.ipv4.address_text, 9001))
            client.send(b"x")
            with pytest.raises(TimeoutError):
                again.recv(8)
        os.close(next_owner.namespace)
