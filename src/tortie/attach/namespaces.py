"""The helper that may enter network namespaces, so that nothing else has to.

    agent ── a namespace, SCM_RIGHTS ──► helper (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE)
          ◄── a NETLINK_ROUTE socket opened inside ──

A netlink socket stays in the namespace where it was made: with it the agent
configures a container without entering it, and with CAP_NET_ADMIN alone.
The helper is forked before any thread or event loop exists. It has one thread,
which goes in and comes back for each request; it reads nothing but its
socketpair and ends with it (EOF), so also when the agent is killed.

What is entered is proved to be a network namespace (`netns.open_namespace`:
O_PATH, nsfs, NS_GET_NSTYPE) before it is used, through the same descriptor.
Where the agent may not follow a path (into another process's /proc), the helper
opens it.
"""

import array
import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import msgspec

from tortie.kernel import capabilities, netns, sysctl
from tortie.kernel.capabilities import Capability
from tortie.kernel.netlink import NETLINK_ROUTE
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib import errors
from tortie.lib.errors import InvalidInput, KernelRefused, NotFound, TortieError, Unavailable

MESSAGE_MAX_BYTES = 16 * 1024
ANSWER_SECONDS = 10.0

CAPABILITIES = (Capability.NET_ADMIN, Capability.SYS_ADMIN, Capability.SYS_PTRACE)
"""To configure, to enter, and to open the namespace of another's process (/proc/PID/ns/net)."""

_PR_SET_NAME = 15


class Setting(msgspec.Struct, frozen=True, array_like=True):
    """A per-interface sysctl; skipped where the kernel has none of it."""

    interface: str
    """A name, or `all`."""
    family: int
    key: str
    value: str


class _Request(msgspec.Struct, frozen=True):
    path: str = ""
    """Open this and send it back; empty: enter the namespace that comes along."""
    settings: tuple[Setting, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    kind: str = ""
    """Empty: done. Else the name of an error class."""
    message: str = ""


class Opened(NamedTuple):
    """A namespace, without being in it. Close both."""

    rtnl: Rtnl
    descriptor: int
    """Keeps the namespace alive; for IFLA_NET_NS_FD."""

    def close(self) -> None:
        self.rtnl.close()
        os.close(self.descriptor)


class Namespaces:
    """The agent's end. Calls block for about a millisecond; any thread may call."""

    def __init__(self, sock: socket.socket, helper_pid: int) -> None:
        self._sock = sock
        self._sock.settimeout(ANSWER_SECONDS)
        self._turn = threading.Lock()
        self.helper_pid = helper_pid

    def hold(self, path: str) -> int:
        """A descriptor of the namespace; the caller closes it.

        Raises:
            NotFound: nothing there.
            InvalidInput: not a network namespace.
            Unavailable: the helper is gone.
        """
        try:
            return netns.open_namespace(path)
        except KernelRefused:
            [descriptor] = self._ask(_Request(path), None, 1)
            return descriptor

    def enter(self, descriptor: int, settings: Sequence[Setting] = ()) -> Rtnl:
        """Apply `settings` inside, and open rtnetlink there.

        Args:
            descriptor: as of `hold`.

        Raises:
            InvalidInput: a value that is none.
            Unavailable: the helper is gone.
        """
        [socket_descriptor] = self._ask(_Request(settings=tuple(settings)), descriptor, 1)
        return Rtnl.adopt(socket_descriptor)

    def open(self, path: str) -> Opened:
        """`hold` and `enter`; raises as they do."""
        descriptor = self.hold(path)
        try:
            return Opened(self.enter(descriptor), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """End the helper; may be called twice."""
        if self._sock.fileno() < 0:
            return
        self._sock.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.helper_pid, 0)

    def _ask(self, request: _Request, descriptor: int | None, count: int) -> list[int]:
        """Send `descriptor` along; get `count` of them back."""
        data = msgspec.json.encode(request)
        if len(data) > MESSAGE_MAX_BYTES:
            raise InvalidInput("the path of a network namespace is too long")
        with self._turn:
            try:
                self._sock.sendmsg([data], _rights([] if descriptor is None else [descriptor]))
                raw, ancillary, _, _ = self._sock.recvmsg(
                    MESSAGE_MAX_BYTES, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                # A late answer would be taken for that of the next question.
                self._sock.close()
                raise _gone() from error
        descriptors = _descriptors(ancillary)
        if not raw:
            raise _gone()
        answer = msgspec.json.decode(raw, type=_Answer)
        if answer.kind:
            raise _error(answer)
        assert len(descriptors) == count, "the helper is the same program"
        return descriptors


def start() -> Namespaces:
    """Fork the helper. Call before any thread or event loop exists.

    Raises:
        Unavailable: no more processes or descriptors.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
    except OSError as error:
        raise Unavailable(f"cannot start the namespace helper: {error}") from error
    if pid == 0:
        ours.close()
        _serve_and_exit(theirs)
    theirs.close()
    return Namespaces(ours, pid)


def _serve_and_exit(sock: socket.socket) -> NoReturn:
    """The child's life. Never returns into the parent's code, whatever happens."""
    code = 1
    try:
        # A terminal's Ctrl-C reaches us too; the end of the agent is our sign.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"tortie-netns", 0, 0, 0)
        capabilities.keep(CAPABILITIES)
        _serve(sock)
        code = 0
    finally:
        os._exit(code)


def _serve(sock: socket.socket) -> None:
    home = os.open(netns.OWN, os.O_RDONLY | os.O_CLOEXEC)
    while True:
        raw, ancillary, _, _ = sock.recvmsg(
            MESSAGE_MAX_BYTES, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC
        )
        if not raw:
            return
        given, made = _descriptors(ancillary), []
        try:
            made = [_act(msgspec.json.decode(raw, type=_Request), given, home)]
            answer = _Answer()
        except TortieError as error:
            answer = _Answer(type(error).__name__, str(error))
        except OSError as error:
            answer = _Answer("Unavailable", str(error))
        sock.sendmsg([msgspec.json.encode(answer)], _rights(made))
        for descriptor in (*given, *made):
            os.close(descriptor)


def _act(request: _Request, given: list[int], home: int) -> int:
    """The descriptor that is asked for.

    Where the way back fails, the helper ends: the next request would meet it in a container.
    """
    if request.path:
        return netns.open_namespace(request.path)
    netns.move_to(given[0])
    try:
        for setting in request.settings:
            with contextlib.suppress(NotFound):  # without IPv6 there is nothing to restrict
                family: sysctl.Family = 4 if setting.family == 4 else 6
                sysctl.set_interface(family, setting.interface, setting.key, setting.value)
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
        )
        opened.bind((0, 0))
        return opened.detach()
    finally:
        try:
            netns.move_to(home)
        except TortieError:
            os._exit(1)


def _rights(descriptors: list[int]) -> "list[tuple[int, int, array.array[int]]]":
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _error(answer: _Answer) -> TortieError:
    if answer.kind == "KernelRefused":
        return InvalidInput(answer.message)
    known = getattr(errors, answer.kind, Unavailable)
    made = known(answer.message)
    assert isinstance(made, TortieError)
    return made


def _gone() -> Unavailable:
    return Unavailable("the namespace helper does not answer; restart the agent")
