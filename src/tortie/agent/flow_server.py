"""Answers who asks for flows, on a unix socket for root alone."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from tortie.agent.flow_log import Change, FlowLog
from tortie.agent.flow_record import Decided, Greeting, Question, Record, Would
from tortie.agent.flows import Flow, FlowKey
from tortie.dataplane.manager.seen import Decider
from tortie.lib.errors import TortieError
from tortie.lib.unix_socket import UnixServer, bind

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 32
QUESTION_SECONDS = 10.0
_QUESTION_BYTES = 1024
_WAITING_MAX = 5_000
"""Changes that wait for a follower who does not read; what comes then is missed."""
_LINES_AT_ONCE = 200

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 136: "udplite"}

_encode = msgspec.json.Encoder().encode


class FlowServer:
    """
    Args:
        flow_log: None where nothing is logged.
        greeting: asked anew for each client.
    """

    def __init__(
        self, path: Path, flow_log: FlowLog | None, greeting: Callable[[], Awaitable[Greeting]]
    ) -> None:
        self._path = path
        self._flow_log = flow_log
        self._greeting = greeting
        self._server = UnixServer(
            path,
            self._serve,
            purpose="ask for flows",
            connections_max=CONNECTIONS_MAX,
            limit_bytes=_QUESTION_BYTES,
        )

    async def start(self) -> None:
        """Raises as `lib.unix_socket.bind`."""
        await self._server.start(bind(self._path))

    async def close(self) -> None:
        await self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._server.admit(writer)
            async with asyncio.timeout(QUESTION_SECONDS):
                question = msgspec.json.decode(await reader.readuntil(b"\n"), type=Question)
        except (
            TortieError,
            msgspec.DecodeError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ) as error:
            writer.write(_encode({"error": str(error)}) + b"\n")
            await writer.drain()
            return
        greeting = await self._greeting()
        flow_log = self._flow_log
        changes = _Changes()
        with contextlib.ExitStack() as stack:
            if flow_log is not None:
                flow_log.refresh()
                if question.follow:
                    stack.callback(flow_log.follow(changes.put))
            writer.write(_encode(greeting) + b"\n")
            if flow_log is not None:
                kept = [_record(*one) for one in flow_log.table.flows(question.since)]
                await _write(writer, kept)
            if question.follow:
                writer.write(_encode({"now": True}) + b"\n")
                await _follow(reader, writer, changes)


class _Changes:
    """What a follower has not been told yet: added up, so that it is bounded."""

    def __init__(self) -> None:
        self._waiting: dict[FlowKey, Flow] = {}
        self._missed = 0
        self.news = asyncio.Event()

    def put(self, changes: list[Change]) -> None:
        now = time.time()
        for key, counts in changes:
            flow = self._waiting.get(key)
            if flow is None:
                if len(self._waiting) >= _WAITING_MAX:
                    self._missed += 1
                    continue
                flow = self._waiting[key] = Flow(now)
            flow.add(now, counts)
        self.news.set()

    def take(self) -> Iterator[object]:
        waiting, self._waiting = self._waiting, {}
        missed, self._missed = self._missed, 0
        self.news.clear()
        yield from (_record(key, flow) for key, flow in waiting.items())
        if missed:
            yield {"missed": missed}


async def _follow(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, changes: _Changes
) -> None:
    """Until the client closes."""
    closed = asyncio.create_task(reader.read(1))
    try:
        while True:
            news = asyncio.create_task(changes.news.wait())
            await asyncio.wait({news, closed}, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                news.cancel()
                return
            await _write(writer, changes.take())
    finally:
        closed.cancel()


async def _write(writer: asyncio.StreamWriter, objects: Iterable[object]) -> None:
    """A bit at a time: the loop has other work."""
    lines: list[bytes] = []
    for one in objects:
        lines.append(_encode(one) + b"\n")
        if len(lines) == _LINES_AT_ONCE:
            writer.writelines(lines)
            lines.clear()
            await writer.drain()
            await asyncio.sleep(0)
    writer.writelines(lines)
    await writer.drain()


def _record(key: FlowKey, flow: Flow) -> Record:
    return Record(
        verdict=key.action,
        direction=key.direction,
        source=key.source,
        destination=key.destination,
        family=key.family,
        protocol=PROTOCOLS.get(key.protocol, str(key.protocol)),
        port=key.port,
        decided=Decided(*_decided(key.decider)),
        staged=key.staged and Would(*_decided(key.staged.decider), verdict=key.staged.action),
        packets=flow.packets,
        bytes=flow.bytes,
        answered_packets=flow.answered_packets,
        answered_bytes=flow.answered_bytes,
        start=flow.start,
        end=flow.end,
    )


def _decided(found: Decider) -> tuple[str, str, int | None, str]:
    return found.tier, str(found.policy or ""), found.rule, found.reason
