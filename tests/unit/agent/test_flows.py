"""Flows: what is added up with what, for how long, and how much of it at most."""

from typing import Any
from unittest.mock import Mock

import pytest

from tortie.agent import flows, observing
from tortie.agent.config import Local, resolve
from tortie.agent.flows import Counts, FlowKey, FlowTable, connection_of
from tortie.dataplane.manager.seen import Decider, Seen
from tortie.desired.endpoint import EndpointId
from tortie.desired.policy import Direction, PolicyId
from tortie.kernel.headers import Headers
from tortie.lib.ip import Network, parse_address

WEB = EndpointId("default", "h1-tortie-web--2-eth0")
WEB_ADDRESS, CLIENT = parse_address("10.65.0.1"), parse_address("192.0.2.7")
RULE = Decider("default", PolicyId("NetworkPolicy", "web", "default"), 1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> FlowTable:
    def name_of(address: Network) -> EndpointId | None:
        return WEB if address == WEB_ADDRESS else None

    return FlowTable(60.0, name_of, clock)


def seen(
    *,
    source: Network = CLIENT,
    port: int = 80,
    source_port: int = 40000,
    action: str = "Deny",
    direction: Direction = "ingress",
    decider: Decider = RULE,
) -> Seen:
    found = Headers(source, WEB_ADDRESS, 6, 60, source_port, port)
    return Seen(action, direction, WEB, "cali1", found, decider)  # type: ignore[arg-type]


def kept(table: FlowTable, since: float = 0.0) -> list[tuple[FlowKey, int, int]]:
    return [(key, flow.packets, flow.bytes) for key, flow in table.flows(since)]


def test_packets_of_one_flow_are_added_up(table: FlowTable, clock: Clock) -> None:
    table.see(seen(source_port=1))
    clock.now += 5
    table.see(seen(source_port=2))
    ((key, flow),) = table.flows()
    assert (key.source, key.destination) == ("192.0.2.7", "default/web-2")
    assert (key.protocol, key.port, key.family, key.action) == (6, 80, 4, "Deny")
    assert (flow.packets, flow.bytes, flow.start, flow.end) == (2, 120, 1000.0, 1005.0)


@pytest.mark.parametrize(
    "other",
    [
        {"port": 81},
        {"action": "Allow"},
        {"direction": "egress"},
        {"source": parse_address("192.0.2.8")},
        {"decider": Decider("default", reason="end of tier")},
    ],
    ids=str,
)
def test_what_makes_another_flow(table: FlowTable, other: dict[str, object]) -> None:
    table.see(seen())
    table.see(seen(**other))  # type: ignore[arg-type]
    assert [packets for _, packets, _ in kept(table)] == [1, 1]


def test_windows_close_and_are_forgotten(table: FlowTable, clock: Clock) -> None:
    table.see(seen())
    clock.now += 61
    table.see(seen())
    assert len(kept(table)) == 2
    assert len(kept(table, since=1030.0)) == 1
    clock.now += flows.HISTORY_SECONDS
    assert len(kept(table)) == 1
    clock.now += 100
    assert kept(table) == []
    assert len(table) == 0


def test_a_clock_that_is_set_back_begins_a_window(table: FlowTable, clock: Clock) -> None:
    table.see(seen())
    clock.now -= 500
    table.see(seen())
    assert len(kept(table)) == 2


def test_a_scan_takes_no_more_memory_and_hides_nobody(
    table: FlowTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "FLOWS_MAX", 100)
    for port in range(1, 1001):
        table.see(seen(port=port))
    assert len(table) == 91
    assert sum(packets for _, packets, _ in kept(table)) == 1000
    many = kept(table)[-1]
    assert (many[0].source, many[0].destination, many[0].port) == ("*", "default/web-2", 0)
    assert many[1] == 910
    # Somebody else is still seen, for what is known of it: a rule of its own.
    table.see(seen(decider=Decider("other")))
    assert kept(table)[-1][0].decider.tier == "other"


def test_old_windows_make_room(
    table: FlowTable, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "FLOWS_MAX", 10)
    for port in range(1, 11):
        table.see(seen(port=port))
    clock.now += 61
    table.see(seen(port=500))
    assert [key.port for key, _, _ in kept(table)] == [500]


def test_no_room_at_all_is_counted(table: FlowTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "FLOWS_MAX", 10)
    for number in range(20):
        table.see(seen(decider=Decider(f"tier{number}")))
    assert len(table) == 10
    assert table.uncounted == 10


def test_a_connection_is_counted_once_at_each_end(table: FlowTable) -> None:
    """Both halves log the first packet; the connection table knows the rest."""
    out = seen(action="Allow", direction="egress")
    table.see(out)
    table.see(seen(action="Allow"))
    connection = connection_of(out)
    table.account(connection, Counts(5, 500, 4, 400), ended=False)
    changes = table.account(connection, Counts(7, 700, 6, 600), ended=True)
    assert [one.packets for _, one in changes] == [2, 2]
    for _, flow in table.flows():
        assert (flow.packets, flow.bytes) == (7, 700)
        assert (flow.answered_packets, flow.answered_bytes) == (6, 600)
    assert table.account(connection, Counts(9, 900, 9, 900), ended=True) == []


def test_what_was_never_seen_is_not_accounted(table: FlowTable) -> None:
    assert table.account(connection_of(seen()), Counts(5, 5, 5, 5), ended=True) == []
    table.see(seen())  # denied: there is no connection
    assert table.account(connection_of(seen()), Counts(5, 5, 5, 5), ended=True) == []


def test_without_accounting_nothing_is_taken_away(table: FlowTable) -> None:
    table.see(seen(action="Allow"))
    table.account(connection_of(seen()), Counts(), ended=True)
    assert kept(table)[0][1:] == (1, 60)


def test_awaited_connections_are_bounded(table: FlowTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "LIVE_MAX", 3)
    for port in range(5):
        table.see(seen(action="Allow", source_port=port))
    ended = [
        bool(table.account(connection_of(seen(source_port=port)), Counts(9, 9), ended=True))
        for port in range(5)
    ]
    assert ended == [False, False, True, True, True]


def test_the_window_is_as_long_as_flow_logs_flush_interval_says(
    table: FlowTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[float] = []

    def made(window_seconds: float, _: object) -> FlowTable:
        windows.append(window_seconds)
        return table

    monkeypatch.setattr(observing, "FlowTable", made)
    nothing: Any = Mock()
    logging_ = observing.Logging(nothing, None)
    for text in ("45s", "0s"):
        config = resolve(Local({}, {}, ""), [("default", {"flowLogsFlushInterval": text})])
        assert observing.build_flow_log(config, nothing, logging_, nothing, nothing)
    assert windows == [45.0, 1.0]
