"""The calls on one key, said as transactions; every back-end inherits them."""

from typing import Protocol

from tortie.datastore.client import (
    Delete,
    Entry,
    Get,
    Lease,
    Put,
    Txn,
    TxnResult,
    absent,
    present,
    unchanged,
)
from tortie.lib.errors import AlreadyExists, Conflict, NotFound


class SingleKeyCalls(Protocol):
    """Mixin: needs `transact`, gives create, update, put, delete and get."""

    async def transact(self, txn: Txn) -> TxnResult: ...

    async def get(self, key: str) -> Entry | None:
        return (await self.transact(Txn(success=[Get(key)]))).responses[0].entry

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> int:
        result = await self.transact(Txn([absent(key)], [Put(key, value, lease_id(lease))]))
        if not result.succeeded:
            raise AlreadyExists(f"{key} already exists")
        return result.revision

    async def update(
        self, key: str, value: bytes, *, mod_revision: int, lease: Lease | None = None
    ) -> int:
        write = Put(key, value, lease_id(lease))
        compares = [unchanged(key, mod_revision), present(key)]
        result = await self.transact(Txn(compares, [write], [Get(key)]))
        if not result.succeeded:
            raise _lost(key, mod_revision, result)
        return result.revision

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> int:
        return (await self.transact(Txn(success=[Put(key, value, lease_id(lease))]))).revision

    async def delete(self, key: str, *, mod_revision: int | None = None) -> int:
        compares = [present(key)]
        if mod_revision is not None:
            compares.append(unchanged(key, mod_revision))
        result = await self.transact(Txn(compares, [Delete(key)], [Get(key)]))
        if not result.succeeded:
            raise _lost(key, mod_revision, result)
        return result.revision


def lease_id(lease: Lease | None) -> int:
    return 0 if lease is None else lease.id


def _lost(key: str, mod_revision: int | None, result: TxnResult) -> Conflict | NotFound:
    entry = result.responses[0].entry
    if entry is None:
        return NotFound(f"{key} does not exist")
    return Conflict(f"{key} was read at revision {mod_revision}, now it is {entry.mod_revision}")
