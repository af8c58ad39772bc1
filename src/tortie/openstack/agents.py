"""Agents' reports written to Neutron's database: the rows of its agents, the status of its ports.

Neutron's own agents report over a message bus; ours report in etcd, so this is where both meet.
A port whose agent says `up` becomes ACTIVE through Neutron's provisioning blocks, like those of
any agent. One with a security group of which a rule had to be left out, because it cannot be
expressed, is in ERROR: it is closed where its owner believes it open.
"""

from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2, provisioning_blocks
from neutron.db.models.securitygroup import SecurityGroupPortBinding
from neutron.plugins.ml2 import db as ml2_db
from neutron.plugins.ml2.models import PortBinding
from neutron_lib import constants
from neutron_lib import context as neutron_context
from neutron_lib.callbacks import resources
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_log import log

from tortie.model.keys import EndpointStatusKey
from tortie.openstack.database import Database, migrating_to
from tortie.openstack.gateway import Gateway
from tortie.openstack.labels import ORCHESTRATOR
from tortie.openstack.names import AGENT_BINARY, AGENT_TYPE
from tortie.openstack.policies import translate_group
from tortie.openstack.settings import Settings
from tortie.openstack.status import status_in

LOG = log.getLogger(__name__)

UP, DOWN = "up", "down"


class _Bound(NamedTuple):
    host: str
    status: str
    migrating_to: str


class AgentReports:
    """The two kinds of reports, each written if it says something new."""

    def __init__(self, database: Database, gateway: Gateway, settings: Settings) -> None:
        self._database = database
        self._gateway = gateway
        self._settings = settings

    def agent_alive(self, host: str, started: bool) -> None:
        state = {
            "agent_type": AGENT_TYPE,
            "binary": AGENT_BINARY,
            "host": host,
            "topic": constants.L2_AGENT_TOPIC,
            "configurations": {},
        }
        if started:
            state["start_flag"] = True
        directory.get_plugin().create_or_update_agent(neutron_context.get_admin_context(), state)

    def port_status(self, port_id: str, host: str, status: str | None) -> None:
        """
        Args:
            status: `up`, `down` or `error`; None: the agent has no such endpoint.
        """
        bound = _bound(port_id)
        if bound is None:
            return
        context = neutron_context.get_admin_context()
        if bound.host != host:
            # What another host says counts only where the port is about to be.
            if bound.migrating_to == host and status == UP:
                _tell_nova(context, port_id)
            return
        if status == UP and bound.status == constants.PORT_STATUS_ACTIVE:
            return
        if status == UP and not self.problems_of(port_id):
            provisioning_blocks.provisioning_complete(
                context, port_id, resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
            )
            return
        wanted = constants.PORT_STATUS_DOWN if status == DOWN else constants.PORT_STATUS_ERROR
        if bound.status != wanted:
            directory.get_plugin().update_port_status(context, port_id, wanted, host)

    def reconsider(self, group_id: str) -> None:
        """After a group changed: its ports to ERROR, or out of it, if that is what they are now."""
        port, member = models_v2.Port, SecurityGroupPortBinding
        context = neutron_context.get_admin_context()
        statement = (
            sa.select(port.id, port.device_id, port.status, PortBinding.host)
            .select_from(port)
            .join(member, member.port_id == port.id)
            .join(
                PortBinding,
                sa.and_(PortBinding.port_id == port.id, PortBinding.status == "ACTIVE"),
            )
            .where(member.security_group_id == group_id)
        )
        with db_api.CONTEXT_READER.using(context):
            rows = context.session.execute(statement).all()
        for row in rows:
            in_error = row.status == constants.PORT_STATUS_ERROR
            if (
                row.status == constants.PORT_STATUS_DOWN
                or bool(self.problems_of(row.id)) == in_error
            ):
                continue
            if in_error:
                self.port_status(row.id, row.host, self._reported(row))
            else:
                directory.get_plugin().update_port_status(
                    context, row.id, constants.PORT_STATUS_ERROR, row.host
                )

    def _reported(self, row: Any) -> str | None:
        """What the agent says of a port now."""
        workload = f"{self._settings.namespace}/{row.device_id}"
        key = EndpointStatusKey(row.host, ORCHESTRATOR, workload, row.id, self._settings.region)
        entry = self._gateway.get(key.path)
        return None if entry is None else status_in(entry.value)

    def problems_of(self, port_id: str) -> tuple[str, ...]:
        """What of the rules of a port's groups cannot be expressed."""
        groups = self._database.groups_of_port(port_id)
        return tuple(
            problem
            for group in self._database.security_groups(groups)
            for problem in translate_group(group, self._settings.namespace).problems
        )


def _bound(port_id: str) -> _Bound | None:
    port, binding = models_v2.Port, PortBinding
    context = neutron_context.get_admin_context()
    statement = (
        sa.select(port.status, binding.host, binding.profile)
        .select_from(port)
        .join(binding, sa.and_(binding.port_id == port.id, binding.status == "ACTIVE"))
        .where(port.id == port_id)
    )
    with db_api.CONTEXT_READER.using(context):
        row = context.session.execute(statement).first()
    return None if row is None else _Bound(row.host, row.status, migrating_to(row.profile))


def _tell_nova(context: Any, port_id: str) -> None:
    """The destination of a live migration is ready: Nova waits for it, and not for the port."""
    notifier = getattr(directory.get_plugin(), "nova_notifier", None)
    if notifier is not None:
        port = ml2_db.get_port(context, port_id)
        if port is not None:
            notifier.notify_port_active_direct(port)
