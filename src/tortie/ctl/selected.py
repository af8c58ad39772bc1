"""Which endpoints policies select: said after `apply`, because a typing mistake selects none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tortie.calc.validation import (
    Labelled,
    parse_host_endpoint,
    parse_policy,
    parse_profile,
    parse_workload_endpoint,
)
from tortie.ctl.screen import Screen
from tortie.datastore.resources import Resources, key_of
from tortie.desired.policy import PolicyId
from tortie.lib.errors import InvalidInput, TortieError
from tortie.model.documents import Document
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile
from tortie.selector.normal import canonical

LINES_MAX = 10
"""Policies named one by one; of more there is a summary."""


class Count(NamedTuple):
    name: str
    endpoints: int


async def report(resources: Resources, documents: Sequence[Document], screen: Screen) -> None:
    """Say of each policy among `documents` how many endpoints it selects, on standard error."""
    policies = [
        document.resource
        for document in documents
        if isinstance(document.resource, (NetworkPolicy, GlobalNetworkPolicy))
    ]
    if not policies:
        return
    try:
        endpoints = await _endpoints(resources)
    except TortieError as error:
        screen.warn(f"how many endpoints they select is not known: {error}")
        return
    counter = _Counter(endpoints)
    for line in lines([counter.count(policy) for policy in policies]):
        screen.warn(line)


def lines(counts: Sequence[Count]) -> Iterator[str]:
    none = [count.name for count in counts if not count.endpoints]
    if len(counts) <= LINES_MAX:
        for count in counts:
            if count.endpoints:
                plural = "" if count.endpoints == 1 else "s"
                yield f"{count.name} selects {count.endpoints} endpoint{plural}"
            else:
                yield f"warning: {count.name} selects no endpoint"
        return
    yield f"{len(counts) - len(none)} of {len(counts)} policies select endpoints"
    if none:
        shown = ", ".join(none[:LINES_MAX])
        more = f" and {len(none) - LINES_MAX} more" if len(none) > LINES_MAX else ""
        yield f"warning: no endpoint is selected by {shown}{more}"


class _Counter:
    """Policies with the same selector are counted once."""

    def __init__(self, endpoints: Sequence[Mapping[str, str]]) -> None:
        self._endpoints = endpoints
        self._known: dict[str, int] = {}

    def count(self, policy: NetworkPolicy | GlobalNetworkPolicy) -> Count:
        key = key_of(policy)
        identity = PolicyId(key.kind, key.name, key.namespace)
        # Without its rules, which say nothing about whom it applies to.
        spec = msgspec.structs.replace(policy.spec, ingress=(), egress=())
        try:
            selector = parse_policy(identity, spec).selector
        except InvalidInput:  # what validation takes and calc does not
            return Count(str(key), 0)
        text = canonical(selector)
        if text not in self._known:
            self._known[text] = sum(selector.matches(labels) for labels in self._endpoints)
        return Count(str(key), self._known[text])


async def _endpoints(resources: Resources) -> list[Mapping[str, str]]:
    """The labels of every endpoint, with those that its profiles give it."""
    lent: dict[str, Mapping[str, str]] = {}
    for profile in await resources.all_of(Profile):
        try:
            lent[profile.metadata.name] = parse_profile(profile).labels
        except InvalidInput:
            continue
    found: list[Labelled] = []
    for workload in await resources.all_of(WorkloadEndpoint):
        try:
            found.append(parse_workload_endpoint(key_of(workload), workload).labelled)
        except InvalidInput:
            continue
    for host in await resources.all_of(HostEndpoint):
        try:
            found.append(parse_host_endpoint(host).labelled)
        except InvalidInput:
            continue
    return [_effective(labelled, lent) for labelled in found]


def _effective(labelled: Labelled, lent: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for profile in reversed(labelled.parents):
        labels |= lent.get(profile, {})
    return labels | labelled.labels
