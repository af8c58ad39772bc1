"""One call's framing, flow control and end, without a network."""

import asyncio

import pytest

from tortie.datastore.etcd.http2 import Call, CallFailed, Connection, ConnectionLost


class Account(Connection):
    """A connection that only counts what is given back."""

    def __init__(self) -> None:
        super().__init__("host:1", False, 10.0, 5.0)
        self.given_back = 0

    def give_back(self, stream_id: int, count: int) -> None:
        self.given_back += count


def frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def test_messages_are_cut_out_of_any_pieces() -> None:
    async def test() -> None:
        call = Call(Account(), 1)
        data = frame(b"one") + frame(b"") + frame(b"three" * 100)
        for position in range(0, len(data), 7):
            call.on_data(data[position : position + 7], 7)
        call.on_headers([(":status", "200"), ("grpc-status", "0")])
        call.on_end()
        received = [await call.receive() for _ in range(4)]
        assert received == [b"one", b"", b"three" * 100, None]

    asyncio.run(test())


def test_a_reader_that_is_slow_stops_the_server_after_one_window() -> None:
    async def test() -> None:
        account = Account()
        call = Call(account, 1)
        message = bytes(1 << 20)
        for _ in range(8):
            call.on_data(frame(message), len(message))
        assert account.given_back <= 4 << 20
        for _ in range(8):
            await call.receive()
        assert account.given_back == 8 << 20

    asyncio.run(test())


def test_one_message_may_be_larger_than_the_window() -> None:
    async def test() -> None:
        account = Account()
        call = Call(account, 1)
        data = frame(bytes(20 << 20))
        for position in range(0, len(data), 1 << 20):
            call.on_data(data[position : position + (1 << 20)], 1 << 20)
        assert account.given_back >= 20 << 20, "else the rest would never come"
        assert len(await call.receive() or b"") == 20 << 20

    asyncio.run(test())


def test_a_status_comes_after_the_messages() -> None:
    async def test() -> None:
        call = Call(Account(), 1)
        call.on_data(frame(b"one"), 8)
        call.on_headers([("grpc-status", "7"), ("grpc-message", "etcdserver: permission%20denied")])
        call.on_end()
        assert await call.receive() == b"one"
        with pytest.raises(CallFailed) as caught:
            await call.receive()
        assert (caught.value.code, caught.value.details) == (7, "etcdserver: permission denied")

    asyncio.run(test())


def test_a_web_server_is_no_etcd() -> None:
    async def test() -> None:
        call = Call(Account(), 1)
        call.on_headers([(":status", "404")])
        call.on_end()
        with pytest.raises(ConnectionLost, match="HTTP status 404"):
            await call.receive()

    asyncio.run(test())


def test_what_is_no_http2_ends_the_connection() -> None:
    """A server that speaks only HTTP/1.1 answers so; nothing may hang."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async def test() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connection = await Connection.connect(("127.0.0.1", port), None, 10.0, 5.0)
            call = connection.call("/etcdserverpb.KV/Range", [])
            with pytest.raises(ConnectionLost):
                await asyncio.wait_for(call.receive(), 1.5)
            with pytest.raises(ConnectionLost):
                connection.call("/etcdserverpb.KV/Range", [])
            connection.close()

    asyncio.run(test())
