"""One rule of what was sent is changed a little, as a mistake in the renderer would: taken away,
turned round, widened, or made to decide otherwise."""

import re
from collections.abc import Sequence
from random import Random

from msgspec.structs import replace
from tests.oracle.evaluator import Ruleset
from tests.oracle.paper import PaperHost

from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft.constants import CmpOp, VerdictCode
from tortie.kernel.nft.expressions import ACCEPT, DROP, Expression, Verdict
from tortie.kernel.nft.fake import FakeNft
from tortie.kernel.nft.objects import Chain, Element, Rule, Set, Table, TableName

_DECIDED = re.compile(r"    (\S+) (\d+): ")
Expressions = tuple[Expression, ...]


class Altered(FakeNft):
    """Another's tables, with one rule that is not as it was."""

    def __init__(self, of: FakeNft, handle: int | None, expressions: Expressions | None) -> None:
        super().__init__()
        self._of = of
        self._handle = handle
        self._expressions = expressions

    async def tables(self) -> list[Table]:
        return await self._of.tables()

    async def chains(self, table: TableName) -> list[Chain]:
        return await self._of.chains(table)

    async def sets(self, table: TableName) -> list[Set]:
        return await self._of.sets(table)

    async def elements(self, table: TableName, name: str) -> list[Element]:
        return await self._of.elements(table, name)

    async def rules(self, table: TableName, chain: str | None = None) -> list[Rule]:
        found = []
        for rule in await self._of.rules(table, chain):
            if rule.handle != self._handle:
                found.append(rule)
            elif self._expressions is not None:
                found.append(replace(rule, expressions=self._expressions))
        return found


def deciding(host: str, walked: Sequence[str], rules: Sequence[Rule]) -> list[Rule]:
    """The rules that decided something on a packet's way through one host."""
    where = ""
    here = []
    for line in walked:
        if not line.startswith(" "):
            where = line.partition(",")[0]
        elif where == host:
            here.append(line)
    by_chain: dict[str, list[Rule]] = {}
    for rule in rules:
        by_chain.setdefault(rule.chain, []).append(rule)
    found = (_DECIDED.match(line) for line in here)
    return [by_chain[one[1]][int(one[2]) - 1] for one in found if one and one[1] in by_chain]


def alter(random: Random, host: PaperHost, rule: Rule) -> tuple[Ruleset, str]:
    """The host's ruleset with that rule changed, and how."""
    how, expressions = random.choice(_alterations(random, rule.expressions))
    altered = Ruleset.read(Altered(host.nft, rule.handle, expressions))
    return altered, f"{rule.chain}, handle {rule.handle}: {how}"


def _alterations(random: Random, expressions: Expressions) -> list[tuple[str, Expressions | None]]:
    found: list[tuple[str, Expressions | None]] = [("taken away", None)]
    matches = [
        place
        for place, one in enumerate(expressions)
        if isinstance(one, ex.Cmp) or (isinstance(one, ex.Lookup) and one.destination is None)
    ]
    if matches:
        place = random.choice(matches)
        without = expressions[:place] + expressions[place + 1 :]
        turned = (*expressions[:place], _turned(expressions[place]), *expressions[place + 1 :])
        found += [("a match is lost", without), ("a match is turned round", turned)]
    last = expressions[-1]
    if isinstance(last, Verdict) and last.code != VerdictCode.JUMP:
        verdict = DROP if "allowed" in last.chain or last.code == VerdictCode.ACCEPT else ACCEPT
        found.append(("it decides otherwise", (*expressions[:-1], verdict)))
    return found


def _turned(expression: Expression) -> Expression:
    if isinstance(expression, ex.Cmp):
        return replace(expression, op=CmpOp.NEQ if expression.op is CmpOp.EQ else CmpOp.EQ)
    assert isinstance(expression, ex.Lookup)
    return replace(expression, invert=not expression.invert)
