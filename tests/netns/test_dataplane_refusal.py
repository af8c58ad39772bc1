"""The kernel does not take an object: that one is closed and reported, all else goes in."""

import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from msgspec.structs import replace
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF, Host, Workload, hears, tier, workloads
from tests.netns.outside import THIS_HOST, machines, udp

from tortie.dataplane.rules import names
from tortie.dataplane.rules.names import Place
from tortie.dataplane.settings import ProtoPort, Settings
from tortie.desired.host_endpoint import HostEndpoint
from tortie.desired.kinds import Kind
from tortie.desired.policy import UDP, IPSetType, Policy, PolicyId, PolicyList, Rule, Side
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.nft import expressions as ex
from tortie.kernel.nft.connection import Nft, WrittenRule
from tortie.kernel.nft.objects import Element
from tortie.kernel.nft.operations import AddElements, AddRule, Operation
from tortie.kernel.nft.transaction import Transaction
from tortie.lib.errors import KernelRefused
from tortie.lib.ip import parse_network

pytestmark = pytest.mark.usefixtures("netns")

Spoil = Callable[[Operation], Operation]


def untouched(operation: Operation) -> Operation:
    return operation


class SpoiltNft(Nft):
    """The kernel, with operations that are spoilt on the way so that it refuses them."""

    def __init__(self, socket: NetlinkSocket) -> None:
        super().__init__(socket)
        self.spoil: Spoil = untouched
        self.mute = False
        """The kernel's answer names no operation, as when a batch fails at its end."""
        self.commits = self.refused = 0

    async def commit(
        self, transaction: Transaction, *, generation: int | None = None
    ) -> list[WrittenRule]:
        self.commits += 1
        operations = [self.spoil(one) for one in transaction.operations()]
        try:
            return self.commit_operations(operations, generation=generation)
        except KernelRefused as error:
            self.refused += 1
            if self.mute:
                raise KernelRefused("commit", error.errno) from error
            raise


def spoilt_rules(*chains: str) -> Spoil:
    """Rules of these chains ask a set that does not exist."""

    def spoil(operation: Operation) -> Operation:
        if isinstance(operation, AddRule) and operation.rule.chain in chains:
            wrong = (*operation.rule.expressions, ex.Lookup("no-such-set"))
            # What drops in place of the policy is sound.
            if operation.rule.comment.startswith("refused"):
                return operation
            return replace(operation, rule=replace(operation.rule, expressions=wrong))
        return operation

    return spoil


def spoilt_element(set_name: str, key: bytes) -> Spoil:
    """The element with this key is a byte too long."""

    def spoil(operation: Operation) -> Operation:
        if isinstance(operation, AddElements) and operation.set.name == set_name:
            elements = tuple(
                Element(one.key + b"\0" * 4, one.data) if one.key == key else one
                for one in operation.elements
            )
            return replace(operation, elements=elements)
        return operation

    return spoil


class Scene(NamedTuple):
    host: Host
    nft: SpoiltNft
    a: Workload
    b: Workload
    c: Workload
    good: PolicyId
    bad: PolicyId

    def policies(self) -> None:
        to = Rule("Allow", protocol=UDP, source=Side(sets=("s:any",)))
        for name in ("good", "bad"):
            self.host.policy(name, ingress=(to,))

    def assert_only_b_is_open(self) -> None:
        assert hears(self.a, self.b, 80), "the sound policy is in force"
        assert not hears(self.a, self.c, 80, patience=BRIEF), "the refused one drops"


def spoilt(settings: Settings | None = None) -> tuple[Host, SpoiltNft]:
    host = Host(settings)
    host.nft.close()
    host.nft = nft = SpoiltNft.open()
    host.restart()
    return host, nft


@pytest.fixture
def scene() -> Iterator[Scene]:
    host, nft = spoilt()
    host.allow_all_profile()
    with workloads(host, 3) as (a, b, c):
        good, bad = (PolicyId("GlobalNetworkPolicy", name) for name in ("good", "bad"))
        made = Scene(host, nft, a, b, c, good, bad)
        host.update(Kind.IP_SET, "s:any", IPSetType.NET)
        host.update(Kind.IP_SET_MEMBER, ("s:any", a.ipv4), True)
        made.policies()
        host.endpoint(a)
        host.endpoint(b, ingress=PolicyList((tier(good),)))
        host.endpoint(c, ingress=PolicyList((tier(bad),)))
        yield made
    host.close()


@pytest.mark.parametrize("mute", [False, True])
def test_a_refused_policy_drops_and_all_else_goes_in(scene: Scene, mute: bool) -> None:
    scene.nft.mute = mute
    scene.nft.spoil = spoilt_rules(names.policy_chain(scene.bad, "ingress"))
    scene.host.apply()
    assert scene.nft.refused, "the fault fired"
    scene.assert_only_b_is_open()
    assert list(scene.host.dataplane.refused) == ["policy GlobalNetworkPolicy(bad)"]
    assert scene.host.dataplane.statistics().refused == 1
    assert scene.host.dataplane.in_sync, "nothing else is pending"

    # It costs nothing more, and other changes go in as ever.
    commits = scene.nft.commits
    scene.host.apply()
    assert scene.nft.commits == commits
    scene.host.update(Kind.POLICY, scene.good, Policy((Rule("Deny"),)))
    scene.host.apply()
    assert scene.nft.commits == commits + 1
    assert not hears(scene.a, scene.b, 80, patience=BRIEF)


def test_a_refused_policy_is_tried_again_at_a_resync(scene: Scene) -> None:
    scene.nft.spoil = spoilt_rules(names.policy_chain(scene.bad, "ingress"))
    scene.host.apply()
    scene.host.resync()
    scene.assert_only_b_is_open()
    assert scene.host.dataplane.refused
    scene.nft.spoil = untouched
    scene.host.resync()
    assert hears(scene.a, scene.c, 80)
    assert not scene.host.dataplane.refused
    assert scene.host.dataplane.in_sync


def test_a_refused_policy_is_tried_again_when_it_changes(scene: Scene) -> None:
    scene.nft.spoil = spoilt_rules(names.policy_chain(scene.bad, "ingress"))
    scene.host.apply()
    scene.nft.spoil = untouched
    scene.host.policy("bad", ingress=(Rule("Allow", protocol=UDP),))
    scene.host.apply()
    assert hears(scene.a, scene.c, 80)
    assert scene.host.dataplane.in_sync


@pytest.mark.parametrize("mute", [False, True])
def test_a_change_that_is_refused_closes_what_was_open(scene: Scene, mute: bool) -> None:
    scene.host.apply()
    assert hears(scene.a, scene.c, 80)
    scene.nft.mute = mute
    scene.nft.spoil = spoilt_rules(names.policy_chain(scene.bad, "ingress"))
    scene.host.policy("bad", ingress=(Rule("Allow", protocol=UDP), Rule("Log")))
    scene.host.policy("good", ingress=(Rule("Log"), Rule("Allow", protocol=UDP)))
    scene.host.apply()
    scene.assert_only_b_is_open()


@pytest.mark.parametrize("mute", [False, True])
def test_a_refused_endpoint_is_closed(scene: Scene, mute: bool) -> None:
    interface = scene.c.interface.encode().ljust(16, b"\0")
    scene.nft.mute = mute
    scene.nft.spoil = spoilt_element(names.LISTS["ingress"], interface)
    scene.host.apply()
    assert scene.nft.refused
    scene.assert_only_b_is_open()
    assert not hears(scene.c, scene.b, 80, patience=BRIEF)
    assert list(scene.host.dataplane.refused) == [f"endpoint {scene.c.id}"]
    scene.host.read_link_events()
    assert scene.host.dataplane.endpoints_up()[scene.b.id]
    assert not scene.host.dataplane.endpoints_up()[scene.c.id]
    scene.nft.spoil = untouched
    scene.host.resync()
    assert hears(scene.a, scene.c, 80)


@pytest.mark.parametrize("mute", [False, True])
def test_a_refused_set_closes_the_policies_that_name_it(scene: Scene, mute: bool) -> None:
    host = scene.host
    host.update(Kind.IP_SET, "s:bad", IPSetType.NET)
    host.update(Kind.IP_SET_MEMBER, ("s:bad", scene.a.ipv4), True)
    host.policy("bad", ingress=(Rule("Allow", source=Side(sets=("s:bad",))),))
    scene.nft.mute = mute
    kernel_name = names.net_set("s:bad", 4, wide=False)
    scene.nft.spoil = spoilt_element(kernel_name, scene.a.ipv4.packed)
    host.apply()
    assert scene.nft.refused
    scene.assert_only_b_is_open()
    assert list(host.dataplane.refused) == ["set s:bad"]
    host.update(Kind.IP_SET_MEMBER, ("s:bad", scene.b.ipv4), True)
    host.apply()
    scene.assert_only_b_is_open()
    scene.nft.spoil = untouched
    host.resync()
    assert hears(scene.a, scene.c, 80)
    assert hears(scene.b, scene.c, 80), "what came meanwhile is in"
    assert host.dataplane.in_sync


@pytest.mark.parametrize("mute", [False, True])
def test_a_refused_list_closes_its_endpoints(scene: Scene, mute: bool) -> None:
    wanted = PolicyList((tier(scene.bad),))
    scene.nft.mute = mute
    scene.nft.spoil = spoilt_rules(names.list_chain(names.list_id(wanted), "ingress"))
    scene.host.apply()
    scene.assert_only_b_is_open()
    assert not scene.host.dataplane.endpoints_up()[scene.c.id]
    scene.host.endpoint(scene.c, ingress=PolicyList((tier(scene.good),)))
    scene.host.apply()
    assert hears(scene.a, scene.c, 80)


def test_what_no_object_is_to_blame_for_fails_the_apply(scene: Scene) -> None:
    scene.nft.spoil = spoilt_rules("forward-to")
    with pytest.raises(KernelRefused):
        scene.host.apply()
    assert not scene.host.dataplane.refused
    scene.nft.spoil = untouched
    scene.host.apply()
    assert hears(scene.a, scene.b, 80)
    assert hears(scene.a, scene.c, 80)


def test_what_others_took_away_is_nobodys_fault(scene: Scene) -> None:
    """Deleting what is gone is refused; then it is read again, not blamed on anyone."""
    scene.host.apply()
    name = names.net_set("s:any", 4, wide=False)
    subprocess.run(["nft", "flush", "set", "inet", "tortie", name], check=True)
    scene.host.update(Kind.IP_SET_MEMBER, ("s:any", scene.a.ipv4), None)
    scene.host.update(Kind.IP_SET_MEMBER, ("s:any", scene.b.ipv4), True)
    scene.host.apply()
    assert scene.nft.refused == 1
    assert not scene.host.dataplane.refused
    assert hears(scene.b, scene.c, 80)
    assert not hears(scene.a, scene.c, 80, patience=BRIEF)


def test_many_refused_policies_at_once(scene: Scene) -> None:
    ids = [scene.host.policy(f"p{n}", ingress=(Rule("Allow"),)) for n in range(8)]
    bad = ids[1::2]
    scene.nft.mute = True
    scene.nft.spoil = spoilt_rules(*(names.policy_chain(one, "ingress") for one in bad))
    scene.host.endpoint(scene.c, ingress=PolicyList((tier(*ids[::2], ids[1]),)))
    scene.host.endpoint(scene.b, ingress=PolicyList((tier(*ids[3::2]),), (ALLOW_ALL,)))
    scene.host.apply()
    assert sorted(scene.host.dataplane.refused) == sorted(f"policy {one}" for one in bad)
    assert hears(scene.a, scene.c, 80)
    assert not hears(scene.a, scene.b, 80, patience=BRIEF)


@pytest.mark.parametrize("mute", [False, True])
def test_a_refused_list_of_a_host_endpoint_drops_all_but_failsafe_ports(mute: bool) -> None:
    host, nft = spoilt(Settings(host="h1", failsafe_inbound=(ProtoPort(UDP, 22),)))
    good, bad = (host.policy(name, ingress=(Rule("Allow"),)) for name in ("good", "bad"))
    lists = [PolicyList((tier(one),)) for one in (good, bad)]
    everything = PolicyList((tier(host.policy("out", egress=(Rule("Allow"),))),))
    with machines(host, "up0", "up1") as (one, other):
        nft.mute = mute
        nft.spoil = spoilt_rules(names.list_chain(names.list_id(lists[1]), "ingress", "host"))
        for number, (link, ingress) in enumerate(zip(("up0", "up1"), lists, strict=True)):
            endpoint = HostEndpoint(link, ingress=ingress, egress=everything)
            host.update(Kind.HOST_ENDPOINT, f"hep{number}", endpoint)
        host.apply()
        assert udp(one, THIS_HOST, one.near[4], 8080), "the sound one is in force"
        assert not udp(other, THIS_HOST, other.near[4], 8080, patience=BRIEF)
        assert udp(other, THIS_HOST, other.near[4], 22)
        assert len(host.dataplane.refused) == 1
        nft.spoil = untouched
        host.resync()
        assert udp(other, THIS_HOST, other.near[4], 8080)
        assert not host.dataplane.refused
    host.close()


@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("interface", ["up1", "*"])
@pytest.mark.parametrize("place", ["host", "forward", "pre-dnat"])
def test_a_refused_host_endpoint_drops_all_but_failsafe_ports(
    mute: bool, interface: str, place: Place
) -> None:
    """Its entry is what the kernel does not take: neither may it fall to another endpoint's."""
    host, nft = spoilt(Settings(host="h1", failsafe_inbound=(ProtoPort(UDP, 22),)))
    rule = (Rule("Allow"),)
    open_list = PolicyList((tier(host.policy("open", ingress=rule, egress=rule)),))
    early = PolicyList((tier(host.policy("early", ingress=rule), default="Pass"),))
    with machines(host, "up0", "up1") as (one, other):
        nft.mute = mute
        key = interface.encode().ljust(16, b"\0")
        nft.spoil = spoilt_element(names.lists_map("ingress", place), key)
        for name, link in (("sound", "up0"), ("bad", interface), ("other", "lo")):
            endpoint = HostEndpoint(link, ingress=open_list, egress=open_list, pre_dnat=early)
            host.update(Kind.HOST_ENDPOINT, name, endpoint)
        host.apply()
        assert nft.refused, "the fault fired"
        assert list(host.dataplane.refused) == ["host endpoint bad"]
        assert udp(one, THIS_HOST, one.near[4], 8080, patience=5), "the sound one is in force"
        assert not udp(other, THIS_HOST, other.near[4], 8080, patience=BRIEF)
        assert not udp(THIS_HOST, other, other.address(4), 8080, patience=BRIEF)
        assert not udp(one, other, other.address(4), 8080, patience=BRIEF), (
            "nothing passes by there"
        )
        assert udp(other, THIS_HOST, other.near[4], 22, patience=5)
        assert host.dataplane.in_sync
        nft.spoil = untouched
        host.resync()
        assert udp(other, THIS_HOST, other.near[4], 8080, patience=5)
        assert udp(one, other, other.address(4), 8080, patience=5)
        assert not host.dataplane.refused
        nft.spoil = spoilt_element(names.lists_map("ingress", place), key)
        host.update(Kind.HOST_ENDPOINT, "bad", None)
        host.apply()
        assert not host.dataplane.refused
    host.close()


@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("what", ["rule", "element", "entry"])
def test_refused_sources_leave_the_endpoint_its_own(scene: Scene, mute: bool, what: str) -> None:
    host = scene.host
    host.settings = Settings(host="h1", other_sources=True)
    host.restart()
    host.allow_all_profile()
    for one in (scene.a, scene.b, scene.c):
        host.endpoint(one)
    prefix = parse_network("203.0.113.0/24")
    known = scene.a.endpoint(*[PolicyList(profiles=(ALLOW_ALL,))] * 2)
    host.update(Kind.ENDPOINT, scene.a.id, replace(known, sources=(prefix,)))
    scene.nft.mute = mute
    scene.nft.spoil = {
        "rule": spoilt_rules(names.source_chain((prefix,))),
        "element": spoilt_element(names.source_set((prefix,), 4), prefix.packed),
        "entry": spoilt_element(names.SOURCE_CHAINS, names.source_list_id((prefix,))),
    }[what]
    host.apply()
    assert scene.nft.refused, "the fault fired"
    assert list(host.dataplane.refused) == ["sources 203.0.113.0/24"]
    scene.a.run("ip addr add 203.0.113.7/32 dev lo")
    assert hears(scene.a, scene.b, 80, patience=5), "from its own address"
    assert not hears(scene.a, scene.b, 80, source="203.0.113.7", patience=BRIEF)
    scene.nft.spoil = untouched
    host.resync()
    assert not host.dataplane.refused
    assert hears(scene.a, scene.b, 80, source="203.0.113.7", patience=5)
