"""Why a packet passes or not: both halves, tier by tier, rule by rule.

Answered from stored resources alone, by the reference evaluator; so it can be
asked from any machine, and judges what is enforced instead of repeating it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tortie.explain.mismatch import short_name
from tortie.explain.oracle import Packet, State
from tortie.explain.staged import enforce_staged
from tortie.explain.trace import Half, halves_of
from tortie.lib.errors import InvalidInput, NotFound
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.keys import ResourceKey


class Explanation(NamedTuple):
    packet: Packet
    halves: tuple[Half, ...]
    """Egress of the source, ingress of the destination; only of those that are workloads, or
    addresses of a host with a host endpoint; around them what the host endpoint of all interfaces
    says. What hosts in between do, on interfaces of their own, is not asked."""
    allowed: bool
    fixes: tuple[str, ...]
    """Single changes that would let the packet pass the half that denies it."""
    staged: "tuple[Half, ...] | None" = None
    """The halves as they would be if all that is staged were enforced; None: as they are."""

    @property
    def staged_allowed(self) -> bool:
        """Whether it would pass then."""
        return all(half.allowed for half in (self.halves if self.staged is None else self.staged))


def explain(state: State, packet: Packet) -> Explanation:
    """Trace the packet; agrees with `oracle.decide` on every packet."""
    state = _about(state, packet)
    halves = halves_of(state, packet)
    allowed = all(half.allowed for half in halves)
    fixes = tuple(dict.fromkeys(fix for half in halves for fix in _fixes(half)))
    then = enforce_staged(state)
    origins = {str(key): str(origin) for key, origin in then.origins.items()}
    staged = tuple(_renamed(half, origins) for half in halves_of(then.state, packet))
    differs = staged != halves
    return Explanation(packet, halves, allowed, fixes, staged if differs else None)


def _renamed(half: Half, names: Mapping[str, str]) -> Half:
    """With policies called after what they come from."""
    return half._replace(
        tiers=tuple(
            tier._replace(
                policies=tuple(
                    policy._replace(name=names.get(policy.name, policy.name))
                    for policy in tier.policies
                )
            )
            for tier in half.tiers
        )
    )


def _about(state: State, packet: Packet) -> State:
    """Without the workloads that the packet is not about: no rule asks for those."""
    addresses = (packet.source, packet.destination)
    return {
        key: resource
        for key, resource in state.items()
        if not isinstance(resource, WorkloadEndpoint)
        or any(parse_network(text) in addresses for text in resource.spec.ip_networks)
    }


def find_endpoint(state: State, name: str) -> tuple[ResourceKey, WorkloadEndpoint]:
    """An endpoint by `namespace/workload`, `workload`, or the resource's own name.

    Raises:
        NotFound: none; says which there are of similar names.
        InvalidInput: several.
    """
    namespace, slash, short = name.rpartition("/")
    found = [
        (key, resource)
        for key, resource in state.items()
        if isinstance(key, ResourceKey)
        and isinstance(resource, WorkloadEndpoint)
        and (not slash or key.namespace == namespace)
        and short in (key.name, resource.spec.workload, resource.spec.pod)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(f"{key.namespace}/{key.name}" for key, _ in found))
        raise InvalidInput(f"{name} is ambiguous: {names}")
    raise NotFound(f"there is no workload endpoint {name}; see tortie get workloadendpoints -A")


def find_host_endpoint(state: State, name: str) -> tuple[ResourceKey, HostEndpoint] | None:
    key = ResourceKey("HostEndpoint", name)
    resource = state.get(key)
    return (key, resource) if isinstance(resource, HostEndpoint) else None


def resolve(state: State, text: str, family: int | None) -> Network:
    """An address, or the address of the endpoint of that name.

    Args:
        family: which one to take of an endpoint that has both; None means IPv4 first.
    """
    try:
        return parse_address(text)
    except InvalidInput:
        if ":" in text or text.replace(".", "").isdigit():
            raise
    if host_endpoint := find_host_endpoint(state, text):
        key, texts = host_endpoint[0], host_endpoint[1].spec.expected_ips
    else:
        key, endpoint = find_endpoint(state, text)
        texts = endpoint.spec.ip_networks
    addresses = sorted(map(parse_address, texts))
    for address in addresses:
        if family in (None, address.family):
            return address
    wanted = "" if family is None else f"IPv{family} "
    raise NotFound(f"{short_name(state, key)} has no {wanted}address")


def _fixes(half: Half) -> list[str]:
    """For a half that denies: conditions that alone keep an Allow from matching."""
    if half.allowed:
        return []
    found = []
    for tier in half.tiers:
        for policy in tier.policies:
            for rule in policy.rules:
                if rule.action == "Allow" and len(rule.because) == 1 and rule.because[0].fix:
                    where = f"{policy.name} {half.way.lower()}[{rule.position}]"
                    found.append(f"{rule.because[0].fix}, so that {where} allows it")
    return found
