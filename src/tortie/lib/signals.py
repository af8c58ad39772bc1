"""How a service is asked to stop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine


async def until_signalled(
    work: Coroutine[object, object, None], stopping: Callable[[], object] = lambda: None
) -> None:
    """Run `work` to its end, or cancel it at SIGTERM or SIGINT and wait for that.

    Args:
        stopping: called once before it is cancelled.

    Raises:
        Whatever `work` raises.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(stopped.wait())
    done, _ = await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working not in done:
        stopping()
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
