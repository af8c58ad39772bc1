"""D14, U1, U2: names that users choose never reach the kernel as text that means anything."""

import re
import subprocess

import pytest
from tests.attacks.arena import Arena
from tests.graph import resources
from tests.netns.dataplane_host import ALLOW_ALL, BRIEF, tier

from tortie.desired.endpoint import Endpoint, EndpointId, Route, RouteType
from tortie.desired.kinds import Kind
from tortie.desired.policy import IPSetType, Policy, PolicyId, PolicyList, Rule, Side
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.validation import check

CANARY = "canaryzq7"
NAMES = (
    f"{CANARY}\n}} table inet evil {{ chain x {{ type filter hook forward priority -500 ; }} }}",
    f'{CANARY}" accept comment "',
    f"{CANARY}'; nft flush ruleset; '",
    f"{CANARY}$(reboot)`reboot`${{IFS}}",
    f'{CANARY}\\" ; accept',
    f"{CANARY}\u202egnp.exe",
    f"{CANARY}\u0000nul",
    f"{CANARY}\ud7ff\uffff\U0010ffff",
    f"../../{CANARY}",
    f"{CANARY}" + "x" * 65536,
    f"{CANARY} # comment",
    f"{CANARY}\t\r\x1b[2J",
    # Words of nft(8), which chains cannot be called there.
    *("fwd", "dup", "return", "limit", "counter", "policy", "log", "accept", "drop", "jump", ""),
)


def listing() -> str:
    return subprocess.run(
        ["nft", "list", "ruleset"], capture_output=True, text=True, check=True
    ).stdout


COMMENT = re.compile(r'comment "([^"\n]*)"')


def tokens(text: str) -> list[str]:
    """The structure: without names made of hashes, comments, and numbers of packets."""
    text = re.sub(r"elements = \{.*?\}", _elements, COMMENT.sub("", text), flags=re.DOTALL)
    text = re.sub(r"-[A-Za-z0-9_-]{16,}", "-HASH", text)
    return sorted(re.sub(r"packets \d+ bytes \d+", "", text).split())


def _elements(listed: "re.Match[str]") -> str:
    """Elements are data; ids of lists, which are hashes, are among them."""
    return f"{listed[0].count(',')} elements"


def use(field: Arena, name: str) -> None:
    """One name everywhere that a name can be."""
    host = field.host
    policy_id = PolicyId("NetworkPolicy", name, name)
    rule = Rule(
        "Deny",
        family=4,
        source=Side(sets=(name,)),
        annotations=((name, name), ("note", name)),
    )
    host.update(Kind.IP_SET, name, IPSetType.NET)
    host.update(Kind.IP_SET_MEMBER, (name, parse_network("198.51.100.0/24")), True)
    host.update(Kind.POLICY, policy_id, Policy((rule,), (rule,), name))
    lists = PolicyList((tier(policy_id, name=name, default="Pass"),), profiles=(ALLOW_ALL,))
    host.endpoint(field.attacker, ingress=lists, egress=lists)
    host.apply()


def unuse(field: Arena, name: str) -> None:
    host = field.host
    host.endpoint(field.attacker)
    host.update(Kind.POLICY, PolicyId("NetworkPolicy", name, name), None)
    host.update(Kind.IP_SET_MEMBER, (name, parse_network("198.51.100.0/24")), None)
    host.update(Kind.IP_SET, name, None)
    host.apply()


def test_names_are_hashes(field: Arena) -> None:
    before = listing()
    use(field, "ordinary")
    expected = tokens(listing())
    unuse(field, "ordinary")
    assert tokens(listing()) == tokens(before)
    for name in NAMES:
        use(field, name)
        shown = listing()
        for comment in COMMENT.findall(shown):
            assert comment.isascii()
            assert comment.isprintable()
            assert len(comment) <= 127
            assert "\\" not in comment
        assert CANARY not in COMMENT.sub("", shown)
        assert tokens(shown) == expected, f"{name!r:.60} is more than a name"
        # What is listed can be read again, by the same program, into an empty namespace.
        # But for the dispatch, of which it does not know that two steps are one rule.
        plain = re.sub(r"[io]ifname vmap @(in|e)gress-chains", "drop", shown)
        again = subprocess.run(
            ["unshare", "-n", "nft", "-f", "-"], input=plain, text=True, capture_output=True
        )
        assert again.returncode == 0, again.stderr
        field.host.resync()
        assert field.host.dataplane.in_sync
        unuse(field, name)
    assert tokens(listing()) == tokens(before)


@pytest.mark.parametrize(
    "interface", ["cali x", 'cali"', "cali\n", "cali;drop", "cali/..", "cali\0"]
)
def test_an_interface_s_name_is_bytes_of_an_element(field: Arena, interface: str) -> None:
    """An endpoint with a name that no interface can have is set apart; the others are served."""
    bad = Endpoint(interface, (parse_network("10.65.0.200/32"),), "02:00:00:00:00:c8",
                   PolicyList(), PolicyList())  # fmt: skip
    field.host.update(Kind.ENDPOINT, EndpointId("default", "bad"), bad)
    route = Route(RouteType.LOCAL_WORKLOAD, interface=interface)
    field.host.update(Kind.ROUTE, parse_network("10.65.0.200/32"), route)
    assert field.attacker.pings(field.open.ipv4)
    added = field.host.policy("after-the-bad-one", ingress=(Rule("Deny"),))
    field.host.endpoint(field.open, ingress=PolicyList((tier(added),)))
    field.host.apply()
    assert not field.attacker.pings(field.open.ipv4, patience=BRIEF), (
        "what came after it is enforced"
    )


@pytest.mark.parametrize("name", ["cali" + "x" * 12, "cali x", "cali/x", "..", "cali\n"])
def test_no_such_name_gets_to_the_dataplane(name: str) -> None:
    """A stored endpoint with one counts as absent: the model refuses it."""
    _, stored = resources.workload("ns/bad", "h1", "10.65.0.9/32", interface=name)
    assert isinstance(stored, WorkloadEndpoint)
    with pytest.raises(InvalidInput, match="interfaceName"):
        check(stored, stored=True)
