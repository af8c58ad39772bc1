"""The three kinds of things that are kept in step, each under one face for writer and resync."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, Protocol

from tortie.model.keys import PLURALS, RESOURCES, ResourceKey
from tortie.model.metadata import Resource
from tortie.openstack import labels
from tortie.openstack.endpoints import translate_port
from tortie.openstack.inventory import Inventory, Selection
from tortie.openstack.policies import translate_group
from tortie.openstack.settings import Settings
from tortie.openstack.store import Content
from tortie.openstack.subnets import subnet_path, subnets_prefix, translate_subnet


class Item(NamedTuple):
    """What the database says of one thing now."""

    id: str
    contents: Mapping[str, Content]
    """By path; empty: nothing is to be stored."""
    problems: tuple[str, ...] = ()


class Kind(Protocol):
    """A kind of things in Neutron and where they are stored."""

    name: str
    """As counts and messages call them."""
    prefixes: tuple[str, ...]
    """Everything under them is ours to write and to delete."""

    def items(self, ids: Collection[str] | None = None) -> Iterator[Item]:
        """Read from the database: those with the ids that exist; None means all."""
        ...

    def id_of(self, path: str) -> str:
        """Whose path that is; empty for one that no thing of ours can have."""
        ...


def _prefix(kind: str, namespace: str, name: str = "") -> str:
    return f"{RESOURCES}{PLURALS[kind]}/{namespace}/{name}"


class Subnets:
    name = "subnets"

    def __init__(self, inventory: Inventory, settings: Settings) -> None:
        self._inventory = inventory
        self._region = settings.region
        self.prefixes: tuple[str, ...] = (subnets_prefix(settings.region),)

    def items(self, ids: Collection[str] | None = None) -> Iterator[Item]:
        for subnet in self._inventory.subnets(_selection(ids)):
            value = translate_subnet(subnet)
            contents = {} if value is None else {subnet_path(subnet.id, self._region): value}
            yield Item(subnet.id, contents)

    def id_of(self, path: str) -> str:
        return path.removeprefix(self.prefixes[0])

    def paths_of(self, subnet_id: str) -> tuple[str, ...]:
        return (subnet_path(subnet_id, self._region),)


class Groups:
    name = "security groups"

    def __init__(self, inventory: Inventory, settings: Settings) -> None:
        self._inventory = inventory
        self._namespace = settings.namespace
        policies = _prefix("NetworkPolicy", settings.namespace, labels.GROUP_POLICY)
        self.prefixes: tuple[str, ...] = (policies,)

    def items(self, ids: Collection[str] | None = None) -> Iterator[Item]:
        for group in self._inventory.security_groups(ids):
            yield _item(group.id, *translate_group(group, self._namespace))

    def id_of(self, path: str) -> str:
        return path.removeprefix(self.prefixes[0])

    def paths_of(self, group_id: str) -> tuple[str, ...]:
        return (labels.group_policy_key(self._namespace, group_id).path,)


class Ports:
    name = "ports"

    def __init__(self, inventory: Inventory, settings: Settings) -> None:
        self._inventory = inventory
        self._settings = settings
        self._namespace = settings.namespace
        self.prefixes: tuple[str, ...] = (
            _prefix("WorkloadEndpoint", settings.namespace),
            _prefix("LiveMigration", settings.namespace),
        )

    def items(self, ids: Collection[str] | None = None) -> Iterator[Item]:
        for port in self._inventory.ports(_selection(ids)):
            yield _item(port.id, *translate_port(port, self._settings))

    def id_of(self, path: str) -> str:
        return labels.port_of_endpoint(path.rpartition("/")[2])

    def paths_of(self, port_id: str, places: Collection[tuple[str, str]]) -> tuple[str, ...]:
        """Where its endpoints and migrations would be.

        Args:
            places: hosts and devices.
        """
        return tuple(
            ResourceKey(kind, labels.endpoint_name(host, device, port_id), self._namespace).path
            for host, device in places
            if all(map(labels.is_plain, (host, device, port_id)))
            for kind in ("WorkloadEndpoint", "LiveMigration")
        )


def _selection(ids: Collection[str] | None) -> Selection | None:
    return None if ids is None else Selection(ids=frozenset(ids))


def _item(item_id: str, resources: tuple[Resource, ...], problems: tuple[str, ...]) -> Item:
    contents = {
        ResourceKey(each.kind, each.metadata.name, each.metadata.namespace).path: each
        for each in resources
    }
    return Item(item_id, contents, problems)
