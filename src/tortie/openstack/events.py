"""What happens in Neutron besides ports, networks and subnets, as groups and ports to write.

Mechanism drivers have no hook for security groups, address groups and floating addresses:
Neutron tells of them in its registry of callbacks. One of those is called after the commit,
and what it raises is lost, so nothing is raised here: what could not be written is repaired.

    security group, its rules      its policy; a new name, the labels of its ports too
    address group                  the policies of the groups whose rules name it
    floating address               its port, and the one that had it before
"""

from collections.abc import Iterable
from typing import Any, Protocol

from neutron_lib import exceptions
from neutron_lib.callbacks import events, registry, resources
from oslo_log import log

from tortie.openstack.database import Database
from tortie.openstack.inventory import SecurityGroup, SecurityGroupRule
from tortie.openstack.policies import translate_group

LOG = log.getLogger(__name__)


class Writes(Protocol):
    """What the events ask for. Neither raises."""

    def groups_changed(self, ids: Iterable[str]) -> None: ...

    def ports_changed(self, ids: Iterable[str]) -> None: ...


class Events:
    """Args:
    database: which finds out whom an event concerns.
    writes: does what is to be done.
    """

    def __init__(self, database: Database, writes: Writes) -> None:
        self._database = database
        self._writes = writes

    def subscribe(self) -> None:
        after = (events.AFTER_CREATE, events.AFTER_UPDATE, events.AFTER_DELETE)
        registry.subscribe(self.on_new_rule, resources.SECURITY_GROUP_RULE, events.PRECOMMIT_CREATE)
        for resource, handler in (
            (resources.SECURITY_GROUP, self.on_group),
            (resources.SECURITY_GROUP_RULE, self.on_rule),
            (resources.ADDRESS_GROUP, self.on_address_group),
            (resources.FLOATING_IP, self.on_floating_ip),
        ):
            for event in after:
                registry.subscribe(handler, resource, event)

    def on_new_rule(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        """Before the commit: refuse what could not be enforced, and say why.

        Raises:
            InvalidInput: Neutron answers 409, with the reason.
        """
        rule = payload.latest_state
        fields = {name: rule.get(name) for name in SecurityGroupRule.__struct_fields__}
        del fields["remote_addresses"]
        alone = SecurityGroup(id=rule["security_group_id"], rules=(SecurityGroupRule(**fields),))
        problems = translate_group(alone, "openstack").problems
        if problems:
            raise exceptions.InvalidInput(error_message=problems[0])

    def on_group(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        group_id = payload.resource_id
        self._writes.groups_changed([group_id])
        if event == events.AFTER_UPDATE and _changed(payload, "name"):
            self._writes.ports_changed(self._database.ports_of_groups([group_id]))

    def on_rule(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        if event == events.AFTER_DELETE:
            group_id = payload.metadata["security_group_id"]
        else:
            group_id = payload.latest_state["security_group_id"]
        self._writes.groups_changed([group_id])

    def on_address_group(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        # Rules go with an address group only where the database cascades; Neutron refuses to
        # delete one that is in use, so there is nobody to tell then.
        if event == events.AFTER_UPDATE:
            self._writes.groups_changed(self._database.groups_of_address_group(payload.resource_id))

    def on_floating_ip(self, resource: str, event: str, trigger: Any, payload: Any) -> None:
        concerned = {state.get("port_id") for state in payload.states} - {None}
        if concerned:
            self._writes.ports_changed(sorted(concerned))


def _changed(payload: Any, field: str) -> bool:
    states = payload.states
    return len(states) < 2 or states[0].get(field) != states[-1].get(field)
