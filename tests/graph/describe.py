"""Desired state as lines of text, one per object, so that a test's expectation can be read.

set NAME: MEMBER …                      NAME stands for the selector, see `describe`
policy KIND(NAME): in ACTION CONDITION…; …; out …
endpoint NAMESPACE/NAME on INTERFACE ADDRESS…: in TIER(POLICY …)ACTION → PROFILE …; out …
host-endpoint NAME on INTERFACE: in …; out …; forward-in …; untracked-in …; pre-dnat …
staged NAME …                           as the endpoint would be
route DESTINATION TYPE …
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.graph.dataplane import Objects

from tortie.desired.endpoint import Endpoint, Host, Pool, Route, RouteType
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import AddressPort, Policy, PolicyId, PolicyList, Rule, Side
from tortie.lib.ip import Network


def describe(objects: Objects, set_names: Mapping[str, str]) -> list[str]:
    """
    Args:
        set_names: set id → a name for it in the text.
    """
    members: dict[str, list[str]] = {}
    lines = []
    name: Any
    for kind, name in objects:
        if kind is Kind.IP_SET:
            members.setdefault(name, [])
        elif kind is Kind.IP_SET_MEMBER:
            members.setdefault(name[0], []).append(_member(name[1]))
    for set_id, texts in members.items():
        lines.append(" ".join([f"set {set_names.get(set_id, set_id)}:", *sorted(texts)]))
    for (kind, name), value in objects.items():
        lines += _line(kind, name, value, set_names)
    return sorted(lines)


def _line(kind: Kind, name: Any, value: Any, sets: Mapping[str, str]) -> Iterator[str]:
    if kind is Kind.POOL:
        yield f"pool {name}{_pool(value)}"
    elif kind is Kind.HOST:
        yield f"host {name}{_host(value)}"
    elif kind in (Kind.POLICY, Kind.STAGED_POLICY):
        yield f"policy {_policy_name(name)}: {_policy(value, sets)}"
    elif kind is Kind.ENDPOINT:
        yield f"endpoint {name} {_endpoint(value)}"
    elif kind is Kind.HOST_ENDPOINT:
        yield f"host-endpoint {name} {_host_endpoint(value)}"
    elif kind is Kind.STAGED_ENDPOINT:
        shown = _endpoint if isinstance(value, Endpoint) else _host_endpoint
        yield f"staged {name} {shown(value)}"
    elif kind is Kind.SERVICE_NETWORK:
        yield f"services {name}"
    elif kind is Kind.ROUTE:
        yield f"route {_address(name)} {_route(value)}"


def _address(network: Network) -> str:
    return network.address_text if network.is_address else str(network)


def _member(member: Network | AddressPort) -> str:
    if isinstance(member, AddressPort):
        return f"{_address(member.address)}:{member.protocol}:{member.port}"
    return _address(member)


def _pool(pool: Pool) -> str:
    return " masquerade" * pool.masquerade + " unexported" * (not pool.export)


def _host(host: Host) -> str:
    shown = [host.ipv4_subnet or host.ipv4, host.ipv6_subnet or host.ipv6]
    own = [host.ipv4, host.ipv6]
    return "".join(
        f" {address.address_text} in {subnet}" if subnet != address else f" {_address(address)}"
        for address, subnet in zip(own, shown, strict=True)
        if address is not None
    )


def _policy_name(policy: PolicyId) -> str:
    short = {
        "GlobalNetworkPolicy": "",
        "NetworkPolicy": f"{policy.namespace}/",
        "Profile": "profile ",
        "StagedGlobalNetworkPolicy": "staged:",
        "StagedKubernetesNetworkPolicy": f"staged:kubernetes:{policy.namespace}/",
        "StagedNetworkPolicy": f"staged:{policy.namespace}/",
    }
    return short[policy.kind] + policy.name


def _policy(policy: Policy, sets: Mapping[str, str]) -> str:
    directions = (("in", policy.ingress), ("out", policy.egress))
    return "; ".join(
        f"{direction} {', '.join(_rule(rule, sets) for rule in rules)}"
        for direction, rules in directions
        if rules
    )


def _rule(rule: Rule, sets: Mapping[str, str]) -> str:
    parts: list[str] = [rule.action]
    if rule.family is not None:
        parts.append(f"v{rule.family}")
    for word, protocol in (("", rule.protocol), ("not-", rule.not_protocol)):
        if protocol is not None:
            parts.append(f"{word}proto:{protocol}")
    for word, icmp in (("", rule.icmp), ("not-", rule.not_icmp)):
        if icmp is not None:
            parts.append(f"{word}icmp:{icmp.type}/{icmp.code}")
    parts += [*_side("from", rule.source, sets), *_side("to", rule.destination, sets)]
    if rule.annotations:
        parts.append(f"{{{' '.join(f'{key}={value}' for key, value in rule.annotations)}}}")
    return " ".join(parts)


def _side(word: str, side: Side, sets: Mapping[str, str]) -> Iterator[str]:
    ports = [str(r.first) if r.first == r.last else f"{r.first}-{r.last}" for r in side.ports]
    not_ports = [f"{r.first}-{r.last}" for r in side.not_ports]
    groups = {
        "": [_address(network) for network in side.networks],
        "-not": [_address(network) for network in side.not_networks],
        "-in": [sets.get(set_id, set_id) for set_id in side.sets],
        "-not-in": [sets.get(set_id, set_id) for set_id in side.not_sets],
        "-port": [*ports, *(sets.get(set_id, set_id) for set_id in side.named_ports)],
        "-not-port": [*not_ports, *(sets.get(set_id, set_id) for set_id in side.not_named_ports)],
    }
    for suffix, texts in groups.items():
        if texts:
            yield f"{word}{suffix}:{'|'.join(texts)}"


def _endpoint(endpoint: Endpoint) -> str:
    where = " ".join([endpoint.interface or "nowhere", *map(_address, endpoint.networks)])
    return f"on {where}: in {_list(endpoint.ingress)}; out {_list(endpoint.egress)}"


def _host_endpoint(endpoint: HostEndpoint) -> str:
    where = " ".join([endpoint.interface or "by", *map(_address, endpoint.addresses)])
    lists = {
        "in": endpoint.ingress,
        "out": endpoint.egress,
        "forward-in": endpoint.forward_ingress,
        "forward-out": endpoint.forward_egress,
        "untracked-in": endpoint.untracked_ingress,
        "untracked-out": endpoint.untracked_egress,
        "pre-dnat": endpoint.pre_dnat,
    }
    told = [f"{name} {_list(one)}" for name, one in lists.items() if one != PolicyList()]
    return f"on {where}: {'; '.join(told) or 'nothing'}"


def _list(policy_list: PolicyList) -> str:
    tiers = [
        f"{tier.name}({' '.join(map(_policy_name, tier.policies))}){tier.default_action}"
        for tier in policy_list.tiers
    ]
    return " → ".join([*tiers, *(profile.name for profile in policy_list.profiles)]) or "nothing"


def _route(route: Route) -> str:
    match route.type:
        case RouteType.LOCAL_WORKLOAD:
            return f"to {route.interface}{' borrowed' * route.borrowed}"
        case RouteType.LOCAL_BLOCK:
            return "here"
    gateway = _address(route.gateway) if route.gateway else "?"
    return f"at {route.host} via {gateway}"
