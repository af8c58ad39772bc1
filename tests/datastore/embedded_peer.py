"""Another process on the same embedded datastore: `python embedded_peer.py MODE PATH …`.

It prints a line when it is ready, and then what its mode says.
"""

import asyncio
import random
import sys
import time
from contextlib import aclosing
from pathlib import Path

from tortie.datastore.client import Put, Txn
from tortie.datastore.embedded import EmbeddedClient


def say(text: str) -> None:
    print(text, flush=True)


async def write_pairs(client: EmbeddedClient) -> None:
    """Two keys at once, for ever; prints each number once it is acknowledged."""
    say("ready")
    entry = await client.get("/pair/a")
    number = int(entry.value) if entry else 0
    while True:
        number += 1
        value = b"%d" % number
        await client.transact(Txn(success=[Put("/pair/a", value), Put("/pair/b", value * 500)]))
        say(str(number))


async def hold_lease(client: EmbeddedClient) -> None:
    """A key on a lease of 2 s, kept alive."""
    await client.put("/leased", b"", await client.grant_lease(2))
    say("ready")
    await asyncio.Event().wait()


async def watch_idly(client: EmbeddedClient) -> None:
    """A watch, and for each event a line."""
    async with aclosing(client.watch("/", await client.revision() + 1)) as watch:
        asyncio.get_running_loop().call_later(0.3, say, "ready")
        async for batch in watch:
            say(" ".join(event.key for event in batch.events))


async def measure(client: EmbeddedClient, number: int, count: int, peers: int) -> None:
    """Write `count` time stamps; print the delay in µs of every stamp of every peer."""

    async def write() -> None:
        for _ in range(count):
            await asyncio.sleep(random.uniform(0.0, 1.0))
            await client.put(f"/stamp/{number}", b"%d" % time.monotonic_ns())

    start = await client.revision() + 1
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    writing = asyncio.create_task(write())
    delays: list[int] = []
    async with aclosing(client.watch("/stamp/", start)) as watch:
        async for batch in watch:
            now = time.monotonic_ns()
            delays += [(now - int(event.value or b"0")) // 1000 for event in batch.events]
            if len(delays) >= count * peers:
                break
    await writing
    say(" ".join(map(str, delays)))


async def main(mode: str, path: str, *arguments: str) -> None:
    client = EmbeddedClient(Path(path))
    if mode == "measure":
        await measure(client, *map(int, arguments))
    else:
        await {"write": write_pairs, "lease": hold_lease, "watch": watch_idly}[mode](client)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
