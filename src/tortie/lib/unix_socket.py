"""Servers on unix sockets, for root and for ourselves only.

A socket is made under umask 0177, so there is no moment at which others could
connect (a chmod afterwards leaves one), and each connection's user is asked of
the kernel (SO_PEERCRED). What is said on a connection is up to the service.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from tortie.lib.errors import AlreadyExists, Denied, InvalidInput, Unavailable

_BACKLOG = 128
_PEER_CREDENTIALS = struct.Struct("=3i")
"""struct ucred: pid, uid, gid."""

Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Speaks with one client; its connection ends when it returns, and when the client goes away."""


class UnixServer:
    """Speaks with each client in a task of its own, from `start` to `close`.

    Args:
        serve: must call `admit` before it does anything for the client; only it
            knows how a refusal is said.
        purpose: what clients want, as in "user 1000 may not `attach workloads`".
        limit_bytes: of what a reader looks for a separator in.
    """

    def __init__(
        self, path: Path, serve: Service, *, purpose: str, connections_max: int, limit_bytes: int
    ) -> None:
        self._path = path
        self._serve = serve
        self._purpose = purpose
        self._connections_max = connections_max
        self._limit_bytes = limit_bytes
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """
        Args:
            listener: of `bind` or `listen`, at our path.
        """
        self._server = await asyncio.start_unix_server(
            self._on_connection, sock=listener, limit=self._limit_bytes
        )

    async def close(self) -> None:
        """Hang up on everybody, and leave no socket behind."""
        if self._server is None:
            return
        self._server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def admit(self, writer: asyncio.StreamWriter) -> socket.socket:
        """The client's socket, if it may be served.

        Raises:
            Unavailable: too many others are.
            Denied: the client is neither root nor our own user.
        """
        if len(self._connections) > self._connections_max:
            raise Unavailable(f"more than {self._connections_max} connections; try again")
        client: socket.socket = writer.get_extra_info("socket")
        _, uid = _peer(client)
        if uid not in (0, os.geteuid()):
            raise Denied(f"user {uid} may not {self._purpose}; root may")
        return client

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "called in a task of its own"
        self._connections.add(task)
        try:
            # It went away, or was too slow.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()


def bind(path: Path) -> socket.socket:
    """A listening socket that only this user can reach.

    Raises:
        AlreadyExists: a living process listens there.
        InvalidInput: the path is too long for a socket (107 bytes).
        Denied: the directory or what is at `path` belongs to somebody else, or
            others may write there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.lstat(path.parent)
    if not stat.S_ISDIR(directory.st_mode) or directory.st_uid != os.geteuid():
        raise Denied(f"{path.parent} must be a directory of user {os.geteuid()}")
    if directory.st_mode & 0o077:
        raise Denied(f"{path.parent} must have mode 0700: others can reach into it")
    return listen(path)


def listen(path: Path) -> socket.socket:
    """The same in a directory that is not ours alone. Raises as `bind`."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise InvalidInput(f"cannot listen at {path}: {error}") from error
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def peer_pid(client: socket.socket) -> int:
    """Of who connected; 0 if that process is not in our PID namespace."""
    return _peer(client)[0]


def _peer(client: socket.socket) -> tuple[int, int]:
    """PID and user."""
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _ = _PEER_CREDENTIALS.unpack(raw)
    return pid, uid


def _remove_stale(path: Path) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise Denied(f"{path} is there and is not our socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise AlreadyExists(f"another process listens at {path}")
