"""The verdict that old connections are judged by, case by case."""

import pytest

from tortie.desired.policy import (
    ICMP,
    TCP,
    UDP,
    AddressPort,
    ICMPMatch,
    Policy,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
    TierPolicies,
)
from tortie.desired.verdict import Packet, allows, set_use
from tortie.lib.ip import Network, parse_address, parse_network

A, B = parse_address("10.0.0.1"), parse_address("10.0.0.2")
A6, B6 = parse_address("fd00::1"), parse_address("fd00::2")
WEB = Packet(A, B, TCP, 40000, 80)
PING = Packet(A, B, ICMP, icmp_type=8, icmp_code=0)


class Facts:
    def __init__(self, **policies: tuple[Rule, ...]) -> None:
        self.rules = policies
        self.members: set[tuple[str, Network | AddressPort]] = set()

    def policy(self, policy_id: PolicyId) -> Policy | None:
        rules = self.rules.get(policy_id.name)
        return None if rules is None else Policy(ingress=rules)

    def contains(self, set_id: str, member: Network | AddressPort) -> bool:
        return (set_id, member) in self.members


def name(text: str) -> PolicyId:
    return PolicyId("GlobalNetworkPolicy", text)


def tier(*policies: str, default: str = "Deny") -> TierPolicies:
    assert default in ("Deny", "Pass")
    return TierPolicies("t", "Deny" if default == "Deny" else "Pass", tuple(map(name, policies)))


def decides(rule: Rule, packet: Packet, facts: Facts | None = None) -> bool:
    """Whether the rule matches the packet."""
    facts = facts or Facts()
    facts.rules["p"] = (rule,)
    return allows(PolicyList((tier("p"),)), "ingress", packet, facts)


@pytest.mark.parametrize(
    ("rule", "packet", "expected"),
    [
        (Rule("Allow"), WEB, True),
        (Rule("Allow", family=6), WEB, False),
        (Rule("Allow", family=6), Packet(A6, B6, TCP), True),
        (Rule("Allow", protocol=TCP), WEB, True),
        (Rule("Allow", protocol=UDP), WEB, False),
        (Rule("Allow", not_protocol=TCP), WEB, False),
        (Rule("Allow", icmp=ICMPMatch(8)), PING, True),
        (Rule("Allow", icmp=ICMPMatch(8, 1)), PING, False),
        (Rule("Allow", icmp=ICMPMatch(0)), WEB, False),
        (Rule("Allow", not_icmp=ICMPMatch(8, 0)), PING, False),
        (Rule("Allow", source=Side(networks=(parse_network("10.0.0.0/31"),))), WEB, True),
        (Rule("Allow", destination=Side(networks=(parse_network("10.0.0.0/31"),))), WEB, False),
        (Rule("Allow", source=Side(not_networks=(A,))), WEB, False),
        (Rule("Allow", destination=Side(ports=(PortRange(79, 80),))), WEB, True),
        (Rule("Allow", destination=Side(ports=(PortRange(81, 90),))), WEB, False),
        (Rule("Allow", source=Side(ports=(PortRange(80, 80),))), WEB, False),
        (Rule("Allow", destination=Side(not_ports=(PortRange(80, 80),))), WEB, False),
        (Rule("Allow", source=Side(sets=("in",))), WEB, True),
        (Rule("Allow", source=Side(sets=("in", "out"))), WEB, False),
        (Rule("Allow", source=Side(not_sets=("in",))), WEB, False),
        (Rule("Allow", source=Side(not_sets=("out",))), WEB, True),
        (Rule("Allow", destination=Side(named_ports=("web",))), WEB, True),
        (
            Rule("Allow", destination=Side(ports=(PortRange(1, 1),), named_ports=("web",))),
            WEB,
            True,
        ),
        (Rule("Allow", destination=Side(not_named_ports=("web",))), WEB, False),
        (Rule("Allow", destination=Side(named_ports=("web",))), WEB._replace(protocol=UDP), False),
    ],
)
def test_one_rule(rule: Rule, packet: Packet, expected: bool) -> None:
    facts = Facts()
    facts.members = {("in", A), ("web", AddressPort(B, TCP, 80))}
    assert decides(rule, packet, facts) is expected


ALLOW, DENY, PASS, LOG = ((Rule(action),) for action in ("Allow", "Deny", "Pass", "Log"))


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        (PolicyList(), False),
        (PolicyList((tier("none"),)), False),
        (PolicyList((tier("none", default="Pass"),)), False),
        (PolicyList((tier("none", default="Pass"),), (name("allow"),)), True),
        (PolicyList((tier("none"),), (name("allow"),)), False),
        (PolicyList((tier("log", "allow"),)), True),
        (PolicyList((tier("allow", "deny"),)), True),
        (PolicyList((tier("deny", "allow"),)), False),
        (PolicyList((tier("pass", "deny"), tier("allow"))), True),
        (PolicyList((tier("pass"), tier("deny"))), False),
        (PolicyList((tier("pass"),), (name("allow"),)), True),
        (PolicyList((), (name("none"), name("allow"))), True),
        (PolicyList((), (name("pass"), name("allow"))), True),
        (PolicyList((), (name("deny"), name("allow"))), False),
        (PolicyList((tier("unknown", "allow"),)), False),
    ],
)
def test_lists(policies: PolicyList, expected: bool) -> None:
    facts = Facts(allow=ALLOW, deny=DENY, none=(), log=LOG)
    facts.rules["pass"] = PASS
    assert allows(policies, "ingress", WEB, facts) is expected


def test_which_changes_of_sets_may_tighten() -> None:
    use = set_use(
        (
            Rule("Allow", source=Side(sets=("a",), not_sets=("b",))),
            Rule("Deny", destination=Side(named_ports=("c",), not_named_ports=("d",))),
            Rule("Pass", source=Side(sets=("e",))),
            Rule("Log", source=Side(sets=("f",))),
        )
    )
    assert use.tighten_by_loss == {"a", "d", "e"}
    assert use.tighten_by_growth == {"b", "c", "e"}
    assert use.all == set("abcdef")
