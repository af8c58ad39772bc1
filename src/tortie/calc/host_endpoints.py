"""This host's host endpoints as the dataplane needs them.

All of them are told, also those that no interface fits: calc does not know the interfaces. Which
one an interface belongs to is `desired.host_endpoint.host_endpoint_for`.
"""

from tortie.calc.active_policies import ActivePolicies
from tortie.calc.active_rules import ActiveRules, profiles_of
from tortie.calc.sequencer import Sequencer
from tortie.calc.validation import HostInterface
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyId


class HostEndpoints:
    """Changes are noted as they come and take effect in `resolve`."""

    def __init__(self, sequencer: Sequencer, rules: ActiveRules) -> None:
        self._sequencer = sequencer
        self._rules = rules
        self._interfaces: dict[str, HostInterface] = {}
        self._changed: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._interfaces)

    def on_endpoint(self, name: str, interface: HostInterface | None) -> None:
        """Add or replace one of this host; None: it is gone, or another host's now."""
        before = self._interfaces.get(name)
        if before == interface:
            return
        for profile in profiles_of(interface):
            self._rules.want(profile)
        for profile in profiles_of(before):
            self._rules.unwant(profile)
        if interface is None:
            del self._interfaces[name]
        else:
            self._interfaces[name] = interface
        self._changed[name] = None

    def on_lists_changed(self, name: str) -> None:
        """Its policies may have changed, or their order."""
        self._changed[name] = None

    def resolve(self, policies: ActivePolicies) -> None:
        changed, self._changed = self._changed, {}
        for name in changed:
            interface = self._interfaces.get(name)
            now = staged = None
            if interface is not None:
                selecting = policies.policies_of(name)
                now = _told(interface, policies, selecting.enforced)
                if selecting.differ:
                    staged = _told(interface, policies, selecting.staged)
            self._sequencer.put(Kind.HOST_ENDPOINT, name, now)
            self._sequencer.put(Kind.STAGED_ENDPOINT, name, staged if staged != now else None)


def _told(
    interface: HostInterface, policies: ActivePolicies, selecting: frozenset[PolicyId]
) -> HostEndpoint:
    normal = policies.lists(selecting, profiles_of(interface))
    forward = policies.lists(selecting, (), forward=True)
    untracked = policies.lists(selecting, (), place="untracked")
    pre_dnat = policies.lists(selecting, (), place="pre-dnat")
    return HostEndpoint(
        interface=interface.interface,
        addresses=() if interface.interface else interface.networks,
        ingress=normal[0],
        egress=normal[1],
        forward_ingress=forward[0],
        forward_egress=forward[1],
        untracked_ingress=untracked[0],
        untracked_egress=untracked[1],
        pre_dnat=pre_dnat[0],
    )
