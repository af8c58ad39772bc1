"""What an endpoint's QoS controls mean.

Source: Calico, libcalico-go/lib/apis/internalapi/workloadendpoint.go (defaults); RFC 2474, 2597,
3246, 5865 and 8622 (names of code points).
"""

from tortie.desired.endpoint import Bandwidth, Limits, PacketRate
from tortie.lib.errors import InvalidInput
from tortie.model.endpoint import QoSControls

DEFAULT_PACKET_BURST = 5
DEFAULT_BURST = 1 << 32
"""Bits."""

CODE_POINTS = {
    "DF": 0,
    "LE": 1,
    "VA": 44,
    "EF": 46,
    **{f"CS{number}": number * 8 for number in range(8)},
    **{f"AF{row}{drop}": row * 8 + drop * 2 for row in range(1, 5) for drop in range(1, 4)},
}


def limits_of(controls: QoSControls | None) -> Limits:
    """
    Raises:
        InvalidInput: a code point that there is not.
    """
    if controls is None:
        return Limits()
    return Limits(
        _rate(controls.ingress_packet_rate, controls.ingress_packet_burst),
        _rate(controls.egress_packet_rate, controls.egress_packet_burst),
        controls.ingress_max_connections,
        controls.egress_max_connections,
        _code_point(controls.dscp),
        _bandwidth(
            controls.ingress_bandwidth,
            controls.ingress_burst,
            controls.ingress_peakrate,
            controls.ingress_minburst,
        ),
        _bandwidth(
            controls.egress_bandwidth,
            controls.egress_burst,
            controls.egress_peakrate,
            controls.egress_minburst,
        ),
    )


def _rate(packets: int, burst: int) -> PacketRate | None:
    return PacketRate(packets, burst or DEFAULT_PACKET_BURST) if packets else None


def _bandwidth(rate: int, burst: int, peak_rate: int, peak_burst: int) -> Bandwidth | None:
    return Bandwidth(rate, burst or DEFAULT_BURST, peak_rate, peak_burst) if rate else None


def _code_point(value: int | str | None) -> int | None:
    if value is None or value == "":
        return None
    found = CODE_POINTS.get(value.upper()) if isinstance(value, str) else value
    if found is None or not 0 <= found < 64:
        raise InvalidInput(f"{value!r} is no DSCP: 0 to 63, or a name such as EF")
    return found
