"""What controllers report about a resource."""

from typing import Annotated

from tortie.model.limits import REQUIRED, Limits, Time
from tortie.model.metadata import Spec

_DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


class Condition(Spec, frozen=True, kw_only=True):
    """One thing that is or is not so, as everywhere in Kubernetes."""

    type: Annotated[
        str,
        Limits(
            required=True,
            longest=316,
            pattern=rf"({_DNS}/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])",
            rule="must be letters, digits and inner '-', '_' and '.', with or without a domain",
        ),
    ] = ""
    status: Annotated[str, Limits(required=True, choices=("True", "False", "Unknown"))] = ""
    observed_generation: Annotated[int, Limits(low=0, high=2**63 - 1)] = 0
    last_transition_time: Annotated[Time, REQUIRED] = ""
    reason: Annotated[
        str,
        Limits(
            required=True,
            longest=1024,
            pattern="[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            rule="must be letters, digits and inner ',' and ':', beginning with a letter",
        ),
    ] = ""
    message: Annotated[str | None, Limits(present=True, longest=32768)] = None


class Status(Spec, frozen=True, kw_only=True):
    conditions: Annotated[tuple[Condition, ...], Limits(unique_by="type")] = ()
