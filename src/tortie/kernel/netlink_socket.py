"""Netlink sockets: requests, batches and dumps, and their answers.

Theory of operation. The kernel handles a request inside our `send`, so when
that returns the acknowledgements and the first part of a dump already lie in
the receive queue; nothing here ever waits for long. Sequence numbers pair
answers with requests, and an answer with a foreign number is a left-over (of
a timed-out call, or of the process that had this socket before) and ignored.

What goes wrong in real life: the receive queue overflows (ENOBUFS) and answers
or events are lost, so that nobody knows what the kernel did: `OutcomeUnknown`,
and the caller reads everything back. A dump that another writer disturbed
carries NLM_F_DUMP_INTR and is made again.

Source: include/uapi/linux/netlink.h; Documentation/userspace-api/netlink/intro.rst.
"""

import contextlib
import errno
import random
import select
import socket
from collections.abc import Iterator, Sequence

from tortie.kernel.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_CAP_ACK,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    SOL_NETLINK,
    Acknowledgement,
    Message,
    OutcomeUnknown,
    Request,
    acknowledgement,
    message,
    messages,
)
from tortie.lib.errors import KernelBusy, kernel_error

RECEIVE_QUEUE_BYTES = 8 << 20
"""A refused batch answers each bad message with about 1 KB of queue."""

SEND_QUEUE_BYTES = 4 << 20
"""Holds one usual batch; `NetlinkSocket.send` grows it when a batch is larger."""

_DATAGRAM_BYTES = 128 << 10
"""The kernel fills at most 32 KB of a dump per read; twice that and more is safe."""

_ANSWER_MS = 5000
_DUMP_ATTEMPTS = 10
_ACKED_PER_SEND = 512
"""Acknowledged requests per send: 512 answers fit the receive queue many times."""


class NetlinkSocket:
    """One netlink socket, in the network namespace where it was made.

    One owner, one thread. Never blocks longer than `_ANSWER_MS`, and that only
    if the kernel breaks its habit of answering before `send` returns.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._buffer = bytearray(_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        # Anywhere but where a previous owner of the same port may have been.
        self._sequence = random.getrandbits(31)
        self._send_queue_bytes = 0
        self._receive_queue_bytes = RECEIVE_QUEUE_BYTES
        self.port_id: int = sock.getsockname()[0]
        """The kernel's name for this socket; it owns tables under this number."""

    @classmethod
    def open(
        cls,
        protocol: int,
        *,
        groups: Sequence[int] = (),
        strict: bool = False,
        queue_bytes: int = RECEIVE_QUEUE_BYTES,
    ) -> "NetlinkSocket":
        """
        Args:
            protocol: NETLINK_ROUTE or NETLINK_NETFILTER.
            groups: multicast groups to hear, by number (not by bit).
            strict: refuse dump requests with filters that the kernel would ignore.
            queue_bytes: room for what has come and is not read yet.
        """
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            sock.bind((0, 0))
            _force(sock, SO_RCVBUFFORCE, socket.SO_RCVBUF, queue_bytes)
            options = [NETLINK_EXT_ACK, NETLINK_CAP_ACK]
            if strict:
                options.append(NETLINK_GET_STRICT_CHK)
            for option in options:
                sock.setsockopt(SOL_NETLINK, option, 1)
            made = cls(sock)
            for group in groups:
                made.join(group)
        except BaseException:
            sock.close()
            raise
        return made

    @classmethod
    def adopt(cls, descriptor: int) -> "NetlinkSocket":
        """Take over a socket that another process opened and passed on.

        The port id stays, and with it the tables it owns. Answers that the
        previous owner never read are thrown away. The caller makes sure that
        no other process reads it any more.
        """
        adopted = cls(socket.socket(fileno=descriptor))
        adopted.drain()
        return adopted

    def join(self, group: int) -> None:
        self._sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def leave(self, group: int) -> None:
        self._sock.setsockopt(SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, group)

    def fileno(self) -> int:
        """For `loop.add_reader`, and to pass the socket on."""
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> "NetlinkSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reserve_sequences(self, count: int) -> int:
        """The first of `count` consecutive unused sequence numbers, never 0."""
        first = self._sequence + 1
        if first + count > 0xFFFFFFFF:
            first = 1
        self._sequence = first + count - 1
        return first

    def grow_receive_queue(self, size: int) -> None:
        """Make room for `size` bytes of answers; never shrinks."""
        if size > self._receive_queue_bytes:
            _force(self._sock, SO_RCVBUFFORCE, socket.SO_RCVBUF, size)
            self._receive_queue_bytes = size

    def send(self, data: bytes) -> None:
        """Send one datagram, however large; the kernel has handled it on return.

        Raises:
            KernelBusy: no memory for it at the moment; nothing was done.
            KernelRefused: the socket may not send this.
        """
        if len(data) > self._send_queue_bytes - 4096:
            wanted = max(SEND_QUEUE_BYTES, len(data) + (64 << 10))
            _force(self._sock, SO_SNDBUFFORCE, socket.SO_SNDBUF, wanted)
            self._send_queue_bytes = wanted
        try:
            self._sock.send(data)
        except OSError as error:
            raise kernel_error(
                "send to netlink", error.errno or errno.EIO, f"{error.strerror}, {len(data)} bytes"
            ) from error

    def receive(self, *, wait: bool = True) -> bytes | None:
        """The next datagram; None if there is none.

        Args:
            wait: allow the kernel a few seconds, for an answer that must come.

        Raises:
            OutcomeUnknown: the queue overflowed and something was lost.
        """
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        while True:
            try:
                count = self._sock.recv_into(self._buffer, 0, flags)
            except BlockingIOError:
                if not (wait and self._readable()):
                    return None
                continue
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise OutcomeUnknown("netlink answers were lost: queue full") from error
                code = error.errno or errno.EIO
                raise kernel_error("receive from netlink", code) from error
            if count > _DATAGRAM_BYTES:
                raise OutcomeUnknown(f"a netlink message of {count} bytes was cut")
            return bytes(self._view[:count])

    def _readable(self) -> bool:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(_ANSWER_MS))

    def drain(self) -> None:
        """Throw away whatever is queued, overflow reports included."""
        while True:
            with contextlib.suppress(OutcomeUnknown):
                if self.receive(wait=False) is None:
                    return

    def events(self) -> list[Message]:
        """Everything queued, at once, without waiting: for multicast listeners.

        Raises:
            OutcomeUnknown: events were lost; read the state back. Events
                queued behind the loss stay for the next call.
        """
        found: list[Message] = []
        while (datagram := self.receive(wait=False)) is not None:
            found.extend(messages(datagram))
        return found

    def request(self, request: Request) -> list[Message]:
        """Send one request and return what it answers, without the acknowledgement.

        Raises:
            KernelRefused, KernelBusy: with `request.operation`.
            OutcomeUnknown: the answer was lost.
        """
        sequence = self.reserve_sequences(1)
        flags = request.flags | NLM_F_REQUEST | NLM_F_ACK
        self.send(message(request.kind, flags, sequence, request.payload))
        found: list[Message] = []
        while True:
            for answer in self._answers(request.operation):
                if answer.sequence != sequence:
                    continue
                if answer.kind != NLMSG_ERROR:
                    found.append(answer)
                    continue
                said = acknowledgement(answer)
                if said.code:
                    raise kernel_error(request.operation, said.code, said.detail)
                return found

    def request_all(self, requests: Sequence[Request]) -> list[Acknowledgement]:
        """Send many independent requests; each succeeds or fails on its own.

        Returns:
            One acknowledgement for each request, in the same order. Sequence
            numbers in them are of no use to the caller.

        Raises:
            OutcomeUnknown: answers were lost.
        """
        answers: list[Acknowledgement] = []
        for start in range(0, len(requests), _ACKED_PER_SEND):
            answers += self._request_some(requests[start : start + _ACKED_PER_SEND])
        return answers

    def _request_some(self, requests: Sequence[Request]) -> list[Acknowledgement]:
        first = self.reserve_sequences(len(requests))
        self.send(
            b"".join(
                message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, sequence, payload)
                for sequence, (_, kind, flags, payload) in enumerate(requests, first)
            )
        )
        said: dict[int, Acknowledgement] = {}
        while len(said) < len(requests):
            for answer in self._answers(requests[0].operation):
                if answer.kind == NLMSG_ERROR and 0 <= answer.sequence - first < len(requests):
                    said[answer.sequence] = acknowledgement(answer)
        return [said[first + index] for index in range(len(requests))]

    def dump(self, request: Request) -> list[Message]:
        """Read a whole kernel table; made again while other writers disturb it.

        Raises:
            KernelBusy: disturbed every time.
            KernelRefused: the kernel does not want to list this.
        """
        for _ in range(_DUMP_ATTEMPTS):
            found = self._dump_once(request)
            if found is not None:
                return found
        raise KernelBusy(f"{request.operation}: the table kept changing while it was read")

    def _dump_once(self, request: Request) -> list[Message] | None:
        sequence = self.reserve_sequences(1)
        flags = request.flags | NLM_F_REQUEST | NLM_F_DUMP
        self.send(message(request.kind, flags, sequence, request.payload))
        found: list[Message] = []
        disturbed = False
        while True:
            for answer in self._answers(request.operation):
                if answer.sequence != sequence:
                    continue
                disturbed = disturbed or bool(answer.flags & NLM_F_DUMP_INTR)
                if answer.kind not in (NLMSG_ERROR, NLMSG_DONE):
                    found.append(answer)
                    continue
                said = acknowledgement(answer)
                if said.code == errno.EINTR:
                    return None
                if said.code:
                    raise kernel_error(request.operation, said.code, said.detail)
                return None if disturbed else found

    def _answers(self, operation: str) -> Iterator[Message]:
        datagram = self.receive()
        if datagram is None:
            raise OutcomeUnknown(f"{operation}: the kernel did not answer")
        return messages(datagram)


def _force(sock: socket.socket, forced: int, polite: int, size: int) -> None:
    """Set a queue size beyond the system's limit, or up to it without CAP_NET_ADMIN."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, polite, size)
