"""A kernel's tables that know only bytes: each transaction is encoded as for the kernel, and what
the bytes say is what counts. So whatever reads these tables sees what would be sent.
"""

from collections.abc import Iterable, Iterator

from tortie.kernel import netlink
from tortie.kernel.netlink import NLM_F_APPEND, NLM_F_EXCL, Message
from tortie.kernel.nft import constants as nft
from tortie.kernel.nft import decode
from tortie.kernel.nft import operations as op
from tortie.kernel.nft.codec import decode_expressions
from tortie.kernel.nft.connection import WrittenRule
from tortie.kernel.nft.encode import encode
from tortie.kernel.nft.fake import FakeNft
from tortie.kernel.nft.objects import Rule, Set, TableName
from tortie.kernel.nft.transaction import Transaction


class WireNft(FakeNft):
    """`FakeNft`, which answers as the kernel does, behind the wire format."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0

    async def commit(
        self, transaction: Transaction, *, generation: int | None = None
    ) -> list[WrittenRule]:
        """See `Backend.commit`."""
        sent = _packed(transaction.operations())
        self.sent_bytes += len(sent)
        return await super().commit(_Received(sent), generation=generation)


class _Received(Transaction):
    """A transaction in the order in which its messages came."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._received = [_operation(message) for message in netlink.messages(data)]

    def operations(self) -> Iterator[op.Operation]:
        return iter(self._received)


def _packed(operations: Iterable[op.Operation]) -> bytes:
    return b"".join(
        netlink.message(body.kind, body.flags, sequence, body.payload)
        for sequence, operation in enumerate(operations)
        for body in encode(operation)
    )


def _operation(message: Message) -> op.Operation:
    """What the kernel would do for this message."""
    table = decode.table_name_of(message)
    assert table is not None, "every message of ours names a table"
    exclusive = bool(message.flags & NLM_F_EXCL)
    found = decode.attributes_of(message)
    match message.kind:
        case nft.NEWTABLE:
            return op.AddTable(decode.decode_table(message), exclusive)
        case nft.DELTABLE:
            return op.DeleteTable(table)
        case nft.NEWCHAIN:
            return op.AddChain(table, decode.decode_chain(message), exclusive)
        case nft.DELCHAIN:
            return op.DeleteChain(table, netlink.text(found[3]))
        case nft.NEWRULE:
            return _new_rule(message, table)
        case nft.DELRULE:
            chain = netlink.text(found[2])
            if 3 in found:
                return op.DeleteRule(table, chain, netlink.be(found[3]))
            return op.FlushChain(table, chain)
        case nft.NEWSET:
            return op.AddSet(table, decode.decode_set(message), exclusive)
        case nft.DELSET:
            return op.DeleteSet(table, netlink.text(found[2]))
        case nft.NEWSETELEM | nft.DELSETELEM:
            # Of the set only its name is in the message; the tables know the rest.
            of = Set(netlink.text(found[2]), ())
            elements = tuple(decode.decode_elements(message))
            if message.kind == nft.NEWSETELEM:
                return op.AddElements(table, of, elements, exclusive)
            if elements:
                return op.DeleteElements(table, of, elements)
            return op.FlushSet(table, of.name)
    raise AssertionError(f"no such message: {message.kind:#x}")


def _new_rule(message: Message, table: TableName) -> op.AddRule | op.ReplaceRule:
    found = decode.attributes_of(message)
    if 3 in found:
        return op.ReplaceRule(table, decode.decode_rule(message), netlink.be(found[3]))
    before = netlink.be(found[6]) if 6 in found else None
    user_data = bytes(found[7]) if 7 in found else b""
    rule = Rule(netlink.text(found[2]), decode_expressions(found[4]), user_data)
    at_start = before is None and not message.flags & NLM_F_APPEND
    return op.AddRule(table, rule, before, at_start)
