"""A database on paper: what Neutron's would answer, changed by the test under one lock."""

from collections.abc import Callable, Collection, Iterator

from tortie.openstack.inventory import (
    FixedIP,
    Port,
    SecurityGroup,
    SecurityGroupRule,
    Selection,
    Subnet,
)


class PaperInventory:
    """Dicts by id. Assigning an entry is a commit; each call of the protocol reads anew.

    Args:
        after_read: called when ports have been read, and before they are given away: a test
            makes time pass there, or something happen.
    """

    def __init__(self, after_read: Callable[[], None] = lambda: None) -> None:
        self.after_read = after_read
        self.all_ports: dict[str, Port] = {}
        self.all_groups: dict[str, SecurityGroup] = {}
        self.all_subnets: dict[str, Subnet] = {}
        self.reads = 0

    def ports(self, selection: Selection | None = None) -> Iterator[Port]:
        self.reads += 1
        if selection is not None and not (selection.networks or selection.subnets):
            found = [self.all_ports.get(port_id) for port_id in selection.ids]
        else:
            found = [*self.all_ports.values()]
        chosen = [
            port for port in found if port and (selection is None or _selected(port, selection))
        ]
        self.after_read()
        yield from chosen

    def security_groups(self, ids: Collection[str] | None = None) -> Iterator[SecurityGroup]:
        for group in list(self.all_groups.values()):
            if ids is None or group.id in ids:
                yield group

    def subnets(self, selection: Selection | None = None) -> Iterator[Subnet]:
        for subnet in list(self.all_subnets.values()):
            if (
                selection is None
                or subnet.id in selection.ids | selection.subnets
                or subnet.network_id in selection.networks
            ):
                yield subnet


def _selected(port: Port, selection: Selection) -> bool:
    on = {fixed.subnet_id for fixed in port.fixed_ips}
    return (
        port.id in selection.ids
        or port.network_id in selection.networks
        or bool(on & selection.subnets)
    )


def uuid_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def make_port(number: int, host: str = "h1", **fields: object) -> Port:
    """One as Nova leaves it: a VM of its own, in one network and one group."""
    high, middle, low = number.to_bytes(3, "big")
    given: dict[str, object] = {
        "id": uuid_of(number),
        "host": host,
        "device_id": uuid_of(1_000_000 + number),
        "device_owner": "compute:nova",
        "network_id": uuid_of(7),
        "network_name": "private",
        "mac_address": f"fa:16:3e:{high:02x}:{middle:02x}:{low:02x}",
        "project_id": "acme",
        "project_name": "Acme",
        "fixed_ips": (
            FixedIP(
                address=f"10.{65 + high}.{middle}.{low}",
                subnet_id="s",
                gateway="10.65.0.1",
            ),
        ),
        "security_groups": {"sg-default": "default"},
    }
    return Port(**(given | fields))  # type: ignore[arg-type]


def make_group(group_id: str, *rules: SecurityGroupRule, name: str = "default") -> SecurityGroup:
    return SecurityGroup(id=group_id, name=name, rules=rules)


def default_group(group_id: str = "sg-default") -> SecurityGroup:
    """Neutron's default group: everything out, from members in."""
    rules = []
    for ethertype in ("IPv4", "IPv6"):
        rules.append(SecurityGroupRule(id=f"e{ethertype}", direction="egress", ethertype=ethertype))
        rules.append(
            SecurityGroupRule(id=f"i{ethertype}", ethertype=ethertype, remote_group_id=group_id)
        )
    return make_group(group_id, *rules)
