"""Rules of API v1 as today's: tags become selectors, one net joins the others.

Source: Calico, libcalico-go/lib/upgrade/converters/rule.go. One thing is different there: a rule
with both `notTag` and `notSelector` is made to spare only who has both, while API v1 spared who
has either. Here it still does.
"""

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.policy import ICMP, Action, EntityRule, Rule
from tortie.model.version1 import resources as v1

_ACTIONS: dict[str, Action] = {
    "": "Allow",
    "allow": "Allow",
    "deny": "Deny",
    "log": "Log",
    "pass": "Pass",
    "next-tier": "Pass",
}
_PROTOCOLS = {name.lower(): name for name in ("TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite")}


def rules(given: tuple[v1.Rule, ...]) -> tuple[Rule, ...]:
    """
    Raises:
        InvalidInput: an action or a network that there is not.
    """
    return tuple(map(_rule, given))


def protocol(given: int | str) -> int | str:
    """By its name in today's spelling; one that there is not stays as it is, to be refused."""
    return _PROTOCOLS.get(given.lower(), given) if isinstance(given, str) else given


def selector(given: str) -> str:
    return given.replace("calico/k8s_ns", "projectcalico.org/namespace")


def _rule(given: v1.Rule) -> Rule:
    action = _ACTIONS.get(given.action.lower())
    if action is None:
        raise InvalidInput(f"action {given.action!r} is not one of allow, deny, log, pass")
    return Rule(
        action=action,
        ip_version=given.ip_version,
        protocol=None if given.protocol is None else protocol(given.protocol),
        icmp=_icmp(given.icmp),
        not_protocol=None if given.not_protocol is None else protocol(given.not_protocol),
        not_icmp=_icmp(given.not_icmp),
        source=_entity(given.source),
        destination=_entity(given.destination),
    )


def _icmp(given: v1.ICMP | None) -> ICMP | None:
    if given is None or (given.type is None and given.code is None):
        return None
    return ICMP(type=given.type, code=given.code)


def _entity(given: v1.EntityRule) -> EntityRule:
    return EntityRule(
        nets=_nets(given.nets, given.net),
        selector=_with_tag(given.selector, "&&", given.tag),
        ports=given.ports,
        not_nets=_nets(given.not_nets, given.not_net),
        not_selector=_with_tag(given.not_selector, "||", given.not_tag),
        not_ports=given.not_ports,
    )


def _nets(several: tuple[str, ...], one: str) -> tuple[str, ...]:
    texts = (*several, one) if one else several
    return tuple(dict.fromkeys(str(parse_network(text)) for text in texts))


def _with_tag(expression: str, operator: str, tag: str) -> str:
    expression = selector(expression)
    if not tag:
        return expression
    tagged = f"{tag} == ''"
    return f"({expression}) {operator} {tagged}" if expression else tagged
