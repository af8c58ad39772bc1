"""K3: killed at each message to the kernel, before it and after: the old state or the new.

A child process makes the same change from the same state again and again, and
each time ends itself with SIGKILL at another call of the netlink socket. A
system call cannot be cut in two by a signal, so that is every point there is.
"""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from tests.attacks.arena import Arena
from tests.faults.monitor import monitored

from tortie.desired.policy import PolicyList, PortRange, Rule, Side
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl

TABLES = ("inet tortie", "arp tortie")


def tell(field: Arena, *, changed: bool) -> None:
    """What is wanted, to a dataplane that knows nothing: one of two worlds."""
    host = field.host
    host.restart()
    host.allow_all_profile()
    host.endpoint(field.attacker)
    host.endpoint(field.open)
    host.endpoint(field.guarded, ingress=PolicyList())
    if not changed:
        return
    ports = Side(ports=(PortRange(80, 90), PortRange(443, 443)))
    for number in range(20):
        name = f"policy-{number}"
        rules = tuple(
            Rule(action, protocol=6, destination=ports) for action in ("Deny", "Allow", "Pass")
        )
        host.policy(name, ingress=rules, egress=rules)
    host.remove(field.open)
    host.endpoint(field.guarded)


def dump(field: Arena) -> tuple[list[str], frozenset[str]]:
    routes = frozenset(str(one) for one in field.host.rtnl.routes(protocol=80))
    return field.host.ruleset(*TABLES), routes


def die_in_child(act: Callable[[], None]) -> int:
    """Run `act` in a child; returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def take_over(field: Arena) -> None:
    """As the next agent does: the same nft socket, from the keeper, and new others."""
    host = field.host
    inherited = os.dup(host.nft.fileno())
    for door in (host.nft, host.rtnl, host.conntrack):
        door.close()
    host.nft = Nft.adopt(inherited)
    host.rtnl, host.conntrack = Rtnl.open(), Conntrack.open()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_k3_killed_at_every_message(field: Arena, after: bool) -> None:
    old = dump(field)
    tell(field, changed=True)
    field.host.resync()
    new = dump(field)
    assert new[0] != old[0]
    assert new[1] != old[1]
    kills = 0
    states = set()
    for number in range(1, 200):
        tell(field, changed=False)
        field.host.resync()
        assert dump(field) == old

        def act(number: int = number) -> None:
            tell(field, changed=True)
            _kill_at(number, after=after)
            asyncio.run(field.host.dataplane.apply())

        status = die_in_child(act)
        take_over(field)
        rules, routes = dump(field)
        assert rules in (old[0], new[0]), f"torn at message {number}"
        if rules == old[0]:
            assert routes == old[1], "no route changes before the rules have"
        states.add(rules == new[0])
        if not os.WIFSIGNALED(status):
            assert (rules, routes) == new
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
        # The next one finds its way from whatever is there.
        tell(field, changed=True)
        field.host.apply()
        assert field.host.dataplane.in_sync
        assert dump(field) == new
    assert kills >= 8, "it was killed at each of its messages"
    assert states == {False, True}, "before the commit, and behind it"


def _kill_at(number: int, *, after: bool) -> None:
    sent = 0
    send = NetlinkSocket.send

    def counted(self: NetlinkSocket, data: bytes) -> None:
        nonlocal sent
        sent += 1
        if sent == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        send(self, data)
        if sent == number:
            os.kill(os.getpid(), signal.SIGKILL)

    NetlinkSocket.send = counted  # type: ignore[method-assign]


def test_k3_traffic_while_agents_are_killed(field: Arena) -> None:
    """Nothing forbidden passes, nothing allowed breaks, however often it happens."""
    kills = 0
    with monitored(field) as seen:
        for number in range(1, 15):

            def act(number: int = number) -> None:
                field.host.restart()
                field.host.allow_all_profile()
                field.host.endpoint(field.attacker)
                field.host.endpoint(field.open)
                field.host.endpoint(field.guarded, ingress=PolicyList())
                _kill_at(number, after=number % 2 == 0)
                asyncio.run(field.host.dataplane.resync())

            kills += os.WIFSIGNALED(die_in_child(act))
            take_over(field)
    assert kills >= 8
    assert seen.leaked == 0, str(seen)
    assert seen.broken is None
    assert seen.delivered >= seen.allowed - 5, str(seen)
