"""Neutron's mechanism driver: ports are bound to hosts that route, and written to etcd.

Each call says only which object changed. What is written is read from the database afterwards,
so two servers that handle two changes of one port in any order both write the newest state.

A port that cannot be written when it is created is not created: Neutron takes it back and
answers with the error. Whatever else cannot be written is repaired (`repair`), and by the resync
of whoever becomes master next.

Nothing is opened until the first request, so nothing is shared across Neutron's forks.
"""

from collections.abc import Collection, Iterable
from typing import Any

from neutron.db.models import port_forwarding  # noqa: F401 - see `initialize`
from neutron.plugins.ml2.drivers import mech_agent
from neutron_lib import exceptions
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg
from oslo_log import log
from sqlalchemy import orm

from tortie.lib.errors import TortieError
from tortie.openstack import options
from tortie.openstack.agents import AgentReports
from tortie.openstack.database import Database
from tortie.openstack.events import Events
from tortie.openstack.gateway import Gateway
from tortie.openstack.names import AGENT_TYPE, HOST_SIDE_MAC, fqdn
from tortie.openstack.projects import Projects
from tortie.openstack.qos_driver import QosDriver
from tortie.openstack.repair import Place, Repair, Task
from tortie.openstack.store import Store
from tortie.openstack.worker import CalicoWorker
from tortie.openstack.writer import Settled, Writer

LOG = log.getLogger(__name__)

NETWORK_TYPES = ("local", "flat")
"""What has no overlay and no VLAN: for the rest there is nothing on the hosts."""


class NotWritten(exceptions.ServiceUnavailable):
    """What the API answers (503): etcd is away, or refuses us."""

    message = "%(what)s %(id)s is not written to etcd: %(reason)s"


class MechanismDriver(mech_agent.SimpleAgentMechanismDriverBase):
    """Entry points `calico` and `tortie`."""

    def __init__(self) -> None:
        super().__init__(
            AGENT_TYPE,
            portbindings.VIF_TYPE_TAP,
            {portbindings.CAP_PORT_FILTER: True, "mac_address": HOST_SIDE_MAC},
        )

    @property
    def connectivity(self) -> str:
        return str(portbindings.CONNECTIVITY_L3)

    def initialize(self) -> None:
        # Neutron asks for `Port.port_forwardings`, which is there only once the tables' classes
        # know each other: without a query before, the first requests fail.
        orm.configure_mappers()
        self.settings = options.settings_of(cfg.CONF)
        self.projects = Projects(cfg.CONF, self.settings.project_name_cache_max)
        self.database = Database(self.projects, fqdn)
        self.gateway = Gateway.of(self.settings)
        self.writer = Writer(Store(self.gateway), self.database, self.settings)
        self.reports = AgentReports(self.database, self.gateway, self.settings)
        self._repair = Repair(
            self._repaired, lambda text, error: LOG.warning("%s: %s", text, error)
        )
        Events(self.database, self).subscribe()
        self._qos = QosDriver(self._qos_changed)

    def get_workers(self) -> list[Any]:
        """What one process of all does: reports, and the master's work."""
        return [CalicoWorker(self)]

    def supported_extensions(self, extensions: set[str]) -> set[str]:
        """DHCP agents are driven from etcd: where no other driver is, Neutron schedules none."""
        if len(cfg.CONF.ml2.mechanism_drivers) == 1:
            return extensions - {"dhcp_agent_scheduler"}
        return extensions

    # Binding.

    def get_allowed_network_types(self, agent: Any = None) -> tuple[str, ...]:
        return NETWORK_TYPES

    def get_mappings(self, agent: Any) -> dict[str, str]:
        return {}

    def check_segment_for_agent(self, segment: Any, agent: Any) -> bool:
        """Each host reaches each network: it is plain IP."""
        if agent["agent_type"] == self.agent_type and segment[api.NETWORK_TYPE] in NETWORK_TYPES:
            return True
        LOG.warning(
            "network type %s is not for this driver; use %s",
            segment[api.NETWORK_TYPE],
            " or ".join(NETWORK_TYPES),
        )
        return False

    # Ports. Each raises, if it fails: when a port is created, Neutron takes it back.

    def create_port_postcommit(self, context: Any) -> None:
        if _is_bound(context.current):
            self._write_now(Task("port", context.current["id"]), _places(context.current))

    def update_port_postcommit(self, context: Any) -> None:
        current, original = context.current, context.original
        if _only_status(current, original):
            return
        if _is_bound(current) or _is_bound(original):
            places = _places(original) | _places(current)
            self._write_now(Task("port", current["id"]), places)

    def delete_port_postcommit(self, context: Any) -> None:
        if context.current.get(portbindings.HOST_ID):
            self._write_now(Task("port", context.current["id"]), _places(context.current))

    # Networks and subnets.

    def update_network_postcommit(self, context: Any) -> None:
        current, original = context.current, context.original
        network_id = current["id"]
        if any(_differs(current, original, field) for field in ("name", "qos_policy_id")):
            self.ports_changed(self.database.ports_of_network(network_id))
        if _differs(current, original, "mtu"):
            for subnet_id in current.get("subnets", ()):
                self._write_or_repair(Task("subnet", subnet_id))

    def create_subnet_postcommit(self, context: Any) -> None:
        self._write_now(Task("subnet", context.current["id"]))

    def update_subnet_postcommit(self, context: Any) -> None:
        subnet_id = context.current["id"]
        self._write_now(Task("subnet", subnet_id), ())
        if _differs(context.current, context.original, "gateway_ip"):
            self.ports_changed(self.database.ports_of_subnet(subnet_id))

    def delete_subnet_postcommit(self, context: Any) -> None:
        self._write_now(Task("subnet", context.current["id"]))

    # What events ask for.

    def groups_changed(self, ids: Iterable[str]) -> None:
        for group_id in ids:
            self._write_or_repair(Task("security_group", group_id))
            try:
                self.reports.reconsider(group_id)
            except Exception as error:  # noqa: BLE001 - the next report of an agent says it too
                LOG.warning("ports of security group %s keep their status: %s", group_id, error)

    def ports_changed(self, ids: Iterable[str]) -> None:
        for port_id in ids:
            self._write_or_repair(Task("port", port_id))

    def _qos_changed(self, policy_id: str) -> None:
        self.ports_changed(self.database.ports_of_qos_policy(policy_id))

    # Writing.

    def _write(self, task: Task, places: Collection[Place], confirm: bool) -> Settled:
        if task.kind == "port":
            return self.writer.port(task.id, places, confirm=confirm)
        if task.kind == "security_group":
            return self.writer.security_group(task.id)
        return self.writer.subnet(task.id)

    def _repaired(self, task: Task, places: frozenset[Place]) -> None:
        self._write(task, places, confirm=True)

    def _write_now(self, task: Task, places: Collection[Place] = ()) -> None:
        """
        Raises:
            NotWritten: and it will be tried again.
        """
        try:
            done = self._write(task, places, confirm=False)
        except TortieError as error:
            self._repair.add(task, places)
            raise NotWritten(what=task.kind.replace("_", " "), id=task.id, reason=error) from error
        except Exception:
            self._repair.add(task, places)
            raise
        for problem in done.problems:
            LOG.error("left out, and so closed: %s", problem)
        if done.unconfirmed:
            self._repair.add(task, places)

    def _write_or_repair(self, task: Task) -> None:
        try:
            self._write_now(task)
        except Exception as error:  # noqa: BLE001 - of a callback's errors nobody would hear
            LOG.warning("%s %s is not written to etcd yet: %s", task.kind, task.id, error)


def _is_bound(port: Any) -> bool:
    return port.get(portbindings.VIF_TYPE) not in (
        None,
        portbindings.VIF_TYPE_UNBOUND,
        portbindings.VIF_TYPE_BINDING_FAILED,
    )


def _places(port: Any) -> set[Place]:
    """Where endpoints of a port in this state may be: its host, and where it is moving to."""
    profile = port.get(portbindings.PROFILE) or {}
    hosts = (port.get(portbindings.HOST_ID), profile.get("migrating_to"))
    device = port.get("device_id") or ""
    return {(host, device) for host in hosts if isinstance(host, str) and host}


_NOT_OURS = frozenset({"status", "updated_at", "revision_number"})


def _only_status(current: Any, original: Any) -> bool:
    """Our own reports come back as updates; they change nothing that we write."""
    return not any(
        _differs(current, original, field)
        for field in (current.keys() | original.keys()) - _NOT_OURS
    )


def _differs(current: Any, original: Any, field: str) -> bool:
    return bool(current.get(field) != original.get(field))
