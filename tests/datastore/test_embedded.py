"""What only the embedded datastore promises: many processes, crashes, silence."""

import asyncio
import fcntl
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

import tortie.datastore.embedded.client as client_module
from tortie.datastore.client import Event, Get, Txn, unchanged
from tortie.datastore.embedded import EmbeddedClient
from tortie.lib.errors import Compacted, InvalidInput, NotFound, Unavailable

Peer = subprocess.Popen[str]
StartPeer = Callable[..., Peer]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "datastore.db"


@pytest.fixture
def peer(path: Path) -> Iterator[StartPeer]:
    """Starts `embedded_peer.py` in a process of its own, and ends it afterwards."""
    peers: list[Peer] = []
    program = Path(__file__).with_name("embedded_peer.py")

    def start(mode: str, *arguments: int) -> Peer:
        command = [sys.executable, str(program), mode, str(path), *map(str, arguments)]
        peers.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        )
        return peers[-1]

    yield start
    for process in peers:
        process.kill()
        process.communicate()


def line(process: Peer) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_only_the_owner_can_read_it(path: Path) -> None:
    async def test() -> None:
        client = EmbeddedClient(path)
        await client.put("/a", b"")
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
        assert set(modes) == {path.name + end for end in ("", "-wal", "-shm", "-bell")}
        assert set(modes.values()) == {0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700
        await client.close()

    asyncio.run(test())


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    async def test() -> None:
        client = EmbeddedClient(path)
        revision = await client.put("/a", b"1")
        before = await client.list("/")
        await client.close()
        client = EmbeddedClient(path, create=False)
        assert await client.list("/") == before
        async with aclosing(client.watch("/", 1)) as watch:
            assert (await anext(watch)).events == [Event("/a", b"1", revision)]
        await client.close()

    asyncio.run(test())


def test_a_missing_or_foreign_file_is_told_apart(path: Path) -> None:
    async def test() -> None:
        client = EmbeddedClient(path, create=False)
        with pytest.raises(NotFound, match="no datastore at"):
            await client.get("/a")
        assert not path.parent.exists()
        await client.close()
        path.parent.mkdir()
        path.write_text("certainly no database, but long enough to have been one" * 20)
        foreign = EmbeddedClient(path)
        with pytest.raises(InvalidInput, match="no usable datastore"):
            await foreign.get("/a")
        await foreign.close()

    asyncio.run(test())


def test_history_is_bounded_and_state_is_not_lost(path: Path) -> None:
    async def test() -> None:
        client = EmbeddedClient(path, kept_revisions=100)
        await client.put("/old", b"kept")
        await client.put("/gone", b"")
        await client.delete("/gone")
        for number in range(500):
            await client.put(f"/{number % 10}", b"%d" % number)
        listing = await client.list("/")
        assert {entry.key for entry in listing.entries} == {"/old", *(f"/{n}" for n in range(10))}
        with sqlite3.connect(path) as database:
            (rows,) = database.execute("SELECT count(*) FROM changes").fetchone()
        assert rows <= 100 + 10 + 11
        with pytest.raises(Compacted):
            async with aclosing(client.watch("/", 2)) as watch:
                await anext(watch)
        async with aclosing(client.watch("/", listing.revision - 90)) as watch:
            assert len((await anext(watch)).events) == 91
        await client.close()

    asyncio.run(test())


def test_ten_processes_hear_of_every_put(peer: StartPeer) -> None:
    """All events reach all; `pytest -s` shows the delays, which depend on the machine."""
    count, peers = 4, 10
    processes = [peer("measure", number, count, peers) for number in range(peers)]
    for process in processes:
        assert line(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    delays: list[int] = []
    for process in processes:
        heard = [int(delay) for delay in line(process).split()]
        assert len(heard) == count * peers
        delays += heard
    delays.sort()
    p50, p99 = (delays[len(delays) * percent // 100] / 1000 for percent in (50, 99))
    print(f"\nput to event, 10 processes: p50 {p50} ms, p99 {p99} ms, max {delays[-1] / 1000} ms")


def test_kill_9_in_the_middle_of_writes_loses_nothing_acknowledged(
    path: Path, peer: StartPeer
) -> None:
    async def watch_all(client: EmbeddedClient, seen: list[Event]) -> None:
        async with aclosing(client.watch("/pair/", await client.revision() + 1)) as watch:
            async for batch in watch:
                seen += batch.events

    async def test() -> None:
        client = EmbeddedClient(path)
        seen: list[Event] = []
        watching = asyncio.create_task(watch_all(client, seen))
        for _ in range(6):
            process = peer("write")
            assert await asyncio.to_thread(line, process) == "ready"
            first = await asyncio.to_thread(line, process)  # however busy the machine is
            await asyncio.sleep(random.uniform(0.0, 0.2))
            process.kill()
            printed, _ = await asyncio.to_thread(process.communicate)
            acknowledged = [int(number) for number in (first, *printed.split())]
            a, b = await client.get("/pair/a"), await client.get("/pair/b")
            assert a is not None
            assert b is not None
            assert b.value == a.value * 500
            assert int(a.value) >= acknowledged[-1]
            assert a.mod_revision == b.mod_revision == await client.revision()
        await asyncio.sleep(0.1)
        assert a is not None
        numbers = [int(event.value or b"0") for event in seen if event.key == "/pair/a"]
        assert numbers == list(range(1, int(a.value) + 1))
        watching.cancel()
        await client.close()
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    asyncio.run(test())


def switches(pid: int) -> list[int]:
    """Context switches so far, of all threads: who makes none was never awake."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [
            int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", (task / "status").read_text())
        ]
    return found


def test_an_idle_process_makes_no_system_call(path: Path, peer: StartPeer, tmp_path: Path) -> None:
    process = peer("watch")
    assert line(process) == "ready"
    time.sleep(0.3)  # until it sleeps, too
    before = switches(process.pid)
    time.sleep(2.0)
    assert switches(process.pid) == before

    if shutil.which("strace"):
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-q", "-o", str(trace), "-p", str(process.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(1.0)
        tracer.terminate()
        tracer.wait()
        assert not [text for text in trace.read_text().splitlines() if " = " in text]

    async def write() -> None:
        client = EmbeddedClient(path)
        await client.put("/a", b"")
        await client.close()

    asyncio.run(write())
    assert line(process) == "/a", "it was asleep, not deaf"


def test_the_lease_of_a_killed_process_ends(path: Path, peer: StartPeer) -> None:
    async def test() -> None:
        client = EmbeddedClient(path)
        start = await client.revision() + 1
        process = peer("lease")
        assert await asyncio.to_thread(line, process) == "ready"
        await asyncio.sleep(2.4)
        assert await client.get("/leased") is not None
        process.kill()
        async with aclosing(client.watch("/", start)) as watch, asyncio.timeout(6):
            assert [event.value for event in (await anext(watch)).events] == [b""]
            assert [event.value for event in (await anext(watch)).events] == [None]
        await client.close()

    asyncio.run(test())


def test_leases_end_with_the_boot_they_were_made_in(path: Path) -> None:
    async def test() -> None:
        client = EmbeddedClient(path)
        await client.put("/leased", b"", await client.grant_lease(1000))
        await client.close()
        with sqlite3.connect(path) as database:
            database.execute("UPDATE leases SET boot = 'earlier'")
        database.close()
        client = EmbeddedClient(path)
        assert await client.get("/leased") is None
        await client.close()

    asyncio.run(test())


def test_a_writer_that_hangs_delays_writes_but_not_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process does that is stopped in the middle of a commit."""
    monkeypatch.setattr(client_module, "PATIENCE_SECONDS", 0.2)

    async def test() -> None:
        client = EmbeddedClient(path)
        await client.put("/a", b"1")
        lock = os.open(f"{path}-bell", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="busy") as caught:
            await client.put("/b", b"given up")
        assert caught.value.maybe_applied
        assert await client.get("/a") is not None
        assert len((await client.list("/")).entries) == 1
        # A transaction that only reads is a read; what it compares decides its branch.
        there = await client.get("/a")
        assert there is not None
        for revision, entry in ((there.mod_revision, there), (99, None)):
            only_reads = Txn([unchanged("/a", revision)], [Get("/a")], [Get("/none")])
            found = await client.transact(only_reads)
            assert (found.succeeded, found.revision) == (entry is not None, there.mod_revision)
            assert [response.entry for response in found.responses] == [entry]
        os.close(lock)
        await client.put("/a", b"2")
        assert await client.get("/b") is None, "nobody waits for it any more"
        await client.close()

    asyncio.run(test())


def test_a_replaced_file_ends_watches_and_is_opened_anew(path: Path) -> None:
    async def test() -> None:
        client = EmbeddedClient(path)
        await client.put("/a", b"1")
        before = await client.list("/")
        watch = client.watch("/", before.revision + 1)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        for each in list(path.parent.iterdir()):
            os.unlink(each)
        with pytest.raises(Unavailable, match="replaced"):
            await asyncio.wait_for(waiting, 2)
        after = await client.list("/")
        assert not after.entries
        assert after.store_id != before.store_id
        await client.put("/b", b"2")
        await client.close()

    asyncio.run(test())
