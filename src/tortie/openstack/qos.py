"""QoS rules of a port and the options beside them, as an endpoint's controls. Pure.

Kilobits become bits, kilopackets packets; what lies outside of the API's ranges becomes the
nearest value inside. Bursts come from `[calico]`, since Neutron's rules have none.

Source: Calico, networking-calico, common/config.py (the table) and drivers/calico/endpoints.py.
"""

from tortie.model.endpoint import QOS_RANGES, QoSControls
from tortie.openstack.inventory import Port
from tortie.openstack.settings import Settings

DEFAULT_BURST_BITS = 4 * 2**30
DEFAULT_BURST_PACKETS = 5

_KILO = 1000


def controls(port: Port, settings: Settings) -> QoSControls | None:
    """None where nothing limits the port and nothing marks its packets."""
    found: dict[str, int] = {}
    for limit in port.bandwidth:
        found[f"{_way(limit.direction)}_bandwidth"] = _capped("Bandwidth", limit.max_kbps * _KILO)
        found[f"{_way(limit.direction)}_peakrate"] = _capped(
            "Peakrate", limit.max_burst_kbps * _KILO
        )
    for rate in port.packet_rates:
        found[f"{_way(rate.direction)}_packet_rate"] = _capped("PacketRate", rate.max_kpps * _KILO)
    for way in ("ingress", "egress"):
        connections = getattr(settings, f"max_{way}_connections_per_port")
        found[f"{way}_max_connections"] = _capped("MaxConnections", connections)
        if found.get(f"{way}_bandwidth"):
            burst = getattr(settings, f"{way}_burst_bits") or DEFAULT_BURST_BITS
            found[f"{way}_burst"] = _capped("Burst", burst)
            if found.get(f"{way}_peakrate"):
                least = getattr(settings, f"{way}_minburst_bytes")
                found[f"{way}_minburst"] = _capped("Minburst", least)
        if found.get(f"{way}_packet_rate"):
            packets = getattr(settings, f"{way}_burst_packets") or DEFAULT_BURST_PACKETS
            found[f"{way}_packet_burst"] = _capped("PacketBurst", packets)
    made = QoSControls(**found, dscp=port.dscp)
    return None if made == QoSControls() else made


def _way(direction: str) -> str:
    return "ingress" if direction == "ingress" else "egress"


def _capped(limit: str, value: int) -> int:
    """0 stays 0: no limit."""
    low, high = QOS_RANGES[limit]
    return min(max(value, low), high) if value else 0
