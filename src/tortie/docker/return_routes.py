"""A container on several networks answers through the link by which it was asked.

Docker gives a container one default route, by the alphabet of its networks' names. What leaves
by another link than its source address belongs to is spoofed, and dropped. So each of our links
has a table of its own in there, with its own default route, and two kinds of rules lead to it:

    from <address of the link>  lookup <its table>
    to   <each IPPool>          lookup <the table of the first link>

The second is for containers that have their default route on Docker's bridge. Docker does not
look at rules: routes of this kind in the main table would keep it from connecting a container
to another network. A link that goes takes its table's routes along, and rules to an empty table
lead on to the next.
"""

import socket
from collections.abc import Sequence
from typing import NamedTuple

from tortie.kernel import netns
from tortie.kernel.netlink import NETLINK_ROUTE
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.route import Route
from tortie.kernel.rtnl.rule import Rule
from tortie.lib.errors import NotFound, TortieError
from tortie.lib.ip import Network, parse_network

TABLES = 0x7A000000
"""A link's table is this and its network's number."""

PRIORITY_FROM, PRIORITY_TO = 1000, 1001
PROTOCOL = 80
"""By which we know our own rules. The agent's routes on the host have it, too."""

_DEFAULT = {4: parse_network("0.0.0.0/0"), 6: parse_network("::/0")}


class Link(NamedTuple):
    """One address of a container on a network of ours."""

    address: Network
    gateway: Network
    number: int
    """Of its network."""


def settle(pid: int, links: Sequence[Link], pools: Sequence[Network]) -> bool:
    """Make routes and rules in a container what they should be; blocks for milliseconds.

    Args:
        pid: of a process of the container.
        links: the first one of each family is used towards `pools`.

    Returns:
        False if it is not there, or is none that has these addresses: nothing was changed then.
    """
    try:
        opened = netns.open_socket_in(
            f"/proc/{pid}/ns/net", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE
        )
    except (NotFound, OSError):
        return False
    opened.bind((0, 0))
    with Rtnl.adopt(opened.detach()) as inside:
        interfaces = {found.address: found.interface for found in inside.addresses()}
        if not all(link.address in interfaces for link in links):
            return False
        for family in (4, 6):
            own = [link for link in links if link.address.family == family]
            if own:
                _route(inside, own, interfaces)
            _rule(inside, family, _rules(own, [pool for pool in pools if pool.family == family]))
    return True


def _rules(links: Sequence[Link], pools: Sequence[Network]) -> list[Rule]:
    wanted = [
        Rule(
            family=link.address.family,
            priority=PRIORITY_FROM,
            source=link.address,
            table=TABLES + link.number,
            protocol=PROTOCOL,
        )
        for link in links
    ]
    wanted += [
        Rule(
            family=link.address.family,
            priority=PRIORITY_TO,
            destination=pool,
            table=TABLES + link.number,
            protocol=PROTOCOL,
        )
        for link in links[:1]
        for pool in pools
    ]
    return wanted


def _route(inside: Rtnl, links: Sequence[Link], interfaces: dict[Network, int]) -> None:
    routes = [
        Route(
            destination=_DEFAULT[link.address.family],
            interface=interfaces[link.address],
            gateway=link.gateway,
            onlink=True,
            table=TABLES + link.number,
            source=link.address,
        )
        for link in links
    ]
    for outcome in inside.replace_routes(routes):
        if isinstance(outcome, TortieError):
            raise outcome


def _rule(inside: Rtnl, family: int, wanted: Sequence[Rule]) -> None:
    present = [rule for rule in inside.rules(family) if rule.protocol == PROTOCOL]
    for rule in wanted:
        if rule not in present:
            inside.add_rule(rule)
    for rule in present:
        if rule not in wanted:
            inside.delete_rule(rule)
