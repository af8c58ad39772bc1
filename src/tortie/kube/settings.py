"""Which controllers run, and how: the resource KubeControllersConfiguration and the environment.

A variable that is set beats the resource. What is in force is written to the resource's status.

Source: Calico, kube-controllers/pkg/config (config.go, runconfig.go).
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from tortie.datastore.resources import Resources
from tortie.lib.duration import parse_duration
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound
from tortie.model.keys import ResourceKey
from tortie.model.kube_controllers import (
    AutoHostEndpoints,
    Controllers,
    HostEndpointTemplate,
    KubeControllersConfiguration,
    KubeControllersConfigurationSpec,
    KubeControllersConfigurationStatus,
    LoadBalancerController,
    NodeController,
    ReconciledController,
)
from tortie.model.metadata import Metadata

KEY = ResourceKey("KubeControllersConfiguration", "default")

NAMES = ("policy", "namespace", "serviceaccount", "workloadendpoint", "node", "loadbalancer")
"""As ENABLED_CONTROLLERS lists them."""

VARIABLES = (
    "ENABLED_CONTROLLERS",
    "RECONCILER_PERIOD",
    "COMPACTION_PERIOD",
    "SYNC_NODE_LABELS",
    "AUTO_HOST_ENDPOINTS",
    "LOG_LEVEL",
    "HEALTH_ENABLED",
)

_PERIOD = "5m"
_DEFAULT = KubeControllersConfigurationSpec(
    log_severity_screen="Info",
    health_checks="Enabled",
    etcd_v3_compaction_period="10m",
    controllers=Controllers(
        node=NodeController(
            reconciler_period=_PERIOD,
            sync_labels="Enabled",
            host_endpoint=AutoHostEndpoints(auto_create="Disabled"),
            leak_grace_period="15m",
        ),
        policy=ReconciledController(reconciler_period=_PERIOD),
        workload_endpoint=ReconciledController(reconciler_period=_PERIOD),
        service_account=ReconciledController(reconciler_period=_PERIOD),
        namespace=ReconciledController(reconciler_period=_PERIOD),
        load_balancer=LoadBalancerController(),
    ),
)

_LEVELS = {
    "panic": "Fatal", "fatal": "Fatal", "error": "Error", "warning": "Warning", "warn": "Warning",
    "info": "Info", "debug": "Debug", "trace": "Debug", "none": "Fatal",
}  # fmt: skip


class Settings(NamedTuple):
    controllers: frozenset[str]
    """Of `NAMES`."""
    resync_seconds: float
    compaction_seconds: float
    """0: never."""
    syncs_labels: bool
    host_endpoint_templates: tuple[HostEndpointTemplate, ...]
    """Empty: no host endpoints are made by themselves."""
    leak_grace_seconds: float
    assigns_all_services: bool
    """False: only those that ask for an address of ours."""
    log_severity: str
    health_enabled: bool


async def read(resources: Resources, environment: Mapping[str, str]) -> Settings:
    """What to run with; makes the resource if it is missing.

    Raises:
        InvalidInput: a variable or the resource is wrong.
        Unavailable: the datastore is away.
    """
    try:
        stored = (await resources.get(KEY)).resource
    except NotFound:
        made = KubeControllersConfiguration(
            kind=KEY.kind, metadata=Metadata(name=KEY.name), spec=_DEFAULT
        )
        try:
            stored = (await resources.create(made)).resource
        except AlreadyExists:
            stored = (await resources.get(KEY)).resource
    assert isinstance(stored, KubeControllersConfiguration)
    return effective(stored.spec, environment)


async def report(resources: Resources, environment: Mapping[str, str]) -> None:
    """Write down what is in force. Raises as `read`, and Conflict."""
    stored = (await resources.get(KEY)).resource
    assert isinstance(stored, KubeControllersConfiguration)
    status = KubeControllersConfigurationStatus(
        running_config=merge(stored.spec, environment),
        environment_vars={name: environment[name] for name in VARIABLES if environment.get(name)},
    )
    if stored.status != status:
        await resources.update(msgspec.structs.replace(stored, status=status))


def effective(spec: KubeControllersConfigurationSpec, environment: Mapping[str, str]) -> Settings:
    """
    Raises:
        InvalidInput: names the variable that is wrong.
    """
    merged = merge(spec, environment)
    controllers = merged.controllers or Controllers()
    node = controllers.node or NodeController()
    running = {
        "policy": controllers.policy,
        "namespace": controllers.namespace,
        "serviceaccount": controllers.service_account,
        "workloadendpoint": controllers.workload_endpoint,
        "node": controllers.node,
        "loadbalancer": controllers.load_balancer,
    }
    periods = [
        _seconds(part.reconciler_period, _PERIOD)
        for part in (*(running[name] for name in NAMES[:4]), controllers.node)
        if isinstance(part, ReconciledController | NodeController)
    ]
    balancer = controllers.load_balancer
    return Settings(
        controllers=frozenset(name for name, part in running.items() if part is not None),
        resync_seconds=min(periods, default=300.0),
        compaction_seconds=_seconds(merged.etcd_v3_compaction_period, "10m"),
        syncs_labels=node.sync_labels != "Disabled",
        host_endpoint_templates=_templates(node.host_endpoint),
        leak_grace_seconds=_seconds(node.leak_grace_period, "15m"),
        assigns_all_services=balancer is None or balancer.assign_ips == "AllServices",
        log_severity=_LEVELS[(merged.log_severity_screen or "Info").lower()],
        health_enabled=merged.health_checks != "Disabled",
    )


def merge(
    spec: KubeControllersConfigurationSpec, environment: Mapping[str, str]
) -> KubeControllersConfigurationSpec:
    """The resource as the environment changes it. Raises as `effective`."""
    given = {name: environment[name].strip() for name in VARIABLES if environment.get(name)}
    changes: dict[str, object] = {}
    if "LOG_LEVEL" in given:
        level = given["LOG_LEVEL"].lower()
        if level not in _LEVELS:
            raise InvalidInput(f"LOG_LEVEL is {given['LOG_LEVEL']!r}; one of {', '.join(_LEVELS)}")
        changes["log_severity_screen"] = _LEVELS[level]
    if "HEALTH_ENABLED" in given:
        is_on = _flag(given, "HEALTH_ENABLED", ("true", "false")) == "true"
        changes["health_checks"] = "Enabled" if is_on else "Disabled"
    if "COMPACTION_PERIOD" in given:
        _period(given, "COMPACTION_PERIOD")
        changes["etcd_v3_compaction_period"] = given["COMPACTION_PERIOD"]
    controllers = spec.controllers or Controllers()
    if "ENABLED_CONTROLLERS" in given:
        controllers = _enabled(controllers, given["ENABLED_CONTROLLERS"])
    if "RECONCILER_PERIOD" in given:
        _period(given, "RECONCILER_PERIOD")
        controllers = _with_period(controllers, given["RECONCILER_PERIOD"])
    if controllers.node is not None:
        node = controllers.node
        if "SYNC_NODE_LABELS" in given:
            is_on = _flag(given, "SYNC_NODE_LABELS", ("true", "false")) == "true"
            labels = "Enabled" if is_on else "Disabled"
            node = msgspec.structs.replace(node, sync_labels=labels)
        if "AUTO_HOST_ENDPOINTS" in given:
            word = _flag(given, "AUTO_HOST_ENDPOINTS", ("enabled", "disabled")).capitalize()
            automatic = node.host_endpoint or AutoHostEndpoints()
            automatic = msgspec.structs.replace(automatic, auto_create=word)
            node = msgspec.structs.replace(node, host_endpoint=automatic)
        controllers = msgspec.structs.replace(controllers, node=node)
    return msgspec.structs.replace(spec, controllers=controllers, **changes)


def _enabled(controllers: Controllers, text: str) -> Controllers:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InvalidInput(
            f"ENABLED_CONTROLLERS names {unknown[0]!r}; there are {', '.join(NAMES)}"
        )
    default = _DEFAULT.controllers or Controllers()
    fields = dict(zip(NAMES, _FIELDS, strict=True))
    return Controllers(
        migration=controllers.migration,
        **{
            field: (getattr(controllers, field) or getattr(default, field))
            for name, field in fields.items()
            if name in names
        },
    )


_FIELDS = ("policy", "namespace", "service_account", "workload_endpoint", "node", "load_balancer")


def _with_period(controllers: Controllers, period: str) -> Controllers:
    changed = {}
    for field in _FIELDS[:5]:
        part = getattr(controllers, field)
        if part is not None:
            changed[field] = msgspec.structs.replace(part, reconciler_period=period)
    return msgspec.structs.replace(controllers, **changed)


def _templates(automatic: AutoHostEndpoints | None) -> tuple[HostEndpointTemplate, ...]:
    if automatic is None or automatic.auto_create != "Enabled":
        return ()
    if automatic.create_default_host_endpoint == "Disabled":
        return automatic.templates
    return (HostEndpointTemplate(), *automatic.templates)


def _flag(given: Mapping[str, str], name: str, words: tuple[str, str]) -> str:
    word = given[name].lower()
    if word not in words:
        raise InvalidInput(f"{name} is {given[name]!r}; it must be {' or '.join(words)}")
    return word


def _period(given: Mapping[str, str], name: str) -> float:
    try:
        return parse_duration(given[name])
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from None


def _seconds(period: str | None, default: str) -> float:
    return parse_duration(default if period is None else period)
