"""What went wrong, and of several tasks where it began."""

import asyncio

from tortie.lib.errors import Denied, InvalidInput, failures


def test_failures_of_tasks_in_the_order_in_which_they_failed() -> None:
    async def fail(error: Exception, others: asyncio.TaskGroup) -> None:
        others.create_task(asyncio.Event().wait())  # cancelled with the rest, and no failure
        raise error

    async def inner() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail(InvalidInput("first"), tasks))
            tasks.create_task(fail(Denied("second"), tasks))

    async def go() -> list[str]:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(inner())
                tasks.create_task(asyncio.Event().wait())
        except BaseExceptionGroup as group:
            return [str(error) for error in failures(group)]
        raise AssertionError("nothing failed")

    assert asyncio.run(go()) == ["first", "second"]
