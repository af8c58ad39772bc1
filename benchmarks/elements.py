"""One element added to one of many sets, Python included."""

import asyncio
import time
from collections.abc import Iterator

from benchmarks.results import Result, latencies
from tortie.kernel import netns
from tortie.kernel.nft.connection import Nft
from tortie.kernel.nft.constants import Family
from tortie.kernel.nft.objects import IPV4_ADDR, Element, Set, Table
from tortie.kernel.nft.transaction import Transaction

SETS = (1000, 2000, 5000)
MEMBERS = 100
COUNT = 200


def run() -> Iterator[Result]:
    for count in SETS:
        namespace = netns.create_anonymous()
        found = netns.run_in(namespace, lambda count=count: asyncio.run(_measure(count)))  # type: ignore[misc]
        yield from latencies(f"one element, {count:,} sets of {MEMBERS}", found, "≤ 0.1 at 2,000")


async def _measure(count: int) -> list[float]:
    nft = Nft.open()
    table = Table(Family.INET, "bench")
    load = Transaction()
    load.add_table(table)
    for number in range(count):
        load.add_set(table.table_name, _set(number))
        members = [Element((number << 8 | member).to_bytes(4, "big")) for member in range(MEMBERS)]
        load.add_elements(table.table_name, _set(number), members)
    await nft.commit(load)
    found = []
    for number in range(COUNT):
        change = Transaction()
        began = time.perf_counter()
        element = Element((0x0A000000 | number).to_bytes(4, "big"))
        change.add_elements(table.table_name, _set(number * 7 % count), [element])
        await nft.commit(change)
        found.append(time.perf_counter() - began)
    nft.close()
    return found


def _set(number: int) -> Set:
    return Set(f"set-{number}", (IPV4_ADDR,))
