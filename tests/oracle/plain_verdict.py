"""What a host's desired state says about one packet, read straight off the objects."""

from collections.abc import Hashable
from typing import Any, cast

from tortie.calc.graph import Graph
from tortie.desired.endpoint import Endpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    AddressPort,
    ICMPMatch,
    Policy,
    PolicyId,
    PolicyList,
    PortRange,
    Rule,
    Side,
)
from tortie.explain.oracle import Packet
from tortie.lib.ip import Network
from tortie.model.keys import Key


class DesiredHost:
    """One host's calc, and what it has told so far."""

    def __init__(self, name: str) -> None:
        self._graph = Graph(name, self._emit)
        self._objects: dict[Kind, dict[Hashable, Any]] = {kind: {} for kind in Kind}
        self._members: dict[str, set[Hashable]] = {}
        self._endpoints: dict[Network, Endpoint] = {}

    def update(self, changes: dict[Key, object | None]) -> None:
        for key, value in changes.items():
            self._graph.on_update(key, value)
        self._graph.flush()
        endpoints = cast("list[Endpoint]", list(self._objects[Kind.ENDPOINT].values()))
        self._endpoints = {address: one for one in endpoints for address in one.networks}

    def allows(self, packet: Packet) -> bool:
        """As far as this host has a say: it decides for the ends that it has."""
        source = self._endpoints.get(packet.source)
        destination = self._endpoints.get(packet.destination)
        return (source is None or self._decide(source.egress, "egress", packet)) and (
            destination is None or self._decide(destination.ingress, "ingress", packet)
        )

    def _emit(self, kind: Kind, name: Hashable, value: object | None) -> None:
        if kind is Kind.IP_SET_MEMBER:
            set_id, member = cast("tuple[str, Hashable]", name)
            members = self._members.setdefault(set_id, set())
            (members.add if value else members.discard)(member)
        elif value is None:
            del self._objects[kind][name]
        else:
            self._objects[kind][name] = value

    def _decide(self, policies: PolicyList, way: str, packet: Packet) -> bool:
        for tier in policies.tiers:
            actions = (self._action(policy, way, packet) for policy in tier.policies)
            action = next((one for one in actions if one), tier.default_action)
            if action != "Pass":
                return action == "Allow"
        actions = (self._action(profile, way, packet) for profile in policies.profiles)
        return next((one for one in actions if one not in ("", "Pass")), "Deny") == "Allow"

    def _action(self, policy_id: PolicyId, way: str, packet: Packet) -> str:
        policy = cast(Policy, self._objects[Kind.POLICY][policy_id])
        rules = policy.ingress if way == "ingress" else policy.egress
        matching = (rule.action for rule in rules if self._matches(rule, packet))
        return next((action for action in matching if action != "Log"), "")

    def _matches(self, rule: Rule, packet: Packet) -> bool:
        return (
            rule.family in (None, packet.source.family)
            and rule.protocol in (None, packet.protocol)
            and rule.not_protocol != packet.protocol
            and (rule.icmp is None or _is_icmp(rule.icmp, packet))
            and (rule.not_icmp is None or not _is_icmp(rule.not_icmp, packet))
            and self._side(rule.source, packet.source, packet.source_port, packet.protocol)
            and self._side(
                rule.destination, packet.destination, packet.destination_port, packet.protocol
            )
        )

    def _side(self, side: Side, address: Network, port: int | None, protocol: int) -> bool:
        served = None if port is None else AddressPort(address, protocol, port)

        def named(set_ids: tuple[str, ...]) -> bool:
            return any(served in self._members.get(set_id, ()) for set_id in set_ids)

        return (
            (not side.networks or _within(side.networks, address))
            and not _within(side.not_networks, address)
            and all(_within(self._members.get(one, ()), address) for one in side.sets)
            and not any(_within(self._members.get(one, ()), address) for one in side.not_sets)
            and (
                not (side.ports or side.named_ports)
                or _in_range(side.ports, port)
                or named(side.named_ports)
            )
            and not _in_range(side.not_ports, port)
            and not named(side.not_named_ports)
        )


def _within(networks: Any, address: Network) -> bool:
    return any(network.contains(address) for network in networks)


def _in_range(ranges: tuple[PortRange, ...], port: int | None) -> bool:
    return port is not None and any(first <= port <= last for first, last in ranges)


def _is_icmp(wanted: ICMPMatch, packet: Packet) -> bool:
    return packet.icmp_type == wanted.type and wanted.code in (None, packet.icmp_code)
