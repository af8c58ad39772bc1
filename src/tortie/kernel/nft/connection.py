"""The door to nf_tables: commit transactions, read back, hear of changes by others.

Theory of operation. A transaction is one batch, sent by one `send`: the kernel
takes each message, and commits or aborts, before that returns. Answers lie in
the queue by then:

- only the last message asks for an acknowledgement; a message that is refused
  always answers. So one plain acknowledgement means that all went well;
- the kernel goes on after a refusal, to report what else is wrong. What
  refers to a refused object is refused in turn, so the first one is to blame;
- a failure that belongs to no message (the commit itself, a lost generation
  race, no privilege) answers with the sequence number of the batch's start;
- added rules are echoed with the handle that they got.

Source: net/netfilter/nfnetlink.c, nfnetlink_rcv_batch.
"""

import errno
from collections.abc import Iterable
from typing import NamedTuple, Protocol, Self

import msgspec

from tortie.kernel import netlink
from tortie.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Acknowledgement,
    OutcomeUnknown,
    Request,
)
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.nft import constants as nft
from tortie.kernel.nft import decode
from tortie.kernel.nft.constants import TableFlag
from tortie.kernel.nft.encode import (
    BATCH_HEADER,
    Body,
    element_count,
    element_index,
    encode,
    family_header,
)
from tortie.kernel.nft.objects import Chain, Element, Rule, Set, Table, TableName
from tortie.kernel.nft.operations import (
    AddElements,
    AddRule,
    DeleteElements,
    Operation,
    ReplaceRule,
)
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelBusy, KernelRefused, NotFound, TortieError, kernel_error

_ERESTART = 85
"""The ruleset is not of the generation that the batch was made for; Python has no name for it."""

_ECHO_BYTES = 4096
"""What one echoed rule takes of the receive queue: at most a page and its bookkeeping, and the
kernel doubles what it is asked for."""


class WrittenRule(NamedTuple):
    """A rule of a committed transaction and the handle that the kernel gave it."""

    operation: AddRule | ReplaceRule
    handle: int


class OperationRefused(KernelRefused):
    """The kernel refused `refused`, one operation of a transaction; nothing changed.

    `element` is the element at fault, where the operation is about elements and
    the kernel said which.
    """

    def __init__(
        self, refused: Operation, code: int, detail: str, element: Element | None = None
    ) -> None:
        super().__init__(_name(refused, element), code, f"{detail} (errno {code})")
        self.refused = refused
        self.element = element


def _name(operation: Operation, element: Element | None) -> str:
    """The operation in nft syntax; one about many elements, only with the one at fault."""
    if element is not None and isinstance(operation, AddElements | DeleteElements):
        return str(msgspec.structs.replace(operation, elements=(element,)))
    return str(operation)


class Backend(Protocol):
    """The only door to nftables: `Nft` for the kernel, `FakeNft` for tests and dry runs."""

    @property
    def port_id(self) -> int:
        """Whom the kernel names as the owner of our tables."""

    async def commit(
        self, transaction: Transaction, *, generation: int | None = None
    ) -> list[WrittenRule]:
        """Apply all of it or none.

        Args:
            generation: refuse with KernelBusy if the ruleset has changed since
                this one (`generation()`), by anyone. None does not check.

        Returns:
            The added and replaced rules in the order they were sent.

        Raises:
            OperationRefused: the kernel rejects an operation; nothing changed.
            KernelBusy: another writer won the race, or something is still in
                use; nothing changed, and the same call may succeed.
            OutcomeUnknown: the answer was lost; read back what is there.
        """

    async def tables(self) -> list[Table]:
        """All tables of all families."""

    async def chains(self, table: TableName) -> list[Chain]:
        """
        Raises:
            NotFound: there is no such table.
        """

    async def rules(self, table: TableName, chain: str | None = None) -> list[Rule]:
        """With handles; chain by chain, in their order.

        Args:
            chain: of this chain only; None means all.

        Raises:
            NotFound: there is no such table.
        """

    async def sets(self, table: TableName) -> list[Set]:
        """
        Raises:
            NotFound: there is no such table.
        """

    async def elements(self, table: TableName, name: str) -> list[Element]:
        """In no particular order.

        Raises:
            NotFound: there is no such table or set.
        """

    async def generation(self) -> int:
        """Grows with every commit, anyone's."""


class Nft:
    """nf_tables over one raw socket, in the network namespace where it was opened.

    One task only. The calls return without ever giving up the loop: a commit
    takes from 20 µs to a few milliseconds.
    """

    def __init__(self, socket: NetlinkSocket) -> None:
        self._socket = socket

    @classmethod
    def open(cls) -> Self:
        return cls(NetlinkSocket.open(NETLINK_NETFILTER))

    @classmethod
    def adopt(cls, descriptor: int) -> Self:
        """Take over another process's socket, and with it the tables it owns."""
        return cls(NetlinkSocket.adopt(descriptor))

    @property
    def port_id(self) -> int:
        """Whom the kernel names as the author of our changes and the owner of our tables."""
        return self._socket.port_id

    def fileno(self) -> int:
        """To pass the socket on, with the tables it owns (SCM_RIGHTS)."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    async def commit(
        self, transaction: Transaction, *, generation: int | None = None
    ) -> list[WrittenRule]:
        """See `Backend.commit`."""
        operations = list(transaction.operations())
        if not operations:
            return []
        return self.commit_operations(operations, generation=generation)

    def commit_operations(
        self, operations: Iterable[Operation], *, generation: int | None = None
    ) -> list[WrittenRule]:
        """Commit operations that are in order already; otherwise like `commit`."""
        batch = _Batch(self._socket, operations, generation)
        self._socket.send(batch.packed)
        try:
            return batch.read_answers(self._socket)
        except OutcomeUnknown:
            self._socket.drain()
            raise

    async def tables(self) -> list[Table]:
        """See `Backend`."""
        answers = self._dump("list tables", nft.GETTABLE, family_header(0))
        return [decode.decode_table(one) for one in answers if _is_known_family(one)]

    async def chains(self, table: TableName) -> list[Chain]:
        """See `Backend`."""
        self._check_exists(table)
        answers = self._dump(f"list chains {table}", nft.GETCHAIN, family_header(table.family))
        return [decode.decode_chain(one) for one in answers if decode.table_name_of(one) == table]

    async def rules(self, table: TableName, chain: str | None = None) -> list[Rule]:
        """See `Backend`."""
        self._check_exists(table)
        payload = family_header(table.family) + netlink.attribute_string(1, table.name)
        if chain is not None:
            payload += netlink.attribute_string(2, chain)
        answers = self._dump(f"list rules {table}", nft.GETRULE, payload)
        return [decode.decode_rule(one) for one in answers]

    async def sets(self, table: TableName) -> list[Set]:
        """See `Backend`."""
        self._check_exists(table)
        payload = family_header(table.family) + netlink.attribute_string(1, table.name)
        answers = self._dump(f"list sets {table}", nft.GETSET, payload)
        return [decode.decode_set(one) for one in answers]

    async def elements(self, table: TableName, name: str) -> list[Element]:
        """See `Backend`."""
        payload = (
            family_header(table.family)
            + netlink.attribute_string(1, table.name)
            + netlink.attribute_string(2, name)
        )
        answers = self._dump(f"list set {table} {name}", nft.GETSETELEM, payload)
        return [element for one in answers for element in decode.decode_elements(one)]

    async def generation(self) -> int:
        """See `Backend`."""
        request = Request("read the generation", nft.GETGEN, 0, family_header(0))
        return decode.decode_generation(self._socket.request(request)[0]).number

    def _check_exists(self, table: TableName) -> None:
        """A dump of a table that is not there is empty, and would look like an empty table."""
        payload = family_header(table.family) + netlink.attribute_string(1, table.name)
        try:
            self._socket.request(Request(f"list table {table}", nft.GETTABLE, 0, payload))
        except KernelRefused as error:
            raise _missing(error) from error

    def _dump(self, operation: str, kind: int, payload: bytes) -> list[netlink.Message]:
        try:
            return self._socket.dump(Request(operation, kind, 0, payload))
        except KernelRefused as error:
            raise _missing(error) from error


def _missing(error: KernelRefused) -> TortieError:
    return NotFound(str(error)) if error.errno == errno.ENOENT else error


def _is_known_family(answer: netlink.Message) -> bool:
    return decode.table_name_of(answer) is not None


class _Batch:
    """One transaction on its way: its bytes, and which message belongs to which operation."""

    def __init__(
        self, socket: NetlinkSocket, operations: Iterable[Operation], generation: int | None
    ) -> None:
        bodies: list[Body] = []
        self._operations: list[Operation] = []
        echoes = 0
        for operation in operations:
            encoded = encode(operation)
            bodies += encoded
            self._operations += [operation] * len(encoded)
            echoes += isinstance(operation, AddRule | ReplaceRule)
        self._first = socket.reserve_sequences(len(bodies) + 2)
        self._last = self._first + len(bodies)
        self._bodies = bodies
        begin = BATCH_HEADER
        if generation is not None:
            begin += netlink.attribute_be32(nft.BATCH_GENID, generation)
        parts = [netlink.message(nft.BATCH_BEGIN, NLM_F_REQUEST, self._first, begin)]
        for sequence, (kind, flags, payload) in enumerate(bodies, self._first + 1):
            flags |= NLM_F_REQUEST if sequence < self._last else NLM_F_REQUEST | NLM_F_ACK
            parts.append(netlink.message(kind, flags, sequence, payload))
        parts.append(netlink.message(nft.BATCH_END, NLM_F_REQUEST, self._last + 1, BATCH_HEADER))
        self.packed = b"".join(parts)
        socket.grow_receive_queue(echoes * _ECHO_BYTES)

    def read_answers(self, socket: NetlinkSocket) -> list[WrittenRule]:
        written: list[WrittenRule] = []
        refusals: list[Acknowledgement] = []
        acknowledged = False
        # Everything is queued already. A good acknowledgement, the last message's, is last.
        while not acknowledged:
            datagram = socket.receive(wait=False)
            if datagram is None:
                break
            for answer in netlink.messages(datagram):
                if not self._first <= answer.sequence <= self._last:
                    continue
                if answer.kind == nft.NEWRULE:
                    written.append(self._written(answer))
                elif answer.kind == NLMSG_ERROR:
                    said = netlink.acknowledgement(answer)
                    if said.code:
                        refusals.append(said)
                    else:
                        acknowledged = True
        if refusals:
            raise self._error(refusals)
        if not acknowledged:
            raise OutcomeUnknown("the kernel did not acknowledge the transaction")
        return written

    def _written(self, answer: netlink.Message) -> WrittenRule:
        operation = self._operations[answer.sequence - self._first - 1]
        assert isinstance(operation, AddRule | ReplaceRule)
        return WrittenRule(operation, decode.rule_handle(answer))

    def _error(self, refusals: list[Acknowledgement]) -> TortieError:
        # A message that may be tried again explains nothing that a hard refusal does not.
        blamed = min(refusals, key=lambda said: said.sequence)
        if blamed.code == _ERESTART:
            return KernelBusy("commit: the ruleset changed in between")
        if blamed.sequence == self._first:
            return kernel_error("commit", blamed.code, blamed.detail)
        operation = self._operations[blamed.sequence - self._first - 1]
        error = kernel_error(str(operation), blamed.code, blamed.detail)
        if isinstance(error, KernelRefused):
            element = self._element(blamed)
            error = OperationRefused(operation, blamed.code, blamed.detail, element)
        if len(refusals) > 1:
            error.add_note(f"and {len(refusals) - 1} more operations were refused after it")
        return error

    def _element(self, blamed: Acknowledgement) -> Element | None:
        """Which element the kernel pointed at, if it did."""
        place = blamed.sequence - self._first - 1
        operation = self._operations[place]
        if not isinstance(operation, AddElements | DeleteElements):
            return None
        inside = element_index(self._bodies[place], blamed.offset - netlink.HEADER_BYTES)
        if inside is None:
            return None
        # The elements of one operation may fill several messages.
        while place and self._operations[place - 1] is operation:
            place -= 1
            inside += element_count(self._bodies[place])
        return operation.elements[inside]


class Change(NamedTuple):
    """Somebody changed a table."""

    table: TableName
    port_id: int
    """Whose socket; compare with `Nft.port_id` to leave out our own."""
    process_name: str = ""
    """Who that was ("nft", "dockerd"), for the log; empty if not told yet."""


class Changes:
    """Hears of every change to nf_tables in this namespace, on a socket of its own.

    `fileno` becomes readable; then call `read`.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket.open(NETLINK_NETFILTER, groups=(nft.GROUP_NFTABLES,))

    def fileno(self) -> int:
        """For `loop.add_reader`."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> set[Change]:
        """What changed since the last call, each table and author once; empty if nothing.

        Raises:
            OutcomeUnknown: some were lost: compare every table.
        """
        found: set[Change] = set()
        unnamed: set[tuple[TableName, int]] = set()
        for event in self._socket.events():
            table = decode.table_name_of(event)
            if table is not None:
                unnamed.add((table, event.port_id))
            elif event.kind == nft.NEWGEN:
                # Ends the events of one transaction, and alone says who made it.
                author = decode.decode_generation(event).process_name
                found |= {Change(*one, author) for one in unnamed}
                unnamed.clear()
        return found | {Change(*one) for one in unnamed}


_PROBE_TABLE = "tortie-probe"


def supports_owner_tables(family: nft.Family = nft.Family.INET) -> bool:
    """Whether this kernel takes `owner` and `persist` together (Linux 6.9).

    Where such a table exists, it does: so a restarted agent writes nothing to
    find out. Else tried with a table of its own, on a socket of its own, and
    removed again.

    Raises:
        KernelRefused: not allowed to make any table at all.
    """
    both = TableFlag.OWNER | TableFlag.PERSIST
    with NetlinkSocket.open(NETLINK_NETFILTER) as socket:
        answers = socket.dump(Request("list tables", nft.GETTABLE, 0, family_header(0)))
        if any(
            decode.decode_table(one).flags & both == both
            for one in answers
            if _is_known_family(one)
        ):
            return True
        name = f"{_PROBE_TABLE}-{socket.port_id}"
        change = Transaction()
        change.add_table(Table(family, name, both))
        door = Nft(socket)
        try:
            door.commit_operations(change.operations())
        except KernelRefused as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise
        undo = Transaction()
        undo.delete_table(TableName(family, name))
        door.commit_operations(undo.operations())
    return True
