"""Reading stored bytes: lenient about the unknown, strict about the known."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network
from tortie.model import codec
from tortie.model.endpoint import (
    IPNAT,
    QoSControls,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)
from tortie.model.ipam import Attribute, Block, BlockAffinity, IPAMConfig, IPAMHost
from tortie.model.keys import (
    AffinityKey,
    BlockKey,
    HandleKey,
    IPAMConfigKey,
    IPAMHostKey,
    ResourceKey,
)
from tortie.model.metadata import API_VERSION, Metadata
from tortie.model.node import IPPool
from tortie.model.policy import (
    ICMP,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    Rule,
)

NODE = ResourceKey("Node", "n1")
POLICY = ResourceKey("NetworkPolicy", "p", "ns")


def _json(document: Any) -> bytes:
    return msgspec.json.encode(document)


def _policy(name: str = "p", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": spec}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"null", "Expected `object`"),
        (b"[]", "Expected `object`"),
        (b'{"metadata":{"name":"p","namespace":"ns"},"spec":{"order":NaN}}', "malformed"),
        (b'{"metadata":{"name":"p","namespace":"ns"},"spec":{"order":Infinity}}', "malformed"),
        (b'{"metadata":{"name":"p","namespace":"ns"},"spec":{"order":1e999}}', "out of range"),
        (b'{"metadata":{"name":"\xff"}}', "utf-8"),
        (_json(_policy(order="first")), "$.spec.order"),
        (_json(_policy(ingress=[{"action": "Permit"}])), "$.spec.ingress[0].action"),
        (_json(_policy(ingress=[{}])), "$.spec.ingress[0]"),
        (_json(_policy(egress=[{"action": "Deny", "destination": {"nets": [7]}}])), "nets[0]"),
        (_json(_policy("other")), "$.metadata.name"),
        (_json({**_policy(), "kind": "Node"}), "$.kind"),
        (_json({**_policy(), "apiVersion": "v9"}), "$.apiVersion"),
        (_json({"metadata": {"name": "p", "namespace": "x"}}), "$.metadata.namespace"),
        (b'{"x":' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
        (b'{"x":' + b"[" * 90_000, "deeper than 64"),
        (b" " * (codec.VALUE_MAX_BYTES + 1), "bytes"),
    ],
)
def test_refuses_with_key_and_place(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.decode(POLICY, raw)
    assert says in str(caught.value)
    assert str(POLICY) in str(caught.value)


def test_unknown_fields_are_ignored() -> None:
    raw = _json(_policy(selector="a == 'b'", someday={"x": 1}, ingress=[{"action": "Log", "q": 1}]))
    policy = codec.decode(POLICY, raw)
    assert isinstance(policy, NetworkPolicy)
    assert policy.spec.selector == "a == 'b'"
    assert policy.spec.ingress[0].action == "Log"


def test_null_means_not_given_at_every_depth() -> None:
    raw = _json({
        "metadata": {"name": "p", "namespace": "ns", "labels": None, "creationTimestamp": None},
        "spec": {
            "order": None,
            "egress": None,
            "ingress": [{"action": "Allow", "source": None, "destination": {"nets": None}}],
        },
    })  # fmt: skip
    policy = codec.decode(POLICY, raw)
    assert isinstance(policy, NetworkPolicy)
    assert policy.metadata.labels == {}
    assert policy.spec.ingress == (Rule(action="Allow"),)


def test_kind_and_version_are_filled_in() -> None:
    node = codec.decode(NODE, b'{"metadata":{"name":"n1"}}')
    assert (node.kind, node.api_version) == ("Node", API_VERSION)


@pytest.mark.parametrize(
    ("stored_name", "tier", "annotation", "name"),
    [
        ("web", "default", None, "web"),
        ("default.web", "default", None, "web"),
        ("default.web", "default", '{"name":"default.web"}', "default.web"),
        ("default.web", "default", '{"name":"web"}', "web"),
        ("web", "default", '{"name":"web"}', "web"),
        ("web", "default", '{"name":"evil"}', "web"),
        ("web", "default", "no json", "web"),
        ("sec.web", "sec", None, "sec.web"),
        ("default.web", "sec", None, "default.web"),
        ("web", "", None, "web"),
    ],
)
def test_a_policys_name(stored_name: str, tier: str, annotation: str | None, name: str) -> None:
    metadata: dict[str, Any] = {"name": stored_name, "namespace": "ns"}
    if annotation is not None:
        metadata["annotations"] = {codec.NAME_ANNOTATION: annotation, "mine": "kept"}
    raw = _json({"metadata": metadata, "spec": {"tier": tier}})
    policy = codec.decode(ResourceKey("NetworkPolicy", stored_name, "ns"), raw)
    assert isinstance(policy, NetworkPolicy)
    assert policy.metadata.name == name
    assert codec.NAME_ANNOTATION not in policy.metadata.annotations
    assert policy.spec.tier == (tier or "default")


def test_the_name_annotation_is_written_and_the_version_is_not() -> None:
    policy = NetworkPolicy(metadata=Metadata(name="p", namespace="ns", resource_version="7"))
    stored = msgspec.json.decode(codec.encode(POLICY, policy))
    assert stored["metadata"]["annotations"] == {codec.NAME_ANNOTATION: '{"name":"p"}'}
    assert "resourceVersion" not in stored["metadata"]
    assert stored["kind"] == "NetworkPolicy"


@pytest.mark.parametrize(("cidr", "size"), [("10.0.0.0/8", 26), ("fd00::/64", 122)])
def test_old_pools_get_todays_defaults(cidr: str, size: int) -> None:
    raw = _json({"metadata": {"name": "p"}, "spec": {"cidr": cidr, "vxlanMode": ""}})
    pool = codec.decode(ResourceKey("IPPool", "p"), raw)
    assert isinstance(pool, IPPool)
    assert pool.spec.block_size == size
    assert pool.spec.allowed_uses == ("Workload", "Tunnel")
    assert pool.spec.vxlan_mode == "Never"
    assert pool.spec.node_selector == "all()"


def test_empty_values_of_old_ipam_records() -> None:
    cidr = parse_network("10.0.0.0/26")
    assert codec.decode(AffinityKey("h", cidr), b"") == BlockAffinity()
    assert codec.decode(AffinityKey("h", cidr), b"{}") == BlockAffinity()
    assert codec.decode(IPAMHostKey("h"), b"") == IPAMHost()
    assert codec.decode(IPAMConfigKey(), b"{}") == IPAMConfig()


@pytest.mark.parametrize(
    "change",
    [{"cidr": "10.0.1.0/30"}, {"allocations": [None]}, {"cidr": "10.0.0.1/30"}],
)
def test_a_block_must_fit_its_key(change: dict[str, Any]) -> None:
    document = {"cidr": "10.0.0.0/30", "allocations": [None] * 4, "unallocated": [0, 1, 2, 3]}
    key = BlockKey(parse_network("10.0.0.0/30"))
    assert codec.decode(key, _json(document)).unallocated == (0, 1, 2, 3)
    with pytest.raises(InvalidInput):
        codec.decode(key, _json(document | change))


def test_kinds_without_a_struct_are_named() -> None:
    with pytest.raises(InvalidInput, match="Unheard"):
        codec.decode(ResourceKey("Unheard", "p"), b"{}")


# --- unknown fields through a read-modify-write ---


def test_unknown_fields_survive_inside_lists_and_left_out_structs() -> None:
    before = _json(_policy(ingress=[
        {"action": "Allow", "newer": 1, "protocol": "TCP"},
        {"action": "Deny", "newer": 2, "source": {"newMatch": "x"}},
    ]))  # fmt: skip
    policy = codec.decode(POLICY, before)
    assert isinstance(policy, NetworkPolicy)
    allow, deny = policy.spec.ingress

    def written(*rules: Rule) -> Any:
        spec = msgspec.structs.replace(policy.spec, ingress=rules)
        changed = msgspec.structs.replace(policy, spec=spec)
        return msgspec.json.decode(codec.encode(POLICY, changed, before))["spec"]["ingress"]

    assert written(deny, allow) == [
        {"action": "Deny", "newer": 2, "source": {"newMatch": "x"}},
        {"action": "Allow", "newer": 1, "protocol": "TCP"},
    ]
    new = Rule(action="Log")
    assert written(new, allow, deny)[0] == {"action": "Log"}
    assert written(new, allow, deny)[2]["newer"] == 2
    changed = msgspec.structs.replace(allow, action="Pass")
    assert written(changed, deny)[0] == {"action": "Pass", "newer": 1, "protocol": "TCP"}
    assert written(deny) == [{"action": "Deny", "newer": 2, "source": {"newMatch": "x"}}]


def test_what_was_removed_on_purpose_stays_removed() -> None:
    before = _json(_policy(
        selector="old()", order=3, ingress=[{"action": "Allow", "icmp": {"type": 8}}]
    ))  # fmt: skip
    policy = NetworkPolicy(metadata=Metadata(name="p", namespace="ns"))
    assert msgspec.json.decode(codec.encode(POLICY, policy, before))["spec"] == {"tier": "default"}


@pytest.mark.parametrize("previous", [b"", b"not json", b"[]", b'{"spec":7}', b'{"metadata":null}'])
def test_an_unreadable_previous_value_is_replaced(previous: bytes) -> None:
    policy = NetworkPolicy(metadata=Metadata(name="p", namespace="ns"))
    assert codec.decode(POLICY, codec.encode(POLICY, policy, previous)).metadata.name == "p"


def test_zeros_that_mean_something_are_written() -> None:
    policy = GlobalNetworkPolicy(
        metadata=Metadata(name="g"),
        spec=GlobalNetworkPolicySpec(order=0.0, egress=(Rule(action="Deny", icmp=ICMP(type=0)),)),
    )
    spec = msgspec.json.decode(codec.encode(ResourceKey("GlobalNetworkPolicy", "g"), policy))[
        "spec"
    ]
    assert spec == {
        "tier": "default",
        "order": 0,
        "egress": [{"action": "Deny", "icmp": {"type": 0}}],
    }


# --- properties ---

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_many = st.lists(_texts, max_size=3).map(tuple)
_labels = st.dictionaries(_texts, _texts, max_size=3)
_metadata = st.builds(
    Metadata, name=st.just("x"), namespace=st.just("ns"), uid=_texts, labels=_labels,
    annotations=st.dictionaries(_texts.filter(lambda k: k != codec.NAME_ANNOTATION), _texts),
    creation_timestamp=st.none() | _texts,
)  # fmt: skip
_ports = st.lists(st.integers(0, 65535) | _texts, max_size=3).map(tuple)
_sides = st.builds(
    EntityRule, nets=_many, not_nets=_many, selector=_texts, namespace_selector=_texts,
    ports=_ports, not_ports=_ports,
)  # fmt: skip
_rules = st.builds(
    Rule,
    action=st.sampled_from(["Allow", "Deny", "Log", "Pass"]),
    ip_version=st.none() | st.integers(),
    protocol=st.none() | st.integers(-9, 999) | _texts,
    icmp=st.none() | st.builds(ICMP, type=st.none() | st.integers(0, 9)),
    source=_sides,
    destination=_sides,
)
_policies = st.builds(
    GlobalNetworkPolicy,
    kind=st.just("GlobalNetworkPolicy"),
    metadata=_metadata,
    spec=st.builds(
        GlobalNetworkPolicySpec,
        tier=_texts.filter(bool),
        order=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        ingress=st.lists(_rules, max_size=2).map(tuple),
        selector=_texts,
        types=st.sampled_from([(), ("Ingress",), ("Egress", "Ingress")]),
        pre_dnat=st.booleans(),
    ),
)
_endpoint_ports = st.builds(
    WorkloadEndpointPort, name=_texts, protocol=st.integers(0, 999) | _texts
)
_endpoints = st.builds(
    WorkloadEndpoint,
    kind=st.just("WorkloadEndpoint"),
    metadata=_metadata,
    spec=st.builds(
        WorkloadEndpointSpec,
        node=_texts, ip_networks=_many, mac=_texts,
        ports=st.lists(_endpoint_ports, max_size=2).map(tuple),
        ip_nats=st.lists(st.builds(IPNAT, internal_ip=_texts), max_size=2).map(tuple),
        qos_controls=st.none() | st.just(QoSControls(ingress_bandwidth=5000)),
    ),
)  # fmt: skip


@given(_policies | _endpoints)
def test_decoding_inverts_encoding(resource: GlobalNetworkPolicy | WorkloadEndpoint) -> None:
    namespace = "ns" if resource.kind == "WorkloadEndpoint" else ""
    key = ResourceKey(resource.kind, "x", namespace)
    raw = codec.encode(key, resource)
    assert codec.decode(key, raw) == resource
    assert codec.encode(key, resource, raw) == raw


@given(
    st.lists(st.none() | st.integers(0, 3), min_size=8, max_size=8).map(tuple),
    st.lists(
        st.builds(
            Attribute,
            handle_id=st.none() | _texts,
            secondary=st.none() | _labels,
            released_at=st.none() | _texts,
        ),
        max_size=4,
    ).map(tuple),
    st.integers(0, 2**63),
)
def test_blocks_round_trip(
    allocations: tuple[int | None, ...], attributes: tuple[Attribute, ...], sequence: int
) -> None:
    key = BlockKey(parse_network("10.0.0.0/29"))
    block = Block(
        cidr="10.0.0.0/29",
        affinity="host:h",
        allocations=allocations,
        unallocated=tuple(i for i, a in enumerate(allocations) if a is None),
        attributes=attributes,
        sequence_number=sequence,
        sequence_number_for_allocation={"3": sequence},
    )
    raw = codec.encode(key, block)
    assert codec.decode(key, raw) == block
    assert codec.encode(key, block, raw) == raw


def _trees(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=2),
        max_leaves=30,
    )


def _measured(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_measured, value), default=0) if isinstance(value, list) else 0


@given(_trees(st.text("a:,")))
def test_depth_is_exact(document: Any) -> None:
    assert codec.depth(_json(document)) == _measured(document)


@given(_trees(st.text('[]{}"\\a:,')))
def test_brackets_in_strings_never_make_depth_too_small(document: Any) -> None:
    assert codec.depth(_json(document)) >= _measured(document)


@pytest.mark.parametrize("brackets", [b"[" * 80 + b"]" * 80, b'{"a":[' * 40 + b"]}" * 40])
def test_strings_do_not_hide_depth(brackets: bytes) -> None:
    assert codec.depth(b'["]]", ' + brackets + b', "\\"[["]') == 81


def test_handles_with_slashes() -> None:
    key = HandleKey("a/b%c")
    assert codec.decode(key, b'{"block":{"10.0.0.0/26":2},"deleted":false}').block == {
        "10.0.0.0/26": 2
    }
