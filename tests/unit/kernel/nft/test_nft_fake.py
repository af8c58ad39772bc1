"""What the in-memory backend adds to the contract: failures on demand, several owners."""

import asyncio
import errno

import pytest

from tortie.kernel.nft.connection import OperationRefused
from tortie.kernel.nft.constants import Family, TableFlag
from tortie.kernel.nft.fake import FakeNft
from tortie.kernel.nft.objects import Chain, Table, TableName
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelBusy

TABLE = TableName(Family.INET, "t")


def some_change() -> Transaction:
    change = Transaction()
    change.add_table(Table(*TABLE))
    change.add_chain(TABLE, Chain("c"))
    return change


def test_a_failure_on_demand_changes_nothing_and_passes() -> None:
    async def run() -> None:
        backend = FakeNft()
        backend.fail_next(KernelBusy("queue full"))
        with pytest.raises(KernelBusy, match="queue full"):
            await backend.commit(some_change())
        assert await backend.tables() == []
        assert backend.commits == 0
        await backend.commit(some_change())
        assert backend.commits == 1
        assert await backend.chains(TABLE) == [Chain("c")]

    asyncio.run(run())


def test_a_table_of_another_owner_is_closed() -> None:
    async def run() -> None:
        backend = FakeNft(port_id=5)
        change = Transaction()
        change.add_table(Table(*TABLE, TableFlag.OWNER | TableFlag.PERSIST))
        await backend.commit(change)
        (table,) = await backend.tables()
        assert table.owner == 5
        backend.port_id = 6
        with pytest.raises(OperationRefused) as refused:
            await backend.commit(some_change())
        assert refused.value.errno == errno.EPERM
        assert await backend.chains(TABLE) == []

    asyncio.run(run())
