"""Many resources in few transactions, each judged by itself."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

import msgspec
import pytest

from tortie.datastore import bulk
from tortie.datastore.client import Put, Txn
from tortie.datastore.memory import MemoryClient, MemoryStore
from tortie.datastore.resources import Resources, Stored, key_of
from tortie.lib.errors import AlreadyExists, Denied, InvalidField, TortieError, Unavailable
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata, Resource
from tortie.model.policy import NetworkPolicy, NetworkPolicySpec
from tortie.model.validation import with_defaults


class Bench:
    """A store, the calls that were made, and what is to go wrong with the next transaction."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.calls: list[str] = []
        self.failure: TortieError | None = None
        self.resources = Resources(MemoryClient(self.store, self._fault))

    async def _fault(self, moment: Literal["before", "after"], call: str) -> None:
        if moment == "before":
            self.calls.append(call)
            if call == "transact" and self.failure is not None:
                raise self.failure

    async def there(self) -> Mapping[ResourceKey, Stored[Resource]]:
        found = await bulk.known(self.resources, ["NetworkPolicy"])
        self.calls.clear()
        return found

    async def write(
        self, batch: Sequence[Resource], there: Mapping[ResourceKey, Stored[Resource]]
    ) -> Sequence[TortieError | None]:
        return await bulk.write(self.resources, batch, there, self.resources.apply)

    async def selectors(self) -> dict[str, str]:
        found = (await self.resources.list("NetworkPolicy")).items
        policies = [one.resource for one in found if isinstance(one.resource, NetworkPolicy)]
        return {policy.metadata.name: policy.spec.selector for policy in policies}


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench()
        await bench.resources.ensure_initialized()
        await test(bench)

    asyncio.run(main())


def policy(
    name: str, selector: str = "all()", tier: str = "default", note: Mapping[str, str] | None = None
) -> NetworkPolicy:
    spec = NetworkPolicySpec(tier=tier, selector=selector)
    metadata = Metadata(name=name, namespace="ns", annotations=dict(note or {}))
    return with_defaults(NetworkPolicy(metadata=metadata, spec=spec))


def test_a_batch_is_one_transaction() -> None:
    async def test(bench: Bench) -> None:
        first = [policy(f"p{number}") for number in range(bulk.BATCH)]
        assert await bench.write(first, await bench.there()) == [None] * bulk.BATCH
        assert bench.calls == ["transact"]
        there = await bench.there()
        changed = [*first[1:], policy("p0", "has(a)"), policy("new")]
        assert set(await bench.write(changed, there)) == {None}
        assert bench.calls == ["transact"], "creations, changes and what stays in one"
        assert (await bench.selectors())["p0"] == "has(a)"
        after = await bench.there()
        before_p1, after_p1 = (found[key_of(first[1])] for found in (there, after))
        assert before_p1 == after_p1, "what stays is not written again"
        zero = key_of(first[0])
        assert after[zero].resource.metadata.uid == there[zero].resource.metadata.uid
        assert await bench.write(changed, after) == [None] * len(changed)
        assert bench.calls == [], "nothing to write, nothing asked"

    run(test)


def test_one_that_fails_keeps_no_other_from_being_written() -> None:
    async def test(bench: Bench) -> None:
        there = await bench.there()
        await bench.resources.create(policy("taken", "has(other)"))
        batch = [policy("a"), policy("taken"), policy("b", tier="none"), policy("c")]
        errors = await bulk.write(bench.resources, batch, there, bench.resources.create)
        assert [type(error) for error in errors] == [
            type(None), AlreadyExists, InvalidField, type(None),
        ]  # fmt: skip
        assert "there is no tier 'none'" in str(errors[2])
        assert await bench.selectors() == {"a": "all()", "taken": "has(other)", "c": "all()"}

    run(test)


def test_another_writer_in_between_is_not_overwritten_unseen() -> None:
    """The batch was made from what was listed; `apply` then looks again, as for one alone."""

    async def test(bench: Bench) -> None:
        created = await bench.resources.create(policy("p"))
        there = await bench.there()
        labelled = msgspec.structs.replace(created.resource.metadata, annotations={"by": "them"})
        await bench.resources.update(msgspec.structs.replace(created.resource, metadata=labelled))
        bench.calls.clear()
        assert await bench.write([policy("p", "has(a)")], there) == [None]
        assert bench.calls.count("transact") > 1, "the first one was refused"
        assert await bench.selectors() == {"p": "has(a)"}

    run(test)


def test_a_policy_of_before_stays_where_it_is() -> None:
    async def test(bench: Bench) -> None:
        path = "/calico/resources/v3/projectcalico.org/networkpolicies/ns/"
        metadata = b'{"name":"default.p","namespace":"ns"}'
        old = b'{"kind":"NetworkPolicy","metadata":%s,"spec":{"order":1}}' % metadata
        await bench.resources.client.put(f"{path}default.p", old)
        assert await bench.write([policy("p", "has(a)")], await bench.there()) == [None]
        listing = await bench.resources.client.list(path)
        assert [entry.key for entry in listing.entries] == [f"{path}default.p"]

    run(test)


def test_what_is_unreadable_is_repaired() -> None:
    async def test(bench: Bench) -> None:
        path = key_of(policy("p")).path
        await bench.resources.client.transact(Txn(success=[Put(path, b"garbage")]))
        assert await bench.write([policy("p"), policy("q")], await bench.there()) == [None, None]
        assert await bench.selectors() == {"p": "all()", "q": "all()"}

    run(test)


@pytest.mark.parametrize("failure", [Unavailable("away"), Denied("not you")])
def test_who_cannot_be_asked_is_asked_once(failure: TortieError) -> None:
    async def test(bench: Bench) -> None:
        there = await bench.there()
        bench.failure = failure
        assert await bench.write([policy("a"), policy("b")], there) == [failure, failure]
        assert bench.calls == ["transact"]

    run(test)


def test_what_is_too_large_together_goes_alone() -> None:
    async def test(bench: Bench) -> None:
        note = {"note": "x" * 250_000}
        batch = [policy(f"p{number}", note=note) for number in range(7)]
        assert await bench.write(batch, await bench.there()) == [None] * 7
        assert len(await bench.selectors()) == 7

    run(test)
