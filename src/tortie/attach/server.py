"""The attach service on a unix socket, for root and for ourselves only.

The socket lies in a directory of mode 0700. A connection carries one request
after another; requests of several connections run at the same time. A client
that goes away does not stop what it began: it asks again and gets the answer.
"""

import asyncio
import logging
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
from tortie.lib.errors import InvalidInput, TortieError, Unavailable
from tortie.lib.unix_socket import UnixServer, bind, peer_pid

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""For the next request of a connection, and for reading one that has begun."""

CONNECTIONS_MAX = 512


class Server:
    """Listens at `path` while `run` runs."""

    def __init__(self, attacher: Attacher, path: Path, cni: CniService | None = None) -> None:
        self._attacher = attacher
        self._cni = cni
        self._path = path
        self._calls: set[asyncio.Task[bytes]] = set()
        self._server = UnixServer(
            path,
            self._serve,
            purpose="attach workloads",
            connections_max=CONNECTIONS_MAX,
            limit_bytes=REQUEST_MAX_BYTES,
        )

    async def run(self) -> None:
        """Serve until cancelled; finish what was left half-done meanwhile.

        Raises:
            AlreadyExists: another process listens there.
            Denied: the place is not ours alone.
        """
        await self._server.start(bind(self._path))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._attacher.replay(), name="replay")
                tasks.create_task(self._attacher.tidy(), name="tidy")
                if self._cni is not None:
                    tasks.create_task(self._cni.run(), name="spool")
        finally:
            # What is cut short here is in the journal, and finished at the next start.
            calls = list(self._calls)
            for call in calls:
                call.cancel()
            await self._server.close()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            pid = peer_pid(self._server.admit(writer))
            while (line := await self._read(reader)) is not None:
                await self._answer(line, writer, pid)
        except TortieError as error:
            writer.write(encode_error(error))
            await writer.drain()

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
