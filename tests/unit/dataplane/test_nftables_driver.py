"""The nftables driver on tables in memory: what it writes, and what it leaves alone."""

import asyncio
from collections.abc import Hashable

import pytest

from tortie.dataplane.dataplane import Manager
from tortie.dataplane.driver.link import Links
from tortie.dataplane.driver.neighbour import NeighbourDriver
from tortie.dataplane.driver.nftables import ARP, INET, NftablesDriver
from tortie.dataplane.driver.sysctl import SysctlDriver
from tortie.dataplane.manager.endpoint import EndpointManager
from tortie.dataplane.manager.ipset import IPSetManager
from tortie.dataplane.manager.masquerade import MasqueradeManager
from tortie.dataplane.manager.policy import PolicyManager
from tortie.dataplane.rules import names, static
from tortie.dataplane.settings import Settings
from tortie.desired.endpoint import Endpoint, EndpointId, Host, Pool
from tortie.desired.kinds import Kind
from tortie.desired.policy import (
    TCP,
    IPSetType,
    Policy,
    PolicyId,
    PolicyList,
    Rule,
    Side,
    TierPolicies,
)
from tortie.kernel.nft.expressions import Verdict
from tortie.kernel.nft.fake import FakeNft
from tortie.kernel.nft.objects import Element, Table
from tortie.kernel.nft.transaction import Transaction
from tortie.kernel.rtnl.fake import FakeRtnl
from tortie.lib.errors import KernelBusy, KernelRefused
from tortie.lib.ip import parse_address, parse_network

WEB = PolicyId("GlobalNetworkPolicy", "web")
W1, W2 = EndpointId("default", "w1"), EndpointId("default", "w2")
LIST = PolicyList((TierPolicies("default", "Deny", (WEB,)),))


class Bench:
    def __init__(self, nft: FakeNft | None = None, settings: Settings | None = None) -> None:
        settings = settings or Settings(host="h1")
        self.nft = nft or FakeNft()
        self.driver = NftablesDriver(self.nft)
        self.driver.inet.want_content(static.inet_table(settings))
        self.driver.arp.want_content(static.arp_table(settings))
        inet = self.driver.inet
        policies = PolicyManager(inet, settings)
        masquerade = MasqueradeManager(inet, settings)
        ip_sets = IPSetManager(inet, policies, settings)
        neighbours = NeighbourDriver(FakeRtnl(), Links(SysctlDriver(), settings))
        self.endpoints = EndpointManager(inet, self.driver.arp, policies, neighbours, settings)
        self._managers: dict[Kind, tuple[Manager, ...]] = {
            Kind.POOL: (masquerade, ip_sets),
            Kind.HOST: (masquerade,),
            Kind.IP_SET: (ip_sets,),
            Kind.IP_SET_MEMBER: (ip_sets,),
            Kind.POLICY: (policies,),
            Kind.ENDPOINT: (self.endpoints,),
        }

    def update(self, kind: Kind, name: Hashable, value: object | None) -> None:
        for manager in self._managers[kind]:
            manager.on_update(kind, name, value)

    def policy(self, *rules: Rule) -> None:
        self.update(Kind.POLICY, WEB, Policy(ingress=rules, tier="default"))

    def endpoint(
        self,
        name: EndpointId = W1,
        interface: str = "cali1",
        address: str = "10.0.0.1",
        policies: PolicyList = LIST,
    ) -> None:
        value = Endpoint(interface, (parse_address(address),), "", policies, PolicyList())
        self.update(Kind.ENDPOINT, name, value)

    def apply(self) -> bool:
        return asyncio.run(self.driver.apply())

    def resync(self) -> bool:
        return asyncio.run(self.driver.resync())

    def elements(self, name: str) -> dict[bytes, object]:
        found = asyncio.run(self.nft.elements(INET, name))
        return {one.key: one.data for one in found if not one.interval_end}

    def set_names(self) -> set[str]:
        return {one.name for one in asyncio.run(self.nft.sets(INET))}

    def handles(self, chain: str) -> list[int | None]:
        return [rule.handle for rule in asyncio.run(self.nft.rules(INET, chain))]


def bench() -> Bench:
    made = Bench()
    made.policy(Rule("Allow", protocol=TCP))
    made.endpoint()
    assert made.apply()
    return made


def test_nothing_is_written_twice() -> None:
    made = bench()
    assert made.driver.in_sync
    assert not made.apply()
    assert not made.resync()


def test_a_new_process_adopts_what_is_there() -> None:
    nft = bench().nft
    again = Bench(nft)
    again.policy(Rule("Allow", protocol=TCP))
    again.endpoint()
    assert not again.apply()
    assert again.driver.statistics().commits == 0


def test_rules_that_stay_keep_their_handles_over_many_edits() -> None:
    made = bench()
    chain = names.policy_chain(WEB, "ingress")
    (first,) = made.handles(chain)
    made.policy(Rule("Deny", protocol=6), Rule("Allow", protocol=TCP), Rule("Log"))
    made.apply()
    assert made.handles(chain)[1] == first
    above, _, below = made.handles(chain)
    made.policy(Rule("Deny", protocol=6), Rule("Pass"), Rule("Log"))
    made.apply()
    assert made.handles(chain)[::2] == [above, below]
    assert first not in made.handles(chain)


def test_a_list_is_shared_and_goes_with_its_last_endpoint() -> None:
    made = bench()
    made.endpoint(W2, "cali2", "10.0.0.2")
    made.apply()
    identity = names.list_id(LIST)
    chain = names.list_chain(identity, "ingress")
    assert isinstance(made.elements(names.CHAINS["ingress"])[identity], Verdict)
    assert set(made.elements(names.LISTS["ingress"]).values()) == {names.list_data(identity)}
    made.update(Kind.ENDPOINT, W1, None)
    made.apply()
    assert identity in made.elements(names.CHAINS["ingress"])
    made.update(Kind.ENDPOINT, W2, None)
    made.apply()
    assert not made.elements(names.CHAINS["ingress"])
    assert chain not in {one.name for one in asyncio.run(made.nft.chains(INET))}


def test_a_policy_that_no_endpoint_has_is_not_in_the_kernel() -> None:
    made = Bench()
    made.policy(Rule("Allow"))
    made.apply()
    assert names.policy_chain(WEB, "ingress") not in {
        one.name for one in asyncio.run(made.nft.chains(INET))
    }


def test_an_interface_passes_from_one_endpoint_to_another_in_one_batch() -> None:
    made = bench()
    made.endpoint(W2)  # the same interface and address
    made.update(Kind.ENDPOINT, W1, None)
    made.apply()
    assert len(made.elements(names.SOURCES[4])) == 1
    assert len(made.elements(names.LISTS["ingress"])) == 1
    assert made.endpoints.departed == {parse_address("10.0.0.1")}, "its old connections must go"
    made.update(Kind.ENDPOINT, W2, None)
    made.apply()
    assert not made.elements(names.SOURCES[4])
    assert not made.elements(names.LISTS["ingress"])


def test_an_address_that_left_and_came_back_has_not_departed() -> None:
    made = bench()
    made.update(Kind.ENDPOINT, W1, None)
    assert made.endpoints.departed == {parse_address("10.0.0.1")}
    made.endpoint()
    assert not made.endpoints.departed
    made.endpoint(address="10.0.0.9")
    assert made.endpoints.departed == {parse_address("10.0.0.1")}
    made.endpoints.confirm_departed(made.endpoints.departed)
    assert not made.endpoints.departed


def test_a_set_is_a_hash_until_it_holds_a_network() -> None:
    made = Bench()
    made.update(Kind.IP_SET, "s:a", IPSetType.NET)
    made.update(Kind.IP_SET_MEMBER, ("s:a", parse_address("10.0.0.1")), True)
    made.policy(Rule("Allow", source=Side(sets=("s:a",))))
    made.endpoint()
    made.apply()
    narrow, wide = (names.net_set("s:a", 4, wide=wide) for wide in (False, True))
    assert made.elements(narrow) == {bytes((10, 0, 0, 1)): None}
    made.update(Kind.IP_SET_MEMBER, ("s:a", parse_network("10.1.0.0/16")), True)
    made.apply()
    assert narrow not in made.set_names()
    assert set(made.elements(wide)) == {bytes((10, 0, 0, 1)), bytes((10, 1, 0, 0))}
    made.update(Kind.IP_SET_MEMBER, ("s:a", parse_network("10.1.0.0/16")), None)
    made.apply()
    assert wide not in made.set_names()
    assert made.elements(narrow) == {bytes((10, 0, 0, 1)): None}
    # Gone with policy and set, whatever its width was.
    made.update(Kind.IP_SET_MEMBER, ("s:a", parse_network("10.1.0.0/16")), True)
    made.apply()
    made.update(Kind.ENDPOINT, W1, None)
    made.update(Kind.POLICY, WEB, None)
    made.update(Kind.IP_SET, "s:a", None)
    made.apply()
    assert made.set_names() == set(static.inet_table(Settings(host="h1")).sets)


def test_both_widths_of_the_other_family_are_independent() -> None:
    made = Bench()
    made.update(Kind.POOL, parse_network("10.0.0.0/8"), Pool())
    made.update(Kind.IP_SET, "s:a", IPSetType.NET)
    made.update(Kind.IP_SET_MEMBER, ("s:a", parse_network("fd00::/8")), True)
    made.policy(Rule("Allow", source=Side(not_sets=("s:a",))))
    made.endpoint()
    made.apply()
    assert names.net_set("s:a", 4, wide=False) in made.set_names()
    assert names.net_set("s:a", 6, wide=True) in made.set_names()


def test_pools_and_hosts() -> None:
    made = Bench(settings=Settings(host="h1", nat_exclusions="IPPoolsAndHostIPs"))
    pool, address = parse_network("10.0.0.0/8"), parse_address("192.0.2.1")
    made.update(Kind.POOL, pool, Pool(masquerade=True))
    made.update(Kind.HOST, "h1", Host(ipv4=address))
    made.update(Kind.HOST, "h2", Host(ipv4=address))
    made.update(Kind.HOST, "h2", None)
    made.apply()
    assert set(made.elements(names.POOLS[4])) == {pool.packed}
    assert set(made.elements(names.MASQUERADE[4])) == {pool.packed}
    assert set(made.elements(names.HOSTS[4])) == {address.packed}
    made.update(Kind.POOL, pool, Pool())
    made.update(Kind.HOST, "h1", None)
    made.apply()
    assert set(made.elements(names.POOLS[4])) == {pool.packed}
    assert not made.elements(names.MASQUERADE[4])
    assert not made.elements(names.HOSTS[4])


@pytest.mark.parametrize("error", [KernelRefused("x", 22), KernelBusy("x")])
def test_what_was_refused_stays_pending(error: Exception) -> None:
    made = Bench()
    made.policy(Rule("Allow"))
    made.endpoint()
    made.nft.fail_next(error)
    with pytest.raises(type(error)):
        made.apply()
    assert not made.driver.in_sync
    assert made.apply()
    assert made.driver.in_sync
    assert not made.resync()


def test_a_set_of_another_type_means_a_new_table() -> None:
    made = bench()
    spoilt = Transaction()
    spoilt.delete_table(INET)
    asyncio.run(made.nft.commit(spoilt))
    other = static.inet_table(Settings(host="h1")).sets[names.POOLS[4]]
    spoilt = Transaction()
    spoilt.add_table(Table(INET.family, INET.name))
    wrong = type(other)(names.POOLS[4], other.key)
    spoilt.add_set(INET, wrong)
    spoilt.add_elements(INET, wrong, [Element(bytes(4))])
    asyncio.run(made.nft.commit(spoilt))
    assert made.resync()
    assert not made.elements(names.POOLS[4])
    assert not made.resync()
    assert made.driver.statistics().repairs == 1
    assert ARP in {one.table_name for one in asyncio.run(made.nft.tables())}


def test_a_family_without_pools_has_sets_and_rules_only_for_members() -> None:
    made = Bench()
    made.update(Kind.POOL, parse_network("10.0.0.0/8"), Pool())
    made.update(Kind.IP_SET, "s:a", IPSetType.NET)
    made.policy(Rule("Allow", source=Side(sets=("s:a",))))
    made.endpoint()
    made.apply()
    chain = names.policy_chain(WEB, "ingress")
    v4, v6 = (names.net_set("s:a", family, wide=False) for family in (4, 6))
    assert v4 in made.set_names(), "no members yet, but soon"
    assert v6 not in made.set_names()
    (first,) = made.handles(chain)
    member = ("s:a", parse_address("fd00::1"))
    pool = parse_network("fd00::/64")
    for come, go in (
        ((Kind.IP_SET_MEMBER, member, True), (Kind.IP_SET_MEMBER, member, None)),
        ((Kind.POOL, pool, Pool()), (Kind.POOL, pool, None)),
    ):
        made.update(*come)
        made.apply()
        assert v6 in made.set_names()
        assert made.handles(chain)[0] == first
        assert len(made.handles(chain)) == 2
        made.update(*go)
        made.apply()
        assert v6 not in made.set_names()
        assert made.handles(chain) == [first]
