"""Names and parents of projects, which Neutron does not know: Keystone does.

Asked with the credentials of neutron.conf's `[keystone_authtoken]`, and remembered. Where that
section names no way to log in, or Keystone does not answer, projects have ids and no names.
"""

import threading
import time
from typing import Any

from oslo_log import log

from tortie.openstack.database import Project

LOG = log.getLogger(__name__)

SECTION = "keystone_authtoken"
RETRY_SECONDS = 60.0
"""Keystone is not asked again sooner after it failed: a port must not wait for it each time."""
TIMEOUT_SECONDS = 5.0


class Projects:
    """
    Args:
        configuration: oslo.config's, whose section says how to log in.
        longest: projects to remember; one more, and all are forgotten and asked anew.
    """

    def __init__(self, configuration: Any, longest: int) -> None:
        self._configuration = configuration
        self._longest = max(longest, 1)
        self._known: dict[str, Project] = {}
        self._failed_at = float("-inf")
        self._local = threading.local()

    def __call__(self, project_id: str) -> Project | None:
        known = self._known.get(project_id)
        if known is None and time.monotonic() - self._failed_at > RETRY_SECONDS:
            self._ask(project_id)
            known = self._known.get(project_id)
        return known

    def forget(self) -> None:
        """Names may have changed; a resync asks for them all."""
        self._known = {}

    def _ask(self, project_id: str) -> None:
        try:
            session = self._session()
            if session is None:
                self._failed_at = float("inf")  # for as long as this process lives
                return
            where = {"service_type": "identity", "interface": "public", "version": (3, 0)}
            answer = session.get(f"/projects/{project_id}", endpoint_filter=where).json()
            project = answer["project"]
            found = Project(str(project["name"]), project.get("parent_id"))
        except Exception as error:  # noqa: BLE001 - any of Keystone's clients' many
            LOG.warning("no name for project %s: Keystone: %s", project_id, error)
            self._failed_at = time.monotonic()
            return
        if len(self._known) >= self._longest:
            self._known = {}
        self._known[project_id] = found

    def _session(self) -> Any:
        """Each thread its own: sessions are no thing to share. None without credentials."""
        session = getattr(self._local, "session", None)
        if session is None:
            from keystoneauth1 import loading
            from keystoneauth1.session import Session

            loading.register_auth_conf_options(self._configuration, SECTION)
            login = loading.load_auth_from_conf_options(self._configuration, SECTION)
            if login is None:
                return None
            authorities = getattr(self._configuration[SECTION], "cafile", None)
            session = Session(auth=login, timeout=TIMEOUT_SECONDS, verify=authorities or True)
            self._local.session = session
        return session
