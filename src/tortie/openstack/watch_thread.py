"""A thread that waits for etcd's watches: it begins anew after a fork, and ends in the middle."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tortie.openstack.gateway import Gateway
from tortie.openstack.gateway_watch import Watch


class WatchThread:
    """
    Args:
        run: what the thread does, until `stopping` is set.
    """

    def __init__(self, gateway: Gateway, name: str, run: Callable[[], None]) -> None:
        self.stopping = threading.Event()
        self._gateway = gateway
        self._name = name
        self._run = run
        self._watch: Watch | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    @property
    def is_of_this_process(self) -> bool:
        """A child that is forked off has none, until it starts its own."""
        return self._pid == os.getpid()

    def start(self) -> None:
        """Begin, or begin again in a child after a fork."""
        self._pid = os.getpid()
        self.stopping = threading.Event()  # a new one: another process's may be locked for ever
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for it."""
        self.stopping.set()
        watch = self._watch
        if watch is not None:
            watch.close()
        if self._thread is not None and self.is_of_this_process:
            self._thread.join()
        self._thread = None

    @contextmanager
    def watching(self, key: str, revision: int) -> Iterator[Watch | tuple[()]]:
        """In the thread: a watch that `stop` ends; nothing to read where that has been before.

        Raises:
            Unavailable, Denied: as `Gateway.watch`.
        """
        watch = self._watch = self._gateway.watch(key, revision)
        try:
            yield () if self.stopping.is_set() else watch
        finally:
            self._watch = None
            watch.close()
