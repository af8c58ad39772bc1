"""One way in for every kind."""

from collections.abc import Iterator

from tortie.lib.errors import InvalidInput
from tortie.model import names
from tortie.model.endpoint import HostEndpoint, WorkloadEndpoint
from tortie.model.keys import NAMESPACED
from tortie.model.metadata import Resource
from tortie.model.network_set import GlobalNetworkSet, NetworkSet
from tortie.model.node import IPPool, Node
from tortie.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile, Tier
from tortie.model.validation import network, policy, terms
from tortie.model.validation.limits import limit_problems
from tortie.model.validation.terms import Problem

PROBLEMS_SHOWN = 3
"""In one error; the rest is counted."""


def validate(resource: Resource, *, stored: bool = False) -> list[Problem]:
    """Everything that is wrong with it, in the order of its fields; empty when nothing is.

    Args:
        stored: it comes from the datastore, where other writers may have left what we would
            not take from a user but which does no harm: host bits in rules, odd labels and
            names, and settings of agents, which fall back to their defaults one by one.
    """
    problems = _spec_problems(resource, strict=not stored)
    if stored:
        return [] if type(resource).__name__ == "FelixConfiguration" else list(problems)
    found = [*_metadata_problems(resource), *limit_problems("", resource)]
    known = {problem.path for problem in found}
    # One problem for each field: what breaks a limit often breaks a rule as well.
    return [*found, *(problem for problem in problems if problem.path not in known)]


def check(resource: Resource, *, stored: bool = False) -> None:
    """Like `validate`, for who wants an error.

    Raises:
        InvalidInput: on one line, what it is, and of its problems the fields, rules and values.
    """
    problems = validate(resource, stored=stored)
    if problems:
        raise InvalidInput(f"{titled(resource)}: {summary(problems)}")


def titled(resource: Resource) -> str:
    """Kind and name, as users write them."""
    metadata = resource.metadata
    scope = f"{metadata.namespace}/" if metadata.namespace else ""
    kind = resource.kind or type(resource).__name__
    return terms.printable(f"{kind}({scope}{metadata.name})")


def summary(problems: list[Problem]) -> str:
    shown = "; ".join(map(str, problems[:PROBLEMS_SHOWN]))
    more = len(problems) - PROBLEMS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _spec_problems(resource: Resource, *, strict: bool) -> Iterator[Problem]:
    match resource:
        case NetworkPolicy() | GlobalNetworkPolicy():
            yield from policy.policy_problems(resource, strict=strict)
        case Profile():
            yield from policy.profile_problems(resource, strict=strict)
        case Tier():
            yield from policy.tier_problems(resource)
        case Node():
            yield from network.node_problems(resource)
        case IPPool():
            yield from network.pool_problems(resource)
        case NetworkSet() | GlobalNetworkSet():
            yield from network.network_set_problems(resource)
        case HostEndpoint():
            yield from network.host_endpoint_problems(resource)
        case WorkloadEndpoint():
            yield from network.workload_endpoint_problems(resource)
        case _:
            from tortie.model.validation import seldom

            yield from seldom.spec_problems(resource, strict=strict)


def _metadata_problems(resource: Resource) -> Iterator[Problem]:
    kind = resource.kind or type(resource).__name__
    metadata = resource.metadata
    yield from terms.name_problems(kind, metadata.name)
    if kind in NAMESPACED:
        if not names.is_dns_label(metadata.namespace):
            yield Problem("metadata.namespace", metadata.namespace, "must be a DNS label")
    elif metadata.namespace:
        yield Problem("metadata.namespace", metadata.namespace, f"a {kind} has no namespace")
    yield from terms.labels_problems("metadata.labels", metadata.labels)
    yield from terms.annotations_problems(metadata.annotations)
