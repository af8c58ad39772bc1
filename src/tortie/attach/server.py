"""The attach service on a unix socket, for root and for ourselves only.

The socket lies in a directory of mode 0700 and is made under umask 0177, so
there is no moment at which others could connect (a chmod afterwards leaves
one). Each connection's user is asked of the kernel (SO_PEERCRED). A
connection carries one request after another; requests of several connections
run at the same time. A client that goes away does not stop what it began: it
asks again and gets the answer.
"""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from pathlib import Path

from tortie.attach.attacher import Attacher
from tortie.attach.cni.service import CniService
from tortie.attach.requests import (
    REQUEST_MAX_BYTES,
    Add,
    Check,
    Cni,
    List,
    Remove,
    Request,
    Result,
    decode_request,
    encode_error,
    encode_result,
)
from tortie.lib.errors import AlreadyExists, Denied, InvalidInput, TortieError, Unavailable

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""For the next request of a connection, and for reading one that has begun."""

CONNECTIONS_MAX = 512
_BACKLOG = 128
_PEER_CREDENTIALS = struct.Struct("=3i")
"""struct ucred: pid, uid, gid."""


class Server:
    """Listens at `path` while `run` runs."""

    def __init__(self, attacher: Attacher, path: Path, cni: CniService | None = None) -> None:
        self._attacher = attacher
        self._cni = cni
        self._path = path
        self._calls: set[asyncio.Task[bytes]] = set()
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled; finish what was left half-done meanwhile.

        Raises:
            AlreadyExists: another process listens there.
            Denied: the place is not ours alone.
        """
        listener = bind(self._path)
        server = await asyncio.start_unix_server(
            self._on_connection, sock=listener, limit=REQUEST_MAX_BYTES
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._attacher.replay(), name="replay")
                tasks.create_task(self._attacher.tidy(), name="tidy")
                if self._cni is not None:
                    tasks.create_task(self._cni.run(), name="spool")
        finally:
            server.close()
            # What is cut short here is in the journal, and finished at the next start.
            running = [*self._calls, *self._connections]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "called in a task of its own"
        self._connections.add(task)
        try:
            if len(self._connections) > CONNECTIONS_MAX:
                raise Unavailable(f"more than {CONNECTIONS_MAX} connections; try again")
            check_peer(writer.get_extra_info("socket"))
            pid = peer_pid(writer.get_extra_info("socket"))
            while (line := await self._read(reader)) is not None:
                await self._answer(line, writer, pid)
        except TortieError as error:
            with contextlib.suppress(ConnectionError):
                writer.write(encode_error(error))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes | None:
        """One request; None at the end, or after a long silence."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                return await reader.readuntil(b"\n")
        except (TimeoutError, asyncio.IncompleteReadError):
            return None
        except asyncio.LimitOverrunError:
            raise InvalidInput(f"a request of more than {REQUEST_MAX_BYTES} bytes") from None

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter, pid: int) -> None:
        try:
            call = asyncio.create_task(self._call(decode_request(line), pid))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            answer = await asyncio.shield(call)
        except TortieError as error:
            answer = encode_error(error)
        except Exception as error:
            log.exception("attach request failed")
            answer = encode_error(Unavailable(f"internal error: {error!r}; see the agent's log"))
        writer.write(answer)
        await writer.drain()

    async def _call(self, request: Request, pid: int) -> bytes:
        if not isinstance(request, Cni):
            return encode_result(await self._result(request))
        if self._cni is None:
            raise InvalidInput("this service does not speak CNI")
        return await self._cni.answer(request, pid)

    async def _result(self, request: Add | Remove | List | Check) -> Result:
        if isinstance(request, List):
            return self._attacher.listed()
        if isinstance(request, Add):
            return await self._attacher.add(request)
        if isinstance(request, Check):
            return await self._attacher.check(request)
        return await self._attacher.remove(request)


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


def check_peer(sock: socket.socket) -> None:
    """
    Raises:
        Denied: neither root nor the agent's own user.
    """
    size = _PEER_CREDENTIALS.size
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = _PEER_CREDENTIALS.unpack(raw)
    if uid not in (0, os.geteuid()):
        raise Denied(f"user {uid} may not attach workloads; root may")


def peer_pid(sock: socket.socket) -> int:
    """Of who connected; 0 if that process is not in our PID namespace."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid: int = _PEER_CREDENTIALS.unpack(raw)[0]
    return pid


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
