"""What must be true of IPAM's stored state, written from the data model alone.

Uses neither the allocator nor its structs: plain JSON and `ipaddress`, so that
a mistake over there is not repeated here.
"""

import ipaddress
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from typing import Any

ROOT = "/calico/ipam/v2/"
POOLS = "/calico/resources/v3/projectcalico.org/ippools/"


def check(entries: Mapping[str, bytes]) -> list[str]:
    """One sentence for each invariant that does not hold; empty means sound.

    I1 no address in two allocations; I2 each ordinal free or allocated, once;
    I3 handles count what blocks say; I4 at most one confirmed affinity for a
    block, and it is the block's; I5 blocks aligned, disjoint, in one pool;
    I6 with strict affinity nobody borrows; I8 attributes are all in use.
    """
    blocks = _below(entries, f"{ROOT}assignment/")
    problems: list[str] = []
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    holders: dict[str, str] = {}
    for path, block in blocks.items():
        problems += _check_block(path, block)
        cidr = ipaddress.ip_network(block["cidr"])
        for ordinal, index in enumerate(block["allocations"]):
            if index is None or not 0 <= index < len(block["attributes"]):
                continue
            attribute = block["attributes"][index]
            address = str(cidr[ordinal])
            if address in holders:
                problems.append(f"I1: {address} is allocated twice")
            holders[address] = str(attribute)
            if attribute.get("handle_id"):
                counted[attribute["handle_id"]][block["cidr"]] += 1
            elif not attribute.get("releasedAt"):
                problems.append(f"I3: {address} is allocated without handle")
    problems += _check_handles(entries, counted)
    problems += _check_affinities(entries, blocks)
    problems += _check_places(entries, blocks)
    return problems


def check_limit(entries: Mapping[str, bytes], most: int) -> list[str]:
    """I6: no host has more than `most` confirmed affinities of one family."""
    owned: Counter[tuple[str, str]] = Counter()
    for path, value in _below(entries, f"{ROOT}host/").items():
        parts = path.removeprefix(f"{ROOT}host/").split("/")
        if len(parts) == 4 and value.get("state") == "confirmed":
            owned[parts[0], parts[1]] += 1
    return [f"I6: {owner} has {count} blocks" for owner, count in owned.items() if count > most]


def check_borrowing(entries: Mapping[str, bytes], moved: Set[str] = frozenset()) -> list[str]:
    """I6: every address is held by its block's host, but for handles that moved."""
    problems = []
    for block in _below(entries, f"{ROOT}assignment/").values():
        for attribute in block["attributes"]:
            node = (attribute.get("secondary") or {}).get("node")
            if attribute.get("handle_id") in moved:
                continue
            if node is not None and block["affinity"] != f"host:{node}":
                problems.append(f"I6: {node} holds addresses of {block['affinity']}")
    return problems


def check_growth(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """I7: a block that changed has a larger sequence number, a new one included."""
    problems = []
    old = _below(before, f"{ROOT}assignment/")
    for path, block in _below(after, f"{ROOT}assignment/").items():
        changed = path in old and old[path] != block
        if changed and block["sequenceNumber"] <= old[path]["sequenceNumber"]:
            problems.append(f"I7: {path} changed without growing its sequence number")
    return problems


def allocated(entries: Mapping[str, bytes]) -> dict[str, str]:
    """Address → handle, for everything that a handle holds."""
    found = {}
    for block in _below(entries, f"{ROOT}assignment/").values():
        cidr = ipaddress.ip_network(block["cidr"])
        for ordinal, index in enumerate(block["allocations"]):
            if index is not None and block["attributes"][index].get("handle_id"):
                found[str(cidr[ordinal])] = block["attributes"][index]["handle_id"]
    return found


def _check_block(path: str, block: dict[str, Any]) -> list[str]:
    cidr = ipaddress.ip_network(block["cidr"])
    problems = []
    if path != f"{ROOT}assignment/ipv{cidr.version}/block/{str(cidr).replace('/', '-')}":
        problems.append(f"I5: {path} holds block {cidr}")
    size = cidr.num_addresses
    places = [o for o, index in enumerate(block["allocations"]) if index is not None]
    if len(block["allocations"]) != size or sorted(places + block["unallocated"]) != [*range(size)]:
        problems.append(f"I2: {cidr} allocated {places}, free {block['unallocated']}")
    used = {index for index in block["allocations"] if index is not None}
    if used != set(range(len(block["attributes"]))):
        problems.append(f"I8: {cidr} uses attributes {used} of {len(block['attributes'])}")
    numbers = block["sequenceNumberForAllocation"]
    if not set(map(int, numbers)) <= set(places):
        problems.append(f"I7: {cidr} has sequence numbers for free ordinals")
    if any(number >= block["sequenceNumber"] for number in numbers.values()):
        problems.append(f"I7: {cidr} has an allocation from the future")
    return problems


def _check_handles(entries: Mapping[str, bytes], counted: Mapping[str, Counter[str]]) -> list[str]:
    said = {
        path.removeprefix(f"{ROOT}handle/"): handle["block"]
        for path, handle in _below(entries, f"{ROOT}handle/").items()
    }
    problems = []
    for handle in said.keys() | counted.keys():
        if said.get(handle) != dict(counted.get(handle, {})):
            problems.append(
                f"I3: handle {handle} says {said.get(handle)}, blocks say "
                f"{dict(counted.get(handle, {}))}"
            )
    return problems


def _check_affinities(
    entries: Mapping[str, bytes], blocks: Mapping[str, dict[str, Any]]
) -> list[str]:
    problems = []
    owners: dict[str, list[str]] = defaultdict(list)
    for path, value in _below(entries, f"{ROOT}host/").items():
        parts = path.removeprefix(f"{ROOT}host/").split("/")
        if len(parts) == 4 and value.get("state") == "confirmed":
            owners[parts[3].replace("-", "/")].append(parts[0])
    cidrs = {block["cidr"]: block["affinity"] for block in blocks.values()}
    for cidr, hosts in owners.items():
        if len(hosts) > 1 or cidrs.get(cidr) != f"host:{hosts[0]}":
            problems.append(f"I4: {cidr} of {cidrs.get(cidr)} has affinities of {hosts}")
    return problems


def _check_places(entries: Mapping[str, bytes], blocks: Mapping[str, dict[str, Any]]) -> list[str]:
    problems = []
    networks = [ipaddress.ip_network(block["cidr"]) for block in blocks.values()]
    pools = [ipaddress.ip_network(pool["spec"]["cidr"]) for pool in _below(entries, POOLS).values()]
    for place, network in enumerate(networks):
        if any(network.overlaps(other) for other in networks[place + 1 :]):
            problems.append(f"I5: {network} overlaps another block")
        around = [p for p in pools if p.version == network.version and p.supernet_of(network)]  # type: ignore[arg-type]
        if len(around) != 1:
            problems.append(f"I5: {network} is in {len(around)} pools")
    return problems


def _below(entries: Mapping[str, bytes], prefix: str) -> dict[str, Any]:
    return {path: json.loads(value) for path, value in entries.items() if path.startswith(prefix)}
