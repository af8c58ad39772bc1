"""The helper's side of `namespaces`: what it is asked, and what it does."""

import array
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Iterator
from typing import NoReturn

import msgspec

from tortie.attach import veth
from tortie.attach.inside import configure
from tortie.attach.veth import Pair
from tortie.kernel import capabilities, netns
from tortie.kernel.capabilities import Capability
from tortie.kernel.netlink import NETLINK_ROUTE
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.idle import IdleSockets
from tortie.lib.errors import KernelRefused, TortieError
from tortie.lib.ip import parse_network

MESSAGE_MAX_BYTES = 16 * 1024
_SAID_MAX = 1024
"""Characters of an error: an answer has to fit, too."""

CAPABILITIES = (Capability.NET_ADMIN, Capability.SYS_ADMIN, Capability.SYS_PTRACE)
"""To configure, to enter, and to open the namespace of another's process (/proc/PID/ns/net)."""

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class FarEnd(msgspec.Struct, frozen=True):
    """The workload's end of a pair."""

    index: int
    mac: bytes
    is_new: bool
    """Made just now, so nothing is there that has to go."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """Open this and send it back."""

    path: str


class Enter(msgspec.Struct, frozen=True, tag=True):
    """Send a socket that was opened in the namespace that comes along; like all below."""


class Make(msgspec.Struct, frozen=True, tag=True):
    pair: Pair


class Configure(msgspec.Struct, frozen=True, tag=True):
    far: FarEnd
    name: str
    addresses: tuple[str, ...]
    default_routes: bool


Request = Open | Enter | Make | Configure


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: str = ""
    """Empty: done. Else the name of an error class."""
    message: str = ""
    errno: int = 0
    far: FarEnd | None = None


def serve_and_exit(sock: socket.socket, agent_pid: int) -> NoReturn:
    """The child's life. Never returns into the parent's code, whatever happens."""
    code = 1
    try:
        # What it is at would outlive the agent otherwise, and could come after its undoing.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != agent_pid:
            os._exit(code)  # the agent was quicker
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
    helper = _Helper()
    while True:
        raw, ancillary, _, _ = sock.recvmsg(
            MESSAGE_MAX_BYTES, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC
        )
        if not raw:
            return
        given = descriptors(ancillary)
        made: list[int] = []
        try:
            answer, made = helper.act(msgspec.json.decode(raw, type=Request), given)
        except KernelRefused as error:
            answer = Answer("KernelRefused", str(error)[:_SAID_MAX], error.errno)
        except TortieError as error:
            answer = Answer(type(error).__name__, str(error)[:_SAID_MAX])
        except OSError as error:
            answer = Answer("Unavailable", str(error))
        sock.sendmsg([msgspec.json.encode(answer)], rights(made))
        for descriptor in (*given, *made):
            os.close(descriptor)


class _Helper:
    """What the helper does, and what it keeps open."""

    def __init__(self) -> None:
        self._home = os.open(netns.OWN, os.O_RDONLY | os.O_CLOEXEC)
        self._host = IdleSockets()

    def act(self, request: Request, given: list[int]) -> tuple[Answer, list[int]]:
        """The answer, and descriptors to go with it."""
        match request:
            case Open(path):
                return Answer(), [netns.open_namespace(path)]
            case Enter():
                with self._inside(given[0]):
                    return Answer(), [_open_socket()]
            case Make(pair):
                with self._host.one() as host:
                    return Answer(far=self._make(host, given[0], pair)), []
            case Configure(far, name, addresses, default_routes):
                with self._inside(given[0]):
                    rtnl = Rtnl.open()
                with rtnl:
                    networks = list(map(parse_network, addresses))
                    configure(rtnl, far.index, name, networks, default_routes, is_new=far.is_new)
                return Answer(), []

    def _make(self, host: Rtnl, namespace: int, pair: Pair) -> FarEnd:
        near, mac = veth.make(host, namespace, pair), pair.mac
        is_new = near is not None
        if near is None:
            with self._inside(namespace):
                rtnl = Rtnl.open()
            with rtnl:
                near, mac = veth.find_or_replace(host, rtnl, namespace, pair)
        with self._inside(namespace):
            veth.restrict_inside(pair)
        veth.prepare_host_end(host, near)
        return FarEnd(near.peer, mac, is_new)

    @contextlib.contextmanager
    def _inside(self, namespace: int) -> Iterator[None]:
        """In that namespace.

        Where the way back fails, the helper ends: the next request would meet it in a container.
        """
        netns.move_to(namespace)
        try:
            yield
        finally:
            try:
                netns.move_to(self._home)
            except TortieError:
                os._exit(1)


def _open_socket() -> int:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
    opened.bind((0, 0))
    return opened.detach()


def rights(descriptors: list[int]) -> "list[tuple[int, int, array.array[int]]]":
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
