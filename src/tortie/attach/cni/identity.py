"""Who a container is: from CNI's request to an attach request. Pure.

|                | Kubernetes                        | everybody else              |
|----------------|-----------------------------------|-----------------------------|
| namespace      | the pod's                         | `default`, or Mesos' label  |
| orchestrator   | `k8s`                             | `cni`                       |
| workload       | the pod's name                    | the container's id          |
| endpoint       | CNI_IFNAME                        | CNI_IFNAME                  |
| host interface | `cali`, SHA-1 of namespace.pod    | `cali`, first 11 of the id  |
| profiles       | `kns.<namespace>`, `ksa.<ns>.<sa>`| the network's name          |
| handle         | `<network>.<container id>`        | the same                    |

A second interface of a container (not eth0) has a host interface of its own: Calico gives it
the same name, and so cannot have two.

Source: Calico, cni-plugin/pkg/plugin/plugin.go, pkg/k8s/k8s.go, internal/pkg/utils.
"""

import hashlib
import json
import re
from collections.abc import Iterable

from tortie.attach.cni.failure import BAD_CONFIG, CNIFailure
from tortie.attach.cni.netconf import Call, KeyValue, is_true
from tortie.attach.cni.qos import qos_of
from tortie.attach.requests import TIMEOUT_MAX_SECONDS, Add, Nat, Remove, WorkloadKey
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model import names
from tortie.model.endpoint import NAMESPACE_LABEL, ORCHESTRATOR_LABEL

ANNOTATIONS = "cni.projectcalico.org/"
DEFAULT_TIMEOUT_SECONDS = 60.0

_FAMILIES = {"IPv4": 4, "IPv6": 6}
_INVALID = re.compile("[^-_.a-zA-Z0-9]+")
_AROUND_DOT = re.compile("[.-]*[.][.-]*")


def key_of(call: Call) -> WorkloadKey:
    if call.pod:
        namespace, name = call.pod
        return WorkloadKey(namespace, "k8s", name, call.interface)
    namespace = _mesos_labels(call).get(NAMESPACE_LABEL, "default")
    return WorkloadKey(namespace, "cni", call.container_id, call.interface)


def handle_of(call: Call) -> str:
    return f"{call.config.name}.{call.container_id}"


def host_interface(call: Call, prefix: str) -> str:
    key = key_of(call)
    if call.pod:
        suffix = "" if call.interface == "eth0" else f".{call.interface}"
        return names.interface_name(key.namespace, key.workload + suffix, prefix)
    if call.interface == "eth0":
        return names.container_interface_name(call.container_id, prefix)
    digest = hashlib.sha256(f"{call.container_id}/{call.interface}".encode()).hexdigest()
    return names.container_interface_name(digest, prefix)


def profiles_of(call: Call) -> tuple[str, ...]:
    """
    Raises:
        CNIFailure: no profile can be called as the network is.
    """
    policy = call.config.policy
    if call.described:
        return call.described.profiles
    if call.pod:
        return (f"kns.{call.pod[0]}",)
    if policy and policy.type == "k8s":
        return (f"kns.{key_of(call).namespace}",)
    name = call.config.name
    if not names.is_name("Profile", name):
        raise CNIFailure(
            BAD_CONFIG,
            f"the network's name is {name!r}, and its profile is called so; it must be "
            f"{names.NAME_RULE}",
        )
    return (name,)


def labels_of(call: Call) -> dict[str, str]:
    """Of the endpoint: the pod's; Mesos' and those of the conventions, made legal."""
    if call.described:
        return dict(call.described.labels)
    args = call.config.args
    plain = args.cni.labels if args and args.cni else None
    found = {**_labels(plain or ()), **_mesos_labels(call)}
    for key in (NAMESPACE_LABEL, ORCHESTRATOR_LABEL):
        found.pop(key, None)  # set from what the workload is
    return found


def add_of(call: Call, prefix: str, mtu: int = 0) -> Add:
    """
    Args:
        mtu: where the configuration has none.

    Raises:
        CNIFailure: an annotation or a setting that is none.
    """
    config, key = call.config, key_of(call)
    settings = config.container_settings
    addresses, ipam = _addresses(call)
    runtime = config.runtime_config
    mac = call.annotations.get(f"{ANNOTATIONS}hwAddr") or call.args.get("MAC") or ""
    defaults = config.include_default_routes
    return Add(
        namespace=key.namespace,
        workload=key.workload,
        orchestrator=key.orchestrator,
        endpoint=key.endpoint,
        timeout_seconds=_timeout(config.policy_setup_timeout_seconds),
        netns=call.netns_here or call.netns,
        inside=call.interface,
        host_interface=host_interface(call, prefix),
        labels=labels_of(call),
        profiles=profiles_of(call),
        ports=call.described.ports if call.described else (),
        service_account=call.described.service_account if call.described else "",
        qos=qos_of(call.annotations),
        families=_families(call),
        addresses=tuple(address.address_text for address in addresses),
        pools=_pools(call),
        ipam=ipam,
        handle=handle_of(call),
        mac=mac or (runtime.mac if runtime and runtime.mac else ""),
        mtu=config.mtu or mtu,
        container_id=call.container_id,
        pod=call.pod[1] if call.pod else "",
        network=config.name,
        default_routes=defaults is None or defaults,
        forwarding=settings is not None and settings.allow_ip_forwarding,
        nats=_nats(call, addresses),
        allowed_sources=tuple(_annotated(call, "allowedSourcePrefixes")),
    )


def remove_of(call: Call) -> Remove:
    key = key_of(call)
    return Remove(
        namespace=key.namespace,
        workload=key.workload,
        orchestrator=key.orchestrator,
        endpoint=key.endpoint,
        container_id=call.container_id,
        handle=handle_of(call),
    )


def sanitized(text: str) -> str:
    """A Mesos label as one that Calico takes: `/` is `.`, anything else strange `-`.

    Source: Calico, cni-plugin/internal/pkg/utils/utils.go, SanitizeMesosLabel; beyond it, cut
    to the 63 characters that a label may have.
    """
    text = _INVALID.sub("-", text.replace("/", "."))
    text = _AROUND_DOT.sub(".", text).strip(".-")
    return text[: names.LABEL_MAX_CHARACTERS].strip("._-")


def _mesos_labels(call: Call) -> dict[str, str]:
    args = call.config.args
    info = args.mesos.network_info if args and args.mesos else None
    labels = info.labels.labels if info and info.labels else None
    found: dict[str, str] = {}
    for label in labels or ():
        if label.key == NAMESPACE_LABEL:
            found[label.key] = sanitized(label.value).lower()
        elif key := sanitized(label.key):
            found[key] = sanitized(label.value)
    return found


def _labels(labels: Iterable[KeyValue]) -> dict[str, str]:
    found = {}
    for label in labels:
        if not (names.is_label_key(label.key) and names.is_label_value(label.value)):
            raise CNIFailure(
                BAD_CONFIG, f"args.cni.labels: {label.key!r}={label.value!r} is no label"
            )
        found[label.key] = label.value
    return found


def _families(call: Call) -> tuple[int, ...]:
    """Source: Calico, cni-plugin/pkg/ipamplugin; IPv4 alone unless told otherwise."""
    asked = _annotated(call, "ipFamilies")
    if asked:
        unknown = [text for text in asked if text not in _FAMILIES]
        if unknown:
            raise CNIFailure(BAD_CONFIG, f"annotation ipFamilies: {unknown[0]!r} is no family")
        return tuple(sorted({_FAMILIES[text] for text in asked}))
    ipam = call.config.ipam
    four = is_true("ipam.assign_ipv4", ipam.assign_ipv4 if ipam else None, default=True)
    six = is_true("ipam.assign_ipv6", ipam.assign_ipv6 if ipam else None, default=False)
    if not (four or six):
        raise CNIFailure(BAD_CONFIG, "assign_ipv4 and assign_ipv6 are both false; one must be true")
    return tuple(family for family, wanted in ((4, four), (6, six)) if wanted)


def _pools(call: Call) -> tuple[str, ...]:
    """Names or CIDRs; an annotation replaces the configuration's, by family."""
    ipam = call.config.ipam
    found: list[str] = []
    for family, configured in ((4, ipam and ipam.ipv4_pools), (6, ipam and ipam.ipv6_pools)):
        found += _annotated(call, f"ipv{family}pools") or list(configured or ())
    return tuple(dict.fromkeys(found))


def _addresses(call: Call) -> tuple[list[Network], bool]:
    """Addresses asked for by name, and whether IPAM hands them out."""
    control = call.config.feature_control
    unmanaged = _annotated(call, "ipAddrsNoIpam")
    named = _annotated(call, "ipAddrs")
    if unmanaged and named:
        raise CNIFailure(BAD_CONFIG, "annotations ipAddrs and ipAddrsNoIpam exclude each other")
    if unmanaged:
        if not (control and control.ip_addrs_no_ipam):
            raise CNIFailure(
                BAD_CONFIG,
                "annotation ipAddrsNoIpam needs feature_control.ip_addrs_no_ipam in the network's "
                "configuration",
            )
        return _one_of_each(unmanaged, "ipAddrsNoIpam"), False
    if named:
        return _one_of_each(named, "ipAddrs"), True
    if "IP" in call.args:
        return _one_of_each([call.args["IP"]], "CNI_ARGS' IP"), True
    runtime, args = call.config.runtime_config, call.config.args
    asked = (runtime and runtime.ips) or (args and args.cni and args.cni.ips) or ()
    return _one_of_each([text.partition("/")[0] for text in asked], "ips"), True


def _one_of_each(texts: Iterable[str], what: str) -> list[Network]:
    try:
        found = [parse_address(text) for text in texts]
    except InvalidInput as error:
        raise CNIFailure(BAD_CONFIG, f"{what}: {error}") from None
    if len({address.family for address in found}) < len(found):
        raise CNIFailure(BAD_CONFIG, f"{what}: at most one address of each family")
    return found


def _nats(call: Call, addresses: Iterable[Network]) -> tuple[Nat, ...]:
    control = call.config.feature_control
    floating = _annotated(call, "floatingIPs")
    if not floating:
        return ()
    if not (control and control.floating_ips):
        raise CNIFailure(
            BAD_CONFIG,
            "annotation floatingIPs needs feature_control.floating_ips in the network's "
            "configuration",
        )
    found = _one_of_each(floating, "floatingIPs")
    return tuple(Nat(external=address.address_text) for address in found)


def _annotated(call: Call, name: str) -> list[str]:
    """An annotation that holds a JSON list of texts; empty if it is not there."""
    text = call.annotations.get(f"{ANNOTATIONS}{name}")
    if not text:
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise CNIFailure(BAD_CONFIG, f"annotation {name} is {text[:200]!r}; it must be a JSON list")
    if name == "allowedSourcePrefixes":
        for item in found:
            _check_prefix(item)
    return found


def _check_prefix(text: str) -> None:
    try:
        parse_network(text)
    except InvalidInput as error:
        raise CNIFailure(BAD_CONFIG, f"annotation allowedSourcePrefixes: {error}") from None


def _timeout(seconds: float | None) -> float:
    if not seconds or seconds < 0:
        return DEFAULT_TIMEOUT_SECONDS
    return min(seconds, TIMEOUT_MAX_SECONDS)
