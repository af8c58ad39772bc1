"""K26: an event loop that is held up ends its process; one that waits, or is stopped, does not."""

import asyncio
import os
import signal
import subprocess
import sys
import time

from tortie.lib.loop_watch import WatchedSelector, bounded

_LOOP = """
import asyncio, re, sys, time
from tortie.lib.loop_watch import bounded

async def held_up():
    await asyncio.sleep(0)
    print("begun", flush=True)
    {act}
    await asyncio.sleep(0)
    print("done", flush=True)

with bounded() as selector, asyncio.Runner(
    loop_factory=lambda: asyncio.SelectorEventLoop(selector)
) as runner:
    selector.limit_seconds = 0.3
    runner.run(held_up())
"""
REGEX = "re.match('(a+)+$', 'a' * 64 + 'b')"
"""Takes years, and lets no other thread of Python's run meanwhile."""


def started(act: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", _LOOP.format(act=act)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_loop_that_is_held_up_ends_the_process_and_says_where() -> None:
    for act, where in ((REGEX, "re/__init__.py"), ("while True: pass", "in held_up")):
        _, said = (process := started(act)).communicate(timeout=30)
        assert process.returncode == -signal.SIGPROF
        assert where in said


def test_one_that_waits_or_is_stopped_goes_on() -> None:
    """For far longer than it may be busy."""
    waits = started("time.sleep(1)")
    stopped = started("time.sleep(0.05)")
    os.kill(stopped.pid, signal.SIGSTOP)
    assert waits.communicate(timeout=30) == ("done\n", "")
    os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.communicate(timeout=30) == ("done\n", "")
    assert (waits.returncode, stopped.returncode) == (0, 0)


def test_many_short_stretches_are_no_long_one() -> None:
    busy = "for _ in range(40):\n        end = time.process_time() + 0.03\n"
    busy += "        while time.process_time() < end: pass\n        await asyncio.sleep(0)"
    process = started(busy)
    assert process.communicate(timeout=30) == ("done\n", "")
    assert process.returncode == 0


def test_lag_is_what_the_next_one_waits() -> None:
    async def run() -> None:
        for _ in range(20):
            await asyncio.sleep(0.001)
        time.sleep(0.06)
        await asyncio.sleep(0)

    with bounded() as selector:
        assert isinstance(selector, WatchedSelector)
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(run())
        family = selector.lag.family("lag", "")
        buckets = {one.labels["le"]: one.value for one in family.samples if one.labels}
    assert buckets["+Inf"] - buckets["0.05"] >= 1, "the long one"
    assert buckets["0.05"] >= 15, "waiting is none"
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0), "nothing is left for who comes next"
