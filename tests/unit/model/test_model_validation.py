"""The rules of each kind: what is refused, at which field, and what is not."""

from typing import Any

import msgspec
import pytest

from tortie.lib.errors import InvalidInput
from tortie.model.catalogue import TYPES
from tortie.model.metadata import Resource
from tortie.model.validation import check, validate, with_defaults


def _resource(kind: str, spec: dict[str, Any], **metadata: Any) -> Resource:
    metadata = {"name": "x", **metadata}
    if kind in ("NetworkPolicy", "NetworkSet", "WorkloadEndpoint"):
        metadata.setdefault("namespace", "ns")
    document = {"kind": kind, "metadata": metadata, "spec": spec}
    return with_defaults(msgspec.convert(document, TYPES[kind]))


def _paths(kind: str, spec: dict[str, Any], **metadata: Any) -> list[str]:
    return [problem.path for problem in validate(_resource(kind, spec, **metadata))]


def _rule(**fields: Any) -> dict[str, Any]:
    return {"ingress": [{"action": "Allow", **fields}]}


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("NetworkPolicy", {}),
    ("NetworkPolicy", _rule(protocol="tcp", destination={"ports": [80, "1:65535", "http", "81"]})),
    ("NetworkPolicy", _rule(destination={"ports": ["http"]})),
    ("NetworkPolicy", _rule(protocol=132, source={"notPorts": [1]})),
    ("NetworkPolicy", _rule(protocol="ICMPv6", icmp={"type": 128, "code": 0}, ipVersion=6)),
    (
        "NetworkPolicy",
        _rule(source={"nets": ["10.0.0.0/8", "192.0.2.1"], "notNets": ["10.1.0.0/16"]}),
    ),
    ("NetworkPolicy", _rule(source={"namespaceSelector": "global()", "selector": "all()"})),
    ("NetworkPolicy", _rule(http={"methods": ["GET"], "paths": [{"prefix": "/a"}]})),
    ("NetworkPolicy", _rule(source={"services": {"name": "s", "namespace": "n"}})),
    ("NetworkPolicy", {"egress": [{"action": "Log", "destination": {"services": {"name": "s"}}}]}),
    ("NetworkPolicy", {"order": -5, "types": ["Egress", "Ingress"]}),
    ("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, "ingress": []}),
    (
        "GlobalNetworkPolicy",
        {"doNotTrack": True, "applyOnForward": True, "egress": [{"action": "Deny"}]},
    ),
    ("Profile", {"labelsToApply": {"a/b": "c"}, "egress": [{"action": "Allow"}]}),
    ("Tier", {}),
    ("Tier", {"order": 3, "defaultAction": "Pass"}),
    ("NetworkSet", {"nets": ["10.0.0.1/8", "::1", "fd00::/8"]}),
    ("IPPool", {"cidr": "10.0.0.0/26"}),
    ("IPPool", {"cidr": "10.0.0.0/30", "blockSize": 30}),
    ("IPPool", {"cidr": "10.0.0.0/30", "disabled": True}),
    ("IPPool", {"cidr": "fd00::/122", "vxlanMode": "Always"}),
    ("IPPool", {"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer"]}),
    ("HostEndpoint", {"node": "n", "interfaceName": "*"}),
    ("HostEndpoint", {"node": "n", "expectedIPs": ["192.0.2.1", "fd00::1"]}),
    ("Node", {}),
    ("Node", {"bgp": {"ipv4Address": "192.0.2.1/24", "ipv6Address": "fd00::1", "asNumber": 65000}}),
    (
        "FelixConfiguration",
        {
            "logSeverityScreen": "debug",
            "reportingInterval": "1m30s",
            "chainInsertMode": "",
            "kubeNodePortRanges": [80, "1:2"],
        },
    ),
    ("BGPConfiguration", {}),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_good(kind: str, spec: dict[str, Any]) -> None:
    assert validate(_resource(kind, spec)) == []
    check(_resource(kind, spec))


_SIDE = "spec.ingress[0].source"
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("NetworkPolicy", {"tier": "a.b"}, "spec.tier"),
    ("NetworkPolicy", {"selector": "a =="}, "spec.selector"),
    ("NetworkPolicy", {"selector": "global()"}, "spec.selector"),
    ("NetworkPolicy", {"selector": f"a == '{'x' * 1024}'"}, "spec.selector"),
    ("NetworkPolicy", {"serviceAccountSelector": "("}, "spec.serviceAccountSelector"),
    ("NetworkPolicy", {"types": ["Ingress", "Ingress"]}, "spec.types[1]"),
    ("NetworkPolicy", {"ingress": [{"action": "Deny"}] * 1025}, "spec.ingress"),
    ("NetworkPolicy", _rule(ipVersion=5), "spec.ingress[0].ipVersion"),
    ("NetworkPolicy", _rule(protocol="XTP"), "spec.ingress[0].protocol"),
    ("NetworkPolicy", _rule(protocol=0), "spec.ingress[0].protocol"),
    ("NetworkPolicy", _rule(protocol=256), "spec.ingress[0].protocol"),
    ("NetworkPolicy", _rule(notProtocol=-1), "spec.ingress[0].notProtocol"),
    ("NetworkPolicy", _rule(protocol="ICMP", ipVersion=6), "spec.ingress[0].ipVersion"),
    ("NetworkPolicy", _rule(notProtocol=58, ipVersion=4), "spec.ingress[0].ipVersion"),
    ("NetworkPolicy", _rule(icmp={"type": 8}), "spec.ingress[0].protocol"),
    ("NetworkPolicy", _rule(protocol="ICMP", icmp={"code": 1}), "spec.ingress[0].icmp.type"),
    ("NetworkPolicy", _rule(protocol="ICMP", icmp={"type": 255}), "spec.ingress[0].icmp.type"),
    (
        "NetworkPolicy",
        _rule(protocol=1, notICMP={"type": 1, "code": 256}),
        "spec.ingress[0].notICMP.code",
    ),
    ("NetworkPolicy", _rule(source={"nets": ["10.0.0.0/33"]}), f"{_SIDE}.nets[0]"),
    ("NetworkPolicy", _rule(source={"nets": ["10.0.0.1/8"]}), f"{_SIDE}.nets[0]"),
    ("NetworkPolicy", _rule(source={"nets": ["::ffff:1.2.3.4"]}), f"{_SIDE}.nets[0]"),
    ("NetworkPolicy", _rule(source={"nets": ["10.0.0.0/8", "fd00::/8"]}), f"{_SIDE}.nets[1]"),
    ("NetworkPolicy", _rule(ipVersion=6, source={"nets": ["10.0.0.0/8"]}), f"{_SIDE}.nets[0]"),
    ("NetworkPolicy", _rule(source={"notNets": ["0.0.0.0/0"]}), f"{_SIDE}.notNets[0]"),
    ("NetworkPolicy", _rule(source={"nets": ["10.0.0.0/8"] * 257}), f"{_SIDE}.nets"),
    ("NetworkPolicy", _rule(source={"selector": "a in b"}), f"{_SIDE}.selector"),
    (
        "NetworkPolicy",
        _rule(source={"namespaceSelector": "!global()"}),
        f"{_SIDE}.namespaceSelector",
    ),
    (
        "NetworkPolicy",
        _rule(source={"serviceAccounts": {"selector": "&"}}),
        f"{_SIDE}.serviceAccounts.selector",
    ),
    ("NetworkPolicy", _rule(source={"ports": [80]}), f"{_SIDE}.ports"),
    ("NetworkPolicy", _rule(protocol="ICMP", source={"ports": ["http"]}), f"{_SIDE}.ports"),
    ("NetworkPolicy", _rule(protocol="TCP", source={"ports": [0]}), f"{_SIDE}.ports[0]"),
    ("NetworkPolicy", _rule(protocol="TCP", source={"ports": [65536]}), f"{_SIDE}.ports[0]"),
    ("NetworkPolicy", _rule(protocol="TCP", source={"ports": ["9:8"]}), f"{_SIDE}.ports[0]"),
    ("NetworkPolicy", _rule(protocol="TCP", source={"ports": ["8:x"]}), f"{_SIDE}.ports[0]"),
    (
        "NetworkPolicy",
        _rule(protocol="TCP", source={"notPorts": ["Http!"]}),
        f"{_SIDE}.notPorts[0]",
    ),
    ("NetworkPolicy", _rule(protocol="TCP", source={"ports": [1] * 51}), f"{_SIDE}.ports"),
    ("NetworkPolicy", _rule(source={"services": {}}), f"{_SIDE}.services.name"),
    (
        "NetworkPolicy",
        _rule(source={"services": {"name": "s"}, "selector": "a == 'b'"}),
        f"{_SIDE}.selector",
    ),
    (
        "NetworkPolicy",
        _rule(destination={"services": {"name": "s"}}),
        "spec.ingress[0].destination.services",
    ),
    (
        "GlobalNetworkPolicy",
        _rule(source={"services": {"name": "s"}}),
        f"{_SIDE}.services.namespace",
    ),
    ("NetworkPolicy", {"ingress": [{"action": "Deny", "http": {}}]}, "spec.ingress[0].http"),
    ("NetworkPolicy", {"egress": [{"action": "Allow", "http": {}}]}, "spec.egress[0].http"),
    ("NetworkPolicy", _rule(protocol="UDP", http={}), "spec.ingress[0].protocol"),
    ("NetworkPolicy", _rule(http={"methods": ["A", "A"]}), "spec.ingress[0].http.methods[1]"),
    (
        "NetworkPolicy",
        _rule(http={"paths": [{"exact": "/a", "prefix": "/b"}]}),
        "spec.ingress[0].http.paths[0]",
    ),
    ("NetworkPolicy", _rule(http={"paths": [{"exact": "/a?b"}]}), "spec.ingress[0].http.paths[0]"),
    ("GlobalNetworkPolicy", {"preDNAT": True}, "spec.applyOnForward"),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "applyOnForward": True, "doNotTrack": True},
        "spec.doNotTrack",
    ),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "applyOnForward": True, "types": ["Egress"]},
        "spec.types",
    ),
    ("GlobalNetworkPolicy", {"namespaceSelector": "global()"}, "spec.namespaceSelector"),
    ("Profile", {"labelsToApply": {"a b": "c"}}, "spec.labelsToApply.a b"),
    ("Profile", _rule(source={"nets": ["x"]}), f"{_SIDE}.nets[0]"),
    ("NetworkSet", {"nets": ["10.0.0.0/8", "web.example.org"]}, "spec.nets[1]"),
    ("IPPool", {}, "spec.cidr"),
    ("IPPool", {"cidr": "10.0.0.1/8"}, "spec.cidr"),
    ("IPPool", {"cidr": "ten"}, "spec.cidr"),
    ("IPPool", {"cidr": "169.254.0.0/24"}, "spec.cidr"),
    ("IPPool", {"cidr": "128.0.0.0/1"}, "spec.cidr"),
    ("IPPool", {"cidr": "fe80::/64"}, "spec.cidr"),
    ("IPPool", {"cidr": "10.0.0.0/27"}, "spec.cidr"),
    ("IPPool", {"cidr": "10.0.0.0/8", "blockSize": 19}, "spec.blockSize"),
    ("IPPool", {"cidr": "fd00::/64", "blockSize": 64}, "spec.blockSize"),
    (
        "IPPool",
        {"cidr": "10.0.0.0/8", "vxlanMode": "Always", "ipipMode": "Always"},
        "spec.vxlanMode",
    ),
    ("IPPool", {"cidr": "fd00::/64", "ipipMode": "Always"}, "spec.ipipMode"),
    ("IPPool", {"cidr": "10.0.0.0/8", "nodeSelector": "x x"}, "spec.nodeSelector"),
    ("IPPool", {"cidr": "10.0.0.0/8", "namespaceSelector": "all()"}, "spec.namespaceSelector"),
    (
        "IPPool",
        {"cidr": "10.0.0.0/8", "allowedUses": ["Workload", "LoadBalancer"]},
        "spec.allowedUses",
    ),
    (
        "IPPool",
        {"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer"], "disableBGPExport": True},
        "spec.disableBGPExport",
    ),
    (
        "IPPool",
        {"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer"], "nodeSelector": "a == 'b'"},
        "spec.nodeSelector",
    ),
    ("HostEndpoint", {"interfaceName": "eth0"}, "spec.node"),
    ("HostEndpoint", {"node": "n"}, "spec.interfaceName"),
    ("HostEndpoint", {"node": "n", "interfaceName": "much-too-long-a-name"}, "spec.interfaceName"),
    ("HostEndpoint", {"node": "n", "expectedIPs": ["10.0.0.0/8"]}, "spec.expectedIPs[0]"),
    (
        "HostEndpoint",
        {"node": "n", "interfaceName": "e", "ports": [{"port": 1}]},
        "spec.ports[0].name",
    ),
    (
        "HostEndpoint",
        {"node": "n", "interfaceName": "e", "ports": [{"name": "a", "port": 0}]},
        "spec.ports[0].port",
    ),
    (
        "HostEndpoint",
        {
            "node": "n",
            "interfaceName": "e",
            "ports": [{"name": "a", "port": 1, "protocol": "ICMP"}],
        },
        "spec.ports[0].protocol",
    ),
    ("Node", {"bgp": {}}, "spec.bgp"),
    ("Node", {"bgp": {"ipv4Address": "fd00::1"}}, "spec.bgp.ipv4Address"),
    ("Node", {"bgp": {"asNumber": 2**32}}, "spec.bgp.asNumber"),
    ("Node", {"addresses": [{"address": "x"}]}, "spec.addresses[0].address"),
    ("Node", {"addresses": [{"address": "::1", "type": "Home"}]}, "spec.addresses[0].type"),
    ("Node", {"vxlanTunnelMACAddr": "66:77"}, "spec.vxlanTunnelMACAddr"),
    ("FelixConfiguration", {"logSeverityScreen": "Loud"}, "spec.logSeverityScreen"),
    ("FelixConfiguration", {"floatingIPs": "enabled"}, "spec.floatingIPs"),
    ("FelixConfiguration", {"reportingInterval": "ten"}, "spec.reportingInterval"),
    ("FelixConfiguration", {"healthPort": 65536}, "spec.healthPort"),
    ("FelixConfiguration", {"natOutgoingAddress": "fd00::1"}, "spec.natOutgoingAddress"),
    ("FelixConfiguration", {"routeTableRange": {"min": 0, "max": 9}}, "spec.routeTableRange"),
    (
        "FelixConfiguration",
        {"routeTableRange": {"min": 1, "max": 9}, "routeTableRanges": [{"min": 1, "max": 2}]},
        "spec.routeTableRanges",
    ),
    ("FelixConfiguration", {"kubeNodePortRanges": [1] * 8}, "spec.kubeNodePortRanges"),
    ("FelixConfiguration", {"kubeNodePortRanges": ["http"]}, "spec.kubeNodePortRanges[0]"),
    (
        "FelixConfiguration",
        {"failsafeInboundHostPorts": [{"port": 1, "protocol": "gre"}]},
        "spec.failsafeInboundHostPorts[0].protocol",
    ),
    ("FelixConfiguration", {"openstackRegion": "A B"}, "spec.openstackRegion"),
    ("FelixConfiguration", {"featureDetectOverride": "a=maybe"}, "spec.featureDetectOverride"),
    ("BGPConfiguration", {"asNumber": 1}, "spec.asNumber"),
    ("BGPConfiguration", {"serviceClusterIPs": [{"cidr": "x"}]}, "spec.serviceClusterIPs[0].cidr"),
    (
        "BGPConfiguration",
        {"communities": [{"name": "a", "value": "70000:1"}]},
        "spec.communities[0].value",
    ),
    ("BGPConfiguration", {"communities": [{"name": "a", "value": "1:1"}]}, "spec.communities"),
    (
        "BGPConfiguration",
        {"prefixAdvertisements": [{"cidr": "::/0", "communities": ["b"]}]},
        "spec.prefixAdvertisements[0].communities[0]",
    ),
    ("ClusterInformation", {}, "metadata.name"),
]


@pytest.mark.parametrize(("kind", "spec", "path"), BAD)
def test_bad(kind: str, spec: dict[str, Any], path: str) -> None:
    assert path in _paths(kind, spec)
    with pytest.raises(InvalidInput):
        check(_resource(kind, spec))


@pytest.mark.parametrize(
    ("kind", "metadata", "path"),
    [
        ("Node", {"name": ""}, "metadata.name"),
        ("Node", {"name": "A"}, "metadata.name"),
        ("Tier", {"name": "a.b"}, "metadata.name"),
        ("Node", {"namespace": "ns"}, "metadata.namespace"),
        ("NetworkSet", {"namespace": ""}, "metadata.namespace"),
        ("NetworkSet", {"namespace": "a/b"}, "metadata.namespace"),
        ("Node", {"labels": {"a b": "c"}}, "metadata.labels.a b"),
        ("Node", {"labels": {"a": "c d"}}, "metadata.labels.a"),
        ("Node", {"annotations": {"a b": "c"}}, "metadata.annotations.a b"),
        ("Node", {"annotations": {"a": "x" * 2**18}}, "metadata.annotations"),
        ("NetworkSet", {"labels": {"projectcalico.org/namespace": "x"}},
         "metadata.labels.projectcalico.org/namespace"),
        ("Profile", {"name": "projectcalico-default-allow"}, "metadata.name"),
    ],
)  # fmt: skip
def test_bad_metadata(kind: str, metadata: dict[str, Any], path: str) -> None:
    assert path in _paths(kind, {}, **metadata)


@pytest.mark.parametrize(
    ("name", "spec", "paths"),
    [
        ("default", {}, []),
        ("kube-admin", {"defaultAction": "Pass"}, []),
        ("kube-baseline", {"defaultAction": "Pass"}, []),
        ("default", {"order": 1}, ["spec.order"]),
        ("default", {"defaultAction": "Pass"}, ["spec.defaultAction"]),
        ("kube-admin", {}, ["spec.defaultAction"]),
    ],
)
def test_fixed_tiers(name: str, spec: dict[str, Any], paths: list[str]) -> None:
    assert _paths("Tier", spec, name=name) == paths


_WORKLOAD = {"node": "n", "orchestrator": "lab", "workload": "w", "endpoint": "eth0"}


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({"ipNetworks": ["10.0.0.1/32", "fd00::1", "10.0.0.2"], "mac": "02:00:00:00:00:01"}, []),
        ({"ipNetworks": ["10.0.0.0/24"]}, ["spec.ipNetworks[0]"]),
        ({"interfaceName": "a/b"}, ["spec.interfaceName"]),
        ({"mac": "x"}, ["spec.mac"]),
        ({"ports": [{"name": "a", "port": 80}]}, []),
        ({"ports": [{"port": 80, "hostPort": 8080}]}, []),
        ({"ports": [{"port": 80}]}, ["spec.ports[0].name"]),
        ({"ports": [{"name": "a", "port": 80, "protocol": "ICMP"}]}, ["spec.ports[0].protocol"]),
        ({"allowSpoofedSourcePrefixes": ["x"]}, ["spec.allowSpoofedSourcePrefixes[0]"]),
        (
            {"ipNATs": [{"internalIP": "10.0.0.9", "externalIP": "192.0.2.1"}]},
            ["spec.ipNATs[0].internalIP"],
        ),
        (
            {
                "ipNetworks": ["10.0.0.9"],
                "ipNATs": [{"internalIP": "10.0.0.9", "externalIP": "::1"}],
            },
            ["spec.ipNATs[0].externalIP"],
        ),
        ({"node": ""}, ["spec"]),
    ],
)
def test_workload_endpoints(spec: dict[str, Any], paths: list[str]) -> None:
    name = "n-lab-w-eth0"
    assert _paths("WorkloadEndpoint", {**_WORKLOAD, **spec}, name=name) == paths


def test_a_workload_endpoints_name_is_computed_or_checked() -> None:
    endpoint = _resource("WorkloadEndpoint", _WORKLOAD, name="")
    assert endpoint.metadata.name == "n-lab-w-eth0"
    assert endpoint.metadata.labels == {
        "projectcalico.org/namespace": "ns",
        "projectcalico.org/orchestrator": "lab",
    }
    assert _paths("WorkloadEndpoint", _WORKLOAD, name="other") == ["metadata.name"]


def test_only_default_has_the_clusters_bgp_settings() -> None:
    spec = {"nodeToNodeMeshEnabled": True, "asNumber": 64600}
    assert _paths("BGPConfiguration", spec, name="default") == []
    assert len(_paths("BGPConfiguration", spec, name="node.a")) == 2
    mesh = {"nodeToNodeMeshEnabled": False, "nodeMeshMaxRestartTime": "5s"}
    assert _paths("BGPConfiguration", mesh, name="default") == ["spec.nodeMeshMaxRestartTime"]


def test_node_selectors_are_for_scoped_settings_only() -> None:
    spec = {"nodeSelector": "rack == '7'"}
    assert _paths("FelixConfiguration", spec, name="rack-7") == []
    assert _paths("FelixConfiguration", spec, name="default") == ["spec.nodeSelector"]
    assert _paths("FelixConfiguration", spec, name="node.a") == ["spec.nodeSelector"]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_defaults_are_idempotent(kind: str, spec: dict[str, Any]) -> None:
    resource = _resource(kind, spec)
    assert with_defaults(resource) == resource
    assert resource.kind == kind


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("NetworkPolicy", _rule(source={"nets": ["10.0.0.1/8"]})),
        ("FelixConfiguration", {"logSeverityScreen": "Loud"}),
    ],
)
def test_what_others_stored_is_judged_more_mildly(kind: str, spec: dict[str, Any]) -> None:
    resource = _resource(kind, spec, labels={"a b": "c"})
    assert validate(resource)
    assert validate(resource, stored=True) == []


def test_stored_nonsense_stays_refused() -> None:
    resource = _resource("NetworkPolicy", {"selector": "(", **_rule(source={"nets": ["x"]})})
    paths = [problem.path for problem in validate(resource, stored=True)]
    assert paths == ["spec.selector", "spec.ingress[0].source.nets[0]"]
    with pytest.raises(InvalidInput, match=r"NetworkPolicy\(ns/x\): spec.selector: "):
        check(resource, stored=True)


def test_long_lists_of_problems_are_cut() -> None:
    resource = _resource("NetworkSet", {"nets": ["x"] * 9})
    with pytest.raises(InvalidInput, match="and 6 more") as caught:
        check(resource)
    assert "\n" not in str(caught.value)
