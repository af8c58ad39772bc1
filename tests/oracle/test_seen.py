"""What the kernel logs of real packets names the rule that the reference evaluator names."""

from collections import defaultdict
from collections.abc import Iterator

import pytest
from tests.oracle.comparison import Case, cases, explain
from tests.oracle.network import TwoHosts

from tortie.dataplane.manager.seen import END_OF_TIER, Decider, Seen
from tortie.dataplane.rules.seen import END_OF_LIST
from tortie.dataplane.settings import DenyAction
from tortie.explain.oracle import Packet, Step, decide

PACKETS = 40
"""The kernel logs a hundred of each kind a second; these are fewer."""
SEEDS = range(306, 310)
MASKS: tuple[tuple[int, DenyAction], ...] = ((0xFFFF0000, "Drop"), (0x003F0000, "Reject"))
"""The second leaves two bits for the rule that let a packet through, so that rules share ids. What
is denied is logged alike whether its sender is told or not."""


@pytest.fixture(scope="module", params=MASKS, ids=str)
def network(request: pytest.FixtureRequest) -> Iterator[TwoHosts]:
    made = TwoHosts(*request.param)
    yield made
    made.close()


def named(decider: Decider) -> tuple[str, str, int | None, str]:
    return decider.tier, str(decider.policy or ""), decider.rule, decider.reason


def expected(step: Step) -> tuple[str, str, int | None, str]:
    """The same of the reference's last step."""
    if not step.policy:
        return step.tier, "", None, END_OF_TIER if step.tier else END_OF_LIST
    if step.rule < 0:  # a profile that is missing: enforced as one that denies everything
        return step.tier, step.policy.partition(",")[0], 0, ""
    return step.tier, step.policy, step.rule, ""


def last_steps(case: Case, packet: Packet) -> dict[str, Step]:
    """By direction, what decided; a packet that is denied on its way out never comes in."""
    found = {step.way.lower(): step for step in decide(case.state, packet).steps}
    if found["egress"].action == "Deny":
        found.pop("ingress", None)
    return found


def check(case: Case, number: int, logged: list[Seen]) -> str:
    """What is wrong, empty if nothing is."""
    packet = case.packets[number]
    wanted = {
        direction: (step.action, expected(step))
        for direction, step in last_steps(case, packet).items()
    }
    found = {one.direction: (one.action, named(one.decider)) for one in logged}
    if found == wanted:
        return ""
    return f"logged {found}, wanted {wanted}\n" + explain(case, packet, allowed=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_logged_names_the_rule_that_decided(network: TwoHosts, seed: int) -> None:
    deciders = set()
    for case in cases(seed, PACKETS):
        network.enforce(case.state)
        network.seen()
        network.probe_all(case.packets, case.expected)
        by_number = defaultdict(list)
        for number, seen in network.seen():
            by_number[number].append(seen)
            deciders.add(named(seen.decider))
        wrong = [
            text
            for number in range(len(case.packets))
            if (text := check(case, number, by_number[number]))
        ]
        assert not wrong, f"{len(wrong)} of {len(case.packets)}, the first:\n{wrong[0]}"
    assert len(deciders) > 1, "one rule for everything would prove little"
