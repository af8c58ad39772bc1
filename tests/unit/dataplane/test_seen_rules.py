"""Verdicts that are logged: what the rules look like, and what stays when policy changes."""

import asyncio

import msgspec
import pytest

from tortie.dataplane.driver.nftables import NftablesDriver
from tortie.dataplane.manager.counts import counts
from tortie.dataplane.manager.policy import PlacedList, PolicyManager
from tortie.dataplane.rules import names, policy, seen, static
from tortie.dataplane.settings import LogLimit, Settings
from tortie.desired.endpoint import EndpointId
from tortie.desired.kinds import Kind
from tortie.desired.policy import Policy, PolicyId, PolicyList, PortRange, Rule, Side, TierPolicies
from tortie.kernel.conntrack import Counted
from tortie.kernel.nft.constants import MetaKey
from tortie.kernel.nft.expressions import Limit, Log, Meta, SetUpdate
from tortie.kernel.nft.fake import FakeNft

WEB = PolicyId("NetworkPolicy", "web", "default")
LOGGING = Settings(host="h1", log_denied=True, log_allowed=True)
REJECTING = msgspec.structs.replace(LOGGING, deny_action="Reject")
ALLOW = Rule("Allow", protocol=6, destination=Side(ports=(PortRange(80, 80),)))
OTHER_PORT = Rule("Allow", protocol=6, destination=Side(ports=(PortRange(81, 81),)))
DENY = Rule("Deny", protocol=17)


def texts(rules: tuple[Rule, ...], settings: Settings = LOGGING) -> list[str]:
    content = policy.policy_chain(WEB, Policy(ingress=rules), "ingress", settings)
    (chain,) = content.chains.values()
    return [" ".join(map(str, rule.expressions)) for rule in chain.rules]


def test_a_rule_stays_one_rule_and_its_end_is_shared() -> None:
    allowed, denied = texts((ALLOW, DENY))
    assert allowed.endswith("[ meta set mark with reg 0 ] goto allowed-ingress")
    assert denied.endswith("[ meta set mark with reg 0 ] goto denied-ingress")
    plain = texts((ALLOW, DENY), Settings(host="h1"))
    assert [text.rpartition(" ] ")[2] for text in plain] == ["accept", "drop"]
    assert not any("mark" in text for text in plain)


def test_a_rule_that_moves_or_changes_its_values_is_not_written_anew() -> None:
    before = texts((ALLOW, DENY))
    assert texts((Rule("Pass"), ALLOW, DENY))[1:] == before
    assert texts((OTHER_PORT, DENY)) == before, "values are elements"
    first, second = texts((ALLOW, OTHER_PORT))
    assert first == before[0] != second, "two of one shape are told apart"


def test_ids_say_policy_direction_and_rule() -> None:
    other = PolicyId("NetworkPolicy", "web", "shop")
    rules = (ALLOW, OTHER_PORT, DENY)
    found = [
        *policy.rule_ids(WEB, rules, "ingress"),
        *policy.rule_ids(WEB, rules, "egress"),
        *policy.rule_ids(other, rules, "ingress"),
        policy.stand_in_id(WEB, "ingress"),
        seen.end_of_tier("default", "ingress"),
        seen.end_of_tier("default", "egress"),
        *map(seen.rule_id, seen.REASONS),
    ]
    assert len(set(found)) == len(found)
    assert all(0 < one < 1 << 32 for one in found)


def test_the_limit_is_the_kernels_and_the_prefix_is_ours() -> None:
    content = static.inet_table(LOGGING)
    for name in ("denied-ingress", "denied-egress", "allowed-ingress", "allowed-egress"):
        log, end = content.chains[name].rules
        by, own, limit, *_ = log.expressions
        assert by == Meta(MetaKey.IIFNAME if name.endswith("egress") else MetaKey.OIFNAME)
        assert isinstance(own, SetUpdate)
        assert own.set_name in content.sets
        assert isinstance(limit, Limit)
        last = log.expressions[-1]
        assert isinstance(last, Log)
        assert (last.prefix, last.group, last.snaplen) == (name, seen.GROUP, 0)
        assert len(end.expressions) == 2
    quiet = static.inet_table(Settings(host="h1"))
    assert not any(name.startswith(("denied", "allowed")) for name in quiet.chains)
    assert not any(name.startswith(("denied", "allowed")) for name in quiet.sets)
    assert "goto denied" not in str(quiet)


@pytest.mark.parametrize(
    ("value", "bits", "expected"),
    [(0b1011, 0xF0, 0xB0), (0b11, 0x8008, 0x8008), (0b10, 0x8008, 0x8000), (0xFFFF, 0, 0)],
)
def test_ids_fit_the_bits_that_are_ours(value: int, bits: int, expected: int) -> None:
    assert seen.spread(value, bits) == expected


def test_the_lowest_bits_are_for_others() -> None:
    assert Settings(host="h1").mark_rule == 0xFFF00000
    assert Settings(host="h1", mark_mask=0x00F0F000).mark_rule == 0x00F00000
    assert Settings(host="h1", mark_mask=0x7000).mark_rule == 0


def test_the_action_log_has_a_limit_of_its_own() -> None:
    limited = Settings(host="h1", log_limit=LogLimit(10, 60, 7))
    assert "limit" not in texts((Rule("Log"),), Settings(host="h1"))[0]
    assert "[ limit 10 packets per 60s burst 7 ] [ log prefix" in texts((Rule("Log"),), limited)[0]


class Bench:
    """A table with one list of one policy, as the kernel would have it."""

    def __init__(self, settings: Settings = LOGGING) -> None:
        self.driver = NftablesDriver(FakeNft())
        self.driver.inet.want_content(static.inet_table(settings))
        self.policies = PolicyManager(self.driver.inet, settings)
        tier = TierPolicies("default", "Deny", (WEB,))
        self.list = PolicyList((tier,))
        self.enforce(ALLOW, DENY)
        self.policies.use(PlacedList(self.list, "ingress"), EndpointId("default", "w"))
        self.apply()

    def enforce(self, *rules: Rule) -> None:
        self.policies.on_update(Kind.POLICY, WEB, Policy(ingress=rules, tier="default"))

    def apply(self) -> None:
        asyncio.run(self.driver.apply())

    def handles(self, chain: str) -> list[int]:
        return self.driver.inet.handles(chain)

    def counted(self, by_handle: dict[int, Counted]) -> dict[tuple[str, str, int | None], int]:
        found = counts(self.driver.inet, self.policies, by_handle)
        return {
            (one.decider.tier, one.decider.reason or str(one.decider.policy), one.decider.rule):
            one.counted.packets
            for one in found.rules
        }  # fmt: skip


def test_counters_find_their_rules() -> None:
    bench = Bench()
    allow, deny = bench.handles(names.policy_chain(WEB, "ingress"))
    chain = names.list_chain(names.list_id(bench.list), "ingress")
    *_, end_of_tier, end_of_list = bench.handles(chain)
    handles = (allow, deny, end_of_tier, end_of_list)
    by_handle = {handle: Counted(5 + position) for position, handle in enumerate(handles)}
    wanted = {
        ("default", str(WEB), 0): 5,
        ("default", str(WEB), 1): 6,
        ("default", "end of tier", None): 7,
        ("", seen.END_OF_LIST, None): 8,
    }
    assert bench.counted(by_handle) == wanted
    # The rules move; their handles, and so their counters, stay.
    bench.enforce(Rule("Pass", protocol=99), ALLOW, DENY)
    assert bench.counted(by_handle).get(("default", str(WEB), 0)) is None, "not written yet"
    bench.apply()
    found = bench.counted(by_handle)
    assert (found["default", str(WEB), 1], found["default", str(WEB), 2]) == (5, 6)


def test_verdicts_are_counted_with_what_the_limit_left_out() -> None:
    bench = Bench()
    log, drop = bench.handles("denied-ingress")
    found = counts(bench.driver.inet, bench.policies, {log: Counted(100), drop: Counted(1000)})
    (verdict,) = found.verdicts
    assert (verdict.name, verdict.logged.packets, verdict.all.packets) == (
        "denied-ingress", 100, 1000
    )  # fmt: skip


def test_what_is_rejected_counts_as_denied_beside_what_is_dropped() -> None:
    bench = Bench(REJECTING)
    allow, deny = bench.handles(names.policy_chain(WEB, "ingress"))
    dropped, rejected = bench.handles("denied-ingress"), bench.handles("rejected-ingress")
    by_handle = {one: Counted(10) for one in (dropped[0], rejected[0])}
    by_handle |= {one: Counted(30) for one in (dropped[1], rejected[1])}
    (verdict,) = counts(bench.driver.inet, bench.policies, by_handle).verdicts
    assert (verdict.name, verdict.logged.packets, verdict.all.packets) == ("denied-ingress", 20, 60)
    assert bench.counted({allow: Counted(1), deny: Counted(2)})["default", str(WEB), 1] == 2


def test_where_nobody_is_told_nothing_is_there_to_do_so() -> None:
    plain, rejecting = static.inet_table(LOGGING), static.inet_table(REJECTING)
    assert plain.sets == rejecting.sets, "one log, one limit"
    assert rejecting.chains.keys() - plain.chains.keys() == {
        "reject", "rejected-ingress", "rejected-egress"
    }  # fmt: skip
    denied, rejected = (texts((DENY,), one)[0] for one in (LOGGING, REJECTING))
    assert denied.replace("denied-ingress", "rejected-ingress") == rejected
    (quiet,) = texts((DENY,), Settings(host="h1", deny_action="Reject"))
    assert quiet.endswith("goto reject")
