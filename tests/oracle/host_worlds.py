"""Clusters with host endpoints, and packets on their ways through one host.

A world of `clusters`, in which some global policies are for hosts, the hosts have endpoints on
their interfaces, and some ports are failsafe.
"""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace
from tests.graph.resources import Entry, State
from tests.oracle.clusters import (
    HOSTS,
    NAMESPACES,
    SLOTS,
    Dice,
    make_world,
    random_packet,
    rules_of,
)

from tortie.explain.oracle import Packet
from tortie.explain.passage import Interface, Passage
from tortie.lib.ip import Network, parse_address
from tortie.model.endpoint import EndpointPort, HostEndpoint, HostEndpointSpec
from tortie.model.felix_configuration import (
    FelixConfiguration,
    FelixConfigurationSpec,
    ProtoPort,
)
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata, Resource
from tortie.model.policy import GlobalNetworkPolicy
from tortie.model.validation import check

UPLINK, BACK, LOOPBACK = "uplink", "back", "lo"
OUTSIDE = {
    4: (parse_address("192.168.7.2"), parse_address("203.0.113.9")),
    6: (parse_address("fd07::2"), parse_address("2001:db8::9")),
}


def host_interfaces(host: str) -> dict[str, Interface]:
    ipv4, ipv6 = HOSTS[host]
    return {
        UPLINK: Interface(UPLINK, (parse_address(ipv4), parse_address(ipv6))),
        BACK: Interface(BACK, (parse_address("198.51.100.1"),)),
        LOOPBACK: Interface(LOOPBACK, (parse_address("127.0.0.1"), parse_address("::1"))),
    }


def host_world(seed: int) -> State:
    """The resources of one cluster, all valid."""
    random = Dice(f"hosts {seed}")
    state = make_world(seed)
    for key, value in list(state.items()):
        if isinstance(value, GlobalNetworkPolicy):
            state[key] = _for_hosts(random, value)
    for host in HOSTS:
        state.update(_host_endpoints(random, host))
    state.update(_settings(random))
    for resource in state.values():
        assert isinstance(resource, Resource)
        check(resource)
    return state


def passages(state: State, host: str, seed: int, count: int) -> Iterator[Passage]:
    random = Dice(f"passages {seed}")
    interfaces = host_interfaces(host)
    rules = rules_of(state)
    for _ in range(count):
        family = random.choice((4, 4, 6))
        own = [a for i in interfaces.values() for a in i.addresses if a.family == family]
        ends = [parse_address(slot.ipv4 if family == 4 else slot.ipv6) for slot in SLOTS]
        ends += [*OUTSIDE[family], *OUTSIDE[family], *own, *own]
        source, destination = random.sample(ends, 2)
        came_in, goes_out = (
            _interface(random, interfaces, host, one) for one in (source, destination)
        )
        if came_in is None and goes_out is None:
            goes_out = interfaces[LOOPBACK]
        rule = random.choice(rules) if rules and random.random() < 0.5 else None
        packet = random_packet(random, source, destination, rule)
        translated = None
        if random.random() < 0.25:
            translated, packet = packet, _before_translation(random, packet, own)
        yield Passage(host, packet, came_in, goes_out, translated)


def _interface(
    random: Dice, interfaces: dict[str, Interface], host: str, address: Network
) -> Interface | None:
    if any(address in one.addresses for one in interfaces.values()):
        return None
    for slot in SLOTS:
        if address.address_text in (slot.ipv4, slot.ipv6) and slot.host == host:
            return Interface(slot.interface, workload=True)
    return interfaces[random.choice((UPLINK, UPLINK, BACK))]


def _before_translation(random: Dice, packet: Packet, own: list[Network]) -> Packet:
    changed = packet._replace(destination=random.choice(own))
    if changed.destination_port is not None and random.random() < 0.5:
        changed = changed._replace(destination_port=random.choice((80, 443, 8080)))
    return changed


def _for_hosts(random: Dice, policy: GlobalNetworkPolicy) -> GlobalNetworkPolicy:
    how = random.choice(("", "forward", "forward", "untracked", "preDNAT"))
    fields: dict[str, Any] = {}
    if how:
        fields["apply_on_forward"] = True
    if how == "untracked":
        fields["do_not_track"] = True
    if how == "preDNAT":
        fields |= {"pre_dnat": True, "egress": (), "types": ("Ingress",)}
    if random.random() < 0.7:
        fields |= {"namespace_selector": "", "service_account_selector": ""}
    return replace(policy, spec=replace(policy.spec, **fields))


def _host_endpoints(random: Dice, host: str) -> Iterator[Entry]:
    ipv4, ipv6 = HOSTS[host]
    for name, interface, chance in (
        ("by-name", UPLINK, 0.6),
        ("by-address", "", 0.4),
        ("every", "*", 0.5),
        ("all", "*", 0.1),
        ("back", BACK, 0.3),
        ("loop", LOOPBACK, 0.05),
    ):
        if random.random() >= chance:
            continue
        labels = {"role": random.choice("abc")}
        if random.random() < 0.4:
            labels["env"] = random.choice(("prod", "dev"))
        spec = HostEndpointSpec(
            node=host,
            interface_name=interface,
            expected_ips=random.choice(((ipv4,), (ipv6,), (ipv4, ipv6), ("198.51.100.1",)))
            if not interface or random.random() < 0.4
            else (),
            profiles=random.choice(
                ((), (f"kns.{NAMESPACES[0]}",), ("projectcalico-default-allow",), ("missing",))
            ),
            ports=(EndpointPort(name="web", protocol="TCP", port=80),),
        )
        metadata = Metadata(name=f"{host}-{name}", labels=labels)
        yield ResourceKey("HostEndpoint", metadata.name), HostEndpoint(metadata=metadata, spec=spec)


def _settings(random: Dice) -> Iterator[Entry]:
    for name in ("default", "node.h1"):
        if random.random() < 0.5:
            continue
        spec = FelixConfigurationSpec(
            failsafe_inbound_host_ports=random.choice((None, (), *_FAILSAFE)),
            failsafe_outbound_host_ports=random.choice((None, (), *_FAILSAFE)),
            default_endpoint_to_host_action=random.choice((None, "Drop", "Return", "accept")),
        )
        metadata = Metadata(name=name)
        resource = FelixConfiguration(metadata=metadata, spec=spec)
        yield ResourceKey("FelixConfiguration", name), resource


_FAILSAFE = (
    (ProtoPort(protocol="tcp", port=80), ProtoPort(protocol="udp", port=53)),
    (ProtoPort(protocol="UDP", port=1024), ProtoPort(port=443, net="203.0.113.0/24")),
    (
        ProtoPort(protocol="tcp", port=2000),
        ProtoPort(protocol="tcp", port=8080, net="10.65.0.0/30"),
    ),
)
