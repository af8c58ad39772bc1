"""The helper that may enter network namespaces, so that nothing else has to.

    agent ── what to do, a namespace (SCM_RIGHTS) ──► helper (CAP_NET_ADMIN, CAP_SYS_ADMIN,
          ◄── what came of it ──                              CAP_SYS_PTRACE)

It makes the workload's link and sets up the end inside, beside the agent rather than in it:
while the kernel works on the one, the agent decides on addresses. It is forked before any
thread or event loop exists. It has one thread, which goes in and comes back for each request;
it reads nothing but its socketpair and ends with it (EOF), and is killed when the agent is.

A netlink socket stays in the namespace where it was made; so for a look inside the helper opens
one there and hands it over.

What is entered is proved to be a network namespace (`netns.open_namespace`:
O_PATH, nsfs, NS_GET_NSTYPE) before it is used, through the same descriptor.
Where the agent may not follow a path (into another process's /proc), the helper
opens it.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tortie.attach.helper import (
    MESSAGE_MAX_BYTES,
    Answer,
    Configure,
    Enter,
    FarEnd,
    Make,
    Open,
    Request,
    descriptors,
    rights,
    serve_and_exit,
)
from tortie.attach.veth import Pair
from tortie.kernel import netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib import errors
from tortie.lib.errors import InvalidInput, KernelRefused, TortieError, Unavailable
from tortie.lib.ip import Network

ANSWER_SECONDS = 60.0
"""The kernel makes links one after the other, and somebody may be deleting a thousand."""

_BROKEN = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)

QUESTIONS_MAX = 8
"""Under way; all of them fit into the socket's buffer, whatever they are."""


class Opened(NamedTuple):
    """A namespace, without being in it. Close both."""

    rtnl: Rtnl
    descriptor: int
    """Keeps the namespace alive; for IFLA_NET_NS_FD."""

    def close(self) -> None:
        self.rtnl.close()
        os.close(self.descriptor)


class Namespaces:
    """The agent's end; of one event loop at a time.

    Questions are answered in their order, and several may be under way: while the kernel works
    on one, the next is there already.
    """

    def __init__(self, sock: socket.socket, helper_pid: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        """Which has us among its readers."""
        self._waiting: deque[asyncio.Future[tuple[Answer, list[int]]]] = deque()
        self._room = asyncio.Semaphore(QUESTIONS_MAX)
        self._lost = asyncio.Event()
        self.helper_pid = helper_pid

    async def lost(self) -> None:
        """Wait until the helper is gone; only a new agent gets another one."""
        self._listen(asyncio.get_running_loop())
        await self._lost.wait()

    async def hold(self, path: str) -> int:
        """A descriptor of the namespace; the caller closes it.

        Raises:
            NotFound: nothing there.
            InvalidInput: not a network namespace.
            Unavailable: the helper is gone.
        """
        try:
            return netns.open_namespace(path)
        except KernelRefused:
            pass
        try:
            _, [descriptor] = await self._ask(Open(path))
        except KernelRefused as error:
            raise InvalidInput(str(error)) from None
        return descriptor

    async def enter(self, descriptor: int) -> Rtnl:
        """Rtnetlink inside.

        Args:
            descriptor: as of `hold`; also below.

        Raises:
            Unavailable: the helper is gone.
        """
        _, [opened] = await self._ask(Enter(), descriptor)
        return Rtnl.adopt(opened)

    async def make(self, descriptor: int, pair: Pair) -> FarEnd:
        """Make the pair or find it; the host's end is up.

        Raises:
            AlreadyExists: the workload has another interface of that name.
            TortieError: half of it may be there.
        """
        answer, _ = await self._ask(Make(pair), descriptor)
        assert answer.far is not None, "the helper is the same program"
        return answer.far

    async def configure(
        self,
        descriptor: int,
        far: FarEnd,
        name: str,
        addresses: Sequence[Network],
        *,
        default_routes: bool,
    ) -> None:
        """Set up the workload's end: `inside.configure`, which says more.

        Raises:
            TortieError: half of it may be there.
        """
        texts = tuple(map(str, addresses))
        await self._ask(Configure(far, name, texts, default_routes), descriptor)

    async def open(self, path: str) -> Opened:
        """`hold` and `enter`; raises as they do."""
        descriptor = await self.hold(path)
        try:
            return Opened(await self.enter(descriptor), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """End the helper; may be called twice."""
        if self._sock.fileno() < 0:
            return
        self._hang_up()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.helper_pid, 0)

    async def _ask(self, request: Request, descriptor: int = -1) -> tuple[Answer, list[int]]:
        """What came of it, and descriptors that came with it."""
        data = msgspec.json.encode(request)
        if len(data) > MESSAGE_MAX_BYTES:
            raise InvalidInput("the path of a network namespace is too long")
        loop = asyncio.get_running_loop()
        self._listen(loop)
        async with self._room:
            if self._sock.fileno() < 0:
                raise _gone()
            answered: asyncio.Future[tuple[Answer, list[int]]] = loop.create_future()
            try:
                self._sock.sendmsg([data], rights([] if descriptor < 0 else [descriptor]))
            except OSError as error:
                if error.errno not in _BROKEN:  # this question could not be asked
                    raise Unavailable(f"the namespace helper: {error.strerror}") from error
                self._hang_up()
                raise _gone() from error
            self._waiting.append(answered)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer, found = await answered
            except TimeoutError:
                self._hang_up()
                raise _gone() from None
        if answer.kind:
            raise _error(answer)
        return answer, found

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sock.fileno() < 0:
            raise _gone()
        if self._loop is not loop:
            loop.add_reader(self._sock, self._on_readable)
            self._loop = loop
            self._room = asyncio.Semaphore(QUESTIONS_MAX)

    def _on_readable(self) -> None:
        try:
            raw, ancillary, _, _ = self._sock.recvmsg(
                MESSAGE_MAX_BYTES, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        if not raw:
            self._hang_up()
            return
        found = descriptors(ancillary)
        answered = self._waiting.popleft()
        if answered.done() or answered.get_loop() is not self._loop:  # whoever asked has gone
            for descriptor in found:
                os.close(descriptor)
        else:
            answered.set_result((msgspec.json.decode(raw, type=Answer), found))

    def _hang_up(self) -> None:
        """A late answer would be taken for that of the next question."""
        if self._sock.fileno() < 0:
            return
        self._lost.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._sock)
        self._sock.close()
        while self._waiting:
            answered = self._waiting.popleft()
            if not answered.done() and answered.get_loop() is self._loop:
                answered.set_exception(_gone())


def start() -> Namespaces:
    """Fork the helper. Call before any thread or event loop exists.

    Raises:
        Unavailable: no more processes or descriptors.
    """
    agent_pid = os.getpid()
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
    except OSError as error:
        raise Unavailable(f"cannot start the namespace helper: {error}") from error
    if pid == 0:
        ours.close()
        serve_and_exit(theirs, agent_pid)
    theirs.close()
    return Namespaces(ours, pid)


def _error(answer: Answer) -> TortieError:
    if answer.kind == "KernelRefused":
        operation, _, detail = answer.message.partition(": ")
        return KernelRefused(operation, answer.errno, detail)
    known = getattr(errors, answer.kind, Unavailable)
    made = known(answer.message)
    assert isinstance(made, TortieError)
    return made


def _gone() -> Unavailable:
    return Unavailable("the namespace helper does not answer; restart the agent")
