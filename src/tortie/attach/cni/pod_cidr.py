"""`usePodCidr` and `usePodCidrIPv6`: host-local's subnets are those that Kubernetes gave this node.

They stand where host-local takes a subnet: in `ipam.subnet`, and in the ranges of `ipam.ranges`.
host-local knows nothing of them; it is run with a configuration in which they are replaced. To
release an address it needs a subnet that is one, and no more; so DEL asks nobody (`cni/plugin.py`).

Source: Calico, cni-plugin/pkg/k8s/k8s.go, internal/pkg/utils/utils.go.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from tortie.attach.cni.failure import BAD_CONFIG, CNIFailure
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network

_FAMILIES = {"usepodcidr": 4, "usepodcidripv6": 6}


def wanted_families(config: str) -> set[int]:
    """Of which families the node's own subnets are asked for."""
    return {_family(place["subnet"]) for place in _places(msgspec.json.decode(config))}


def with_pod_cidrs(config: str, node: str, cidrs: Sequence[str]) -> str:
    """The configuration with the node's first subnet of each family in its place.

    Raises:
        CNIFailure: the node has none of a family that is asked for.
    """
    document = msgspec.json.decode(config)
    by_family = _first_of_each(cidrs)
    for place in _places(document):
        family = _family(place["subnet"])
        if family not in by_family:
            raise CNIFailure(
                BAD_CONFIG,
                f"{place['subnet']}: node {node} has no podCIDR of IPv{family}; have the "
                "controller manager allocate them, or use tortie-ipam",
            )
        place["subnet"] = by_family[family]
    return msgspec.json.encode(document).decode()


def _first_of_each(cidrs: Iterable[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for text in cidrs:
        try:
            found.setdefault(parse_network(text).family, text)
        except InvalidInput as error:
            raise CNIFailure(BAD_CONFIG, f"podCIDR: {error}") from None
    return found


def _places(document: Any) -> Iterator[dict[str, Any]]:
    """Every object whose `subnet` is one of the two names."""
    ipam = document.get("ipam") if isinstance(document, dict) else None
    if not isinstance(ipam, dict):
        return
    ranges = ipam.get("ranges")
    sets = ranges if isinstance(ranges, list) else []
    several = [one for some in sets if isinstance(some, list) for one in some]
    for place in [ipam, *several]:
        if isinstance(place, dict) and _family(place.get("subnet")):
            yield place


def _family(subnet: object) -> int:
    """4 or 6; 0 for what is a subnet itself, or nothing."""
    return _FAMILIES.get(subnet.lower(), 0) if isinstance(subnet, str) else 0
