"""Every kind of desired object, in order of dependency."""

from collections.abc import Callable, Hashable
from enum import IntEnum


class Kind(IntEnum):
    """What depends on what: a kind may refer only to kinds before it."""

    POOL = 1
    """Network → `Pool`."""
    HOST = 2
    """Host name → `Host`."""
    IP_SET = 3
    """Set id → `IPSetType`."""
    IP_SET_MEMBER = 4
    """(set id, `Network` or `AddressPort`) → True: a large set changes one entry at a time."""
    POLICY = 5
    """`PolicyId` → `Policy`; profiles too."""
    STAGED_POLICY = 6
    """`PolicyId` → `Policy`: what somebody wants to see at work before enforcing it."""
    ENDPOINT = 7
    """`EndpointId` → `Endpoint`."""
    HOST_ENDPOINT = 8
    """The resource's name → `HostEndpoint`."""
    STAGED_ENDPOINT = 9
    """`EndpointId` → `Endpoint`, name → `HostEndpoint`: as it would be if all that is staged were
    enforced; only where that differs."""
    ROUTE = 10
    """Destination `Network` → `Route`."""
    SERVICE_NETWORK = 11
    """Network → True: there services have addresses, and nobody else."""


Emit = Callable[[Kind, Hashable, object | None], None]
"""What calc calls once per changed object at each flush."""
