"""Live migrations: which endpoints wait until somebody else gives their addresses up.

While a virtual machine is on its way, two endpoints have its addresses: where it runs, and where
it is about to. The second one, the *target*, has its policy in force before the machine arrives,
but its addresses lead to whoever else has them, on every host; see `routes`. It gets them when the
migration is over or the other endpoint is gone, whatever comes first; and when it fails, the
target goes and nothing has happened.

Source: Calico, felix/calc/live_migration_calculator.go. There the target's host also listens for
the machine's own announcement (gratuitous ARP), and raises its route's priority for a while.
"""

from collections import Counter

from tortie.desired.endpoint import EndpointId
from tortie.lib.errors import InvalidInput
from tortie.model.keys import ResourceKey
from tortie.model.live_migration import LiveMigration


class Migrations:
    """Several migrations may name one target, for a moment."""

    def __init__(self) -> None:
        self._by_key: dict[ResourceKey, EndpointId] = {}
        self._targets: Counter[EndpointId] = Counter()

    def on_migration(self, key: ResourceKey, target: EndpointId | None) -> list[EndpointId]:
        """The migration is there, with this target; None: it is not. Returns the endpoints that
        have become targets, or are none any more."""
        before = self._by_key.pop(key, None)
        if before == target:
            if target is not None:
                self._by_key[key] = target
            return []
        changed = []
        if before is not None:
            self._targets[before] -= 1
            if not self._targets[before]:
                del self._targets[before]
                changed.append(before)
        if target is not None:
            self._by_key[key] = target
            if target not in self._targets:
                changed.append(target)
            self._targets[target] += 1
        return changed

    def is_target(self, endpoint: EndpointId) -> bool:
        return endpoint in self._targets


def parse_live_migration(resource: LiveMigration) -> EndpointId | None:
    """The target, if it is named; a selector's, as KubeVirt has it, is not followed.

    Raises:
        InvalidInput: the name has not the form of one.
    """
    target = resource.spec.target
    identifier = target.workload_endpoint if target else None
    if identifier is None:
        return None
    namespace, slash, workload = identifier.workload_id.partition("/")
    parts = (identifier.hostname, identifier.orchestrator_id, workload, identifier.endpoint_id)
    if not (slash and namespace and all(parts)):
        raise InvalidInput(
            "spec.target.workloadEndpoint: host, orchestrator, <namespace>/<workload> and endpoint "
            "are needed"
        )
    return EndpointId(namespace, "-".join(part.replace("-", "--") for part in parts))
