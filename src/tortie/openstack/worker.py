"""The process that only one of Neutron's servers needs: what agents report, and the master's work.

Neutron starts it: `neutron-server` itself, or from 2025 on `neutron-periodic-workers`. Of all of
them in a region one is elected; when it ends, another one goes on. Becoming the master begins
with a resync, which repairs whatever went wrong while there was none, or etcd was away.
"""

import logging
import threading
from typing import TYPE_CHECKING

from neutron.common import config
from neutron_lib import worker
from oslo_log import log

from tortie.lib.errors import TortieError
from tortie.openstack.election import Election
from tortie.openstack.housekeeping import compact, prepare_cluster
from tortie.openstack.resync import Resync, Scope
from tortie.openstack.status import StatusWatcher
from tortie.openstack.status_writer import StatusWriter
from tortie.openstack.store import NotMaster, Store

if TYPE_CHECKING:
    from tortie.openstack.driver import MechanismDriver

LOG = log.getLogger(__name__)

COMPACTION_LOOK_SECONDS = 60.0
RETRY_SECONDS = 10.0


class CalicoWorker(worker.BaseWorker):
    def __init__(self, driver: "MechanismDriver") -> None:
        super().__init__(worker_process_count=1)
        self._driver = driver
        self._master: Master | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        super().start(desc="calico")
        self._stopped = threading.Event()  # of this process, and not of the parent's
        self._master = Master(self._driver)
        self._master.start()

    def wait(self) -> None:
        self._stopped.wait()

    def stop(self) -> None:
        if self._master is not None:
            self._master.stop()
        self._stopped.set()

    @staticmethod
    def reset() -> None:
        config.reset_service()


class Master:
    """A candidate, and what it does while it is the master. One thread of its own."""

    def __init__(self, driver: "MechanismDriver") -> None:
        self._driver = driver
        self._settings = driver.settings
        self._news = threading.Event()
        self._stopped = False
        self._election = Election(
            driver.gateway, driver.settings, on_change=lambda master: self._news.set()
        )
        self._thread = threading.Thread(target=self._run, name="calico-master", daemon=True)

    def start(self) -> None:
        self._election.start()
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._news.set()
        self._election.stop()

    def _run(self) -> None:
        while not self._stopped:
            self._news.wait()
            self._news.clear()
            if self._election.is_master:
                self._lead()

    def _lead(self) -> None:
        writer = StatusWriter(
            self._driver.reports,
            self._settings.num_port_status_threads,
            lambda text, error: LOG.warning("%s: %s", text, error),
        )
        watcher = StatusWatcher(self._driver.gateway, self._settings, writer.put)
        writer.start()
        watcher.start()
        try:
            self._work(Store(self._driver.gateway, self._election.guard))
        finally:
            watcher.stop()
            writer.stop()

    def _work(self, store: Store) -> None:
        """Prepare, resynchronise, compact: again and again until we are the master no longer."""
        pending = {"prepare", "resync"} if self._settings.startup_resync != "never" else {"prepare"}
        interval_seconds = float(self._settings.resync_interval_secs)
        since_resync = 0.0
        while self._election.is_master and not self._stopped:
            try:
                if "prepare" in pending:
                    for difference in prepare_cluster(store, self._settings):
                        LOG.warning("%s", difference)
                    pending.discard("prepare")
                if "resync" in pending:
                    self._resync(store)
                    pending.discard("resync")
                    since_resync = 0.0
                compact(store, self._election.guard, self._settings)
            except NotMaster:
                return
            except TortieError as error:
                LOG.warning("the master's work: %s", error)
            except Exception:
                LOG.exception("the master's work failed; it will be tried again")
            pause = RETRY_SECONDS if pending else COMPACTION_LOOK_SECONDS
            if interval_seconds:
                pause = min(pause, interval_seconds)
            self._news.wait(pause)
            self._news.clear()
            since_resync += pause
            if interval_seconds and since_resync >= interval_seconds:
                pending.add("resync")

    def _resync(self, store: Store) -> None:
        self._driver.projects.forget()
        report = Resync(store, self._driver.database, self._settings).run(Scope())
        level = logging.INFO if not report.problem_count else logging.WARNING
        LOG.log(level, "resync: %d changes in %.1f s", report.changes, report.seconds)
        for problem in report.problems:
            LOG.warning("left out, and so closed: %s", problem)
