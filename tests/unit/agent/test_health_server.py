"""Health as probes see it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from tortie.agent import health_server
from tortie.agent.config import Local, resolve
from tortie.agent.health_server import HealthServer, waiting
from tortie.agent.parameters import BY_YAML_NAME, parse_yaml_value
from tortie.lib.errors import InvalidInput
from tortie.lib.health import Health


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    raw = (await reader.read()).decode()
    writer.close()
    head, _, body = raw.partition("\r\n\r\n")
    return int(head.split()[1]), body


def with_server(health: Health, act: Callable[[int], Awaitable[None]]) -> None:
    async def run() -> None:
        server = HealthServer(health, lambda: 42)
        try:
            await act(await server.start("127.0.0.1", 0))
        finally:
            await server.close()

    asyncio.run(run())


def test_alive_and_ready_are_two_things() -> None:
    health = Health()
    reporter = health.reporter("loop")

    async def act(port: int) -> None:
        assert await ask(port, "/liveness") == (200, "loop: live, not ready (starting)\n")
        assert (await ask(port, "/readiness"))[0] == 503
        reporter.ready("enforced")
        assert await ask(port, "/readiness?verbose") == (200, "loop: live, ready (enforced)\n")
        assert await ask(port, "/enforced") == (200, "42\n")
        assert (await ask(port, "/"))[0] == 404
        assert (await ask(port, "/readiness", "POST"))[0] == 405

    with_server(health, act)


def test_what_hangs_is_not_alive() -> None:
    now = 0.0
    limits = {"loop": 20.0}
    health = Health(lambda: now, limits)
    slow, other = health.reporter("loop"), health.reporter("other")
    slow.busy()
    other.busy()
    slow.ready()
    now = 21.0

    async def act(port: int) -> None:
        code, text = await ask(port, "/liveness")
        assert code == 503
        assert "loop: stuck, not ready (stuck for 21 s)" in text
        assert "other: live" in text, "90 s, where nothing else is said"

    with_server(health, act)


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent goes on, and serves as soon as it can."""
    monkeypatch.setattr(health_server, "RETRY_SECONDS", 0.05)

    async def act() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = HealthServer(Health(), lambda: 0)
            serving = asyncio.create_task(server.run("127.0.0.1", port))
            await asyncio.sleep(0.2)
            assert not serving.done()
        await asyncio.wait_for(serving, 10)
        assert (await ask(port, "/liveness"))[0] == 200
        await server.close()

    asyncio.run(act())


@pytest.mark.parametrize("enabled", [True, False])
def test_while_the_datastore_is_waited_for(enabled: bool) -> None:
    """Not ready, but alive: nobody must end what only waits."""

    async def act() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        texts = {"healthenabled": str(enabled), "healthport": str(port), "healthhost": "127.0.0.1"}
        async with waiting(resolve(Local(texts, {}, ""))):
            await asyncio.sleep(0.1)
            if not enabled:
                with pytest.raises(ConnectionRefusedError):
                    await ask(port, "/liveness")
                return
            assert (await ask(port, "/liveness"))[0] == 200
            code, text = await ask(port, "/readiness")
            assert (code, text) == (503, "start: live, not ready (waiting for the datastore)\n")
        with pytest.raises(ConnectionRefusedError):  # the agent's own comes next
            await ask(port, "/liveness")

    asyncio.run(act())


@pytest.mark.parametrize("turns", range(8))
def test_a_short_wait_leaves_no_listener(turns: int) -> None:
    """Wherever the end of it strikes."""

    async def act() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        # A number is not looked up by a thread, so a turn of the loop is a step of the start.
        texts = {"healthenabled": "true", "healthport": str(port), "healthhost": "127.0.0.1"}
        async with waiting(resolve(Local(texts, {}, ""))):
            for _ in range(turns):
                await asyncio.sleep(0)
        server = HealthServer(Health(), lambda: 0)
        await server.start("127.0.0.1", port)
        await server.close()

    asyncio.run(act())


def test_time_limits_by_felixs_names() -> None:
    texts = {"healthtimeoutoverrides": "InternalDataplaneMainLoop=2m, other firewalls=1m30s"}
    assert resolve(Local(texts, {}, ""))["HealthTimeoutOverrides"] == {
        "loop": 120.0, "other firewalls": 90.0,
    }  # fmt: skip
    parameter = BY_YAML_NAME["healthTimeoutOverrides"]
    stored = [{"name": "CalculationGraph", "timeout": "3m"}]
    assert parse_yaml_value(parameter, stored, "x") == {"loop": 180.0}
    assert parse_yaml_value(parameter, [], "x") == {}
    with pytest.raises(InvalidInput, match="must be a duration"):
        parse_yaml_value(parameter, [{"name": "a", "timeout": "soon"}], "x")
