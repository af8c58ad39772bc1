"""Builds documents that are valid but for what a test changes in them."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.model import codec
from tortie.model.documents import load
from tortie.model.keys import NAMESPACED

POLICIES = (
    "GlobalNetworkPolicy",
    "NetworkPolicy",
    "StagedGlobalNetworkPolicy",
    "StagedNetworkPolicy",
)

_SPECS: dict[str, dict[str, Any]] = {
    "BGPPeer": {"peerIP": "10.0.0.1", "asNumber": 64512},
    "BlockAffinity": {
        "state": "confirmed", "node": "n", "cidr": "10.0.0.0/26", "deleted": False,
    },
    "HostEndpoint": {"node": "n", "interfaceName": "eth0"},
    "IPAMConfiguration": {"strictAffinity": True, "autoAllocateBlocks": True},
    "IPPool": {"cidr": "10.0.0.0/16"},
    "KubeControllersConfiguration": {"controllers": {}},
}  # fmt: skip
_ONLY_DEFAULT = {
    "BGPConfiguration",
    "ClusterInformation",
    "IPAMConfiguration",
    "KubeControllersConfiguration",
}


def minimal(kind: str) -> dict[str, Any]:
    """The smallest valid document of a kind."""
    metadata = {"name": "default" if kind in _ONLY_DEFAULT else "x"}
    if kind in NAMESPACED:
        metadata["namespace"] = "ns"
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": metadata,
        "spec": copy.deepcopy(_SPECS.get(kind, {})),
    }


# What an object has when it is made on the way to a field in it; the last match counts.
_CONDITION = {
    "type": "Ready", "status": "True", "reason": "Fine", "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}  # fmt: skip
_COUNTS = {
    f"number{state}V{family}": 0 for state in ("Established", "NotEstablished") for family in (4, 6)
}
_SEEDS: list[tuple[str, Any]] = [
    (r"Policy spec\.(in|e)gress\[\]$", {"action": "Allow"}),
    (r"StagedKubernetesNetworkPolicy spec\.(in|e)gress\[\]$", {}),
    (r"\.http\.paths\[\]$", {}),
    (r"\.services$", {"name": "web", "namespace": "prod"}),
    (r"conditions\[\]$", _CONDITION),
    (r"(export|import)V[46]\[\]$", {"action": "Accept"}),
    (r"\.communities$", {"values": ["65000:1"]}),
    (r"addCommunity$", {"value": "65000:1"}),
    (r"prependASPath$", {"prefix": [64512]}),
    (r"setPriority$", {"value": 1}),
    (r"HostEndpoint spec\.ports\[\]$", {"name": "http", "port": 80, "protocol": "TCP"}),
    (r"secretKeyRef$", {"name": "s", "key": "k"}),
    (r"matchExpressions\[\]$", {"key": "a", "operator": "Exists"}),
    (r"ipBlock$", {"cidr": "10.0.0.0/8"}),
    (r"templates\[\]$", {"generateName": "a", "interfacePattern": "eth.*"}),
    (r"healthTimeoutOverrides\[\]$", {"name": "int_dataplane", "timeout": "90s"}),
    (r"failsafe\w+\[\]$", {"protocol": "tcp", "port": 22}),
    (r"routeTableRanges?(\[\])?$", {"min": 1, "max": 250}),
    (r"status\.bgp$", _COUNTS),
    (r"runningConfig$", {"controllers": {}}),
    (r"prefixAdvertisements\[\]$", {"cidr": "10.0.0.0/8"}),
    (r"service\w+IPs\[\]$", {"cidr": "10.0.0.0/8"}),
    (r"BGPConfiguration spec\.communities\[\]$", {"name": "a", "value": "65000:1"}),
]

GONE = object()
"""In what a document needs: the field must not be there."""

# What else a document needs before a field in it can be valid: path → paths and values.
_NEEDS: list[tuple[str, dict[str, Any]]] = [
    (r"(?P<rule>spec\.(?:in|e)gress\[\])\.(icmp|notICMP)\b", {"{rule}.protocol": "ICMP"}),
    (r"(?P<icmp>spec\..*\.(?:icmp|notICMP))\.code$", {"{icmp}.type": 8}),
    (
        r"(?P<rule>spec\.(?:in|e)gress\[\])\.(source|destination)\.(ports|notPorts)\b",
        {"{rule}.protocol": "TCP"},
    ),
    (
        r"(?P<rule>spec\.\w+V4\[\])\.(matchOperator|prefixLength)",
        {"{rule}.cidr": "10.0.0.0/8", "{rule}.matchOperator": "In"},
    ),
    (
        r"(?P<rule>spec\.\w+V6\[\])\.(matchOperator|prefixLength)",
        {"{rule}.cidr": "fd00::/8", "{rule}.matchOperator": "In"},
    ),
    (r"(?P<rule>spec\.\w+V[46]\[\])\.cidr$", {"{rule}.matchOperator": "In"}),
    (r"(?P<peer>spec\S*)\.ports\[\]\.endPort$", {"{peer}.ports[].port": 1}),
    (r"BGPConfiguration spec\.communities\b", {"spec.prefixAdvertisements[].cidr": "10.0.0.0/8"}),
    (r"BGPPeer spec\.localWorkloadSelector$", {"spec.peerIP": GONE}),
    (r"BGPPeer spec\.peerSelector$", {"spec.peerIP": GONE, "spec.asNumber": GONE}),
    (r"IPPool spec\.namespaceSelector$", {"spec.allowedUses": ["Workload"]}),
    (r"IPPool spec\.blockSize$", {"spec.cidr": "fd00::/64"}),
    (r"(?P<expression>spec\S*matchExpressions\[\])\.values", {"{expression}.operator": "In"}),
    (r"spec\.(doNotTrack|preDNAT)$", {"spec.applyOnForward": True}),
]


def document(kind: str, path: str, *value: Any) -> dict[str, Any]:
    """A document that has `value` at `path`; without a value, all up to there is made."""
    made = minimal(kind)
    for pattern, needs in _NEEDS:
        if found := re.search(pattern, f"{kind} {path}"):
            for place, needed in needs.items():
                if needed is GONE:
                    remove(made, place)
                else:
                    put(made, kind, place.format_map(found.groupdict()), needed)
    put(made, kind, path, *value)
    return made


def put(made: dict[str, Any], kind: str, path: str, *value: Any) -> None:
    """Set the value at a path; `[]` means the first entry, made if there is none."""
    at: Any = made
    walked = ""
    steps = path.replace("[]", ".[]").replace("{}", ".{}").split(".")
    for number, step in enumerate(steps):
        walked += step if step in ("[]", "{}") or not walked else f".{step}"
        is_last = number == len(steps) - 1
        if is_last and value:
            new = copy.deepcopy(value[0])
        elif is_last:
            return
        else:
            new = [] if steps[number + 1] == "[]" else _seed(kind, walked)
        if step == "[]":
            if is_last and at:
                at[0] = new
            elif not at:
                at.append(new)
            at = at[0]
        else:
            step = "key" if step == "{}" else step
            if is_last or step not in at or (at[step] == [] and new):
                at[step] = new
            at = at[step]


def remove(made: dict[str, Any], path: str) -> None:
    at: Any = made
    *steps, last = path.replace("[]", ".[]").split(".")
    for step in steps:
        at = at[0] if step == "[]" else at[step]
    del at[last]


def _seed(kind: str, path: str) -> Any:
    found: Any = {}
    for pattern, seed in _SEEDS:
        if re.search(pattern, f"{kind} {path}"):
            found = seed
    return copy.deepcopy(found)


def seeded(kind: str, path: str) -> Any:
    """A valid object for an entry of a list, or for a field that holds an object."""
    if path in ("metadata", "spec"):
        return minimal(kind)[path]
    return _seed(kind, path)


def values_at(plain: Any, path: str) -> Iterator[Any]:
    """What is at a path, in each entry of the lists on the way."""
    step, _, rest = path.partition(".")
    name = step.removesuffix("[]")
    if not isinstance(plain, dict) or name not in plain:
        return
    entries = plain[name] if step.endswith("[]") else [plain[name]]
    for entry in entries:
        yield from values_at(entry, rest) if rest else [entry]


def accepted(made: dict[str, Any]) -> dict[str, Any]:
    """The document as it would be stored, defaults and all.

    Raises:
        InvalidInput: it is refused.
    """
    [found] = load(msgspec.json.encode(made), "f.json")
    return codec.to_plain(found.resource)


def refusal(made: dict[str, Any]) -> str:
    """Why a document is refused; empty if it is not."""
    try:
        accepted(made)
    except InvalidInput as error:
        return str(error)
    return ""
