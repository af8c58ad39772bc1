"""The helper that may enter network namespaces, so that nothing else has to.

    agent ── socketpair ──► helper (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE)
          ◄── SCM_RIGHTS ── a NETLINK_ROUTE socket opened inside, and the namespace itself

A netlink socket stays in the namespace where it was made: with it the agent
configures a container without entering it, and with CAP_NET_ADMIN alone.
The helper is forked before any thread or event loop exists. It reads nothing
but its socketpair and ends with it (EOF), so also when the agent is killed.

What it is asked to enter is proved to be a network namespace (`netns.open_namespace`:
O_PATH, nsfs, NS_GET_NSTYPE) before it is used, through the same descriptor.
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
from tortie.lib.errors import InvalidInput, NotFound, TortieError, Unavailable

MESSAGE_MAX_BYTES = 16 * 1024
ANSWER_SECONDS = 10.0

CAPABILITIES = (Capability.NET_ADMIN, Capability.SYS_ADMIN, Capability.SYS_PTRACE)
"""To configure, to enter, and to open the namespace of another's process (/proc/PID/ns/net)."""

_PR_SET_NAME = 15


class _Setting(msgspec.Struct, frozen=True, array_like=True):
    family: int
    key: str
    value: str


class _Request(msgspec.Struct, frozen=True):
    path: str
    interface: str = ""
    """Empty: open. Else: apply `settings` to this interface."""
    settings: tuple[_Setting, ...] = ()


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

    def open(self, path: str) -> Opened:
        """
        Raises:
            NotFound: nothing there.
            InvalidInput: not a network namespace.
            Unavailable: the helper is gone.
        """
        descriptors = self._ask(_Request(path), 2)
        rtnl_descriptor, descriptor = descriptors
        try:
            return Opened(Rtnl.adopt(rtnl_descriptor), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def set_interface(
        self, path: str, interface: str, settings: Sequence[tuple[int, str, str]]
    ) -> None:
        """Apply per-interface sysctls (family, key, value) inside; absent ones are skipped.

        Raises: as `open`; KernelRefused for a value that is none.
        """
        wanted = tuple(_Setting(*setting) for setting in settings)
        self._ask(_Request(path, interface, wanted), 0)

    def close(self) -> None:
        """End the helper; may be called twice."""
        if self._sock.fileno() < 0:
            return
        self._sock.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.helper_pid, 0)

    def _ask(self, request: _Request, count: int) -> list[int]:
        data = msgspec.json.encode(request)
        if len(data) > MESSAGE_MAX_BYTES:
            raise InvalidInput("the path of a network namespace is too long")
        with self._turn:
            try:
                self._sock.send(data)
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
    while raw := sock.recv(MESSAGE_MAX_BYTES):
        descriptors: list[int] = []
        try:
            descriptors = _act(msgspec.json.decode(raw, type=_Request))
            answer = _Answer()
        except TortieError as error:
            answer = _Answer(type(error).__name__, str(error))
        except OSError as error:
            answer = _Answer("Unavailable", str(error))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        sock.sendmsg([msgspec.json.encode(answer)], [rights] if descriptors else [])
        for descriptor in descriptors:
            os.close(descriptor)


def _act(request: _Request) -> list[int]:
    namespace = netns.open_namespace(request.path)
    try:
        if request.interface:
            netns.run_in(namespace, lambda: _apply(request))
            return []
        opened = netns.open_socket_in(
            namespace, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
        )
        opened.bind((0, 0))
        return [opened.detach(), os.dup(namespace)]
    finally:
        os.close(namespace)


def _apply(request: _Request) -> None:
    for setting in request.settings:
        with contextlib.suppress(NotFound):  # a kernel without IPv6 has nothing to restrict
            family: sysctl.Family = 4 if setting.family == 4 else 6
            sysctl.set_interface(family, request.interface, setting.key, setting.value)


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
