"""Notices that a stored setting of this agent changed.

The agent then starts itself anew and adopts what is in the kernel, which
drops no packet; so nothing else here has to cope with settings that change.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tortie.agent.config import Config, Local, resolve
from tortie.model.bgp_configuration import BGPConfiguration, BGPConfigurationSpec
from tortie.model.felix_configuration import FelixConfiguration
from tortie.model.keys import ResourceKey
from tortie.model.node import Node


class Restart(Exception):
    """The agent is to start anew, with the settings that are stored now."""


class SettingsWatch:
    """
    Args:
        config: what the agent runs with.
        on_bgp_configuration: told of BGPConfiguration `default`, which needs no restart.
    """

    def __init__(
        self,
        local: Local,
        config: Config,
        on_bgp_configuration: Callable[[BGPConfigurationSpec | None], None],
    ) -> None:
        self._local = local
        self._config = config
        self._on_bgp_configuration = on_bgp_configuration
        self._stored: dict[str, Mapping[str, Any]] = {}
        self._node_labels: Mapping[str, str] = {}
        self._changed = False

    def on_resource(self, key: ResourceKey, value: object | None) -> None:
        if key.kind == "FelixConfiguration":
            self._changed = True
            if isinstance(value, FelixConfiguration):
                self._stored[key.name] = msgspec.to_builtins(value.spec)
            else:
                self._stored.pop(key.name, None)
        elif key.kind == "Node" and key.name == self._config.host:
            labels = value.metadata.labels if isinstance(value, Node) else {}
            self._changed = self._changed or labels != self._node_labels
            self._node_labels = labels
        elif key == ResourceKey("BGPConfiguration", "default"):
            spec = value.spec if isinstance(value, BGPConfiguration) else None
            self._on_bgp_configuration(spec)

    def verify(self) -> None:
        """
        Raises:
            Restart: resolving the settings anew gives others than we run with.
        """
        if self._changed:
            self._changed = False
            now = resolve(self._local, self._stored.items(), self._node_labels)
            if now != self._config:
                raise Restart
