"""Calico's core plugin, `core_plugin = calico`: ML2 with this driver alone, and floating addresses.

`core_plugin = ml2` with `mechanism_drivers = calico` and `service_plugins = router` is the same,
in Neutron's own words; this one saves the words, and takes files written for Calico's.

Source: Calico, networking-calico, plugins/calico/plugin.py.
"""

from typing import Any

from neutron.db import l3_db
from neutron.plugins.ml2.plugin import Ml2Plugin
from neutron_lib import constants
from oslo_config import cfg
from oslo_log import log

LOG = log.getLogger(__name__)


class CalicoPlugin(Ml2Plugin, l3_db.L3_NAT_db_mixin):
    """ML2, told what to load; and the router extension, without agents that would route."""

    _supported_extension_aliases = [
        *(alias for alias in Ml2Plugin._supported_extension_aliases
          if alias != "dhcp_agent_scheduler"),
        "router",
    ]  # fmt: skip

    def __init__(self) -> None:
        _force("mechanism_drivers", ["calico"])
        _force("type_drivers", ["local", "flat"])
        _force(_network_types_option(), ["local"])
        if "qos" in cfg.CONF.service_plugins:
            _force("extension_drivers", _with(cfg.CONF.ml2.extension_drivers, "qos"))
        super().__init__()

    def create_floatingip(
        self,
        context: Any,
        floatingip: Any,
        initial_status: str = constants.FLOATINGIP_STATUS_ACTIVE,
    ) -> Any:
        """Active at once: it needs no router of an agent's, only the port's host."""
        return super().create_floatingip(context, floatingip, initial_status=initial_status)


def _network_types_option() -> str:
    """Renamed in Neutron 28; a deprecated name can be read, and not be overridden."""
    return next(
        name for name in ("project_network_types", "tenant_network_types") if name in cfg.CONF.ml2
    )


def _force(option: str, value: list[str]) -> None:
    LOG.info("[ml2] %s is %s, whatever the file says", option, ",".join(value))
    cfg.CONF.set_override(option, value, group="ml2")


def _with(names: list[str], name: str) -> list[str]:
    return names if name in names else [*names, name]
