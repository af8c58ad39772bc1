"""What this agent is to run with, from the machine and from what is stored."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from tortie.agent.config import Config, Local, resolve
from tortie.agent.routing import Routing, choose_routing
from tortie.datastore.connect import DatastoreType
from tortie.model.bgp_configuration import BGPConfiguration
from tortie.model.felix_configuration import FelixConfiguration
from tortie.model.keys import ResourceKey
from tortie.model.node import Node


class Effective(NamedTuple):
    """Equal ones need no restart."""

    config: Config
    routing: Routing


class StoredSettings:
    """Collects the resources that are settings, and says what follows from them."""

    def __init__(self, local: Local, datastore: DatastoreType | None) -> None:
        self._local = local
        self._datastore = datastore
        self._felix: dict[str, Mapping[str, Any]] = {}
        self._routes_by_bgp = ""
        self._labels: dict[str, Mapping[str, str]] = {}
        self.host = resolve(local).host

    def on_resource(self, key: ResourceKey, value: object | None) -> bool:
        """Take note; returns whether it is a setting at all."""
        match key.kind, value:
            case "FelixConfiguration", FelixConfiguration():
                self._felix[key.name] = msgspec.to_builtins(value.spec)
            case "FelixConfiguration", _:
                self._felix.pop(key.name, None)
            case "BGPConfiguration", _ if key.name == "default":
                spec = value.spec if isinstance(value, BGPConfiguration) else None
                self._routes_by_bgp = (spec and spec.program_cluster_routes) or ""
            case "Node", _ if key.name == self.host:
                labels = value.metadata.labels if isinstance(value, Node) else {}
                if self._labels == {key.name: labels}:
                    return False
                self._labels = {key.name: labels}
            case _:
                return False
        return True

    def effective(self) -> Effective:
        config = resolve(self._local, self._felix.items(), self._labels.get(self.host))
        routing = choose_routing(
            config["ProgramClusterRoutes"], self._routes_by_bgp, self._datastore
        )
        return Effective(config, routing)
