"""BGPFilter resources as typed rules, without any text that could become syntax. Pure."""

import hashlib

from tortie.bgp.snapshot import Community, Filter, Operator, PrefixMatch, Rule
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.bgp_filter import BGPFilterSpec, FilterRule
from tortie.model.validation.bgp import is_interface_pattern
from tortie.model.validation.settings import is_community


def filter_symbol(name: str) -> str:
    """A symbol of BIRD's for a filter of any name: 48 bits of its hash."""
    return f"f{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"


def parse_community(text: str) -> Community:
    """
    Raises:
        InvalidInput: neither `aa:nn` nor `aa:nn:mm`.
    """
    if not is_community(text):
        raise InvalidInput(f"{text!r} is not a community")
    return tuple(map(int, text.split(":")))


def parse_filter(name: str, spec: BGPFilterSpec) -> Filter:
    """
    Raises:
        InvalidInput: a part of a rule does not parse; then the filter counts as missing.
    """
    return Filter(
        symbol=filter_symbol(name),
        export4=tuple(_rule(rule, 4) for rule in spec.export_v4),
        import4=tuple(_rule(rule, 4) for rule in spec.import_v4),
        export6=tuple(_rule(rule, 6) for rule in spec.export_v6),
        import6=tuple(_rule(rule, 6) for rule in spec.import_v6),
    )


def _rule(rule: FilterRule, family: int) -> Rule:
    if rule.action not in ("Accept", "Reject"):
        raise InvalidInput(f"action {rule.action!r} is not Accept or Reject")
    if rule.source not in ("", "RemotePeers"):
        raise InvalidInput(f"source {rule.source!r} is not RemotePeers")
    if rule.interface and not is_interface_pattern(rule.interface):
        raise InvalidInput(f"{rule.interface!r} is not the name of an interface")
    if rule.peer_type not in ("", "eBGP", "iBGP"):
        raise InvalidInput(f"peerType {rule.peer_type!r} is not eBGP or iBGP")
    communities = rule.communities.values if rule.communities else ()
    if len(communities) > 1:
        raise InvalidInput("a rule matches at most one community")
    added: list[Community] = []
    prepended: tuple[int, ...] = ()
    priority = None
    for operation in rule.operations:
        if operation.add_community is not None:
            added.append(parse_community(operation.add_community.value))
        if operation.prepend_as_path is not None:
            # One after the other: the last one ends up in front.
            prepended = _as_numbers(operation.prepend_as_path.prefix) + prepended
        if operation.set_priority is not None:
            priority = operation.set_priority.value
    return Rule(
        accept=rule.action == "Accept",
        prefix=_prefix(rule, family),
        learnt=rule.source == "RemotePeers",
        interface=rule.interface,
        internal=rule.peer_type == "iBGP" if rule.peer_type else None,
        community=parse_community(communities[0]) if communities else (),
        path_prefix=_as_numbers(rule.as_path_prefix),
        priority=_priority(rule.priority),
        add_communities=tuple(added),
        prepend=prepended,
        set_priority=_priority(priority),
    )


def _prefix(rule: FilterRule, family: int) -> PrefixMatch | None:
    if not rule.cidr:
        if rule.match_operator or rule.prefix_length:
            raise InvalidInput("matchOperator and prefixLength need cidr")
        return None
    network = parse_network(rule.cidr)
    if network.family != family:
        raise InvalidInput(f"{network} is not IPv{family}")
    try:
        operator = Operator(rule.match_operator)
    except ValueError:
        raise InvalidInput(f"matchOperator {rule.match_operator!r} is unknown") from None
    lengths = rule.prefix_length
    if lengths is None:
        return PrefixMatch(network, operator)
    for length in (lengths.min, lengths.max):
        if length is not None and not 0 <= length <= network.bits:
            raise InvalidInput(f"prefixLength {length} is not 0 to {network.bits}")
    return PrefixMatch(network, operator, lengths.min, lengths.max)


def _as_numbers(numbers: tuple[int, ...]) -> tuple[int, ...]:
    for number in numbers:
        if not 0 <= number < 2**32:
            raise InvalidInput(f"{number} is not an AS number")
    return numbers


def _priority(value: int | None) -> int | None:
    if value is not None and not 1 <= value < 2**31 - 1:
        raise InvalidInput(f"priority {value} is not 1 to 2147483646")
    return value
