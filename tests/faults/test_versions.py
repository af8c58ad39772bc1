"""Restart, upgrade and downgrade under traffic: another version finds what this one has left, and
goes over in one transaction. Nothing forbidden passes meanwhile, nothing allowed is lost."""

from collections.abc import Callable

import pytest
from tests.attacks.arena import Arena
from tests.faults.monitor import Seen, converged, monitored

from tortie.dataplane.rules import match, names, static
from tortie.desired.policy import PolicyList
from tortie.kernel.nft.expressions import Verdict

TURNS = 6


def same_version(_: pytest.MonkeyPatch) -> None:
    """A restart, no more."""


def other_rules(patch: pytest.MonkeyPatch) -> None:
    """It counts nothing: nearly every rule is another one."""

    def uncounted(verdict: Verdict) -> match.Expressions:
        return (verdict,)

    patch.setattr(match, "counted", uncounted)


def other_priorities(patch: pytest.MonkeyPatch) -> None:
    """Base chains that no table can move: it is replaced as a whole."""
    patch.setattr(static, "FILTER_PRIORITY", 3)
    patch.setattr(static, "FROM_PRIORITY", 2)


def other_sets(patch: pytest.MonkeyPatch) -> None:
    """Sets of other names."""
    patch.setattr(names, "RULE_PORTS", "ports-of-rules")
    patch.setitem(names.SOURCES, 4, "addresses4")


VERSIONS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    same_version,
    other_rules,
    other_priorities,
    other_sets,
)


def tell(field: Arena) -> None:
    field.host.restart()
    field.host.allow_all_profile()
    field.host.endpoint(field.attacker)
    field.host.endpoint(field.open)
    field.host.endpoint(field.guarded, ingress=PolicyList())


def go_over(field: Arena, version: Callable[[pytest.MonkeyPatch], None]) -> int:
    """Forth and back, again and again; returns how many transactions that took."""
    commits = 0
    for turn in range(TURNS):
        with pytest.MonkeyPatch.context() as patch:
            if turn % 2 == 0:
                version(patch)
            tell(field)
            field.host.apply()
            commits += field.host.dataplane.statistics().nftables.commits
    return commits


def unharmed(seen: Seen) -> None:
    assert seen.leaked == 0, str(seen)
    assert seen.broken is None
    # The last ones may still be on their way.
    assert seen.delivered >= seen.allowed - 5, str(seen)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.__name__)
def test_another_version_takes_over(
    field: Arena, version: Callable[[pytest.MonkeyPatch], None]
) -> None:
    before = field.host.ruleset()
    with monitored(field) as seen:
        commits = go_over(field, version)
    assert commits == (0 if version is same_version else TURNS), "one transaction for each way"
    unharmed(seen)
    assert field.host.ruleset() == before
    converged(field)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.__name__)
def test_another_version_takes_over_owned_tables(
    owned: Arena, version: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with monitored(owned) as seen:
        go_over(owned, version)
    unharmed(seen)
    converged(owned)
