"""Random clusters and random packets: small worlds in which everything meets everything.

Few names, labels, ports and networks, so that rules, sets and packets overlap often; every
resource is one that a user may store. A world is a function of its seed.

The workloads' addresses, interfaces and hosts are fixed, because wires lead to them; their
namespaces, labels, profiles and ports are as random as all the rest.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec.structs import replace
from tests.graph.resources import (
    Entry,
    State,
    endpoint_slice,
    network_set,
    node,
    policy,
    pool,
    profile,
    tier,
)

from tortie.explain.oracle import Packet, workload_with
from tortie.lib.ip import Network, parse_address
from tortie.model.catalogue import TYPES
from tortie.model.endpoint import EndpointPort as HostPort
from tortie.model.endpoint import (
    HostEndpoint,
    HostEndpointSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from tortie.model.endpoint_slice import KubernetesEndpointSlice
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata, Resource
from tortie.model.names import workload_endpoint_name
from tortie.model.policy import (
    ICMP,
    Action,
    EntityRule,
    GlobalNetworkPolicy,
    NetworkPolicy,
    Profile,
    Rule,
    RuleMetadata,
    ServiceAccountMatch,
    ServiceMatch,
)
from tortie.model.validation import check
from tortie.model.validation.terms import protocol_number

T = TypeVar("T")

TCP, UDP, SCTP, UDPLITE, ICMP4, ICMP6, EXPERIMENTAL = 6, 17, 132, 136, 1, 58, 253
"""253 is for experiments (RFC 3692): a protocol that nothing knows."""

NEW_ICMP = {4: (8, 13), 6: (128, 139)}
"""Types that begin a connection for the kernel; all other ones are related or invalid."""

PORTS = (53, 80, 81, 443, 8080, 8081)
SOURCE_PORTS = (1024, 2000, 2001, 40000)
PORT_NAMES = ("web", "dns")
NAMESPACES = ("red", "blue")
ACCOUNTS = ("alice", "bob")
HOSTS = {"h1": ("192.168.7.1", "fd07::1"), "h2": ("192.168.7.2", "fd07::2")}


class Slot(NamedTuple):
    """Where a workload may be; in most worlds there is one."""

    number: int
    host: str

    @property
    def interface(self) -> str:
        return f"cali{self.number}"

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.number:02x}"

    @property
    def ipv4(self) -> str:
        return f"10.65.0.{self.number}"

    @property
    def ipv6(self) -> str:
        return f"fd00:65::{self.number}"


SLOTS = tuple(Slot(number, "h1" if number <= 4 else "h2") for number in range(1, 7))

_NETS: dict[int, tuple[str, ...]] = {
    4: ("10.65.0.0/24", "10.65.0.0/30", "10.65.0.4/30", "10.65.0.2", "10.65.0.5/32", "0.0.0.0/0"),
    6: ("fd00:65::/64", "fd00:65::/126", "fd00:65::4/126", "fd00:65::2", "fd00:65::5/128", "::/0"),
}
_NARROW = {family: nets[:-1] for family, nets in _NETS.items()}
"""For notNets, which may not exclude everything."""

_SELECTORS = (
    "all()",
    "role == 'a'",
    "role == 'b'",
    "role != 'a'",
    "has(env)",
    "!has(env)",
    "role == 'a' || env == 'prod'",
    "role in {'b', 'c'}",
    "role not in {'a'}",
    "projectcalico.org/namespace == 'red'",
    "has(projectcalico.org/orchestrator)",
    "env starts with 'p' && role contains 'a'",
    "pcns.env == 'prod'",
)
_NAMESPACE_SELECTORS = ("all()", "env == 'prod'", "env == 'dev'", "!has(env)", "has(env)")
_ACCOUNT_SELECTORS = ("team == 'x'", "has(team)", "!has(team)", "all()")
_ACCOUNTS = (
    ServiceAccountMatch(names=("alice",)),
    ServiceAccountMatch(selector="team == 'x'"),
    ServiceAccountMatch(selector="!has(team)"),
    ServiceAccountMatch(names=ACCOUNTS, selector="team == 'x'"),
    ServiceAccountMatch(),
)


class Dice(Random):
    """Randomness with a bent."""

    theme = ""
    """The match that rules use most, so that some packets' fate hangs on it."""


THEMES = (
    "",
    "nets",
    "not_nets",
    "selector",
    "not_selector",
    "namespace_selector",
    "service_accounts",
    "ports",
    "not_ports",
    "named ports",
    "icmp",
    "not_protocol",
    "sets",
)
SERVICE_THEME, _CYCLE = "services", 65
"""At the end of every cycle of seeds, which is a whole number of `THEMES`."""


def theme_of(seed: int) -> str:
    return SERVICE_THEME if seed % _CYCLE >= 60 else THEMES[seed % len(THEMES)]


def same_theme(seed: int, step: int) -> int:
    """Another seed for each step."""
    return seed + step * (_CYCLE if theme_of(seed) == SERVICE_THEME else len(THEMES))


def make_world(seed: int) -> State:
    """The resources of one cluster, all valid."""
    random = Dice(seed)
    random.theme = theme_of(seed)
    entries = [*_topology(), tier("default", 1000000.0)]
    entries += _tiers(random)
    entries += _profiles(random)
    entries += _workloads(random)
    entries += _bystanders(random)
    entries += _endpoint_slices(random)
    entries += [_policy(random, index) for index in range(random.choice((0, 2, 3, 3, 4, 5, 6, 8)))]
    state = dict(entries)
    for resource in state.values():
        assert isinstance(resource, Resource)
        check(resource)
    return state


def staged_world(state: State, seed: int) -> State:
    """The same cluster with policies of another one staged, and some to be deleted."""
    random = Dice(f"staged {seed}")
    staged: State = dict(state)
    for value in make_world(same_theme(seed, 1)).values():
        if isinstance(value, NetworkPolicy | GlobalNetworkPolicy):
            action = random.choice(("Set", "Set", "Learn", "Ignore", "Delete"))
            kind = f"Staged{value.kind or type(value).__name__}"
            spec = {} if action == "Delete" else msgspec.to_builtins(value.spec)
            plain = {"metadata": value.metadata, "spec": {**spec, "stagedAction": action}}
            resource = msgspec.convert(plain, TYPES[kind], from_attributes=True)
            staged[ResourceKey(kind, value.metadata.name, value.metadata.namespace)] = resource
    return staged


def changed_world(state: State, seed: int) -> State:
    """The same cluster after a few changes: what an agent meets from day to day."""
    random = Dice(f"change {seed}")
    changed, other = dict(state), make_world(seed)
    kinds = ["network set", "workload", "policy", "rules", "profile", "tier"]
    if theme_of(seed) == "sets":
        kinds = ["network set"]
    if theme_of(seed) == SERVICE_THEME:
        kinds = ["endpoint slice"]
    for _ in range(random.randint(1, 4)):
        kind = random.choice(kinds)
        _CHANGES[kind](random, changed, other)
    # Two workloads would have one address if one moved to another namespace.
    for slot in SLOTS:
        holders = [key for key in changed if _slot_of(changed, key) == slot]
        for key in holders[1:]:
            del changed[key]
    changed.update(entry for entry in other.items() if entry[0] == ResourceKey("Tier", "default"))
    return changed


def make_packets(state: State, seed: int, count: int) -> list[Packet]:
    """Packets between workloads, at most `count`: each the first of a connection of its own."""
    random = Dice(f"packets {seed}")
    there = _addresses(state)
    rules = rules_of(state)
    packets: dict[frozenset[object], Packet] = {}
    for _ in range(count * 2 if there else 0):
        family = random.choice((4, 4, 6))
        ends = [address for address in there if address.family == family]
        if len(ends) < 2 or len(packets) == count:
            continue
        source, destination = random.sample(ends, 2)
        # Half of them as some rule would have it, wherever they go.
        rule = random.choice(rules) if rules and random.random() < 0.5 else None
        packet = random_packet(random, source, destination, rule)
        if rule is not None and rule.destination.services is not None:
            packet = _to_service(random, state, rule.destination.services, ends, packet)
        # The answers to one packet may not be mistaken for another one.
        packets.setdefault(_connection(packet), packet)
    return list(packets.values())


def _to_service(
    random: Dice, state: State, service: ServiceMatch, ends: list[Network], packet: Packet
) -> Packet:
    """The packet, if need be to where the service is served."""
    served = [
        packet._replace(
            destination=address,
            protocol=TCP if port.protocol == "TCP" else UDP,
            source_port=random.choice(SOURCE_PORTS),
            destination_port=port.port,
            icmp_type=None,
            icmp_code=None,
        )
        for found in state.values()
        if isinstance(found, KubernetesEndpointSlice) and found.spec.service == service.name
        for port in found.spec.ports
        for endpoint in found.spec.endpoints
        for address in map(parse_address, endpoint.addresses)
        if address in ends and address != packet.source
    ]
    return random.choice(served) if served else packet


def _connection(packet: Packet) -> frozenset[object]:
    ends = frozenset(
        {(packet.source, packet.source_port), (packet.destination, packet.destination_port)}
    )
    kind = packet.icmp_type, packet.icmp_code
    return frozenset({ends, ("protocol", packet.protocol), ("kind", kind)})


def random_packet(random: Dice, source: Network, destination: Network, rule: Rule | None) -> Packet:
    icmp = ICMP4 if source.family == 4 else ICMP6
    protocol = _weighted(random, {TCP: 5, UDP: 5, SCTP: 1, UDPLITE: 1, icmp: 3, EXPERIMENTAL: 1})
    if rule is not None and rule.protocol is not None:
        wanted = protocol_number(rule.protocol) or 0
        protocol = icmp if wanted in (ICMP4, ICMP6) else wanted
    if protocol == icmp:
        return Packet(
            source,
            destination,
            icmp,
            icmp_type=random.choice(NEW_ICMP[source.family]),
            icmp_code=random.choice((0, 0, 1, 2)),
        )
    if protocol in (UDPLITE, EXPERIMENTAL):
        return Packet(source, destination, protocol)
    ports = [random.choice(SOURCE_PORTS), random.choice(PORTS)]
    for index, side in enumerate((rule.source, rule.destination) if rule else ()):
        numbers = [port for port in (*side.ports, *side.not_ports) if str(port)[0].isdigit()]
        if numbers:
            ports[index] = random.choice(
                [int(end) for end in str(random.choice(numbers)).split(":")]
            )
    return Packet(source, destination, protocol, *ports)


def rules_of(state: State) -> list[Rule]:
    specs = [
        value.spec
        for value in state.values()
        if isinstance(value, NetworkPolicy | GlobalNetworkPolicy | Profile)
    ]
    return [rule for spec in specs for rule in (*spec.ingress, *spec.egress)]


def _addresses(state: State) -> list[Network]:
    every = [parse_address(text) for slot in SLOTS for text in (slot.ipv4, slot.ipv6)]
    return [address for address in every if workload_with(state, address) is not None]


def _weighted(random: Dice, weights: dict[T, int]) -> T:
    return random.choices(list(weights), list(weights.values()))[0]


def _some(random: Dice, values: Sequence[T], most: int) -> tuple[T, ...]:
    return tuple(random.sample(values, random.randint(1, min(most, len(values)))))


def _topology() -> Iterator[Entry]:
    for name, (ipv4, ipv6) in HOSTS.items():
        yield node(name, f"{ipv4}/24", f"{ipv6}/64")
    yield pool("four", "10.65.0.0/24")
    yield pool("six", "fd00:65::/64")


def _tiers(random: Dice) -> Iterator[Entry]:
    for name in ("early", "late", "nobody")[: random.randint(0, 3)]:
        order = random.choice((None, 100.0, 100.0, 50.5, 2000000.0))
        yield tier(name, order, _weighted(random, {"Deny": 1, "Pass": 3}))


def _profiles(random: Dice) -> Iterator[Entry]:
    """Of the namespaces and their accounts; one may be missing."""
    for namespace in NAMESPACES:
        if random.random() < 0.06:
            continue
        labels = {"pcns.env": random.choice(("prod", "dev"))} if random.random() < 0.8 else {}
        if random.random() < 0.3:
            labels["env"] = random.choice(("prod", "dev"))
        ingress, egress = (_profile_rules(random) for _ in range(2))
        yield profile(f"kns.{namespace}", labels, ingress, egress)
        for account in ACCOUNTS:
            if random.random() < 0.8:
                labels = {"pcsa.team": random.choice("xy")} if random.random() < 0.8 else {}
                yield profile(f"ksa.{namespace}.{account}", labels, _profile_rules(random))


def _profile_rules(random: Dice) -> tuple[Rule, ...]:
    if random.random() < 0.6:
        return (Rule(action="Allow"),)
    return tuple(_rule(random) for _ in range(random.randint(0, 3)))


def _labels(random: Dice) -> dict[str, str]:
    labels = {}
    if random.random() < 0.85:
        labels["role"] = random.choice("abc")
    if random.random() < 0.4:
        labels["env"] = random.choice(("prod", "dev"))
    if random.random() < 0.1:
        labels["pcns.env"] = "prod"  # as if of a namespace: must be of no effect
    return labels


def _workloads(random: Dice) -> Iterator[Entry]:
    for slot in SLOTS:
        if random.random() < 0.95:
            yield _workload(random, slot)


def _workload(random: Dice, slot: Slot) -> Entry:
    namespace = random.choice(NAMESPACES)
    account = random.choice(("", *ACCOUNTS))
    profiles = [f"kns.{namespace}"]
    if account and random.random() < 0.8:
        profiles.append(f"ksa.{namespace}.{account}")
    if random.random() < 0.1:
        profiles.append("projectcalico-default-allow")
    if random.random() < 0.15:
        random.shuffle(profiles)
    addresses = _weighted(
        random, {(slot.ipv4, slot.ipv6): 8, (f"{slot.ipv4}/32",): 1, (f"{slot.ipv6}/128",): 1}
    )
    spec = WorkloadEndpointSpec(
        orchestrator="k8s",
        node=slot.host,
        pod=f"w{slot.number}",
        endpoint="eth0",
        ip_networks=addresses,
        profiles=tuple(profiles) if random.random() < 0.95 else (),
        interface_name=slot.interface,
        mac=slot.mac,
        service_account_name=account,
        ports=tuple(
            WorkloadEndpointPort(
                name=name, protocol=random.choice(("TCP", "UDP")), port=random.choice(PORTS)
            )
            for name in PORT_NAMES
            for _ in range(4 if random.theme == "named ports" else random.randint(0, 2))
        ),
    )
    name = workload_endpoint_name(spec)
    metadata = Metadata(name=name, namespace=namespace, labels=_labels(random))
    key = ResourceKey("WorkloadEndpoint", name, namespace)
    return key, WorkloadEndpoint(kind="WorkloadEndpoint", metadata=metadata, spec=spec)


def _bystanders(random: Dice) -> Iterator[Entry]:
    """What has workloads' addresses too, or is far away."""
    wide = random.theme == "sets"
    for index in range(3 if wide else random.randint(0, 3)):
        scope = random.choice(("", "red/", "blue/"))
        nets = _some(random, (*_NETS[4][:-1], *_NETS[6][:-1], "203.0.113.0/24"), 8 if wide else 3)
        yield network_set(f"{scope}set{index}", *nets, labels=_labels(random))
    if random.random() < 0.2:
        metadata = Metadata(name="far", labels=_labels(random))
        spec = HostEndpointSpec(
            node="h3",
            interface_name="eth0",
            expected_ips=("10.65.0.3", "fd00:65::3"),
            ports=(HostPort(name="web", protocol="TCP", port=80),),
        )
        yield ResourceKey("HostEndpoint", "far"), HostEndpoint(metadata=metadata, spec=spec)


SERVICES = ("front", "db")


def _endpoint_slices(random: Dice) -> Iterator[Entry]:
    addresses = [address for slot in SLOTS for address in (slot.ipv4, slot.ipv6)]
    ports = [(protocol, port) for protocol in ("TCP", "UDP") for port in PORTS]
    for index in range(random.randint(4, 8) if random.theme == SERVICE_THEME else 0):
        yield endpoint_slice(
            f"{random.choice(NAMESPACES)}/slice{index}",
            random.choice(SERVICES),
            *random.sample(addresses, random.randint(1, 8)),
            ports=random.sample(ports, random.randint(0, 9)),
        )


def _policy(random: Dice, index: int) -> Entry:
    scope = random.choice(("", "", "red/", "blue/"))
    names = ("a", "b", "c", "d", "e", "f", "g", "h")
    path = f"{scope}{names[index]}"
    spec: dict[str, Any] = {
        "tier": _weighted(random, {"default": 5, "early": 3, "late": 2, "nobody": 1}),
        "order": random.choice((None, 1.0, 1.0, 2.0, 10.5, -3.0)),
        "selector": random.choice(("", *_SELECTORS[:9])),
        "types": random.choice((("Ingress",), ("Egress",), ("Ingress", "Egress"), ())),
        "ingress": _policy_rules(random, "source", scope),
        "egress": _policy_rules(random, "destination", scope),
    }
    if random.random() < 0.15:
        spec["service_account_selector"] = random.choice(_ACCOUNT_SELECTORS)
    if not scope and random.random() < 0.3:
        spec["namespace_selector"] = random.choice(_NAMESPACE_SELECTORS)
    return policy(path, **spec)


def _policy_rules(random: Dice, side: str, scope: str) -> tuple[Rule, ...]:
    """Often with a last rule for what the others leave, so that about half the packets pass.

    Args:
        side: of a rule, where a service may stand.
        scope: of the policy; a global one must say which namespace's service it means.
    """
    rules = [
        _with_service(random, _rule(random), side, scope)
        for _ in range(random.choice((0, 1, 2, 2, 3, 3, 4)))
    ]
    last = cast(Action, _weighted(random, {"Allow": 5, "Pass": 3, "": 3}))
    return (*rules, Rule(action=last)) if last else tuple(rules)


def _with_service(random: Dice, rule: Rule, side: str, scope: str) -> Rule:
    """What may not go with a service goes."""
    if random.theme != SERVICE_THEME or random.random() < 0.2:
        return rule
    namespace = "" if scope and random.random() < 0.7 else random.choice(NAMESPACES)
    service = ServiceMatch(name=random.choice((*SERVICES * 3, "nobody")), namespace=namespace)
    if side == "source":
        return replace(rule, source=EntityRule(services=service, ports=rule.source.ports))
    entity = EntityRule(services=service)
    if random.random() < 0.7:
        # Behind most rules is one that allows everything, so it is those that deny that show.
        return Rule(action=random.choice(("Deny", "Deny", "Allow")), destination=entity)
    return replace(rule, destination=entity)


_PROTOCOL_GIVEN = {"ports": 0.8, "not_ports": 0.8, "named ports": 0.9, "icmp": 0.8}
_PROTOCOL_GIVEN |= {"not_protocol": 0.1}


def _rule(random: Dice) -> Rule:
    action = cast(Action, _weighted(random, {"Allow": 10, "Deny": 5, "Pass": 4, "Log": 1}))
    # Networks of one rule are all of one family, and of its ipVersion.
    family = _weighted(random, {4: 2, 6: 1})
    fields: dict[str, Any] = {}
    if random.random() < 0.15:
        fields["ip_version"] = family
    protocol = None
    if random.random() < _PROTOCOL_GIVEN.get(random.theme, 0.5):
        protocol = _protocol(random, family if "ip_version" in fields else None)
        fields["protocol"] = protocol
    if random.random() < (0.6 if random.theme == "not_protocol" else 0.12):
        fields["not_protocol"] = random.choice(("TCP", "UDP", 17, SCTP, "udplite", EXPERIMENTAL))
    if protocol in ("ICMP", "ICMPv6", ICMP6):
        if random.random() < 0.5:
            fields["icmp"] = _icmp(random, protocol)
        if random.random() < 0.5:
            fields["not_icmp"] = _icmp(random, protocol)
    if random.random() < 0.1:
        fields["metadata"] = RuleMetadata(annotations={"why": "because"})
    for name in ("source", "destination"):
        if random.random() < 0.55:
            ports = SOURCE_PORTS if name == "source" else PORTS
            fields[name] = _side(random, family, protocol, ports)
    return Rule(action=action, **fields)


def _protocol(random: Dice, family: int | None) -> str | int:
    choices: dict[str | int, int] = {"TCP": 5, "UDP": 5, "tcp": 1, 17: 1, "SCTP": 1, SCTP: 1}
    choices |= {"UDPLite": 1, EXPERIMENTAL: 1}
    if "ports" in random.theme:
        return _weighted(random, {"TCP": 6, "UDP": 6, "SCTP": 1})
    if family != 6:
        choices["ICMP"] = 5 if random.theme != "icmp" else 20
    if family != 4:
        choices |= {"ICMPv6": 3 if random.theme != "icmp" else 12, ICMP6: 1}
    return _weighted(random, choices)


def _icmp(random: Dice, protocol: str | int) -> ICMP:
    kind = random.choice(NEW_ICMP[4 if protocol == "ICMP" else 6])
    return random.choice(
        (ICMP(type=kind), ICMP(type=kind, code=0), ICMP(type=kind, code=0), ICMP())
    )


_USED_MOST = {"named ports": ("ports", "not_ports"), "sets": ("selector", "not_selector")}


def _side(
    random: Dice, family: int, protocol: str | int | None, ports: Sequence[int]
) -> EntityRule:
    """Few matches on one side: the more there are, the less any of them decides."""
    matches: dict[str, Callable[[], object]] = {
        "nets": lambda: _some(random, _NETS[family], 2),
        "not_nets": lambda: _some(random, _NARROW[family], 2),
        "selector": lambda: random.choice(_SELECTORS),
        "not_selector": lambda: random.choice(_SELECTORS[1:]),
        "namespace_selector": lambda: random.choice((*_NAMESPACE_SELECTORS, "global()")),
        "service_accounts": lambda: random.choice(_ACCOUNTS),
    }
    weights = {"nets": 3, "not_nets": 3, "selector": 4, "not_selector": 2}
    weights |= {"namespace_selector": 2, "service_accounts": 1}
    if protocol in ("TCP", "UDP", "tcp", 17, "SCTP", SCTP):
        weights |= {"ports": 6, "not_ports": 4}
        matches |= {name: lambda: _ports(random, ports) for name in ("ports", "not_ports")}
    elif protocol is None:
        weights |= {"ports": 2, "not_ports": 1}
        for name in ("ports", "not_ports"):
            matches[name] = lambda: _some(random, PORT_NAMES, 2)
    for name in _USED_MOST.get(random.theme, (random.theme,)):
        if name in weights:
            weights[name] += 30
    most = 2 if random.theme else 3
    chosen = {_weighted(random, weights) for _ in range(random.choice((1, 1, 1, 2, most)))}
    if chosen & {"ports", "not_ports"} and random.random() < 0.4:
        chosen.add("selector")  # whose ports a name then means
    fields: dict[str, Any] = {name: matches[name]() for name in sorted(chosen)}
    return EntityRule(**fields)


def _ports(random: Dice, numbers: Sequence[int]) -> tuple[int | str, ...]:
    if random.random() < (0.9 if random.theme == "named ports" else 0.3):
        return _some(random, PORT_NAMES, 2)
    ranges = [f"{first}:{last}" for first, last in itertools.combinations(sorted(numbers), 2)]
    return _some(random, (*numbers, random.choice(ranges), random.choice(PORT_NAMES)), 3)


_Change = Callable[[Dice, State, State], None]


def _replace_kinds(*kinds: str) -> _Change:
    """One object of these kinds goes, or comes from another world, or is taken over."""

    def change(random: Dice, state: State, other: State) -> None:
        mine = [key for key in state if isinstance(key, ResourceKey) and key.kind in kinds]
        theirs = [key for key in other if isinstance(key, ResourceKey) and key.kind in kinds]
        if mine and random.random() < 0.4:
            del state[random.choice(mine)]
        elif theirs:
            key = random.choice(theirs)
            if slot := _slot_of(other, key):
                for old in [one for one in mine if _slot_of(state, one) == slot]:
                    del state[old]
            state[key] = other[key]

    return change


def _change_rules(random: Dice, state: State, other: State) -> None:
    """One rule of a policy goes, another one comes somewhere."""
    policies = [
        (key, value)
        for key, value in state.items()
        if isinstance(value, NetworkPolicy | GlobalNetworkPolicy)
    ]
    if not policies:
        return
    key, found = random.choice(policies)
    rules = list(found.spec.ingress)
    if rules:
        del rules[random.randrange(len(rules))]
    rules.insert(random.randint(0, len(rules)), _rule(random))
    spec = replace(found.spec, ingress=tuple(rules))
    state[key] = replace(found, spec=spec)


_CHANGES: dict[str, _Change] = {
    "endpoint slice": _replace_kinds("KubernetesEndpointSlice"),
    "network set": _replace_kinds("NetworkSet", "GlobalNetworkSet"),
    "workload": _replace_kinds("WorkloadEndpoint"),
    "policy": _replace_kinds("NetworkPolicy", "GlobalNetworkPolicy"),
    "rules": _change_rules,
    "profile": _replace_kinds("Profile"),
    "tier": _replace_kinds("Tier"),
}


def _slot_of(state: State, key: object) -> Slot | None:
    resource = state.get(cast(ResourceKey, key))
    if not isinstance(resource, WorkloadEndpoint):
        return None
    interface = resource.spec.interface_name
    return next(slot for slot in SLOTS if slot.interface == interface)
