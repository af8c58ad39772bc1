"""Notices that a stored setting of this agent changed.

The agent then starts itself anew and adopts what is in the kernel, which
drops no packet; so nothing else here has to cope with settings that change.
"""

from tortie.agent.effective import Effective, StoredSettings
from tortie.agent.node_status import NodeStatusReporter
from tortie.bgp.manager import BGPManager
from tortie.model.keys import ResourceKey


class Restart(Exception):
    """The agent is to start anew, with the settings that are stored now; says why."""


class SettingsWatch:
    """
    Args:
        stored: empty; filled by what arrives.
        running: what the agent runs with.
        bgp: told of every resource; BGP's own are state to it and need no restart.
        node_status: told of every resource, too.
    """

    def __init__(
        self,
        stored: StoredSettings,
        running: Effective,
        bgp: BGPManager | None,
        node_status: NodeStatusReporter | None = None,
    ) -> None:
        self._stored = stored
        self._running = running
        self._bgp = bgp
        self._node_status = node_status
        self._changed = False

    def on_resource(self, key: ResourceKey, value: object | None) -> None:
        if self._stored.on_resource(key, value):
            self._changed = True
        if self._bgp is not None:
            self._bgp.on_resource(key, value)
        if self._node_status is not None:
            self._node_status.on_resource(key, value)

    def verify(self) -> None:
        """
        Raises:
            Restart: what is stored now gives other settings than we run with.
        """
        if self._changed:
            self._changed = False
            if self._stored.effective() != self._running:
                raise Restart("settings changed")
