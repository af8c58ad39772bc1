"""A security group as a NetworkPolicy. Pure.

A group's policy selects the ports that wear its label. It only allows, and several groups of
a port are several policies of one tier, so their rules add up, as Neutron wants it; what none
allows is denied both ways. A rule that the API of policies cannot express is left out and
reported: one tenant's odd rule closes a little of his own and concerns nobody else.

Source: OpenStack's Networking API, security-group-rules; Calico, networking-calico,
drivers/calico/policy.py.
"""

from collections.abc import Iterator, Mapping

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.metadata import Metadata
from tortie.model.policy import (
    DEFAULT_TIER,
    ICMP,
    NETS_MAX,
    EntityRule,
    NetworkPolicy,
    NetworkPolicySpec,
    Rule,
)
from tortie.model.validation import terms
from tortie.openstack.inventory import SecurityGroup, SecurityGroupRule
from tortie.openstack.labels import group_policy_key, group_selector, is_plain
from tortie.openstack.translation import Translated

_FAMILIES = {"IPv4": 4, "IPv6": 6}

PROTOCOLS: Mapping[str, int] = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "icmp": 1, "icmpv6": 58, "igmp": 2,
    "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6,
    "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip
"""Neutron's names and their numbers. Source: neutron_lib.constants."""

_NAMES = {6: "TCP", 17: "UDP", 1: "ICMP", 58: "ICMPv6", 132: "SCTP", 136: "UDPLite"}
_ANY = (None, "", "any", "ip", "0", "-1")
_ICMP = (1, 58)


def translate_group(group: SecurityGroup, namespace: str) -> Translated:
    """The group's policy, and for each rule that it lacks why.

    Without a policy where the group's id cannot be part of a name.
    """
    if not is_plain(group.id):
        return Translated(problems=(f"security group {group.id!r}: the id is no plain name",))
    rules: dict[str, list[Rule]] = {"ingress": [], "egress": []}
    problems = []
    for rule in sorted(group.rules, key=_order):
        try:
            rules[_direction(rule)] += _rules(rule)
        except InvalidInput as error:
            problems.append(
                f"security group {group.id}: rule {rule.id or '?'} is left out: {error}"
            )
    key = group_policy_key(namespace, group.id)
    policy = NetworkPolicy(
        kind="NetworkPolicy",
        metadata=Metadata(name=key.name, namespace=namespace),
        spec=NetworkPolicySpec(
            tier=DEFAULT_TIER,
            selector=group_selector(group.id),
            ingress=tuple(rules["ingress"]),
            egress=tuple(rules["egress"]),
            types=("Ingress", "Egress"),
        ),
    )
    return Translated((policy,), tuple(map(terms.printable, problems)))


def protocol_number(protocol: str | int | None, family: int) -> int | None:
    """The IP protocol that a rule means; None means any.

    Raises:
        InvalidInput: there is no such protocol.
    """
    text = None if protocol is None else str(protocol).strip().lower()
    if text in _ANY:
        return None
    assert text is not None  # it would be any
    number = PROTOCOLS.get(text)
    if number is None:
        if not (terms.is_digits(text) and int(text) <= 255):
            raise InvalidInput(f"there is no protocol {protocol!r}")
        number = int(text)
    # Neutron's own rule: ICMP in an IPv6 rule is ICMPv6.
    return 58 if (number, family) == (1, 6) else number


def _order(rule: SecurityGroupRule) -> tuple[str, ...]:
    """Any order will do, since all rules allow; the same one always, so that nothing changes."""
    return (rule.id, *map(str, (rule.direction, rule.ethertype, rule.protocol, rule.port_range_min,
            rule.port_range_max, rule.remote_ip_prefix, rule.remote_group_id)))  # fmt: skip


def _direction(rule: SecurityGroupRule) -> str:
    if rule.direction not in ("ingress", "egress"):
        raise InvalidInput(f"the direction is {rule.direction!r}")
    return rule.direction


def _rules(rule: SecurityGroupRule) -> Iterator[Rule]:
    """Mostly one; several where an address group has more networks than one rule can name."""
    family = _FAMILIES.get(rule.ethertype)
    if family is None:
        raise InvalidInput(f"the ethertype is {rule.ethertype!r}")
    number = protocol_number(rule.protocol, family)
    if (number, family) == (58, 4):
        raise InvalidInput("ICMPv6 in an IPv4 rule")
    ports = () if number in _ICMP else _ports(rule, number)
    icmp = _icmp(rule) if number in _ICMP else None
    for remote in _remotes(rule, family):
        local = EntityRule(ports=ports)
        if rule.direction == "ingress":
            source, destination = remote, local
        else:
            source = EntityRule()
            destination = EntityRule(nets=remote.nets, selector=remote.selector, ports=ports)
        yield Rule(
            action="Allow",
            ip_version=family,
            protocol=None if number is None else _NAMES.get(number, number),
            icmp=icmp,
            source=source,
            destination=destination,
        )


def _ports(rule: SecurityGroupRule, number: int | None) -> tuple[int | str, ...]:
    low, high = rule.port_range_min, rule.port_range_max
    if low in (None, -1) and high in (None, -1):
        return ()
    if number not in terms.WITH_PORTS:
        raise InvalidInput("ports can be matched for TCP, UDP and SCTP only")
    low = low if low not in (None, -1) else high
    high = high if high not in (None, -1) else low
    assert low is not None  # both would be
    assert high is not None
    if not 0 < low <= high < 65536:
        raise InvalidInput(f"{low} to {high} is no range of ports")
    return (low,) if low == high else (f"{low}:{high}",)


def _icmp(rule: SecurityGroupRule) -> ICMP | None:
    kind = None if rule.port_range_min == -1 else rule.port_range_min
    code = None if rule.port_range_max == -1 else rule.port_range_max
    if kind is None and code is not None:
        raise InvalidInput(f"ICMP code {code} without a type")
    if kind is None:
        return None
    if not (0 <= kind <= 254 and 0 <= (code or 0) <= 255):
        raise InvalidInput(f"ICMP type {kind}, code {code} cannot be matched")
    return ICMP(type=kind, code=code)


def _remotes(rule: SecurityGroupRule, family: int) -> Iterator[EntityRule]:
    """Who the other side may be. Neutron takes one way to say it, of the three."""
    given = (rule.remote_group_id, rule.remote_ip_prefix, rule.remote_address_group_id)
    if sum(one is not None for one in given) > 1:
        raise InvalidInput("it has more than one of remote group, prefix and address group")
    if rule.remote_group_id is not None:
        if not is_plain(rule.remote_group_id):
            raise InvalidInput(f"{rule.remote_group_id!r} is no id of a group")
        yield EntityRule(selector=group_selector(rule.remote_group_id))
    elif rule.remote_ip_prefix is not None:
        yield EntityRule(nets=(_net(rule.remote_ip_prefix, family),))
    elif rule.remote_address_group_id is not None:
        yield from _address_group(rule, family)
    else:
        yield EntityRule()


def _address_group(rule: SecurityGroupRule, family: int) -> Iterator[EntityRule]:
    """Its networks of the rule's family; an empty group is nobody, so there is no rule."""
    networks = sorted({parse_network(text) for text in rule.remote_addresses})
    nets = [str(network) for network in networks if network.family == family]
    for start in range(0, len(nets), NETS_MAX):
        yield EntityRule(nets=tuple(nets[start : start + NETS_MAX]))


def _net(text: str, family: int) -> str:
    network = parse_network(text)
    if network.family != family:
        raise InvalidInput(f"{text!r} is not IPv{family}")
    return str(network)
