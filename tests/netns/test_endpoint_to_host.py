"""From a workload to its host: the truth table of Calico's functional tests.

What decides: the host's own input chain, the endpoint-to-host action, and a host endpoint that
allows or denies what workloads send. Source: Calico, felix/fv/ep_to_host_action_test.go.
"""

import subprocess
from typing import Literal

import pytest
from tests.netns.dataplane_host import ALLOW_ALL, Host, hears, patience_for, tier, workloads
from tests.netns.outside import HOST, THIS_HOST, machines, tcp, udp

from tortie.dataplane.settings import EndpointToHostAction, Settings
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import IPSetType, PolicyList, Rule, Side

pytestmark = pytest.mark.usefixtures("netns")

WORKLOADS = "s:workloads"
WEB = 8055

Action = Literal["Allow", "Deny"]

# The host's input policy, the endpoint-to-host action, the host endpoint's interface,
# what its policy says, and whether the packet arrives.
ROWS: tuple[tuple[str, EndpointToHostAction, str, Action | None, bool], ...] = (
    ("drop", "Accept", "none", None, True),
    ("drop", "Return", "none", None, False),
    ("drop", "Drop", "none", None, False),
    ("accept", "Accept", "none", None, True),
    ("accept", "Return", "none", None, True),
    ("accept", "Drop", "none", None, False),
    # One of another interface has no say.
    ("accept", "Return", "up0", "Deny", True),
    ("drop", "Return", "up0", "Deny", False),
    # Pre-DNAT policy comes before, and both must agree.
    ("drop", "Accept", "* pre-DNAT", "Allow", True),
    ("drop", "Return", "* pre-DNAT", "Allow", False),
    ("drop", "Drop", "* pre-DNAT", "Allow", False),
    ("drop", "Accept", "* pre-DNAT", "Deny", False),
    ("drop", "Return", "* pre-DNAT", "Deny", False),
    ("drop", "Drop", "* pre-DNAT", "Deny", False),
    ("accept", "Accept", "* pre-DNAT", "Deny", False),
    ("accept", "Return", "* pre-DNAT", "Deny", False),
    ("accept", "Drop", "* pre-DNAT", "Deny", False),
    # Normal policy of all interfaces is not asked about what comes from a workload.
    ("drop", "Accept", "*", "Allow", True),
    ("drop", "Return", "*", "Allow", False),
    ("drop", "Drop", "*", "Allow", False),
    ("drop", "Accept", "*", "Deny", True),
    ("drop", "Return", "*", "Deny", False),
    ("drop", "Drop", "*", "Deny", False),
    ("accept", "Accept", "*", "Deny", True),
    ("accept", "Return", "*", "Deny", True),
    ("accept", "Drop", "*", "Deny", False),
)


def own_rules(policy: str, settings: Settings) -> None:
    """The host's own input chain: another table, so it needs one rule to go by what we accept."""
    table = f"""table inet filter {{
        chain input {{
            type filter hook input priority 10; policy {policy};
            ct state established,related accept
            meta l4proto ipv6-icmp accept
            meta mark & {settings.mark_accepted} != 0 accept
        }}
    }}"""
    subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)


def host_endpoint(host: Host, interface: str, action: Action) -> HostEndpoint:
    """Selects what workloads send, as the original does; egress is open."""
    from_workloads = Rule(action, source=Side(sets=(WORKLOADS,)))
    egress = PolicyList(profiles=(ALLOW_ALL,))
    if interface != "* pre-DNAT":
        policy = host.policy("from-workloads", ingress=(from_workloads,))
        return HostEndpoint(interface, ingress=PolicyList((tier(policy),)), egress=egress)
    between = Rule("Allow", source=Side(sets=(WORKLOADS,)), destination=Side(sets=(WORKLOADS,)))
    policy = host.policy("pre-dnat", ingress=(between, from_workloads))
    early = PolicyList((tier(policy, default="Pass"),))
    return HostEndpoint("*", egress=egress, pre_dnat=early)


@pytest.mark.parametrize(("input_policy", "action", "interface", "said", "arrives"), ROWS)
def test_endpoint_to_host(
    input_policy: str,
    action: EndpointToHostAction,
    interface: str,
    said: Action | None,
    arrives: bool,
) -> None:
    settings = Settings(host="h1", endpoint_to_host_action=action)
    host = Host(settings)
    host.allow_all_profile()
    own_rules(input_policy, settings)
    with workloads(host, 2) as (a, b), machines(host, "up0"):
        host.update(Kind.IP_SET, WORKLOADS, IPSetType.NET)
        for workload in (a, b):
            host.endpoint(workload)
            for address in (workload.ipv4, workload.ipv6):
                host.update(Kind.IP_SET_MEMBER, (WORKLOADS, address), True)
        if said is not None:
            host.update(Kind.HOST_ENDPOINT, "hep", host_endpoint(host, interface, said))
        host.apply()
        for family in (4, 6):
            assert (
                udp(a, THIS_HOST, HOST[family], WEB, patience=patience_for(arrives)) is arrives
            ), family
            assert (
                tcp(a, THIS_HOST, HOST[family], WEB, patience=patience_for(arrives)) is arrives
            ), family
            assert hears(a, b, WEB, family), "workloads reach each other whatever it is"
    host.close()
