"""What of Neutron's QoS reaches ports, and what to write when a policy's rules change."""

from collections.abc import Callable
from typing import Any

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.db import constants as db_constants
from neutron_lib.services.qos import base
from neutron_lib.services.qos import constants as qos

_NUMBER = {"type:range": [0, db_constants.DB_INTEGER_MAX_VALUE]}
_DIRECTION = {"type:values": constants.VALID_DIRECTIONS}

SUPPORTED_RULES = {
    qos.RULE_TYPE_BANDWIDTH_LIMIT: {
        qos.MAX_KBPS: _NUMBER,
        qos.MAX_BURST: _NUMBER,
        qos.DIRECTION: _DIRECTION,
    },
    qos.RULE_TYPE_PACKET_RATE_LIMIT: {
        qos.MAX_KPPS: _NUMBER,
        # A burst of packets has no unit in common with Calico's; `[calico]` sets it for all.
        qos.MAX_BURST_KPPS: {"type:range": [0, 0]},
        qos.DIRECTION: _DIRECTION,
    },
    qos.RULE_TYPE_DSCP_MARKING: {qos.DSCP_MARK: {"type:values": constants.VALID_DSCP_MARKS}},
}


class QosDriver(base.DriverBase):
    """Neutron's QoS plugin finds it by itself, once it is made.

    Args:
        changed: called with a policy's id after its rules have changed.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        super().__init__(
            name="calico",
            vif_types=[portbindings.VIF_TYPE_TAP],
            vnic_types=[portbindings.VNIC_NORMAL],
            supported_rules=SUPPORTED_RULES,
            requires_rpc_notifications=False,
        )
        self._changed = changed

    def update_policy(self, context: Any, policy: Any) -> None:
        self._changed(policy["id"])
