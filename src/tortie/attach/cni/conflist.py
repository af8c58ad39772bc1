"""A network's configuration as runtimes read it: a list of plugins, ours first."""

import json
from pathlib import Path
from typing import Any

from tortie.attach.cni.failure import CNIFailure
from tortie.attach.cni.netconf import parse_config
from tortie.attach.requests import MTU_MAX, MTU_MIN
from tortie.lib.errors import InvalidInput

MAIN_PLUGINS = ("tortie", "calico")
"""Names of ours; the list may have others."""


def default_conflist(
    *, kubernetes: bool, ipv6: bool, mtu: int = 0, kubeconfig: Path | None = None
) -> bytes:
    """A network as Calico's own manifests have it, with our names.

    Args:
        kubeconfig: how the agent asks the API server about a pod.
    """
    ipam: dict[str, Any] = {"type": "tortie-ipam"}
    if ipv6:
        ipam |= {"assign_ipv4": "true", "assign_ipv6": "true"}
    main: dict[str, Any] = {
        "type": "tortie",
        "ipam": ipam,
        "capabilities": {"io.kubernetes.cri.pod-annotations": True, "ips": True, "mac": True},
    }
    if kubernetes:
        main["policy"] = {"type": "k8s"}
    if kubeconfig is not None:
        main["kubernetes"] = {"kubeconfig": str(kubeconfig)}
    if mtu:
        main["mtu"] = mtu
    plugins = [
        main,
        {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ]
    name = "k8s-pod-network" if kubernetes else "tortie"
    document = {"name": name, "cniVersion": "1.0.0", "plugins": plugins}
    return json.dumps(document, indent=2).encode() + b"\n"


def check_conflist(text: bytes) -> None:
    """
    Raises:
        InvalidInput: not a list of plugins with a name and a version, or every ADD would refuse
            what stands in it for ours.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"the configuration is not JSON: {error}") from None
    plugins = found.get("plugins") if isinstance(found, dict) else None
    good = isinstance(plugins, list) and plugins and all(isinstance(p, dict) for p in plugins)
    if not good or not found.get("name") or not found.get("cniVersion"):
        raise InvalidInput("the configuration needs name, cniVersion and plugins")
    own = {"name": found["name"], "cniVersion": found["cniVersion"]}
    for plugin in plugins or ():
        if plugin.get("type") in MAIN_PLUGINS:
            _check_plugin({**plugin, **own})


def _check_plugin(plugin: dict[str, Any]) -> None:
    try:
        mtu = parse_config(json.dumps(plugin)).mtu
    except CNIFailure as error:
        raise InvalidInput(str(error)) from None
    if mtu and not MTU_MIN <= mtu <= MTU_MAX:
        raise InvalidInput(f"mtu is {mtu}; it must be {MTU_MIN} to {MTU_MAX}, or 0")
