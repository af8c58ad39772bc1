"""Which host endpoint has which interface, worked out for all at once."""

from hypothesis import given
from hypothesis import strategies as st

from tortie.dataplane.driver.nftables import INET
from tortie.dataplane.driver.table import TableState
from tortie.dataplane.manager.host_endpoint import HostEndpointManager
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.rules import names, static
from tortie.dataplane.settings import Settings
from tortie.desired.host_endpoint import ALL_INTERFACES, HostEndpoint, host_endpoint_for
from tortie.desired.kinds import Kind
from tortie.desired.policy import PolicyId, PolicyList, TierPolicies
from tortie.kernel.nft import keys
from tortie.lib.ip import parse_address

SETTINGS = Settings(host="h1")
ADDRESSES = tuple(map(parse_address, ("192.0.2.1", "192.0.2.2", "fd00::1")))
INTERFACES = ("eth0", "eth1", "lo")

addresses = st.frozensets(st.sampled_from(ADDRESSES), max_size=2)
endpoints = st.one_of(
    st.builds(HostEndpoint, st.sampled_from((*INTERFACES, ALL_INTERFACES))),
    st.builds(HostEndpoint, st.just(""), addresses.map(tuple)),
)


class Bench:
    def __init__(self) -> None:
        self.table = TableState(INET)
        self.table.want_content(static.inet_table(SETTINGS))
        self.manager = HostEndpointManager(
            self.table, PolicyManager(self.table, SETTINGS), SETTINGS
        )

    def tell(self, name: str, endpoint: HostEndpoint | None) -> None:
        self.manager.on_update(Kind.HOST_ENDPOINT, name, endpoint)

    def list_at(self, interface: str) -> bool:
        found = names.lists_map("ingress", "host")
        return self.table.wants_element(found, keys.ifname(interface))


@given(
    st.dictionaries(st.sampled_from("abcde"), endpoints, max_size=5),
    st.dictionaries(st.sampled_from(INTERFACES), addresses),
)
def test_each_interface_belongs_to_whom_the_rule_says(
    told: dict[str, HostEndpoint], own: dict[str, frozenset[object]]
) -> None:
    bench = Bench()
    for name, endpoint in told.items():
        bench.tell(name, endpoint)
    bench.manager.on_addresses(own)  # type: ignore[arg-type]
    bench.manager.resolve()
    found = bench.manager.interfaces()
    for interface in INTERFACES:
        wanted = host_endpoint_for(interface, own.get(interface, ()), told)  # type: ignore[arg-type]
        every = found.get(ALL_INTERFACES) if interface != "lo" else None
        assert found.get(interface, every) == wanted


def test_nothing_is_written_before_all_is_told() -> None:
    bench = Bench()
    bench.tell("a", HostEndpoint("eth0"))
    assert not bench.manager.in_sync
    bench.manager.resolve()
    assert bench.manager.in_sync
    assert bench.list_at("eth0")
    bench.tell("a", HostEndpoint("eth1"))
    bench.manager.resolve()
    assert bench.list_at("eth1")
    assert not bench.list_at("eth0")
    bench.tell("a", None)
    bench.manager.resolve()
    chains = {name for name in bench.table.pending_chains() if name.startswith("host-")}
    assert not chains, "nothing of host endpoints is wanted any more"


def test_a_list_that_passes_from_one_interface_to_another_stays() -> None:
    policy = PolicyId("GlobalNetworkPolicy", "p")
    wanted = PolicyList((TierPolicies("default", "Deny", (policy,)),))
    bench = Bench()
    bench.tell("a", HostEndpoint("eth0", ingress=wanted))
    bench.manager.resolve()
    bench.tell("a", None)
    bench.tell("b", HostEndpoint("eth1", ingress=wanted))
    bench.manager.resolve()
    chain = names.list_chain(names.list_id(wanted), "ingress", "host")
    assert chain in bench.table.pending_chains()
    assert names.policy_chain(policy, "ingress") in bench.table.pending_chains()
