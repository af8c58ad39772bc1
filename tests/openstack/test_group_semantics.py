"""Security groups as policies mean what Neutron's words say, for any two ports and packet.

The words are judged by `neutron_words`. What is stored is read back as an agent reads it, and
judged twice: by the reference evaluator, and by what calc tells two hosts to enforce.
"""

import ipaddress
import random
from collections.abc import Iterator

import pytest
from tests.graph.resources import State
from tests.openstack.neutron_words import (
    NUMBERS,
    Address,
    Asked,
    addresses,
    is_allowed,
    is_expressible,
)
from tests.openstack.paper import make_port
from tests.oracle.clusters import HOSTS
from tests.oracle.comparison import differences, packet_text
from tests.oracle.plain_verdict import DesiredHost

from tortie.explain.oracle import Packet, decide
from tortie.lib.ip import Network, parse_address
from tortie.model import codec
from tortie.model.keys import Key, ResourceKey, parse_key
from tortie.openstack.endpoints import translate_port
from tortie.openstack.inventory import (
    AddressPair,
    FixedIP,
    Port,
    SecurityGroup,
    SecurityGroupRule,
)
from tortie.openstack.policies import translate_group
from tortie.openstack.settings import Settings
from tortie.openstack.store import encoded

SETTINGS = Settings()
GROUPS = ("sg-a", "sg-b", "sg-c", "sg-d")
PORTS = (1, 22, 80, 443, 8080, 65535)
OUTSIDE = ("198.51.100.7", "203.0.113.9", "2001:db8::7", "10.65.0.200")
PREFIXES = {
    "IPv4": ("0.0.0.0/0", "10.65.0.0/24", "10.65.0.2", "10.65.0.77/26", "198.51.100.0/24"),
    "IPv6": ("::/0", "fd00:65::/64", "fd00:65::2", "2001:db8::/32"),
}
WORLDS = 40
PACKETS = 80


def make_groups(dice: random.Random) -> dict[str, SecurityGroup]:
    return {
        group_id: SecurityGroup(
            id=group_id,
            name=dice.choice(("default", "web", "ä'; drop", "")),
            rules=tuple(_rule(dice, f"{group_id}-{n}") for n in range(dice.randint(0, 7))),
        )
        for group_id in GROUPS
    }


def _rule(dice: random.Random, rule_id: str) -> SecurityGroupRule:
    ethertype = dice.choice(("IPv4", "IPv4", "IPv6"))
    protocol = dice.choice(
        (None, "any", "0", "tcp", "tcp", "udp", "6", "17", "icmp", "1", "sctp", "gre", "47", "dccp",
         "udplite", "ipv6-icmp" if ethertype == "IPv6" else "vrrp", "200")
    )  # fmt: skip
    low = high = None
    if protocol in ("icmp", "1", "ipv6-icmp"):
        low = dice.choice((None, None, 0, 8, 128, 255))
        high = None if low is None else dice.choice((None, 0, 3))
    elif protocol in ("tcp", "udp", "sctp", "6", "17", "dccp", "udplite") and dice.random() < 0.7:
        low, high = sorted((dice.choice(PORTS), dice.choice(PORTS)))
    remote: dict[str, object] = {}
    match dice.randint(0, 3):
        case 0:
            remote = {"remote_group_id": dice.choice(GROUPS)}
        case 1:
            remote = {"remote_ip_prefix": dice.choice(PREFIXES[ethertype])}
        case 2:
            nets = (*PREFIXES["IPv4"][1:3], *PREFIXES["IPv6"][2:])
            some = tuple(dice.sample(nets, dice.randint(0, 3)))
            remote = {"remote_address_group_id": "ag", "remote_addresses": some}
    return SecurityGroupRule(
        id=rule_id,
        direction=dice.choice(("ingress", "ingress", "egress")),
        ethertype=ethertype,
        protocol=protocol,
        port_range_min=low,
        port_range_max=high,
        **remote,  # type: ignore[arg-type]
    )


def make_ports(dice: random.Random) -> list[Port]:
    ports = []
    for number in range(1, 7):
        secured = dice.random() < 0.9
        groups = dice.sample(GROUPS, dice.randint(0, 3)) if secured else []
        pairs = (AddressPair(ip_address=f"10.65.0.{100 + number}"),) if dice.random() < 0.3 else ()
        ports.append(
            make_port(
                number,
                dice.choice(list(HOSTS)),
                fixed_ips=(
                    FixedIP(address=f"10.65.0.{number}"),
                    FixedIP(address=f"fd00:65::{number}"),
                ),
                allowed_address_pairs=pairs,
                security_groups=dict.fromkeys(groups, "some name"),
                port_security_enabled=secured,
            )
        )
    return ports


def make_packets(dice: random.Random, ports: list[Port]) -> Iterator[Asked]:
    ends = [*(a for port in ports for a in sorted(addresses(port), key=str)),
            *map(ipaddress.ip_address, OUTSIDE)]  # fmt: skip
    protocols = [*NUMBERS.values(), 6, 6, 6, 17, 1, 58, 200]
    for _ in range(PACKETS):
        source = dice.choice(ends)
        family = [end for end in ends if end.version == source.version and end != source]
        protocol = dice.choice(protocols)
        port = dice.choice((*PORTS, 23, 1000)) if protocol in (6, 17, 33, 132, 136) else 0
        kind, code = dice.choice((0, 3, 8, 128, 255)), dice.choice((0, 0, 3))
        icmp = (kind, code) if protocol in (1, 58) else (0, 0)
        yield Asked(source, dice.choice(family), protocol, port, *icmp)


def stored(ports: list[Port], groups: dict[str, SecurityGroup]) -> tuple[State, list[str]]:
    """What an agent reads, and what was reported."""
    state: State = {}
    problems: list[str] = []
    translated = [translate_port(port, SETTINGS) for port in ports]
    translated += [translate_group(group, SETTINGS.namespace) for group in groups.values()]
    for one in translated:
        problems += one.problems
        for resource in one.resources:
            metadata = resource.metadata
            path = ResourceKey(resource.kind, metadata.name, metadata.namespace).path
            key: Key | None = parse_key(path)
            assert key is not None
            state[key] = codec.decode(key, encoded(path, resource, b""))
    return state, problems


def as_packet(asked: Asked) -> Packet:
    def network(address: Address) -> Network:
        return parse_address(str(address))

    with_ports = asked.protocol in (6, 17, 132)
    icmp = asked.protocol in (1, 58)
    return Packet(
        network(asked.source),
        network(asked.destination),
        asked.protocol,
        40000 if with_ports else None,
        asked.port if with_ports else None,
        asked.icmp_type if icmp else None,
        asked.icmp_code if icmp else None,
    )


@pytest.mark.parametrize("chunk", range(5))
def test_packets_fare_as_neutron_says(chunk: int) -> None:
    hosts = [DesiredHost(name) for name in HOSTS]
    before: State = {}
    fates = []
    for seed in range(chunk * WORLDS, (chunk + 1) * WORLDS):
        dice = random.Random(seed)
        groups, ports = make_groups(dice), make_ports(dice)
        state, problems = stored(ports, groups)
        for host in hosts:
            host.update(differences(before, state))
        before = state
        for asked in make_packets(dice, ports):
            packet = as_packet(asked)
            expected = is_allowed(ports, groups, asked)
            where = f"world {seed}: {packet_text(packet)}"
            assert decide(state, packet).allowed == expected, where
            assert all(host.allows(packet) for host in hosts) == expected, where
            fates.append(expected)
        left_out = [r.id for g in groups.values() for r in g.rules if not is_expressible(r)]
        assert len(problems) == len(left_out)
        assert all(any(rule_id in text for text in problems) for rule_id in left_out)
    assert 0.1 < sum(fates) / len(fates) < 0.9
