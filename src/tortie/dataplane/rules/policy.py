"""A policy as one chain per direction; a Calico rule is one nft rule, or several.

Several where the families need different matches, and where a side gives both
port numbers and named ports: nft has no "or" over different sets.

Values are never in a rule but in sets, under a name made of the rule's *shape*
(all of it but its networks and ports) and how many rules of that shape came
before. So an edit of CIDRs or ports changes elements only, and a rule inserted
above leaves the names, the rules and the counters below as they are, unless it
has their very shape.

Networks are a set of the rule's own. Ports are elements `name · port` of one
hash that all rules share, since the kernel walks the list of all sets for each
message about one; only a side with more than `PORTS_LISTED` ports has a set of
its own, of intervals. So a side that comes to have more changes its rule.

A side that gives networks but none of a family matches nothing there: no rule
is written for that family. An empty set from desired state is a set like any
other, and matches nothing by itself.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from enum import Enum
from itertools import product

from tortie.dataplane.rules import match, names, seen
from tortie.dataplane.rules.content import (
    ChainContent,
    Content,
    interval_set,
    network_key,
)
from tortie.dataplane.rules.match import Expressions
from tortie.dataplane.rules.names import Direction, Place
from tortie.dataplane.settings import Settings
from tortie.desired.policy import (
    ICMP,
    ICMPV6,
    ICMPMatch,
    Policy,
    PolicyId,
    PortRange,
    Rule,
    Side,
)
from tortie.kernel.nft import keys, objects, userdata
from tortie.kernel.nft.constants import LogLevel, MetaKey
from tortie.kernel.nft.expressions import (
    ACCEPT,
    RETURN,
    Counter,
    Limit,
    Log,
    Lookup,
    Meta,
    Notrack,
    Payload,
)
from tortie.lib.ip import Network, outermost

PORTS_LISTED = 32
"""An element takes some 100 bytes and 2 µs, an interval set 600 bytes and a walk at each use."""

_ICMP_OF_FAMILY = {4: ICMP, 6: ICMPV6}
_WORDS = {4: 1, 6: 4}
"""Registers that an address fills."""


class Form(Enum):
    """What the kernel has of one family's half of a set of desired state."""

    ABSENT = "absent"
    """Nothing, as it has no members: so it matches nothing, and its negation all."""
    ADDRESSES = "addresses"
    """A hash."""
    NETWORKS = "networks"
    """Intervals; `NET` sets only."""


_ALL_THERE: Mapping[tuple[str, int], Form] = {}

SidePhrases = tuple[Expressions, list[Expressions]]
"""What must hold, and alternatives of which one must hold as well."""


def policy_chain(
    policy_id: PolicyId,
    policy: Policy,
    direction: Direction,
    settings: Settings,
    *,
    set_forms: Mapping[tuple[str, int], Form] = _ALL_THERE,
    place: Place = "workload",
) -> Content:
    """The chain of one direction of a policy, with the sets that are its own.

    It returns where no rule decides, and behind a Pass with `mark_pass` set.

    Args:
        set_forms: by id and family; a set that is not here has the form `ADDRESSES`.
        place: what an Allow does depends on it.
    """
    renderer = _Renderer(policy_id, direction, settings, set_forms, place)
    return renderer.render(policy.rules(direction))


def stand_in(
    policy_id: PolicyId,
    direction: Direction,
    settings: Settings,
    place: Place = "workload",
    *,
    known: bool = False,
) -> Content:
    """The chain of a policy that is referred to and not known, or refused: it drops everything."""
    chain = names.policy_chain(policy_id, direction, place)
    comment = f"refused: {policy_id}" if known else "unknown policy"
    verdict = seen.denied(stand_in_id(policy_id, direction), direction, settings)
    rule = objects.Rule(chain, verdict, userdata.pack_rule(comment=comment))
    return Content(chains={chain: ChainContent(None, (rule,))})


def stand_in_id(policy_id: PolicyId, direction: Direction) -> int:
    return seen.rule_id("stand-in", policy_id, direction)


def rule_ids(policy_id: PolicyId, rules: tuple[Rule, ...], direction: Direction) -> Iterator[int]:
    """What each rule of this direction is known by in `rules.seen`."""
    shapes: Tally[str] = Tally()
    for rule in rules:
        shape = _shape(rule)
        yield _rule_id(policy_id, direction, shape, shapes[shape])
        shapes[shape] += 1


def _rule_id(policy_id: PolicyId, direction: Direction, shape: str, occurrence: int) -> int:
    return seen.rule_id(policy_id, direction, shape, occurrence)


class _Renderer:
    def __init__(
        self,
        policy_id: PolicyId,
        direction: Direction,
        settings: Settings,
        set_forms: Mapping[tuple[str, int], Form],
        place: Place,
    ) -> None:
        self._set_forms = set_forms
        self._policy_id = policy_id
        self._direction = direction
        self._settings = settings
        self._place = place
        self._chain = names.policy_chain(policy_id, direction, place)
        self._user_data = userdata.pack_rule(comment=str(policy_id))
        self._shapes: Tally[str] = Tally()
        self._sets: dict[str, objects.Set] = {}
        self._elements: dict[str, frozenset[bytes]] = {}
        self._rule_ports: set[bytes] = set()

    def render(self, rules: tuple[Rule, ...]) -> Content:
        rendered: list[objects.Rule] = []
        origins: list[int] = []
        for position, rule in enumerate(rules):
            for expressions in self._rule(rule):
                rendered.append(objects.Rule(self._chain, expressions, self._user_data))
                origins.append(position)
        chains = {self._chain: ChainContent(None, tuple(rendered))}
        shared = {names.RULE_PORTS: frozenset(self._rule_ports)}
        return Content(chains, self._sets, self._elements, shared, tuple(origins))

    def _rule(self, rule: Rule) -> Iterator[Expressions]:
        shape = _shape(rule)
        occurrence = self._shapes[shape]
        self._shapes[shape] += 1
        stem = names.digest(self._chain, shape, occurrence)
        identity = _rule_id(self._policy_id, self._direction, shape, occurrence)
        action = _action(rule, self._settings, self._direction, self._place, identity)
        if rule.action == "Allow":
            action = _noted(self._place, self._settings) + action
        for family in self._families(rule):
            yield from (condition + action for condition in self._conditions(rule, family, stem))

    def _families(self, rule: Rule) -> tuple[int | None, ...]:
        """None stands for a rule that reads the same for both families."""
        enabled = (4, 6) if self._settings.ipv6 else (4,)
        if rule.family is not None:
            return (rule.family,) if rule.family in enabled else ()
        if _needs_family(rule):
            return enabled
        return (None,)

    def _conditions(self, rule: Rule, family: int | None, stem: str) -> Iterator[Expressions]:
        source = self._side(rule.source, family, stem, source=True)
        destination = self._side(rule.destination, family, stem, source=False)
        if source is None or destination is None:
            return
        head = match.family(family) if family is not None else ()
        head += _protocol(rule, family)
        for one, other in product(source[1], destination[1]):
            yield head + source[0] + destination[0] + one + other

    def _side(
        self, side: Side, family: int | None, stem: str, *, source: bool
    ) -> SidePhrases | None:
        """None if this side matches nothing in this family."""
        offset = match.SOURCE_PORT_OFFSET if source else match.DESTINATION_PORT_OFFSET
        stem = f"{stem}{source}"
        always: Expressions = ()
        if family is not None:
            addresses = self._addresses(side, family, stem, source=source)
            if addresses is None:
                return None
            always = addresses
        if side.not_ports:
            always += self._ports(stem, side.not_ports, offset, negate=True)
        for set_id in self._there(side.not_named_ports, family):
            always += _named_port(set_id, _known(family), source=source, negate=True)
        alternatives: list[Expressions] = []
        if side.ports:
            alternatives.append(self._ports(stem, side.ports, offset))
        for set_id in self._there(side.named_ports, family):
            alternatives.append(_named_port(set_id, _known(family), source=source))
        if not alternatives and (side.ports or side.named_ports):
            return None
        return always, alternatives or [()]

    def _there(self, set_ids: tuple[str, ...], family: int | None) -> Iterator[str]:
        """Those of the sets that have a half in this family. The others match nothing."""
        return (one for one in set_ids if self._form(one, _known(family)) is not Form.ABSENT)

    def _form(self, set_id: str, family: int) -> Form:
        return self._set_forms.get((set_id, family), Form.ADDRESSES)

    def _addresses(self, side: Side, family: int, stem: str, *, source: bool) -> Expressions | None:
        load = match.source(family) if source else match.destination(family)
        found: Expressions = ()
        if side.networks:
            name = self._networks(stem, family, side.networks, "")
            if name is None:
                return None
            found += match.in_set(load, name)
        for set_id in side.sets:
            if self._form(set_id, family) is Form.ABSENT:
                return None
            found += match.in_set(load, self._net_set(set_id, family))
        if side.not_networks:
            name = self._networks(stem, family, side.not_networks, "not")
            if name is not None:
                found += match.in_set(load, name, negate=True)
        for set_id in self._there(side.not_sets, family):
            found += match.in_set(load, self._net_set(set_id, family), negate=True)
        return found

    def _net_set(self, set_id: str, family: int) -> str:
        return names.net_set(set_id, family, wide=self._form(set_id, family) is Form.NETWORKS)

    def _networks(
        self, stem: str, family: int, networks: tuple[Network, ...], use: str
    ) -> str | None:
        """The name of a set with those of this family; None if there are none."""
        members = outermost(network for network in networks if network.family == family)
        if not members:
            return None
        name = f"n{family}-{names.digest(stem, use)}"
        self._sets[name] = interval_set(name, family)
        self._elements[name] = frozenset(map(network_key, members))
        return name

    def _ports(
        self, stem: str, ranges: tuple[PortRange, ...], offset: int, *, negate: bool = False
    ) -> Expressions:
        found = disjoint(ranges)
        if sum(last - first + 1 for first, last in found) > PORTS_LISTED:
            name = f"q-{names.digest(stem, negate)}"
            self._sets[name] = objects.Set(name, (objects.INET_SERVICE,), interval=True)
            self._elements[name] = frozenset(
                keys.port(first) + keys.port(last) for first, last in found
            )
            return match.in_set(match.transport_port(offset), name, negate=negate)
        identity = names.ports_id(stem, negate)
        self._rule_ports.update(
            keys.concatenate(identity, keys.port(port))
            for first, last in found
            for port in range(first, last + 1)
        )
        return match.rule_port(identity, offset, negate=negate)


def disjoint(ranges: tuple[PortRange, ...]) -> list[PortRange]:
    """The same ports in ranges that neither overlap nor touch, in order."""
    found: list[PortRange] = []
    for one in sorted(ranges):
        if found and one.first <= found[-1].last + 1:
            found[-1] = PortRange(found[-1].first, max(found[-1].last, one.last))
        else:
            found.append(one)
    return found


def _shape(rule: Rule) -> str:
    """All of a rule but the values of its networks and ports."""
    fields = (rule.action, rule.family, rule.protocol, rule.not_protocol, rule.icmp, rule.not_icmp)
    return repr((fields, _side_shape(rule.source), _side_shape(rule.destination)))


def _side_shape(side: Side) -> tuple[object, ...]:
    values = (side.networks, side.not_networks, side.ports, side.not_ports)
    references = (side.sets, side.not_sets, side.named_ports, side.not_named_ports)
    return (*map(bool, values), *references)


def _needs_family(rule: Rule) -> bool:
    """Whether any match is on addresses, or on ICMP's types, which differ by family."""
    return bool(
        (rule.icmp and rule.protocol is None)
        or any(
            side.networks or side.not_networks or side.set_ids
            for side in (rule.source, rule.destination)
        )
    )


def _known(family: int | None) -> int:
    assert family is not None, "a rule with named ports has been split by family"
    return family


def _protocol(rule: Rule, family: int | None) -> Expressions:
    """Protocol and ICMP. An ICMP type without a protocol means the family's ICMP."""
    found: Expressions = ()
    protocol = rule.protocol
    if protocol is None and rule.icmp:
        protocol = _ICMP_OF_FAMILY[_known(family)]
    if protocol is not None:
        found += match.protocol(protocol)
    if rule.not_protocol is not None:
        found += match.protocol(rule.not_protocol, negate=True)
    if rule.icmp:
        found += match.transport(0, _icmp_bytes(rule.icmp))
    if rule.not_icmp:
        found += match.transport(0, _icmp_bytes(rule.not_icmp), negate=True)
    return found


def _icmp_bytes(icmp: ICMPMatch) -> bytes:
    """Type and, if given, code: the first bytes of the ICMP header, in both families."""
    return bytes((icmp.type,)) if icmp.code is None else bytes((icmp.type, icmp.code))


def _named_port(set_id: str, family: int, *, source: bool, negate: bool = False) -> Expressions:
    """address · protocol · port is one of those that endpoints call by this name."""
    offset = match.SOURCE_PORT_OFFSET if source else match.DESTINATION_PORT_OFFSET
    load: Payload = match.source(family) if source else match.destination(family)
    words = _WORDS[family]
    return (
        load,
        Meta(MetaKey.L4PROTO, words),
        match.transport_port(offset, words + 1),
        Lookup(names.port_set(set_id, family), invert=negate),
    )


def _noted(place: Place, settings: Settings) -> Expressions:
    """Before the normal lists, an Allow also says that those need not be asked."""
    accepted = match.set_mark(settings.mark_accepted)
    if place == "untracked":
        return (Notrack(), *accepted)
    return accepted if place == "pre-dnat" else ()


def _action(
    rule: Rule, settings: Settings, direction: Direction, place: Place, identity: int
) -> Expressions:
    if rule.action == "Allow" and place == "untracked":
        return match.counted(ACCEPT)  # it comes to this with each packet, and is to be fast
    if rule.action == "Allow":
        return seen.allowed(identity, direction, settings)
    if rule.action == "Deny":
        reject = seen.can_reject(place, settings)
        return seen.denied(identity, direction, settings, reject=reject)
    if rule.action == "Pass":
        return (Counter(), *match.set_mark(settings.mark_pass), RETURN)
    return (Counter(), *_log(settings))


def _log(settings: Settings) -> Expressions:
    limit = settings.log_limit
    log = Log(prefix=f"{settings.log_prefix}: ", level=LogLevel.NOTICE)
    if limit is None:
        return (log,)
    return (Limit(limit.packets, limit.unit_seconds, limit.burst), log)
