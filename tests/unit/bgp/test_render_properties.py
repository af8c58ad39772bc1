"""Whatever the snapshot, BIRD takes it; whatever a user wrote, the configuration's shape stays."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tortie.bgp.bird import Bird
from tortie.bgp.manager import BGPManager
from tortie.bgp.render import render_bird
from tortie.bgp.snapshot import (
    Advertisement,
    Filter,
    NextHop,
    Operator,
    Peer,
    PeerKind,
    PrefixMatch,
    Rule,
    Snapshot,
)
from tortie.desired.endpoint import Host, Pool
from tortie.desired.kinds import Kind
from tortie.lib.ip import Network, parse_address, parse_network
from tortie.model.catalogue import TYPES
from tortie.model.keys import ResourceKey
from tortie.model.validation import validate

BITS = {4: 32, 6: 128}


@st.composite
def networks(draw: st.DrawFn, family: int, least: int = 1) -> Network:
    length = draw(st.integers(least, BITS[family]))
    # Low addresses would be 0.0.0.0/x and loopback: no such thing is configured.
    high = draw(st.integers(0x0B, 0x7E)) if family == 4 else 0xFD
    value = high << (BITS[family] - 8) | draw(st.integers(0, 2 ** (BITS[family] - 8) - 1))
    masked = value >> (BITS[family] - length) << (BITS[family] - length)
    return Network(family, masked, length)


def addresses(family: int) -> st.SearchStrategy[Network]:
    return networks(family, BITS[family])


any_network = networks(4) | networks(6)
as_numbers = st.integers(1, 2**32 - 1)
communities = st.tuples(st.integers(0, 65535), st.integers(0, 65535)) | st.tuples(
    *[st.integers(0, 2**32 - 1)] * 3
)
priorities = st.none() | st.integers(1, 2**31 - 2)


@st.composite
def rules(draw: st.DrawFn, family: int) -> Rule:
    accept = draw(st.booleans())
    lengths = st.none() | st.integers(0, BITS[family])
    prefix = st.builds(
        PrefixMatch, networks(family, 0), st.sampled_from(Operator), lengths, lengths
    )
    return Rule(
        accept=accept,
        prefix=draw(st.none() | prefix),
        learnt=draw(st.booleans()),
        interface=draw(st.sampled_from(["", "eth0", "eth*", "a?b.c-d_"])),
        internal=draw(st.none() | st.booleans()),
        community=draw(st.just(()) | communities),
        path_prefix=tuple(draw(st.lists(as_numbers, max_size=3))),
        priority=draw(priorities),
        add_communities=tuple(draw(st.lists(communities, max_size=2))) if accept else (),
        prepend=tuple(draw(st.lists(as_numbers, max_size=3))) if accept else (),
        set_priority=draw(priorities) if accept else None,
    )


@st.composite
def filters(draw: st.DrawFn, symbol: str) -> Filter:
    def some(family: int) -> tuple[Rule, ...]:
        return tuple(draw(st.lists(rules(family), max_size=3)))

    return Filter(symbol=symbol, export4=some(4), import4=some(4), export6=some(6), import6=some(6))


@st.composite
def peers(draw: st.DrawFn, family: int, symbols: list[str]) -> Peer:
    return Peer(
        address=draw(addresses(family)),
        as_number=draw(as_numbers | st.just(64512)),
        port=draw(st.integers(1, 65535)),
        kind=draw(st.sampled_from(PeerKind)),
        port_given=draw(st.booleans()),
        is_host=draw(st.booleans()),
        is_reflector=draw(st.booleans()),
        local_as=draw(st.none() | as_numbers),
        use_own_address=draw(st.booleans()),
        local_address=draw(st.none() | addresses(family)),
        password=draw(st.sampled_from(["", "x", "it's #{};\\ /* fine */"])),
        next_hop=draw(st.sampled_from(NextHop)),
        hops=draw(st.none() | st.integers(1, 255)),
        keepalive_seconds=draw(st.none() | st.integers(1, 21845)),
        restart_seconds=draw(st.none() | st.integers(1, 4095)),
        allow_local_as=draw(st.integers(0, 10)),
        reachable_by=draw(st.none() | addresses(family)),
        bfd=draw(st.booleans()),
        passive=draw(st.booleans()),
        filters=tuple(draw(st.lists(st.sampled_from([*symbols, "fmissing"]), max_size=2))),
        closed=draw(st.booleans()),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    own = {4: draw(st.none() | addresses(4)), 6: draw(st.none() | addresses(6))}
    symbols = ["faa", "fbb"][: draw(st.integers(0, 2))]
    made: dict[tuple[Network, bool], Peer] = {}
    for family, address in own.items():
        if address is not None:
            for peer in draw(st.lists(peers(family, symbols), max_size=3)):
                if peer.address != address:
                    made.setdefault((peer.address, False), peer)
    some = st.lists(any_network, max_size=3, unique=True).map(lambda found: tuple(sorted(found)))
    pools = draw(some)
    return Snapshot(
        ipv4=own[4],
        ipv6=own[6],
        ipv4_subnet=draw(st.none() | networks(4)),
        ipv6_subnet=draw(st.none() | networks(6)),
        as_number=draw(as_numbers),
        listen_port=draw(st.integers(1, 65535)),
        bind_to_address=draw(st.booleans()),
        cluster_id=draw(st.none() | addresses(4)),
        debug=draw(st.booleans()),
        ignored_interfaces=tuple(draw(st.lists(st.sampled_from(["docker*", "br-?"]), max_size=2))),
        priority4=draw(st.integers(1, 2**31 - 2)),
        priority6=draw(st.integers(1, 2**31 - 2)),
        peers=tuple(made.values()),
        filters=tuple(draw(filters(symbol)) for symbol in symbols),
        pools=pools,
        exported_pools=pools[:1],
        own_blocks=draw(some),
        services=draw(some),
        foreign_services=draw(some),
        advertisements=tuple(
            Advertisement(network, tuple(draw(st.lists(communities, max_size=2))))
            for network in draw(some)
        ),
        route_protocol=draw(st.integers(5, 255)),
    )


def parsed(text: str, directory: Path) -> str:
    """What BIRD says against it; empty: nothing."""
    bird = shutil.which("bird", path="/usr/sbin:/usr/bin")
    assert bird, "BIRD 2 is missing: apt-get install bird2"
    path = directory / "bird.conf"
    path.write_text(text)
    done = subprocess.run([bird, "-p", "-c", path], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr or "refused"


@given(snapshot=snapshots())
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_bird_takes_every_snapshot(snapshot: Snapshot, tmp_path: Path) -> None:
    text = render_bird(snapshot)
    assert text == render_bird(snapshot)
    assert not parsed(text, tmp_path)


CORPUS = [
    '"; } protocol static { ipv4; route 0.0.0.0/0 blackhole; } #',
    "}\nprotocol static evil { ipv4; }\n",
    "x'; include \"/etc/passwd\"; '",
    "a /* b",
    "# comment",
    "name with spaces",
    "naïve-ünïcode-\u202e",
    "\x00\x01\x1b[31m",
    "$(reboot)`reboot`",
    "../../etc/passwd",
    "accept; reject",
    "64512:1); accept; (1",
    "1:1\n",
    "١:٢",
    "10.0.0.1/32; }",
    "x" * 5000,
    "\ud800",
]


def places(text: str) -> list[tuple[str, str, dict[str, Any], dict[str, str]]]:
    """Every place where a user's text stands: kind, name, spec, labels."""
    rule = {"action": "Accept"}
    peer = {"peerIP": "10.0.0.9", "asNumber": 65000}
    secret = {"secretKeyRef": {"name": text, "key": text}}
    return [
        ("BGPFilter", text, {"importV4": [rule]}, {}),
        ("BGPFilter", "f", {"importV4": [rule | {"interface": text}]}, {}),
        ("BGPFilter", "f", {"importV4": [rule | {"communities": {"values": [text]}}]}, {}),
        ("BGPFilter", "f", {"exportV4": [rule | {"cidr": text, "matchOperator": "In"}]}, {}),
        (
            "BGPFilter",
            "f",
            {"exportV4": [rule | {"operations": [{"addCommunity": {"value": text}}]}]},
            {},
        ),
        ("BGPPeer", text, peer, {}),
        ("BGPPeer", "p", peer | {"peerIP": text}, {}),
        ("BGPPeer", "p", peer | {"filters": [text]}, {}),
        ("BGPPeer", "p", peer | {"reachableBy": text}, {}),
        ("BGPPeer", "p", peer | {"password": secret}, {}),
        ("BGPPeer", "p", peer | {"keepaliveTime": text}, {}),
        ("BGPPeer", "p", peer | {"nextHopMode": text}, {}),
        ("BGPConfiguration", "default", {"ignoredInterfaces": [text]}, {}),
        (
            "BGPConfiguration",
            "default",
            {
                "communities": [{"name": text, "value": text}],
                "prefixAdvertisements": [{"cidr": "10.65.0.0/16", "communities": [text]}],
            },
            {},
        ),
        ("BGPConfiguration", "default", {"serviceClusterIPs": [{"cidr": text}]}, {}),
        ("BGPConfiguration", "default", {"localWorkloadPeeringIPV4": text}, {}),
        ("BGPConfiguration", "default", {"logSeverityScreen": text}, {}),
        ("Node", "h2", {"bgp": {"routeReflectorClusterID": text}}, {text[:60]: text[:60]}),
        ("Node", "h1", {"bgp": {"routeReflectorClusterID": text}}, {}),
    ]


ALPHABET = re.compile(r"[\n -~]*")
KNOWN = re.compile(r"device|direct|kernel[46]|bfd|(services|reach)[46]|Peer_[0-9a-f_]+(_port_\d+)?")
_PROTOCOL = re.compile(r"^protocol \w+ ?(\w*)", re.MULTILINE)


@pytest.mark.parametrize("text", CORPUS, ids=lambda text: ascii(text)[:20])
def test_no_text_becomes_syntax(text: str, tmp_path: Path) -> None:
    """Even unvalidated, as another writer may have stored it."""
    (tmp_path / "s" / "k").parent.mkdir()
    for kind, name, spec, labels in places(text):
        manager = BGPManager("h1", Bird(tmp_path), route_protocol=80, secrets=tmp_path)
        for host, ordinal in (("h1", 1), ("h2", 2)):
            manager.on_update(Kind.HOST, host, Host(ipv4=parse_address(f"10.0.0.{ordinal}")))
        manager.on_update(Kind.POOL, parse_network("10.65.0.0/16"), Pool())
        document = {"kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
        try:
            value = msgspec.convert(document, TYPES[kind])
        except msgspec.ValidationError:
            continue
        manager.on_resource(ResourceKey(kind, name), value)
        rendered = render_bird(manager.snapshot())
        assert ALPHABET.fullmatch(rendered)
        assert "evil" not in rendered
        assert "passwd" not in rendered
        assert "reboot" not in rendered
        names = {found for found in _PROTOCOL.findall(rendered) if found}
        assert all(KNOWN.fullmatch(found) for found in names), names
        assert not parsed(rendered, tmp_path)


def test_what_of_the_corpus_users_are_told(tmp_path: Path) -> None:
    """Validation refuses what would be left out."""
    text = CORPUS[0]
    refused = 0
    for kind, name, spec, labels in places(text):
        document = {"kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
        refused += bool(validate(msgspec.convert(document, TYPES[kind])))
    assert refused >= 12


@pytest.mark.parametrize("password", ["s3cret", "it's #{};", "a\\", "/* x", "$(x)"])
def test_passwords_stay_in_their_string(password: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "k"
    path.write_text(password)
    path.chmod(0o600)
    manager = BGPManager("h1", Bird(tmp_path), route_protocol=80, secrets=tmp_path)
    manager.on_update(Kind.HOST, "h1", Host(ipv4=parse_address("10.0.0.1")))
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    peer = {"peerIP": "10.0.0.9", "asNumber": 65000, "password": secret}
    document = {"kind": "BGPPeer", "metadata": {"name": "p"}, "spec": peer}
    manager.on_resource(ResourceKey("BGPPeer", "p"), msgspec.convert(document, TYPES["BGPPeer"]))
    rendered = render_bird(manager.snapshot())
    assert f'  password "{password}";\n' in rendered
    assert not parsed(rendered, tmp_path)
    assert _PROTOCOL.findall(rendered) == ["", "", "kernel4", "Peer_10_0_0_9"]
