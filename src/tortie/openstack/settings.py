"""The options of neutron.conf's section `[calico]`: names, types and defaults as Calico's.

`OPTIONS` is one table for all: the driver registers its rows with oslo.config, `Settings` is
made of what was read, the reference page lists them.

Source: Calico, networking-calico, common/config.py and plugins/ml2/drivers/calico.
"""

import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.model.names import is_dns_label

REGION_MAX_CHARACTERS = 63 - len("openstack-region-")
"""The namespace of a region's endpoints is a DNS label."""


class Option(NamedTuple):
    name: str
    type: type[str] | type[int] | type[bool]
    default: str | int | bool | None
    help: str
    choices: tuple[str, ...] = ()
    secret: bool = False
    ignored: bool = False
    """Taken, so that files of Calico's driver still load, and of no effect."""


OPTIONS: tuple[Option, ...] = (
    Option("etcd_host", str, "127.0.0.1", "Host name or address of etcd; several with commas."),
    Option("etcd_port", int, 2379, "Port of etcd, for hosts that name none."),
    Option("etcd_scheme", str, "http", "How to talk to etcd.", ("http", "https")),
    Option("etcd_key_file", str, None, "PEM file with the key of our TLS certificate."),
    Option("etcd_cert_file", str, None, "PEM file with our TLS certificate."),
    Option("etcd_ca_cert_file", str, None, "PEM file with the authorities that we trust."),
    Option("etcd_username", str, None, "User name, where etcd wants one."),
    Option("etcd_password", str, None, "Password of that user.", secret=True),
    Option("etcd_timeout", int, 60, "Seconds that a request to etcd may take."),
    Option("openstack_region", str, None, "Name of this region, where several share one etcd."),
    Option("max_ingress_connections_per_port", int, 0, "Connections to a port; 0: no limit."),
    Option("max_egress_connections_per_port", int, 0, "Connections from a port; 0: no limit."),
    Option("ingress_burst_bits", int, 4294967296, "Burst of limited traffic to a port."),
    Option("egress_burst_bits", int, 4294967296, "Burst of limited traffic from a port."),
    Option("ingress_minburst_bytes", int, 0, "Least burst at the peak rate, to a port."),
    Option("egress_minburst_bytes", int, 0, "Least burst at the peak rate, from a port."),
    Option("ingress_burst_packets", int, 5, "Burst of a limited packet rate, to a port."),
    Option("egress_burst_packets", int, 5, "Burst of a limited packet rate, from a port."),
    Option("elector_name", str, None, "Name of this server in the election; its host's name."),
    Option("num_port_status_threads", int, 4, "Threads that write status to the database."),
    Option("etcd_compaction_period_mins", int, 60, "Minutes between compactions; 0: never."),
    Option("etcd_compaction_min_revisions", int, 1000, "Revisions to keep at least."),
    Option("project_name_cache_max", int, 100, "Projects whose names are remembered."),
    Option(
        "startup_resync", str, "always", "Resynchronise when the server starts?",
        ("always", "never"),
    ),
    Option("resync_interval_secs", int, 0, "Seconds between resyncs; 0: at start only."),
    Option("resync_max_interval_secs", int, 0, "No effect.", ignored=True),
    Option("fairy_gc_diagnostics", bool, False, "No effect.", ignored=True),
    Option("startup_resync_inject_per_item_delay_ms", int, 0, "No effect.", ignored=True),
)  # fmt: skip


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force, one field for each option that has an effect."""

    etcd_host: str = "127.0.0.1"
    etcd_port: int = 2379
    etcd_scheme: str = "http"
    etcd_key_file: str | None = None
    etcd_cert_file: str | None = None
    etcd_ca_cert_file: str | None = None
    etcd_username: str | None = None
    etcd_password: str | None = None
    etcd_timeout: int = 60
    openstack_region: str | None = None
    max_ingress_connections_per_port: int = 0
    max_egress_connections_per_port: int = 0
    ingress_burst_bits: int = 4294967296
    egress_burst_bits: int = 4294967296
    ingress_minburst_bytes: int = 0
    egress_minburst_bytes: int = 0
    ingress_burst_packets: int = 5
    egress_burst_packets: int = 5
    elector_name: str | None = None
    num_port_status_threads: int = 4
    etcd_compaction_period_mins: int = 60
    etcd_compaction_min_revisions: int = 1000
    project_name_cache_max: int = 100
    startup_resync: str = "always"
    resync_interval_secs: int = 0

    def __post_init__(self) -> None:
        region = self.openstack_region
        if region and not (is_dns_label(region) and len(region) <= REGION_MAX_CHARACTERS):
            raise InvalidInput(
                f"[calico] openstack_region: {region!r} must be lower-case letters, digits and "
                f"inner '-', at most {REGION_MAX_CHARACTERS} of them"
            )
        if self.etcd_scheme not in ("http", "https"):
            raise InvalidInput(f"[calico] etcd_scheme: {self.etcd_scheme!r} is not http or https")

    def __repr__(self) -> str:
        shown = (
            f"{name}={'…' if name == 'etcd_password' and value else repr(value)}"
            for name, value in msgspec.structs.asdict(self).items()
        )
        return f"Settings({', '.join(shown)})"

    @property
    def region(self) -> str:
        """As keys have it: `no-region`, or `region-<name>`."""
        return f"region-{self.openstack_region}" if self.openstack_region else "no-region"

    @property
    def namespace(self) -> str:
        """Of endpoints and policies."""
        return f"openstack-{self.region}" if self.openstack_region else "openstack"

    @property
    def endpoints(self) -> tuple[tuple[str, int], ...]:
        """Where etcd is: hosts and ports. `etcd_host` may name several, with commas.

        Raises:
            InvalidInput: a port is no number.
        """
        found = []
        for part in filter(None, (text.strip() for text in self.etcd_host.split(","))):
            host, colon, port = part.rpartition(":")
            if not colon or (":" in host and not part.startswith("[")):
                host, port = part, str(self.etcd_port)  # a name, or a bare IPv6 address
            if part.startswith("[") and part.endswith("]"):
                host, port = part, str(self.etcd_port)
            if not port.isdecimal() or not 0 < int(port) < 65536:
                raise InvalidInput(f"[calico] etcd_host: {part!r}: {port!r} is no port")
            found.append((host.removeprefix("[").removesuffix("]"), int(port)))
        if not found:
            raise InvalidInput("[calico] etcd_host: names no host")
        return tuple(found)

    @property
    def server_id(self) -> str:
        """Of this server in the election."""
        return self.elector_name or socket.gethostname()


def read_settings(value_of: Callable[[str], Any]) -> Settings:
    """The settings in force.

    Args:
        value_of: an option's value by its name, as oslo.config has it.

    Raises:
        InvalidInput: naming the option.
    """
    given = {option.name: value_of(option.name) for option in OPTIONS if not option.ignored}
    return Settings(**given)
