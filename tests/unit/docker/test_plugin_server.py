"""The plugin's socket: what Docker sends is answered, and nothing else does any harm."""

import asyncio
import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tortie.docker import plugin_server
from tortie.docker.plugin_server import BODY_MAX_BYTES, HEAD_MAX_BYTES, PluginServer
from tortie.lib.errors import AlreadyExists, Denied, InvalidInput, Unavailable

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(body: bytes) -> dict[str, Any]:
    return {"got": body.decode()}


async def refuse(_: bytes) -> dict[str, Any]:
    raise InvalidInput("not so")


async def lack(_: bytes) -> dict[str, Any]:
    raise Unavailable("no datastore")


async def fail(_: bytes) -> dict[str, Any]:
    raise RuntimeError("a bug")


METHODS = {"Net.Echo": echo, "Net.Refuse": refuse, "Net.Lack": lack, "Net.Fail": fail}


def serving(tmp_path: Path, act: Callable[[Path], Awaitable[None]]) -> None:
    async def run() -> None:
        path = tmp_path / "plugins" / "x.sock"
        server = PluginServer(path, METHODS)
        server.open()
        task = asyncio.create_task(server.run())
        try:
            await act(path)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert not path.exists()

    asyncio.run(run())


def request(method: str, body: bytes = b"{}", *headers: str) -> bytes:
    head = [f"POST /{method} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
    found: dict[str, Any] = json.loads(await reader.readexactly(length))
    return int(head.split()[1]), found


async def ask(path: Path, raw: bytes) -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(raw)
    try:
        return await answer(reader)
    finally:
        writer.close()


def test_requests_of_one_connection_are_answered_in_turn(tmp_path: Path) -> None:
    async def act(path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for text in ("one", "two"):
            writer.write(request("Net.Echo", text.encode()))
            assert await answer(reader) == (200, {"got": text})
        raw = request("Net.Echo", b"abc") + request("Net.Echo", b"")
        for byte in raw:  # however the stream is cut
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await answer(reader))[1] == {"got": "abc"}
        assert (await answer(reader))[1] == {"got": ""}
        writer.close()

    serving(tmp_path, act)


def test_errors_are_told_and_the_connection_lives_on(tmp_path: Path) -> None:
    async def act(path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for method, status, text in (
            ("Net.Refuse", 400, "not so"),
            ("Net.Lack", 500, "no datastore"),
            ("Net.Fail", 500, "a bug"),
            ("Net.Unknown", 404, "Net.Unknown"),
            ("", 404, ""),
        ):
            writer.write(request(method))
            found = await answer(reader)
            assert found[0] == status
            assert text in found[1]["Err"]
        writer.write(request("Net.Echo"))
        assert (await answer(reader))[0] == 200
        writer.close()

    serving(tmp_path, act)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\xff\x13 garbage\r\n\r\n", 400),
        (b"GET /Net.Echo HTTP/1.1\r\n\r\n", 405),
        (b"POST /Net.Echo HTTP/2.0\r\n\r\n", 400),
        (b"POST  /Net.Echo HTTP/1.1\r\n\r\n", 400),
        (b"POST /Net.Echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /Net.Echo HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"POST /Net.Echo HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"POST /Net.Echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /Net.Echo HTTP/1.1\r\nContent-Length : 2\r\n\r\n", 400),
        (b"POST /Net.Echo HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /Net.Echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (f"POST / HTTP/1.1\r\nContent-Length: {BODY_MAX_BYTES + 1}\r\n\r\n".encode(), 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 9999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nX: " + b"x" * HEAD_MAX_BYTES + b"\r\n\r\n", 431),
        (b"x" * (4 * HEAD_MAX_BYTES), 431),
    ],
)
def test_what_is_no_request_is_refused_and_cut_off(tmp_path: Path, raw: bytes, status: int) -> None:
    async def act(path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(raw)
        assert (await answer(reader))[0] == status
        assert await reader.read() == b"", "hung up"
        writer.close()
        assert (await ask(path, request("Net.Echo")))[0] == 200, "others are served"

    serving(tmp_path, act)


def test_half_a_request_is_let_go_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_server, "REQUEST_SECONDS", 0.05)

    async def act(path: Path) -> None:
        whole = request("Net.Echo", b"0123456789")
        for length in (1, 30, len(whole) - 1):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(whole[:length])
            assert await asyncio.wait_for(reader.read(), 5) == b"", "hung up"
            writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        await asyncio.sleep(0.2)  # silence between requests is what Docker does
        writer.write(whole)
        assert (await answer(reader))[0] == 200
        writer.close()

    serving(tmp_path, act)


def test_a_caller_that_goes_away_harms_nobody(tmp_path: Path) -> None:
    async def act(path: Path) -> None:
        for _ in range(50):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(request("Net.Echo", b"x" * 1000))
            writer.transport.abort()
        assert (await ask(path, request("Net.Echo")))[0] == 200

    serving(tmp_path, act)


def test_connections_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_server, "CONNECTIONS_MAX", 2)

    async def act(path: Path) -> None:
        open_ones: list[Streams] = []
        for _ in range(2):
            streams = await asyncio.open_unix_connection(path)
            streams[1].write(request("Net.Echo"))
            assert (await answer(streams[0]))[0] == 200
            open_ones.append(streams)
        assert (await ask(path, request("Net.Echo")))[0] == 503
        open_ones[0][1].close()
        await asyncio.sleep(0.05)
        assert (await ask(path, request("Net.Echo")))[0] == 200
        open_ones[1][1].close()

    serving(tmp_path, act)


def test_the_socket_is_for_root_alone_and_for_one_process(tmp_path: Path) -> None:
    async def act(path: Path) -> None:
        assert (await ask(path, request("Net.Echo")))[0] == 200
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with pytest.raises(AlreadyExists):
            PluginServer(path, METHODS).open()

    serving(tmp_path, act)


def test_a_socket_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    PluginServer(path, METHODS).open()  # and never served: its owner is gone

    async def run() -> None:
        server = PluginServer(path, METHODS)
        server.open()
        task = asyncio.create_task(server.run())
        assert (await ask(path, request("Net.Echo")))[0] == 200
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    import gc

    gc.collect()
    asyncio.run(run())


def test_a_directory_where_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Denied):
        PluginServer(tmp_path / "x.sock", METHODS).open()


def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    path.write_text("mine")
    with pytest.raises(Denied):
        PluginServer(path, METHODS).open()
    assert path.read_text() == "mine"
