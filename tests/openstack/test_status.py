"""What the agents report, as the driver hears it: from the agent's own reporter, by a real etcd."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.datastore.etcd_server import EtcdServer
from tests.openstack.test_gateway import wait_until

from tortie.agent.endpoint_status import EndpointReporter
from tortie.agent.status import StatusReporter
from tortie.datastore.client import Delete, Put, Txn
from tortie.datastore.etcd import EtcdClient
from tortie.desired.endpoint import EndpointId
from tortie.openstack.gateway import Gateway
from tortie.openstack.labels import endpoint_name
from tortie.openstack.settings import Settings
from tortie.openstack.status import (
    HostAlive,
    HostGone,
    PortStatus,
    StatusEvent,
    StatusWatcher,
)

Watching = Callable[..., list[StatusEvent]]


@pytest.fixture
def watching(gateway: Gateway, settings: Settings) -> Iterator[Watching]:
    """Starts a watcher; its events come to the list."""
    watchers: list[StatusWatcher] = []

    def start(on_event: Callable[[StatusEvent], None] | None = None) -> list[StatusEvent]:
        events: list[StatusEvent] = []

        def hear(event: StatusEvent) -> None:
            events.append(event)
            if on_event is not None:
                on_event(event)

        watchers.append(StatusWatcher(gateway, settings, hear))
        watchers[-1].start()
        return events

    yield start
    for watcher in watchers:
        watcher.stop()


def port_key(settings: Settings, host: str, port_id: str, orchestrator: str = "openstack") -> str:
    workload = f"{settings.namespace}%2fvm-1"
    return (
        f"/calico/felix/v2/{settings.region}/host/{host}/workload/{orchestrator}/{workload}"
        f"/endpoint/{port_id}"
    )


def put(gateway: Gateway, key: str, value: bytes, lease: int = 0) -> None:
    gateway.transact(Txn(success=[Put(key, value, lease)]))


def test_our_agents_reports_arrive(
    watching: Watching, server: EtcdServer, settings: Settings
) -> None:
    """Alive, up, down, in error, gone: in the words that the agent writes."""
    events = watching()
    ports = {
        name: EndpointId(settings.namespace, endpoint_name("h-1", "vm-1", name))
        for name in ("port-up", "port-down", "port-bad")
    }

    async def report() -> None:
        client = EtcdClient([server.endpoint])
        try:
            host = StatusReporter(client, "h-1", settings.region, 30.0, 90.0)
            await host.report(first=True)
            up = {ports["port-up"]: True, ports["port-down"]: False}
            endpoints = EndpointReporter(
                client, "h-1", settings.region, 0.0, lambda: up, lambda: [ports["port-bad"]],
                dict, lambda: True,
            )  # fmt: skip
            running = asyncio.create_task(endpoints.run())
            await endpoints.apply()
            await asyncio.to_thread(wait_until, lambda: len(events) == 4)
            up.clear()
            await endpoints.apply()
            await asyncio.to_thread(wait_until, lambda: len(events) == 6)
            running.cancel()
        finally:
            await client.close()

    asyncio.run(report())
    alive = events[0]
    assert isinstance(alive, HostAlive)
    assert (alive.host, alive.first) == ("h-1", True)
    assert set(events[1:4]) == {
        PortStatus("h-1", "port-up", "up"),
        PortStatus("h-1", "port-down", "down"),
        PortStatus("h-1", "port-bad", "error"),
    }
    assert set(events[4:6]) == {
        PortStatus("h-1", "port-up", None), PortStatus("h-1", "port-down", None),
    }  # fmt: skip


def test_what_is_there_at_the_start_is_listed(
    watching: Watching, gateway: Gateway, settings: Settings
) -> None:
    put(gateway, port_key(settings, "h1", "p1"), b'{"status":"up"}')
    events = watching()
    wait_until(lambda: bool(events))
    assert events == [PortStatus("h1", "p1", "up", listed=True)]
    put(gateway, port_key(settings, "h1", "p1"), b'{"status":"up"}')
    wait_until(lambda: len(events) == 2)  # said again by the agent: news, though it is the same
    assert events[1] == PortStatus("h1", "p1", "up")


def test_an_agent_that_dies_is_gone_with_its_lease(
    watching: Watching, gateway: Gateway, settings: Settings
) -> None:
    lease = gateway.grant(600)
    key = f"/calico/felix/v2/{settings.region}/host/h%2f1/status"
    value = b'{"time":"2026-08-22T10:00:00Z","uptime":31.4,"first_update":false}'
    put(gateway, key, value, lease)
    events = watching()
    wait_until(lambda: bool(events))
    assert events == [HostAlive("h/1", "2026-08-22T10:00:00Z", 31.4, False)]
    gateway.revoke(lease)
    wait_until(lambda: len(events) == 2)
    assert events[1] == HostGone("h/1")


@pytest.mark.parametrize("value", [b"{", b"7", b'{"status":7}', b'{"status":"odd"}', b"\xff", b""])
def test_a_port_status_that_nobody_can_read_is_an_error(
    watching: Watching, gateway: Gateway, settings: Settings, value: bytes
) -> None:
    put(gateway, port_key(settings, "h1", "p1"), value)
    events = watching()
    wait_until(lambda: bool(events))
    assert events == [PortStatus("h1", "p1", "error", listed=True)]


def test_what_is_no_business_of_neutrons(
    watching: Watching, gateway: Gateway, settings: Settings
) -> None:
    prefix = f"/calico/felix/v2/{settings.region}/host"
    put(gateway, port_key(settings, "h1", "p1", "k8s"), b'{"status":"up"}')
    put(gateway, f"{prefix}/h1/last_reported_status", b"{}")
    put(gateway, f"{prefix}/h1/status", b"not JSON")
    put(gateway, f"{prefix}/h1/status/deeper", b"{}")
    put(gateway, port_key(Settings(openstack_region="other"), "h1", "p1"), b'{"status":"up"}')
    events = watching()
    put(gateway, port_key(settings, "h1", "last"), b'{"status":"down"}')
    wait_until(lambda: bool(events))
    assert [event for event in events if isinstance(event, PortStatus)] == [
        PortStatus("h1", "last", "down", listed=events[0][-1])  # type: ignore[arg-type]
    ]


def test_a_handler_that_fails_costs_one_event(
    watching: Watching, gateway: Gateway, settings: Settings
) -> None:
    def fail(event: StatusEvent) -> None:
        raise RuntimeError("no database")

    events = watching(fail)
    for number in range(3):
        put(gateway, port_key(settings, "h1", f"p{number}"), b'{"status":"up"}')
    wait_until(lambda: len(events) == 3)


def test_etcd_away_and_back(tmp_path: Path) -> None:
    """What went while nobody could be told is told, even if it is another etcd that came back."""
    server = EtcdServer(tmp_path / "etcd").start()
    settings = Settings(etcd_port=server.client_port, etcd_timeout=5)
    gateway = Gateway.of(settings)
    events: list[StatusEvent] = []
    watcher = StatusWatcher(gateway, settings, events.append)

    def heard() -> set[tuple[str, str | None]]:
        return {(e.port_id, e.status) for e in events if isinstance(e, PortStatus)}

    try:
        for name in ("stays", "goes"):
            put(gateway, port_key(settings, "h1", name), b'{"status":"up"}')
        watcher.start()
        wait_until(lambda: len(events) == 2)
        server.kill()
        server.forget("another life")
        server.start()
        put(gateway, port_key(settings, "h1", "stays"), b'{"status":"up"}')
        put(gateway, port_key(settings, "h1", "new"), b'{"status":"down"}')
        wait_until(lambda: heard() >= {("goes", None), ("new", "down")})
    finally:
        watcher.stop()
        server.kill()


def test_compaction_is_a_new_listing(
    watching: Watching, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History goes between the listing and the watch: nothing is missed."""
    real = gateway.watch
    done = threading.Event()

    def watch(prefix: str, from_revision: int) -> object:
        if not done.is_set():
            done.set()
            put(gateway, port_key(settings, "h1", "p1"), b'{"status":"up"}')
            put(gateway, port_key(settings, "h1", "p2"), b'{"status":"up"}')
            gateway.transact(Txn(success=[Delete(port_key(settings, "h1", "p1"))]))
            gateway.compact(gateway.revision())
        return real(prefix, from_revision)

    monkeypatch.setattr(gateway, "watch", watch)
    events = watching()
    wait_until(lambda: bool(events))
    assert events == [PortStatus("h1", "p2", "up", listed=True)]
