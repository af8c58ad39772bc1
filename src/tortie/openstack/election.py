"""One master of a region's servers, by a key with a lease; whoever has it says so in each write.

Whoever creates the key is the master until the lease ends: by `stop`, or by itself after a
crash. `guard` gives the compare that makes a write depend on it, so a master that has been out
of touch and does not know it yet writes nothing: etcd judges, not our clock. `is_master` is for
deciding whether to begin; it goes by our clock and may be wrong for a moment, which is harmless.

The value is `host:pid`, and it is written anew with each renewal, as networking-calico's servers
expect of each other; they and ours elect one master between them. The key without a region is
written along: servers from before there were regions look there.

Source: Calico, networking-calico, drivers/calico/election.py.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tortie.datastore.client import (
    Compare,
    Delete,
    Operation,
    Put,
    Txn,
    absent,
    unchanged,
    value_is,
)
from tortie.lib.backoff import Backoff
from tortie.lib.errors import TortieError
from tortie.openstack.gateway import Gateway
from tortie.openstack.settings import Settings
from tortie.openstack.store import NotMaster
from tortie.openstack.watch_thread import WatchThread

log = logging.getLogger(__name__)

OLD_KEY = "/calico/openstack/v1/neutron_election"

TTL_SECONDS = 60
RENEWAL_SECONDS = 10.0

_MASTER = re.compile(r"(?P<host>[^:]+):(?P<pid>[0-9]{1,10})")


def election_key(region: str) -> str:
    return f"/calico/openstack/v2/{region}/neutron_election"


class Election:
    """A candidate: one thread of the process that calls `start`, after its forks.

    Args:
        on_change: called in that thread with True and False, as it becomes and ceases to be
            the master; it must not wait.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        *,
        on_change: Callable[[bool], None] = lambda master: None,
        ttl_seconds: int = TTL_SECONDS,
        renewal_seconds: float = RENEWAL_SECONDS,
    ) -> None:
        self._gateway = gateway
        self._host = settings.server_id.replace(":", "_")
        self._key = election_key(settings.region)
        self._on_change = on_change
        self._ttl_seconds = ttl_seconds
        self._renewal_seconds = renewal_seconds
        self._lease = 0
        self._until = 0.0
        """On our clock: the lease lasts at least until then."""
        self._thread = WatchThread(gateway, "election", self._run)

    @property
    def is_master(self) -> bool:
        """Of this process; a child that was forked off later is none."""
        return self._thread.is_of_this_process and time.monotonic() < self._until

    def guard(self) -> Sequence[Compare]:
        """What must hold for a write of the master; for `Store`.

        Raises:
            NotMaster: it is somebody else.
        """
        lease = self._lease
        if not self.is_master or not lease:
            raise NotMaster("another server of this region is the master")
        return (Compare(self._key, "lease", "==", lease),)

    def start(self) -> None:
        """Begin, or begin again in a child after a fork."""
        self._lease, self._until = 0, 0.0
        self._thread.start()

    def stop(self) -> None:
        """Step down, so that another becomes the master at once; waits for the thread."""
        self._thread.stop()

    # --- in the thread ---

    def _run(self) -> None:
        backoff = Backoff(1.0, self._renewal_seconds)
        while not self._thread.stopping.is_set():
            try:
                if self._campaign():
                    backoff.reset()
                    self._lead()
                else:
                    self._follow()
                    backoff.reset()
            except TortieError as error:
                log.warning("election: %s", error)
                self._thread.stopping.wait(backoff.next_seconds())
        self._step_down()

    def _campaign(self) -> bool:
        """Take the key if nobody has it."""
        asked = time.monotonic()
        lease = self._gateway.grant(self._ttl_seconds)
        try:
            won = self._gateway.transact(Txn([absent(self._key)], self._claim(lease))).succeeded
        except TortieError:
            self._lease = lease  # it may be ours: the next step down gives it back
            self._step_down()
            raise
        if not won:
            self._gateway.revoke(lease)
            return False
        self._lease, self._until = lease, asked + self._ttl_seconds
        log.info("this server is the master of its region")
        self._on_change(True)
        return True

    def _lead(self) -> None:
        """Renew until it is over."""
        try:
            while not self._thread.stopping.wait(self._renewal_seconds) and self.is_master:
                try:
                    if not self._renewed():
                        return
                except TortieError as error:
                    # Master still, as long as the lease lasts; there is time for other tries.
                    log.warning("election: renewal: %s", error)
        finally:
            self._until = 0.0
            self._on_change(False)
            log.info("this server is the master no longer")
            self._step_down()

    def _renewed(self) -> bool:
        asked = time.monotonic()
        ttl_seconds = self._gateway.keep_alive(self._lease)
        still = Txn([Compare(self._key, "lease", "==", self._lease)], self._claim(self._lease))
        if not ttl_seconds or not self._gateway.transact(still).succeeded:
            return False
        self._until = asked + ttl_seconds
        return True

    def _follow(self) -> None:
        """Wait until nobody has the key."""
        entry = self._gateway.get(self._key)
        if entry is None:
            return
        if self._is_dead(entry.value.decode(errors="replace")):
            log.warning("election: the master %r of this host has ended", entry.value)
            same = [unchanged(self._key, entry.mod_revision), value_is(self._key, entry.value)]
            self._gateway.transact(Txn(same, [Delete(self._key)]))
            return
        with self._thread.watching(self._key, entry.mod_revision + 1) as watch:
            for batch in watch:
                if any(e.key == self._key and e.value is None for e in batch.events):
                    return

    def _is_dead(self, master: str) -> bool:
        """A process of this host that is no more; only a host can tell of its own."""
        known = _MASTER.fullmatch(master)
        return (
            known is not None
            and known["host"] == self._host
            and not Path("/proc", known["pid"]).exists()
        )

    def _claim(self, lease: int) -> Sequence[Operation]:
        value = f"{self._host}:{os.getpid()}".encode()
        return (Put(self._key, value, lease), Put(OLD_KEY, value, lease))

    def _step_down(self) -> None:
        lease, self._lease, self._until = self._lease, 0, 0.0
        if lease:
            with suppress(TortieError):  # it ends by itself
                self._gateway.revoke(lease)
