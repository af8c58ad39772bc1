"""Limits of traffic from a pod's annotations."""

import pytest

from tortie.attach.cni.failure import CNIFailure
from tortie.attach.cni.qos import PREFIX, qos_of
from tortie.model.endpoint import QoSControls


def test_quantities_are_those_of_kubernetes() -> None:
    found = qos_of(
        {
            f"{PREFIX}ingressBandwidth": "10M",
            f"{PREFIX}egressBandwidth": "1.5Gi",
            f"{PREFIX}ingressPacketRate": "500",
            f"{PREFIX}egressBurst": "4e",
            f"{PREFIX}dscp": "EF",
            "other/ingressBurst": "x",
        }
        | {f"{PREFIX}egressBurst": "2k"}
    )
    assert found == QoSControls(
        ingress_bandwidth=10_000_000,
        egress_bandwidth=3 << 29,
        ingress_packet_rate=500,
        egress_burst=2000,
        dscp="EF",
    )
    assert qos_of({f"{PREFIX}dscp": "46"}) == QoSControls(dscp=46)
    assert qos_of({}) is None


@pytest.mark.parametrize("text", ["fast", "-1M", "1e6", "1.M", "9" * 19, "1 M", "1\n"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(CNIFailure, match="such as 10M"):
        qos_of({f"{PREFIX}ingressBandwidth": text})
