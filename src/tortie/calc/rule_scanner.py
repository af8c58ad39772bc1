"""Rules as users write them to rules as a host enforces them, and the sets they refer to.

Pure. What a rule selects becomes the id of a set; who is in the set is `ip_sets`' business. What
cannot be enforced never widens what is allowed: an Allow with an HTTP match is left out (it
would allow more than was asked), a Deny with one denies regardless of it.

A destination's service is where it is served: addresses with their ports. A source's is the
addresses alone. One that nobody has told of is an empty set, so it matches nothing.

Scoping puts nodes beside the tenant's node, never text beside text (`selector.normal`). In a
namespaced policy every positive match by labels is limited to that namespace, or to those that
the rule's namespaceSelector selects; `notSelector` is not limited, so that what it names is
excluded wherever it comes from.

Source: Calico, libcalico-go/lib/backend/syncersv1/updateprocessors/rules.go (which selectors
are limited to what), felix/calc/rule_scanner.go (named ports, services, ids).
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from tortie.desired.policy import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    ICMPMatch,
    IPSetType,
    PortRange,
    Rule,
    Side,
)
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_network
from tortie.model import policy as model
from tortie.model.endpoint import NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL
from tortie.selector.normal import conjunction, in_namespace, selector_id, uses_global, with_prefix
from tortie.selector.syntax import All, Global, Has, In, Node, Not, compile_selector

NAMESPACE_PREFIX = "pcns."
"""Before the labels of a namespace, as its endpoints inherit them."""

SERVICE_ACCOUNT_PREFIX = "pcsa."
"""Before the labels of a service account, likewise."""

PROTOCOLS = {
    "TCP": TCP,
    "UDP": UDP,
    "SCTP": SCTP,
    "ICMP": ICMP,
    "ICMPV6": ICMPV6,
    "UDPLITE": UDPLITE,
}
_PROTOCOL_NAMES = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}

PORT_MAX = 65535

_DIGITS = re.compile(r"[0-9]{1,9}")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class ServiceName(NamedTuple):
    namespace: str
    name: str


class SetSpec(msgspec.Struct, frozen=True):
    """What a set holds: addresses of what the selector selects, or where that serves a port."""

    type: IPSetType
    selector: Node | None
    """None: it goes by `service`."""
    protocol: int = 0
    port_name: str = ""
    service: ServiceName | None = None
    """The addresses that serve it, or these with all of its ports."""


class ScannedRules(msgspec.Struct, frozen=True):
    """The rules of one direction."""

    rules: tuple[Rule, ...]
    sets: Mapping[str, SetSpec]
    """By id: all that the rules refer to."""
    problems: tuple[str, ...]
    """What could not be enforced as written; for people."""

    @property
    def passes(self) -> bool:
        """Can a packet leave for the next tier?"""
        return any(rule.action == "Pass" for rule in self.rules)


def scan_rules(rules: tuple[model.Rule, ...], namespace: str) -> ScannedRules:
    """Convert the rules of one direction of a policy or profile.

    Args:
        namespace: of the policy; empty for a global policy and for a profile.

    Raises:
        InvalidInput: a selector, network, port or protocol that does not parse.
    """
    scanner = _Scanner(namespace)
    for position, rule in enumerate(rules, start=1):
        try:
            scanner.scan(rule, position)
        except InvalidInput as error:
            raise InvalidInput(f"rule {position}: {error}") from error
    return ScannedRules(tuple(scanner.rules), scanner.sets, tuple(scanner.problems))


def parse_selector(text: str) -> Node:
    """A selector over labels, where `global()` means nothing.

    Raises:
        InvalidInput: it does not parse, or uses `global()`.
    """
    node = compile_selector(text)
    if uses_global(node):
        raise InvalidInput(f"selector {text!r}: global() may stand only in a namespaceSelector")
    return node


def parse_namespace_selector(text: str) -> Node:
    """What is in a namespace that `text` selects; `global()`: what is in none.

    Raises:
        InvalidInput: it does not parse, or `global()` does not stand alone in it.
    """
    node = compile_selector(text)
    if isinstance(node, Global):
        return Not(Has(NAMESPACE_LABEL))
    if uses_global(node):
        raise InvalidInput(f"namespaceSelector {text!r}: global() may only stand alone")
    # Without has(), `!has(x)` would take in all that is in no namespace.
    return conjunction(Has(NAMESPACE_LABEL), with_prefix(node, NAMESPACE_PREFIX))


def parse_service_account_selector(text: str) -> Node:
    """What runs under a service account that `text` selects.

    Raises:
        InvalidInput: it does not parse, or uses `global()`.
    """
    return with_prefix(parse_selector(text), SERVICE_ACCOUNT_PREFIX)


def parse_protocol(protocol: int | str) -> int:
    """A protocol's number.

    Raises:
        InvalidInput: neither a known name nor 0 to 255.
    """
    if isinstance(protocol, int):
        number: int | None = protocol
    else:
        number = PROTOCOLS.get(protocol.upper(), _number(protocol))
    if number is None or not 0 <= number <= 255:
        raise InvalidInput(f"{protocol!r} is not a protocol")
    return number


def named_port_set_id(selector: Node, protocol: int, name: str) -> str:
    """The id of the set of where `name` is served by what `selector` selects."""
    protocol_text = _PROTOCOL_NAMES.get(protocol, str(protocol))
    return _unique_id("n", f"{selector_id(selector)},{protocol_text},{name}")


def service_set_id(service: ServiceName, set_type: IPSetType) -> str:
    kind = "svc" if set_type is IPSetType.ADDRESS_PORT else "svcnoport"
    return _unique_id(kind, f"{service.namespace}/{service.name}")


def _unique_id(prefix: str, content: str) -> str:
    # YAML can hold text that is not Unicode; a name of such still needs an id of its own.
    digest = hashlib.sha224(f"{prefix}:{content}".encode(errors="surrogatepass")).digest()
    return f"{prefix}:{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


class _Scanner:
    """Collects the rules, sets and problems of one direction."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.rules: list[Rule] = []
        self.sets: dict[str, SetSpec] = {}
        self.problems: list[str] = []
        self._found: dict[str, SetSpec] = {}
        """The sets of the rule at hand; it may yet turn out not to be enforceable."""

    def scan(self, rule: model.Rule, position: int) -> None:
        self._found = {}
        converted = self._convert(rule)
        if rule.http is not None:
            enforced = rule.action == "Deny"
            fate = "denies whatever the request" if enforced else "matches nothing"
            self.problems.append(
                f"rule {position}: HTTP cannot be matched here, so the rule {fate}"
            )
            if not enforced:
                return
        self.rules.append(converted)
        self.sets.update(self._found)

    def _convert(self, rule: model.Rule) -> Rule:
        protocol = None if rule.protocol is None else parse_protocol(rule.protocol)
        annotations = rule.metadata.annotations if rule.metadata else {}
        return Rule(
            action=rule.action,
            family=rule.ip_version,
            protocol=protocol,
            not_protocol=None if rule.not_protocol is None else parse_protocol(rule.not_protocol),
            icmp=_icmp(rule.icmp),
            not_icmp=_icmp(rule.not_icmp),
            source=self._side(rule.source, protocol, IPSetType.NET),
            destination=self._side(rule.destination, protocol, IPSetType.ADDRESS_PORT),
            annotations=tuple(sorted(annotations.items())),
        )

    def _side(
        self, entity: model.EntityRule, protocol: int | None, service_type: IPSetType
    ) -> Side:
        """
        Args:
            service_type: of the set that a service becomes.
        """
        selected = self._selected(entity)
        ports, names = _split_ports(entity.ports)
        not_ports, not_names = _split_ports(entity.not_ports)
        sets = []
        # A set of named ports holds only what is selected; the selector's own set adds nothing.
        if selected is not None and (ports or not names):
            sets.append(self._net_set(selected))
        served: tuple[str, ...] = ()
        if entity.services is not None:
            service_set = self._service_set(entity.services, service_type)
            if service_type is IPSetType.NET:
                sets.append(service_set)
            elif entity.ports:
                # Ports are alternatives to one another, so these would widen the service.
                raise InvalidInput("ports cannot go with a destination's services")
            else:
                served = (service_set,)
        not_sets = []
        if entity.not_selector:
            not_sets.append(self._net_set(parse_selector(entity.not_selector)))
        serving = All() if selected is None else selected
        return Side(
            networks=_networks(entity.nets),
            not_networks=_networks(entity.not_nets),
            sets=tuple(sets),
            not_sets=tuple(not_sets),
            ports=ports,
            named_ports=served or self._port_sets(serving, protocol, names),
            not_ports=not_ports,
            not_named_ports=self._port_sets(serving, protocol, not_names),
        )

    def _selected(self, entity: model.EntityRule) -> Node | None:
        """What the labels must be like; None when the entity says nothing about labels."""
        terms = _label_terms(entity)
        if entity.namespace_selector:
            return conjunction(parse_namespace_selector(entity.namespace_selector), *terms)
        if not terms and not entity.not_selector:
            return None
        if self._namespace:
            return in_namespace(conjunction(*terms), self._namespace)
        return conjunction(*terms) if terms else None

    def _net_set(self, selector: Node) -> str:
        set_id = selector_id(selector)
        self._found[set_id] = SetSpec(IPSetType.NET, selector)
        return set_id

    def _service_set(self, service: model.ServiceMatch, set_type: IPSetType) -> str:
        name = ServiceName(service.namespace or self._namespace, service.name)
        set_id = service_set_id(name, set_type)
        self._found[set_id] = SetSpec(set_type, None, service=name)
        return set_id

    def _port_sets(
        self, selector: Node, protocol: int | None, names: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Named ports are TCP where a rule names no protocol, as in Calico."""
        number = TCP if protocol is None else protocol
        ids = []
        for name in names:
            set_id = named_port_set_id(selector, number, name)
            self._found[set_id] = SetSpec(IPSetType.ADDRESS_PORT, selector, number, name)
            ids.append(set_id)
        return tuple(ids)


def check_name(name: str) -> str:
    """A name as it may become part of a selector's canonical text.

    Raises:
        InvalidInput: it has characters that no name of a namespace or account has.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is not a name")
    return name


def _label_terms(entity: model.EntityRule) -> list[Node]:
    terms = []
    accounts = entity.service_accounts
    if accounts is not None and accounts.selector:
        terms.append(parse_service_account_selector(accounts.selector))
    if accounts is not None and accounts.names:
        terms.append(In(SERVICE_ACCOUNT_LABEL, frozenset(map(check_name, accounts.names))))
    if entity.selector:
        terms.append(parse_selector(entity.selector))
    return terms


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(map(parse_network, texts)))


def _icmp(match: model.ICMP | None) -> ICMPMatch | None:
    if match is None or match.type is None:
        return None
    return ICMPMatch(match.type, match.code)


def _split_ports(ports: tuple[int | str, ...]) -> tuple[tuple[PortRange, ...], tuple[str, ...]]:
    """Numbers and ranges, and names; each once, in order."""
    ranges: dict[PortRange, None] = {}
    names: dict[str, None] = {}
    for port in ports:
        first, colon, last = str(port).partition(":")
        lowest, highest = _number(first), _number(last if colon else first)
        if lowest is not None and highest is not None:
            ranges[_port_range(lowest, highest)] = None
        elif colon or not any(map(str.isalpha, first)):
            raise InvalidInput(f"{port!r} is not a port, a range or a name")
        else:
            names[first] = None
    return tuple(ranges), tuple(names)


def _number(text: str) -> int | None:
    """What the digits say; None if there is anything else. Longer ones are no number here."""
    return int(text) if _DIGITS.fullmatch(text) else None


def _port_range(first: int, last: int) -> PortRange:
    if not 0 <= first <= last <= PORT_MAX:
        raise InvalidInput(f"{first}:{last} is not a range of ports")
    return PortRange(first, last)
