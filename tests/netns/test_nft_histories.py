"""Random histories: the in-memory backend and the kernel agree on every transaction."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tortie.kernel.nft import keys
from tortie.kernel.nft.connection import Backend, Nft, OperationRefused
from tortie.kernel.nft.constants import CmpOp, Family, Hook, MetaKey, Policy
from tortie.kernel.nft.expressions import (
    ACCEPT,
    DROP,
    VERDICT_REGISTER,
    Cmp,
    Counter,
    Lookup,
    Meta,
    Verdict,
    goto,
    jump,
)
from tortie.kernel.nft.fake import FakeNft
from tortie.kernel.nft.objects import (
    MARK,
    VERDICT,
    Base,
    Chain,
    Element,
    Rule,
    Set,
    Table,
    TableName,
    interval_elements,
)
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelBusy, TortieError

TABLE = TableName(Family.INET, "history")
BASE = Chain("base", Base("filter", Hook.FORWARD, 0, Policy.ACCEPT))
CHAINS = ("a", "b", "c")
SETS = {
    "plain": Set("plain", (MARK,)),
    "map": Set("map", (MARK,), (MARK,)),
    "vmap": Set("vmap", (MARK,), (VERDICT,)),
    "ranges": Set("ranges", (MARK,), interval=True),
}

Step = Callable[[Transaction, list[int]], None]

chain_names = st.sampled_from(CHAINS)
set_names = st.sampled_from(sorted(SETS))
small = st.integers(0, 3)
verdicts = st.sampled_from([ACCEPT, DROP, *(jump(c) for c in CHAINS), *(goto(c) for c in CHAINS)])


def rule_of(chain: str, kind: int, number: int, verdict: Verdict) -> Rule:
    mark = Meta(MetaKey.MARK)
    programs = (
        (mark, Cmp(CmpOp.EQ, keys.u32(number)), Counter(), verdict),
        (mark, Lookup("plain"), verdict),
        (mark, Lookup("vmap", 0, VERDICT_REGISTER)),
        (mark, Lookup("map", 0, 0), Cmp(CmpOp.EQ, keys.u32(number)), verdict),
    )
    return Rule(chain, programs[kind])


def elements_of(name: str, number: int, width: int, verdict: Verdict) -> tuple[Element, ...]:
    key = number.to_bytes(4, "big")
    if name == "ranges":
        return interval_elements(key, (number + width).to_bytes(4, "big"))
    data: dict[str, bytes | Verdict] = {"map": keys.u32(width), "vmap": verdict}
    return (Element(key, data.get(name)),)


def _handle(handles: list[int], pick: int) -> int:
    return handles[pick % len(handles)] if handles else 9999


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, Step]:
    """One operation, described so that a failure can be read."""
    chain, name = draw(chain_names), draw(set_names)
    number, width, pick = draw(small), draw(small), draw(st.integers(0, 30))
    verdict, kind = draw(verdicts), draw(small)
    of = SETS[name]
    rule = rule_of(draw(st.sampled_from([chain, "base"])), kind, number, verdict)
    some = elements_of(name, number, width, verdict)
    choices: dict[str, Step] = {
        "add chain": lambda t, _: t.add_chain(TABLE, Chain(chain)),
        "add chain exclusively": lambda t, _: t.add_chain(TABLE, Chain(chain), exclusive=True),
        "delete chain": lambda t, _: t.delete_chain(TABLE, chain),
        "flush chain": lambda t, _: t.flush_chain(TABLE, rule.chain),
        "add rule": lambda t, _: t.add_rule(TABLE, rule),
        "insert rule": lambda t, _: t.insert_rule(TABLE, rule),
        "insert before": lambda t, h: t.insert_rule(TABLE, rule, before=_handle(h, pick)),
        "replace rule": lambda t, h: t.replace_rule(TABLE, _handle(h, pick), rule),
        "delete rule": lambda t, h: t.delete_rule(TABLE, rule.chain, _handle(h, pick)),
        "add set": lambda t, _: t.add_set(TABLE, of),
        "delete set": lambda t, _: t.delete_set(TABLE, name),
        "flush set": lambda t, _: t.flush_set(TABLE, name),
        "add elements": lambda t, _: t.add_elements(TABLE, of, some),
        "delete elements": lambda t, _: t.delete_elements(TABLE, of, some),
    }
    # Elements and rules more often than the rest.
    frequent = ["add rule", "add rule", "insert rule", "add elements", "add elements"]
    what = draw(st.sampled_from([*choices, *frequent]))
    return f"{what} {chain} {name} {number} {width} {verdict} kind {kind} pick {pick}", choices[
        what
    ]


histories = st.lists(st.lists(steps(), min_size=1, max_size=3), max_size=20)


class _Side:
    """One backend under the history, with handles numbered by order of creation."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def handles(self) -> list[int]:
        rules = await self.backend.rules(TABLE)
        ordered = sorted(rules, key=lambda rule: (rule.chain, 0))
        return [rule.handle for rule in ordered if rule.handle is not None]

    async def outcome(self, history: list[tuple[str, Step]]) -> str:
        change = Transaction()
        handles = await self.handles()
        for _, step in history:
            step(change, handles)
        try:
            written = await self.backend.commit(change)
        except OperationRefused as error:
            return f"refused {error.errno} {type(error.refused).__name__}"
        except KernelBusy:
            return "busy"
        except TortieError as error:
            return repr(error)
        return f"done, {len(written)} rules"

    async def contents(self) -> Any:
        chains = sorted(await self.backend.chains(TABLE), key=lambda one: one.name)
        rules = {
            chain.name: [one.expressions for one in await self.backend.rules(TABLE, chain.name)]
            for chain in chains
        }
        sets = sorted(await self.backend.sets(TABLE), key=lambda one: one.name)
        elements = {of.name: set(await self.backend.elements(TABLE, of.name)) for of in sets}
        return chains, rules, sets, elements


async def _run(history: list[list[tuple[str, Step]]], kernel: Nft) -> None:
    sides = [_Side(kernel), _Side(FakeNft())]
    for side in sides:
        change = Transaction()
        change.replace_table(Table(*TABLE))
        change.add_chain(TABLE, BASE)
        for chain in CHAINS:
            change.add_chain(TABLE, Chain(chain))
        for of in SETS.values():
            change.add_set(TABLE, of)
        await side.backend.commit(change)
    for transaction in history:
        kernel_said, fake_said = [await side.outcome(transaction) for side in sides]
        assert fake_said == kernel_said
        kernel_has, fake_has = [await side.contents() for side in sides]
        assert fake_has == kernel_has


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories)
def test_fake_and_kernel_agree_on_any_history(
    netns: None, history: list[list[tuple[str, Step]]]
) -> None:
    kernel = Nft.open()
    try:
        asyncio.run(_run(history, kernel))
    finally:
        kernel.close()
