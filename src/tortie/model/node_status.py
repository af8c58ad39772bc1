"""CalicoNodeStatus: which reports of a node somebody wants, and the reports."""

from typing import Annotated

import msgspec

from tortie.model.limits import PRESENT, REQUIRED, Limits, Time
from tortie.model.metadata import Resource, Spec


class CalicoNodeStatusSpec(Spec, frozen=True, kw_only=True):
    node: str = ""
    classes: Annotated[
        tuple[Annotated[str, Limits(choices=("Agent", "BGP", "Routes"))], ...], Limits(unique=True)
    ] = ()
    """What to report."""
    update_period_seconds: Annotated[int | None, Limits(low=0, high=2**31 - 1)] = None
    """0 means never again; absent means 10."""


class DaemonStatus(Spec, frozen=True, kw_only=True):
    """One BIRD process."""

    state: Annotated[str, Limits(choices=("Ready", "NotReady"))] = ""
    version: str = ""
    router_id: str = msgspec.field(default="", name="routerID")
    last_boot_time: str = ""
    last_reconfiguration_time: str = ""


class AgentStatus(Spec, frozen=True, kw_only=True):
    bird_v4: DaemonStatus = msgspec.field(default=DaemonStatus(), name="birdV4")
    bird_v6: DaemonStatus = msgspec.field(default=DaemonStatus(), name="birdV6")


_PEER_STATES = ("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established", "Close")


class PeerStatus(Spec, frozen=True, kw_only=True):
    peer_ip: str = msgspec.field(default="", name="peerIP")
    type: Annotated[str, Limits(choices=("NodeMesh", "NodePeer", "GlobalPeer"))] = ""
    state: Annotated[str, Limits(choices=_PEER_STATES)] = ""
    since: str = ""


class BGPStatus(Spec, frozen=True, kw_only=True):
    number_established_v4: Annotated[int | None, REQUIRED] = msgspec.field(
        default=None, name="numberEstablishedV4"
    )
    number_not_established_v4: Annotated[int | None, REQUIRED] = msgspec.field(
        default=None, name="numberNotEstablishedV4"
    )
    number_established_v6: Annotated[int | None, REQUIRED] = msgspec.field(
        default=None, name="numberEstablishedV6"
    )
    number_not_established_v6: Annotated[int | None, REQUIRED] = msgspec.field(
        default=None, name="numberNotEstablishedV6"
    )
    peers_v4: tuple[PeerStatus, ...] = msgspec.field(default=(), name="peersV4")
    peers_v6: tuple[PeerStatus, ...] = msgspec.field(default=(), name="peersV6")


class RouteSource(Spec, frozen=True, kw_only=True):
    source_type: Annotated[
        str, Limits(choices=("Kernel", "Static", "Direct", "NodeMesh", "BGPPeer"))
    ] = ""
    peer_ip: str = msgspec.field(default="", name="peerIP")


class RouteStatus(Spec, frozen=True, kw_only=True):
    type: Annotated[str, Limits(choices=("FIB", "RIB"))] = ""
    destination: str = ""
    gateway: str = ""
    interface: str = ""
    learned_from: RouteSource = RouteSource()


class RoutesStatus(Spec, frozen=True, kw_only=True):
    routes_v4: tuple[RouteStatus, ...] = msgspec.field(default=(), name="routesV4")
    routes_v6: tuple[RouteStatus, ...] = msgspec.field(default=(), name="routesV6")


class CalicoNodeStatusStatus(Spec, frozen=True, kw_only=True):
    """The reports; each only when its class is asked for."""

    last_updated: Time | None = None
    agent: AgentStatus = AgentStatus()
    bgp: BGPStatus | None = None
    routes: RoutesStatus = RoutesStatus()


class CalicoNodeStatus(Resource, frozen=True, kw_only=True):
    spec: Annotated[CalicoNodeStatusSpec, PRESENT] = CalicoNodeStatusSpec()
    status: CalicoNodeStatusStatus = CalicoNodeStatusStatus()
