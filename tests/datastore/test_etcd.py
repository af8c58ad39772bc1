"""What only a real etcd shows: TLS, log-in, crashes, freezes, several endpoints."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from tests.datastore.credentials import etcdctl, make_authority, make_certificate
from tests.datastore.etcd_server import EtcdServer, Start, free_ports, start

from tortie.datastore.client import Batch, Event, Put, Txn
from tortie.datastore.etcd import EtcdClient, Login, Timing, TLSFiles
from tortie.datastore.syncer import Status, Syncer, Update
from tortie.datastore.syncer import Timing as SyncerTiming
from tortie.lib.errors import Denied, InvalidInput, Unavailable

__all__ = ["start"]

QUICK = Timing(call=2.0)
ABC = "/etcd/"


def freeze(server: EtcdServer) -> None:
    """Stop every thread of it; the signal alone leaves some running for a moment."""
    server.process.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{server.process.pid}/task")
    while any(
        (thread / "stat").read_text().rpartition(")")[2].split()[0] != "T"
        for thread in threads.iterdir()
    ):
        time.sleep(0.001)


def run(test: Callable[[], Awaitable[None]], patience: float = 30.0) -> None:
    async def main() -> None:
        async with asyncio.timeout(patience):
            await test()

    asyncio.run(main())


class Recorder:
    """The newest value per key, and what was said about the connection."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.updates: list[Update] = []
        self.statuses: list[Status] = []

    async def on_updates(self, updates: Sequence[Update]) -> None:
        self.updates += updates
        for update in updates:
            if update.value is None:
                self.state.pop(update.key, None)
            else:
                self.state[update.key] = update.value

    def on_status(self, status: Status) -> None:
        self.statuses.append(status)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.02)


async def put_until_it_works(client: EtcdClient, key: str, value: bytes) -> int:
    while True:
        with suppress(Unavailable):
            return await client.put(key, value)
        await asyncio.sleep(0.05)


def test_a_crash_of_the_server_loses_no_event(start: Start) -> None:
    server = start()

    async def test() -> None:
        client, writer = (EtcdClient([server.endpoint], timing=QUICK) for _ in range(2))
        recorder = Recorder()
        syncer = Syncer(client, [ABC], recorder, SyncerTiming(compare=None))
        task = asyncio.create_task(syncer.run())
        await recorder.until(lambda: Status.IN_SYNC in recorder.statuses)
        for round_number in range(2):
            for number in range(20):
                await writer.put(f"{ABC}{round_number}/{number}", b"x")
            server.kill()
            await recorder.until(lambda: recorder.statuses[-1] is Status.CONNECTING)
            with pytest.raises(Unavailable, match="Connection refused") as caught:
                await writer.put(f"{ABC}lost", b"")
            assert not caught.value.maybe_applied, "nothing was there to send it to"
            server.start()
            await put_until_it_works(writer, f"{ABC}{round_number}/back", b"x")
        await recorder.until(lambda: len(recorder.state) == 42)
        assert len(recorder.updates) == 42, "each came once"
        assert syncer.statistics().listings == 1
        assert syncer.statistics().repairs == 0
        task.cancel()
        await client.close()
        await writer.close()

    run(test)


class Held(EtcdClient):
    """Watches only while it may."""

    def __init__(self, endpoints: Sequence[str], *, timing: Timing) -> None:
        super().__init__(endpoints, timing=timing)
        self.may_watch = asyncio.Event()
        self.may_watch.set()

    async def watch(
        self, prefix: str, from_revision: int, *, store_id: str | None = None
    ) -> AsyncGenerator[Batch, None]:
        await self.may_watch.wait()
        async with aclosing(super().watch(prefix, from_revision, store_id=store_id)) as batches:
            async for batch in batches:
                yield batch


def test_a_compaction_while_disconnected_leads_to_listing_and_comparing(start: Start) -> None:
    server = start()

    async def test() -> None:
        client, writer = Held([server.endpoint], timing=QUICK), EtcdClient([server.endpoint])
        for name in ("same", "changed", "deleted"):
            await writer.put(ABC + name, b"1")
        recorder = Recorder()
        timing = SyncerTiming(compare=None, backoff_first=0.1, backoff_limit=0.1)
        syncer = Syncer(client, [ABC], recorder, timing)
        task = asyncio.create_task(syncer.run())
        await recorder.until(lambda: Status.IN_SYNC in recorder.statuses)
        client.may_watch.clear()
        server.kill()
        await recorder.until(lambda: recorder.statuses[-1] is Status.CONNECTING)
        recorder.updates.clear()
        server.start()
        await put_until_it_works(writer, ABC + "changed", b"2")
        await writer.delete(ABC + "deleted")
        await writer.compact(await writer.put(ABC + "new", b"1"))
        assert recorder.updates == []
        client.may_watch.set()
        await recorder.until(lambda: len(recorder.updates) == 3)
        assert recorder.state == {ABC + "same": b"1", ABC + "changed": b"2", ABC + "new": b"1"}
        assert syncer.statistics().listings == 2
        await writer.put(ABC + "new", b"2")
        await recorder.until(lambda: recorder.state[ABC + "new"] == b"2")
        task.cancel()
        await client.close()
        await writer.close()

    run(test)


@pytest.mark.parametrize(
    ("token", "new_writes"),
    [("other", 10), ("etcd-cluster", 1)],
    ids=["newer, with another id", "set back, with the same id"],
)
def test_another_cluster_at_the_same_address_is_read_anew(
    start: Start, token: str, new_writes: int
) -> None:
    server = start()

    async def test() -> None:
        client, writer = (EtcdClient([server.endpoint], timing=QUICK) for _ in range(2))
        for _ in range(3):
            await client.put(ABC + "old", b"1")
        recorder = Recorder()
        timing = SyncerTiming(compare=None, backoff_first=1.5)
        task = asyncio.create_task(Syncer(client, [ABC], recorder, timing).run())
        await recorder.until(lambda: Status.IN_SYNC in recorder.statuses)
        server.kill()
        await recorder.until(lambda: recorder.statuses[-1] is Status.CONNECTING)
        server.forget(token)
        server.start()
        for _ in range(new_writes):
            await put_until_it_works(writer, ABC + "new", b"1")
        assert recorder.state == {ABC + "old": b"1"}
        await recorder.until(lambda: recorder.state == {ABC + "new": b"1"})
        task.cancel()
        await client.close()
        await writer.close()

    run(test)


@pytest.mark.parametrize(
    ("timing", "limit_seconds"),
    [(Timing(call=2.0, keep_alive=0.5, keep_alive_timeout=1.0), 3.0)],
)
def test_a_frozen_server_is_noticed(start: Start, timing: Timing, limit_seconds: float) -> None:
    """By the keep-alive alone: nothing is asked while it is frozen, and TCP sees nothing.

    With the default timing it takes 15 s; here the same in short.
    """
    server = start()

    async def test() -> None:
        client = EtcdClient([server.endpoint], timing=timing)
        start_revision = await client.put(ABC + "a", b"") + 1
        async with aclosing(client.watch(ABC, start_revision)) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.5)
            freeze(server)
            before = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable):
                await waiting
            assert asyncio.get_running_loop().time() - before < limit_seconds
        with pytest.raises(Unavailable) as caught:
            await client.put(ABC + "b", b"")
        server.process.send_signal(signal.SIGCONT)
        await put_until_it_works(client, ABC + "b", b"")
        assert caught.value.retryable
        await client.close()

    run(test)


def test_a_write_that_gets_no_answer_may_have_been_applied(start: Start) -> None:
    server = start()

    async def test() -> None:
        client = EtcdClient([server.endpoint], timing=Timing(call=0.5))
        await client.put(ABC + "a", b"1")
        freeze(server)
        with pytest.raises(Unavailable) as caught:
            await client.put(ABC + "a", b"2")
        assert caught.value.maybe_applied
        with pytest.raises(Unavailable) as caught:
            await client.get(ABC + "a")
        assert not caught.value.maybe_applied
        server.process.send_signal(signal.SIGCONT)
        await client.close()

    run(test)


def test_the_next_endpoint_takes_over(start: Start) -> None:
    """A proxy stands in for a second member: other address, same cluster."""
    server = start()
    (dead_port,) = free_ports(1)

    async def test() -> None:
        proxy = await Proxy.start(server.client_port)
        endpoints = [f"http://127.0.0.1:{dead_port}", proxy.endpoint, server.endpoint]
        client = EtcdClient(endpoints, timing=QUICK)
        revision = await client.put(ABC + "a", b"1")
        assert proxy.connections == 1
        await proxy.stop()
        with suppress(Unavailable):  # the one whose connection broke
            await client.get(ABC + "a")
        assert (await client.list(ABC)).revision == revision
        await client.close()

    run(test)


def test_a_watch_that_nobody_reads_holds_up_nothing_else(start: Start) -> None:
    """Both directions need flow control: 30 MB wait, and a page of 9 MB is one message."""
    server = start()

    async def test() -> None:
        client, writer = (EtcdClient([server.endpoint], timing=QUICK) for _ in range(2))
        first = await writer.put(ABC + "first", b"")
        async with aclosing(client.watch(ABC, first)) as watch:
            await anext(watch)
            seen = 0
            for round_number in range(30):
                keys = [f"{ABC}{number:04}" for number in range(100)]
                value = bytes([round_number]) * 10_000
                await writer.transact(Txn(success=[Put(key, value) for key in keys]))
            for number in range(100, 1000, 100):
                keys = [f"{ABC}{number + more:04}" for more in range(100)]
                await writer.transact(Txn(success=[Put(key, bytes(9000)) for key in keys]))
            listing = await client.list(ABC)
            assert sum(len(entry.value) for entry in listing.entries) == 1_000_000 + 900 * 9000
            async for batch in watch:
                seen += len(batch.events)
                if batch.revision == listing.revision:
                    break
            assert seen == 3000 + 900
        await client.close()
        await writer.close()

    run(test)


def test_a_full_server_refuses_writes_and_keeps_the_rest(start: Start) -> None:
    server = start(f"--quota-backend-bytes={4 << 20}")

    async def fill(client: EtcdClient) -> None:
        for number in range(20):
            await client.put(f"{ABC}{number}", bytes(1_000_000))

    async def test() -> None:
        client = EtcdClient([server.endpoint], timing=QUICK)
        first = await client.put(ABC + "a", b"1")
        async with aclosing(client.watch(ABC + "a", first)) as watch:
            await anext(watch)
            with pytest.raises(Unavailable, match="space exceeded") as caught:
                await fill(client)
            assert not caught.value.maybe_applied
            deleted = await client.delete(ABC + "a")
            assert (await anext(watch)).events == [Event(ABC + "a", None, deleted)]
        await client.close()

    run(test)


IDLER = """
import asyncio, sys
from tortie.datastore.etcd import EtcdClient, Timing
from tortie.datastore.syncer import Status, Syncer

class Sink:
    async def on_updates(self, updates): pass
    def on_status(self, status):
        if status is Status.IN_SYNC: print("ready", flush=True)

client = EtcdClient([sys.argv[1]], timing=Timing(keep_alive=1.0, keep_alive_timeout=1.0))
asyncio.run(Syncer(client, ["/etcd/"], Sink()).run())
"""


def test_an_idle_process_wakes_up_for_the_keep_alive_only(start: Start) -> None:
    """Six keep-alives a minute by default; here the same ten times as fast."""
    server = start()
    process = subprocess.Popen(
        [sys.executable, "-c", IDLER, server.endpoint], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        (task,) = Path(f"/proc/{process.pid}/task").iterdir()  # no other thread

        def switches() -> int:
            text = (task / "status").read_text()
            return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])

        before = switches()
        time.sleep(3.0)
        woken = switches() - before
    finally:
        process.kill()
        process.communicate()
    assert 3 <= woken <= 9, "about two for each keep-alive: send, and receive"


def test_a_cluster_outlives_the_member_we_talk_to(tmp_path: Path) -> None:
    members = [EtcdServer(tmp_path / f"member{number}") for number in range(3)]
    for member in members:
        member.join(members)
        member.spawn()
    for member in members:
        member.wait()
    endpoints = [member.endpoint for member in members]

    async def test() -> None:
        client, writer = (EtcdClient(endpoints, timing=QUICK) for _ in range(2))
        recorder = Recorder()
        syncer = Syncer(client, [ABC], recorder, SyncerTiming(compare=None))
        task = asyncio.create_task(syncer.run())
        await recorder.until(lambda: Status.IN_SYNC in recorder.statuses)
        for number in range(20):
            await writer.put(f"{ABC}{number}", b"x")
        members[0].kill()
        for number in range(20, 40):
            await put_until_it_works(writer, f"{ABC}{number}", b"x")
        await recorder.until(lambda: len(recorder.state) == 40)
        assert not [update for update in recorder.updates if update.value is None]
        assert syncer.statistics().listings <= 2, "a member that lags may cost one"
        task.cancel()
        await client.close()
        await writer.close()

    try:
        run(test)
    finally:
        for member in members:
            member.kill()


def test_etcd_behind_a_unix_socket(start: Start, tmp_path: Path) -> None:
    server = start()

    async def test() -> None:
        path = tmp_path / "socket"
        proxy = Proxy(server.client_port)
        listener = await asyncio.start_unix_server(proxy.serve, path)
        client = EtcdClient([f"unix://{path}"], timing=QUICK)
        revision = await client.put(ABC + "a", b"1")
        async with aclosing(client.watch(ABC, revision)) as watch:
            assert (await anext(watch)).events == [Event(ABC + "a", b"1", revision)]
        await client.close()
        listener.close()

    run(test)


class Proxy:
    """Passes connections on to a port, until it is stopped."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server
        self._writers: list[asyncio.StreamWriter] = []
        self.endpoint = ""
        self.connections = 0

    @classmethod
    async def start(cls, target: int) -> "Proxy":
        proxy = cls(target)
        proxy._server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        port = proxy._server.sockets[0].getsockname()[1]
        proxy.endpoint = f"http://127.0.0.1:{port}"
        return proxy

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, far_writer]
        with suppress(OSError):
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def with_users(server: EtcdServer) -> EtcdServer:
    for command in (
        "user add root:secret-of-root",
        "user grant-role root root",
        "role add reader",
        f"role grant-permission reader --prefix=true read {ABC}",
        "user add felix:secret-of-felix",
        "user grant-role felix reader",
        "auth enable",
    ):
        etcdctl(server, *command.split())
    return server


def test_log_in_is_renewed_when_the_token_expires(start: Start) -> None:
    server = with_users(start("--auth-token-ttl=1"))

    async def test() -> None:
        root = EtcdClient([server.endpoint], login=Login("root", "secret-of-root"), timing=QUICK)
        felix = EtcdClient([server.endpoint], login=Login("felix", "secret-of-felix"))
        first = await root.put(ABC + "a", b"1")
        assert (await felix.list(ABC)).revision == first
        # etcd looks for expired tokens once a second.
        await asyncio.sleep(3.2)
        second = await root.put(ABC + "a", b"2")
        async with aclosing(felix.watch(ABC, first)) as watch:
            assert (await anext(watch)).events == [
                Event(ABC + "a", b"1", first),
                Event(ABC + "a", b"2", second),
            ]
        await asyncio.gather(*(felix.get(ABC + "a") for _ in range(5)))
        await root.close()
        await felix.close()

    run(test)


def test_who_may_not_is_denied(start: Start) -> None:
    server = with_users(start())

    async def denied(client: EtcdClient, call: Callable[[EtcdClient], Awaitable[object]]) -> str:
        with pytest.raises(Denied) as caught:
            await call(client)
        await client.close()
        return str(caught.value)

    async def watch_elsewhere(client: EtcdClient) -> None:
        async with aclosing(client.watch("/elsewhere/", 1)) as watch:
            await anext(watch)

    async def test() -> None:
        def felix() -> EtcdClient:
            return EtcdClient([server.endpoint], login=Login("felix", "secret-of-felix"))

        await denied(felix(), lambda client: client.put(ABC + "a", b""))
        await denied(felix(), lambda client: client.get("/elsewhere/a"))
        await denied(felix(), watch_elsewhere)
        wrong = Login("felix", "wrong")
        text = await denied(
            EtcdClient([server.endpoint], login=wrong), lambda client: client.get(ABC)
        )
        assert "wrong" not in text + repr(wrong)
        await denied(EtcdClient([server.endpoint]), lambda client: client.get(ABC))

    run(test)


def test_a_log_in_that_the_server_does_not_want_is_no_error(start: Start) -> None:
    server = start()

    async def test() -> None:
        client = EtcdClient([server.endpoint], login=Login("root", "secret"), timing=QUICK)
        await client.put(ABC + "a", b"")
        await client.close()

    run(test)


def test_both_sides_show_certificates(start: Start, tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "authority")
    foreign = make_authority(tmp_path, "foreign")
    server_files = make_certificate(tmp_path, authority, "server")
    felix = make_certificate(tmp_path, authority, "felix")
    stranger = make_certificate(tmp_path, foreign, "stranger")
    server = start(
        f"--cert-file={server_files.certificate}",
        f"--key-file={server_files.key}",
        f"--trusted-ca-file={authority}",
        "--client-cert-auth",
        scheme="https",
    )

    async def refused(tls: TLSFiles) -> str:
        client = EtcdClient([server.endpoint], tls=tls, timing=QUICK)
        with pytest.raises(Unavailable) as caught:
            await client.put(ABC + "a", b"")
        await client.close()
        return str(caught.value)

    async def test() -> None:
        client = EtcdClient([server.endpoint], tls=felix, timing=QUICK)
        revision = await client.put(ABC + "a", b"1")
        async with aclosing(client.watch(ABC, revision)) as watch:
            assert (await anext(watch)).events == [Event(ABC + "a", b"1", revision)]
        await refused(TLSFiles(authority))
        await refused(stranger._replace(ca=authority))
        assert "TLS: " in await refused(felix._replace(ca=foreign))
        missing = EtcdClient([server.endpoint], tls=felix._replace(key=tmp_path / "none"))
        with pytest.raises(InvalidInput, match="none: No such file"):
            await missing.get(ABC)
        await client.close()

    run(test)


def test_renewed_certificate_files_are_read_without_a_restart(start: Start, tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "authority")
    files = make_certificate(tmp_path, authority, "server")
    server = start(
        f"--cert-file={files.certificate}",
        f"--key-file={files.key}",
        f"--trusted-ca-file={authority}",
        "--client-cert-auth",
        scheme="https",
    )

    async def test() -> None:
        old = make_authority(tmp_path, "old")
        used = make_certificate(tmp_path, old, "felix")._replace(ca=authority)
        client = EtcdClient([server.endpoint], tls=used, timing=QUICK)
        with pytest.raises(Unavailable):
            await client.get(ABC)
        make_certificate(tmp_path, authority, "felix")
        await client.get(ABC)
        await client.close()

    run(test)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:2379", "ftp://a:1", "http://", "http://a:99999"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="etcd endpoint"):
        EtcdClient([endpoint])
