"""Settings of the controllers that keep a Kubernetes cluster and Calico in step."""

from typing import Annotated

import msgspec

from tortie.model.limits import (
    NAME_MAX_CHARACTERS,
    PRESENT,
    REQUIRED,
    Duration,
    Limits,
    OnOff,
    Selector,
)
from tortie.model.metadata import Resource, Spec

_Port = Annotated[int | None, Limits(low=0, high=65535)]


class ReconciledController(Spec, frozen=True, kw_only=True):
    """A controller that runs; absent means that it does not."""

    reconciler_period: Duration | None = None


class HostEndpointTemplate(Spec, frozen=True, kw_only=True):
    """Which host endpoints to make for a node."""

    generate_name: Annotated[str, Limits(longest=NAME_MAX_CHARACTERS)] = ""
    interface_cidrs: Annotated[tuple[str, ...], Limits(unique=True)] = msgspec.field(
        default=(), name="interfaceCIDRs"
    )
    interface_pattern: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: Selector = ""


class AutoHostEndpoints(Spec, frozen=True, kw_only=True):
    auto_create: OnOff = ""
    create_default_host_endpoint: str = ""
    """`Enabled` or `Disabled`; the schema takes any text."""
    templates: tuple[HostEndpointTemplate, ...] = ()


class NodeController(Spec, frozen=True, kw_only=True):
    reconciler_period: Duration | None = None
    sync_labels: OnOff = ""
    host_endpoint: AutoHostEndpoints | None = None
    leak_grace_period: Duration | None = None


class LoadBalancerController(Spec, frozen=True, kw_only=True):
    assign_ips: Annotated[str, Limits(choices=("AllServices", "RequestedServicesOnly"))] = (
        msgspec.field(default="AllServices", name="assignIPs")
    )


class MigrationController(Spec, frozen=True, kw_only=True):
    policy_name_migrator: OnOff = "Enabled"


class Controllers(Spec, frozen=True, kw_only=True):
    node: NodeController | None = None
    policy: ReconciledController | None = None
    workload_endpoint: ReconciledController | None = None
    service_account: ReconciledController | None = None
    namespace: ReconciledController | None = None
    load_balancer: LoadBalancerController | None = None
    migration: MigrationController | None = None


class KubeControllersConfigurationSpec(Spec, frozen=True, kw_only=True):
    log_severity_screen: Annotated[
        str, Limits(choices=("None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic"))
    ] = ""
    health_checks: OnOff = "Enabled"
    etcd_v3_compaction_period: Duration | None = msgspec.field(
        default=None, name="etcdV3CompactionPeriod"
    )
    prometheus_metrics_port: _Port = None
    controllers: Annotated[Controllers | None, REQUIRED] = None
    debug_profile_port: _Port = None


class KubeControllersConfigurationStatus(Spec, frozen=True, kw_only=True):
    running_config: KubeControllersConfigurationSpec | None = None
    environment_vars: dict[str, str] = {}


class KubeControllersConfiguration(Resource, frozen=True, kw_only=True):
    spec: Annotated[KubeControllersConfigurationSpec, PRESENT] = KubeControllersConfigurationSpec()
    status: KubeControllersConfigurationStatus = KubeControllersConfigurationStatus()
