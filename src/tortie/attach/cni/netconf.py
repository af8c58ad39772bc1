"""What a runtime passes: the network's configuration, and CNI_* of the environment.

Every field of Calico's configuration is accepted. Those declared here are acted on; the rest
(where the datastore is, which node this is, how to log, Windows) the agent knows by itself.

Source: CNI specification 1.1.0; Calico, cni-plugin/pkg/types/types.go.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from tortie.attach.cni.failure import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    INCOMPATIBLE_VERSION,
    NOT_DECODED,
    CNIFailure,
)
from tortie.attach.cni.pods import Pod
from tortie.attach.requests import Cni
from tortie.model import names

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
OLDEST_DEFAULT = "0.2.0"
"""Of a configuration that names none; also how Mesos reads every answer."""

DELEGATES = ("host-local", "static", "dhcp")
"""IPAM plugins of others that are run; the plugin has the same list."""
OURS = ("", "tortie-ipam", "calico-ipam")

COMMANDS = ("ADD", "DEL", "CHECK", "STATUS", "GC")
_WITHOUT_CONTAINER = ("STATUS", "GC")
_SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}

_OF_THE_KERNEL = ("lo", "all", "default")
"""The last two stand for every interface below /proc/sys/net."""

_CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,252}")
_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,252}")

Truth = bool | str | None
"""Calico writes some of its booleans as text."""


class IPAM(msgspec.Struct, frozen=True, kw_only=True):
    type: str = ""
    assign_ipv4: Truth = None
    assign_ipv6: Truth = None
    ipv4_pools: tuple[str, ...] | None = None
    ipv6_pools: tuple[str, ...] | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    type: str = ""


class Kubernetes(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: str = ""
    """Where pods are described; empty: what the runtime passes is all."""
    node_name: str = ""
    """What Kubernetes calls this host; empty: as the agent does."""


class FeatureControl(msgspec.Struct, frozen=True, kw_only=True):
    ip_addrs_no_ipam: bool = False
    floating_ips: bool = False


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    allow_ip_forwarding: bool = False


class KeyValue(msgspec.Struct, frozen=True, kw_only=True):
    key: str = ""
    value: str = ""


class MesosLabels(msgspec.Struct, frozen=True, kw_only=True):
    labels: tuple[KeyValue, ...] | None = None


class NetworkInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str = ""
    labels: MesosLabels | None = None


class Mesos(msgspec.Struct, frozen=True, kw_only=True):
    network_info: NetworkInfo | None = None


class Conventions(msgspec.Struct, frozen=True, kw_only=True):
    """`args.cni`. Source: CNI, CONVENTIONS.md."""

    labels: tuple[KeyValue, ...] | None = None
    ips: tuple[str, ...] | None = None


class Args(msgspec.Struct, frozen=True, kw_only=True):
    mesos: Mesos | None = msgspec.field(default=None, name="org.apache.mesos")
    cni: Conventions | None = None


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """For capabilities that the configuration declares."""

    ips: tuple[str, ...] | None = None
    mac: str | None = None
    pod_annotations: dict[str, str] | None = msgspec.field(
        default=None, name="io.kubernetes.cri.pod-annotations"
    )


class Attachment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    container_id: str = msgspec.field(name="containerID")
    ifname: str


class NetConf(msgspec.Struct, frozen=True, kw_only=True, rename=None):
    cni_version: str = msgspec.field(default="", name="cniVersion")
    name: str = ""
    type: str = ""
    ipam: IPAM | None = None
    args: Args | None = None
    mtu: int | None = None
    nodename: str = ""
    policy: Policy | None = None
    kubernetes: Kubernetes | None = None
    feature_control: FeatureControl | None = None
    container_settings: ContainerSettings | None = None
    include_default_routes: bool | None = None
    device_type: str = ""
    policy_setup_timeout_seconds: float | None = None
    require_mtu_file: bool = False
    runtime_config: RuntimeConfig | None = msgspec.field(default=None, name="runtimeConfig")
    previous: dict[str, Any] | None = msgspec.field(default=None, name="prevResult")
    valid_attachments: tuple[Attachment, ...] | None = msgspec.field(
        default=None, name="cni.dev/valid-attachments"
    )

    @property
    def version(self) -> str:
        return self.cni_version or OLDEST_DEFAULT

    @property
    def ipam_type(self) -> str:
        return self.ipam.type if self.ipam else ""

    @property
    def kubeconfig(self) -> str:
        return self.kubernetes.kubeconfig if self.kubernetes else ""


class Call(NamedTuple):
    """One request, checked."""

    command: str
    is_ipam: bool
    """Started as an IPAM plugin, by another main plugin."""
    container_id: str
    interface: str
    """Name inside of the container."""
    netns: str
    args: dict[str, str]
    """CNI_ARGS."""
    config: NetConf
    delegated: str | None
    """What the IPAM plugin that the configuration names has said."""
    netns_here: str = ""
    """The path of `netns` for us."""
    described: Pod | None = None
    """What a `PodSource` says of `pod`."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """Of the pod: those that the runtime passes, under those that its source knows."""
        runtime = self.config.runtime_config
        passed = (runtime.pod_annotations if runtime else None) or {}
        return {**passed, **self.described.annotations} if self.described else passed

    @property
    def pod(self) -> tuple[str, str] | None:
        """Namespace and name, if Kubernetes asks; podman names containers without a namespace."""
        name, namespace = self.args.get("K8S_POD_NAME"), self.args.get("K8S_POD_NAMESPACE")
        return (namespace, name) if name and namespace else None


_decoder: msgspec.json.Decoder[NetConf] = msgspec.json.Decoder(NetConf)
_version_decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def version_of(config: str) -> str:
    """Of the answer, whatever else is wrong."""
    try:
        version = _version_decoder.decode(config).get("cniVersion") or OLDEST_DEFAULT
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return OLDEST_DEFAULT
    return version if version in VERSIONS else OLDEST_DEFAULT


def parse_call(request: Cni) -> Call:
    """
    Raises:
        CNIFailure: what is wrong, with CNI's code for it.
    """
    config = parse_config(request.config)
    command = request.command
    if command not in COMMANDS:
        raise CNIFailure(BAD_ENVIRONMENT, f"CNI_COMMAND is {command!r}; it must be one of "
                         f"{', '.join(COMMANDS)} or VERSION")  # fmt: skip
    since = _SINCE.get(command)
    if since and VERSIONS.index(config.version) < VERSIONS.index(since):
        raise CNIFailure(
            INCOMPATIBLE_VERSION,
            f"{command} exists since version {since} of CNI; the configuration has "
            f"{config.version}",
        )
    environment = request.environment
    call = Call(
        command=command,
        is_ipam=request.plugin.endswith("-ipam"),
        container_id=environment.get("CNI_CONTAINERID", ""),
        interface=environment.get("CNI_IFNAME", ""),
        netns=environment.get("CNI_NETNS", ""),
        args=parse_args(environment.get("CNI_ARGS", "")),
        config=config,
        delegated=request.delegated,
    )
    if command not in _WITHOUT_CONTAINER:
        _check_environment(call)
    return call


def parse_config(text: str) -> NetConf:
    """
    Raises:
        CNIFailure: not JSON, of an unknown version, or with a value of the wrong kind.
    """
    try:
        plain = _version_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CNIFailure(NOT_DECODED, f"the network configuration: {error}") from None
    version = plain.get("cniVersion") or OLDEST_DEFAULT
    if version not in VERSIONS:
        raise CNIFailure(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported; use one of {', '.join(VERSIONS)}",
        )
    try:
        config = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        config = _without_nulls(plain)
    if not _NETWORK.fullmatch(config.name):
        raise CNIFailure(
            BAD_CONFIG,
            f"the network's name is {config.name!r}; it must be letters, digits, '_', '.' and '-', "
            "beginning with a letter or digit",
        )
    if config.ipam_type not in (*OURS, *DELEGATES):
        raise CNIFailure(
            BAD_CONFIG,
            f"ipam.type {config.ipam_type!r} is not supported; use tortie-ipam, calico-ipam or "
            f"one of {', '.join(DELEGATES)}",
        )
    path = config.kubeconfig
    if path and not (path.startswith("/") and path.isprintable()):
        raise CNIFailure(BAD_CONFIG, f"kubernetes.kubeconfig {path!r} must be an absolute path")
    if config.device_type == "netkit":
        raise CNIFailure(
            BAD_CONFIG,
            "device_type 'netkit' is not supported: its devices take eBPF programs, which enforce "
            "nothing here; use veth, which is enforced by nftables",
        )
    if config.device_type not in ("", "veth"):
        raise CNIFailure(
            BAD_CONFIG, f"device_type {config.device_type!r} is not supported; use veth"
        )
    return config


def _without_nulls(plain: dict[str, Any]) -> NetConf:
    """A null is as if the field were not there, as Go reads it; templates write such.

    Raises:
        CNIFailure: a value of the wrong kind.
    """

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: stripped(part) for name, part in value.items() if part is not None}
        return [stripped(part) for part in value] if isinstance(value, list) else value

    try:
        return msgspec.convert(stripped(plain), NetConf)
    except (msgspec.ValidationError, RecursionError) as error:
        raise CNIFailure(BAD_CONFIG, f"the network configuration: {error}") from None


def parse_args(text: str) -> dict[str, str]:
    """`A=1;B=2`; parts that are no pair are left out, as IgnoreUnknown asks.

    Source: CNI specification, CNI_ARGS.
    """
    pairs = (part.partition("=") for part in text.split(";"))
    return {key: value for key, equals, value in pairs if key and equals}


def is_true(field: str, value: Truth, default: bool) -> bool:
    """
    Raises:
        CNIFailure: text that is no boolean.
    """
    if value is None or isinstance(value, bool):
        return default if value is None else value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise CNIFailure(BAD_CONFIG, f"{field} is {value!r}; it must be true or false")


def _check_environment(call: Call) -> None:
    rule = "1 to 253 letters, digits, '_', '.' and '-', beginning with a letter or digit"
    good: object = _CONTAINER.fullmatch(call.container_id)
    _check(good, "CNI_CONTAINERID", call.container_id, rule)
    rule = "1 to 15 letters, digits, '_', '.' and '-', and none of the kernel's own"
    good = names.is_interface_name(call.interface) and call.interface not in _OF_THE_KERNEL
    _check(good, "CNI_IFNAME", call.interface, rule)
    if call.command == "ADD" or call.netns:
        good = call.netns.startswith("/") and call.netns.isprintable()
        _check(good, "CNI_NETNS", call.netns, "the absolute path of a network namespace")
    for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME"):
        _check(call.args.get(key, "").isprintable(), key, call.args.get(key), "printable")


def _check(good: object, name: str, value: object, rule: str) -> None:
    if not good:
        raise CNIFailure(BAD_ENVIRONMENT, f"{name} is {value!r}; it must be {rule}")
