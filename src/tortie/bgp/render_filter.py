"""BGPFilters as functions of BIRD's filter language. Pure; nothing but numbers and symbols.

A function is called `<symbol>_import4(inside)`, that is: within our AS. The first rule that matches
ends the whole filter with `accept` or `reject`; if none does, it returns and
what follows decides.

Source: BIRD 2.0 User's Guide, chapter 5.
"""

from collections.abc import Iterator

from tortie.bgp.snapshot import PRIORITY_BASE, Community, Filter, Operator, PrefixMatch, Rule


def function_name(symbol: str, direction: str, family: int) -> str:
    return f"{symbol}_{direction}{family}"


def filter_functions(found: Filter) -> Iterator[str]:
    """Of a filter, for each direction and family that it has rules for."""
    for direction in ("import", "export"):
        for family in (4, 6):
            rules = found.rules(direction, family)
            if rules:
                yield f"function {function_name(found.symbol, direction, family)}(bool inside) {{"
                elevate = f"    elevate{family}();" if direction == "import" else ""
                for rule in rules:
                    yield from _rule_lines(rule, elevate)
                yield "}"


def _rule_lines(rule: Rule, elevate: str) -> Iterator[str]:
    conditions = list(_conditions(rule))
    yield f"  if {' && '.join(conditions) or 'true'} then {{"
    for community in rule.add_communities:
        yield f"    {add_community(community)}"
    for number in reversed(rule.prepend):
        yield f"    bgp_path.prepend({number});"
    if rule.set_priority is not None:
        yield f"    bgp_local_pref = {PRIORITY_BASE - rule.set_priority};"
    if elevate and rule.accept:
        yield elevate
    yield f"    {'accept' if rule.accept else 'reject'};"
    yield "  }"


def _conditions(rule: Rule) -> Iterator[str]:
    if rule.prefix is not None:
        yield _prefix_condition(rule.prefix)
    if rule.learnt:
        yield "(source = RTS_BGP)"
    if rule.interface:
        yield f'(ifname ~ "{rule.interface}")'
    if rule.internal is not None:
        yield "inside" if rule.internal else "(!inside)"
    if rule.community:
        yield f"({_community(rule.community)} ~ {_list_of(rule.community)})"
    if rule.path_prefix:
        yield f"(bgp_path ~ [= {' '.join(map(str, rule.path_prefix))} * =])"
    if rule.priority is not None:
        yield f"(bgp_local_pref = {PRIORITY_BASE - rule.priority})"


def _prefix_condition(match: PrefixMatch) -> str:
    """As Calico has it: equality of the network, or being in it; lengths narrow a match down."""
    network = match.network
    low = max(match.shortest or 0, network.length)
    high = network.bits if match.longest is None else match.longest
    if match.operator in (Operator.EQUAL, Operator.NOT_EQUAL):
        matches = f"net = {network}" if low <= network.length <= high else "false"
    else:
        # Shorter than the network itself nothing can lie in it; and BIRD has no empty set.
        matches = f"net ~ [ {network}{{{low},{high}}} ]" if low <= high else "false"
    if match.operator in (Operator.NOT_EQUAL, Operator.NOT_IN):
        return f"(!({matches}))"
    return f"({matches})"


def add_community(community: Community) -> str:
    return f"{_list_of(community)}.add({_community(community)});"


def _community(community: Community) -> str:
    return f"({', '.join(map(str, community))})"


def _list_of(community: Community) -> str:
    return "bgp_community" if len(community) == 2 else "bgp_large_community"
