"""Agents' reports on their way to Neutron's database, which may be slow or away for a while.

A few threads write, the newest of each port and host; what fails is written again. Bounded by
what there is: a port that flaps a thousand times while the database is slow is one write.
"""

import threading
from collections.abc import Callable, Hashable
from typing import Protocol

from tortie.openstack.status import HostAlive, PortStatus, StatusEvent

RETRY_SECONDS = 5.0


class NeutronStatus(Protocol):
    """What reports are written to. Both may raise whatever a database raises."""

    def agent_alive(self, host: str, started: bool) -> None: ...

    def port_status(self, port_id: str, host: str, status: str | None) -> None: ...


class StatusWriter:
    """`put` from any thread; the threads end with `stop`.

    Args:
        threads: at least one runs.
        log: of what went wrong.
    """

    def __init__(
        self, neutron: NeutronStatus, threads: int, log: Callable[[str, Exception], None]
    ) -> None:
        self._neutron = neutron
        self._log = log
        self._pending: dict[Hashable, StatusEvent] = {}
        self._busy: set[Hashable] = set()
        self._news = threading.Condition()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"calico-status-{number}", daemon=True)
            for number in range(max(threads, 1))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        with self._news:
            self._stopped = True
            self._news.notify_all()

    def put(self, event: StatusEvent) -> None:
        key = _key(event)
        if key is None:
            return
        with self._news:
            self._pending.pop(key, None)  # the newest goes to the end
            self._pending[key] = event
            self._news.notify()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            key, event = taken
            try:
                self._write(event)
            except Exception as error:  # noqa: BLE001 - whatever the database or an extension raises
                self._log(f"not written yet: {event}", error)
                failed = True
            else:
                failed = False
            with self._news:
                self._busy.discard(key)
                if failed:
                    self._pending.setdefault(key, event)
                    self._news.wait(RETRY_SECONDS)
                else:
                    self._news.notify()

    def _take(self) -> tuple[Hashable, StatusEvent] | None:
        """The oldest that no other thread writes, so that the newest is written last."""
        with self._news:
            while not self._stopped:
                for key in self._pending:
                    if key not in self._busy:
                        self._busy.add(key)
                        return key, self._pending.pop(key)
                self._news.wait()
        return None

    def _write(self, event: StatusEvent) -> None:
        if isinstance(event, HostAlive):
            self._neutron.agent_alive(event.host, event.first)
        elif isinstance(event, PortStatus):
            self._neutron.port_status(event.port_id, event.host, event.status)


def _key(event: StatusEvent) -> Hashable:
    """What is written one after the other; None for what Neutron finds out by itself."""
    if isinstance(event, HostAlive):
        return event.host
    if isinstance(event, PortStatus):
        return event.port_id, event.host
    return None
