"""`usePodCidr`: what host-local is given in its place."""

import json
from typing import Any

import pytest

from tortie.attach.cni.failure import CNIFailure
from tortie.attach.cni.pod_cidr import wanted_families, with_pod_cidrs
from tortie.cni import plugin

BOTH = {"ranges": [[{"subnet": "usePodCidr"}], [{"subnet": "USEPODCIDRIPV6", "gateway": "::"}]]}
CIDRS = ("10.1.0.0/24", "fd01::/64", "10.2.0.0/24")


def config(ipam: object) -> str:
    return json.dumps({"name": "n", "ipam": ipam, "subnet": "usePodCidr"})


@pytest.mark.parametrize(
    ("ipam", "families", "replaced"),
    [
        ({"subnet": "usePodCidr"}, {4}, {"subnet": "10.1.0.0/24"}),
        ({"subnet": "UsePodCidrIPv6"}, {6}, {"subnet": "fd01::/64"}),
        (
            BOTH,
            {4, 6},
            {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64", "gateway": "::"}]]},
        ),
        ({"subnet": "10.9.0.0/24"}, set(), {"subnet": "10.9.0.0/24"}),
        ({"ranges": [7, ["x", {"subnet": None}]]}, set(), {"ranges": [7, ["x", {"subnet": None}]]}),
        (None, set(), None),
        ("usePodCidr", set(), "usePodCidr"),
    ],
)
def test_where_a_subnet_may_stand(ipam: object, families: set[int], replaced: object) -> None:
    assert wanted_families(config(ipam)) == families
    found: dict[str, Any] = json.loads(with_pod_cidrs(config(ipam), "h1", CIDRS))
    assert found == {"name": "n", "ipam": replaced, "subnet": "usePodCidr"}


def test_a_node_without_a_subnet_of_that_family() -> None:
    with pytest.raises(CNIFailure, match=r"node h1 has no podCIDR of IPv6"):
        with_pod_cidrs(config(BOTH), "h1", ("10.1.0.0/24",))
    with pytest.raises(CNIFailure, match="podCIDR"):
        with_pod_cidrs(config(BOTH), "h1", ("; drop",))


def test_a_release_needs_any_subnet() -> None:
    """Nobody is asked: host-local finds by container what it gave."""
    found = json.loads(plugin.releasing(config(BOTH)))["ipam"]["ranges"]
    assert [one["subnet"] for some in found for one in some] == ["0.0.0.0/0", "::/0"]
    plain = config({"subnet": "10.9.0.0/24"}).replace("usePodCidr", "x")
    assert plugin.releasing(plain) is plain
