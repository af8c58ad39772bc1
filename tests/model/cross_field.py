"""The API's rules about several fields of an object, each with what breaks it and what keeps it.

One entry for each rule of the schemas, and the places where they say it: 247 in all, and
the two that compare an object with what is stored (`test_cross_field.py`).
"""

from typing import Any, NamedTuple

from tests.model.objects import POLICIES

Place = tuple[str, str]
"""Kind, and path of the object that the rule is about; empty for the resource."""

Fields = dict[str, Any]
"""Paths within that object, and what to put there."""


class Rule(NamedTuple):
    says: str
    places: list[Place]
    broken: list[Fields]
    kept: list[Fields]
    named: str
    """The field that the refusal names."""


def _in(kind: str, path: str = "spec") -> list[Place]:
    return [(kind, path)]


GLOBAL = [(kind, "spec") for kind in POLICIES if "Global" in kind]
ALL_POLICIES = [(kind, "spec") for kind in POLICIES]
RULES = [(kind, f"spec.{way}[]") for kind in POLICIES for way in ("ingress", "egress")]
SIDES = [(kind, f"{rule}.{side}") for kind, rule in RULES for side in ("source", "destination")]
FILTERS = [
    ("BGPFilter", f"spec.{way}V{family}[]") for way in ("export", "import") for family in (4, 6)
]

_HTTP = {"methods": ["GET"]}
_SERVICE = {"name": "web", "namespace": "prod"}
_LB = ["LoadBalancer"]

POLICY_RULES = [
    Rule(
        "untracked and before NAT exclude one another", GLOBAL,
        [{"doNotTrack": True, "preDNAT": True, "applyOnForward": True}],
        [{"doNotTrack": True, "applyOnForward": True}, {"preDNAT": True, "applyOnForward": True}],
        "spec.doNotTrack",
    ),
    Rule(
        "before NAT there is no egress", GLOBAL,
        [{"preDNAT": True, "applyOnForward": True, "types": ["Ingress"],
          "egress": [{"action": "Allow"}]}],
        [{"preDNAT": True, "applyOnForward": True, "types": ["Ingress"]},
         {"applyOnForward": True, "egress": [{"action": "Allow"}]}],
        "spec.egress",
    ),
    Rule(
        "nor the type Egress", GLOBAL,
        [{"preDNAT": True, "applyOnForward": True, "types": ["Ingress", "Egress"]}],
        [{"preDNAT": True, "applyOnForward": True, "types": ["Ingress"]},
         {"types": ["Ingress", "Egress"]}],
        "spec.types",
    ),
    Rule(
        "untracked and before NAT apply to what is forwarded", GLOBAL,
        [{"preDNAT": True}, {"doNotTrack": True}, {"doNotTrack": True, "applyOnForward": False}],
        [{"doNotTrack": True, "applyOnForward": True}, {"applyOnForward": False}],
        "spec.applyOnForward",
    ),
    Rule(
        "global() is for the namespaceSelector of a rule's side", [*ALL_POLICIES, *SIDES],
        [{"selector": "global()"}, {"selector": "a == 'b' || global()"}],
        [{"selector": "all()"}],
        ".selector",
    ),
    Rule(
        "global() does not select service accounts", ALL_POLICIES,
        [{"serviceAccountSelector": "global()"}],
        [{"serviceAccountSelector": "all()"}],
        "spec.serviceAccountSelector",
    ),
    Rule(
        "global() is no namespace of a policy", GLOBAL,
        [{"namespaceSelector": "global()"}],
        [{"namespaceSelector": "all()"}],
        "spec.namespaceSelector",
    ),
    Rule(
        "HTTP is over TCP", RULES,
        [{"http": _HTTP, "protocol": "UDP"}, {"http": _HTTP, "protocol": 17}],
        [{"http": _HTTP, "protocol": "TCP"}, {"http": _HTTP, "protocol": 6}, {"http": _HTTP},
         {"protocol": "UDP"}],
        "].protocol",
    ),
    Rule(
        "HTTP can only be allowed", RULES,
        [{"http": _HTTP, "action": action} for action in ("Deny", "Log", "Pass")],
        [{"http": _HTTP, "action": "Allow"}, {"action": "Deny"}],
        "].http",
    ),
    Rule(
        "a service has its own ports", RULES,
        [{"destination": {"services": _SERVICE, "ports": [80]}, "protocol": "TCP"},
         {"destination": {"services": _SERVICE, "notPorts": [80]}, "protocol": "TCP"}],
        [{"destination": {"services": _SERVICE}},
         {"destination": {"ports": [80], "notPorts": [81]}, "protocol": "TCP"}],
        "].destination.",
    ),
    Rule(
        "ICMP's fields go with ICMP", RULES,
        [{"icmp": {"type": 8}}, {"icmp": {"type": 8}, "protocol": "TCP"},
         {"icmp": {"type": 8}, "protocol": 6}],
        [{"icmp": {"type": 8}, "protocol": protocol} for protocol in ("ICMP", "ICMPv6", 1, 58)],
        "].protocol",
    ),
    *(
        Rule(
            f"{field} {name} is of IPv{version}", RULES,
            [{field: value, "ipVersion": 10 - version} for value in (name, number)],
            [{field: name, "ipVersion": version}, {field: number, "ipVersion": version},
             {field: name}, {"ipVersion": 10 - version}],
            "].ipVersion",
        )
        for field in ("protocol", "notProtocol")
        for name, number, version in (("ICMP", 1, 4), ("ICMPv6", 58, 6))
    ),
    Rule(
        "a service is in one namespace", SIDES,
        [{"services": _SERVICE, "namespaceSelector": "all()"}],
        [{"services": _SERVICE}, {"namespaceSelector": "all()"}],
        ".namespaceSelector",
    ),
    Rule(
        "a service has no accounts", SIDES,
        [{"services": _SERVICE, "serviceAccounts": {"names": ["a"]}},
         {"services": _SERVICE, "serviceAccounts": {}}],
        [{"services": _SERVICE}, {"serviceAccounts": {"names": ["a"]}}],
        ".serviceAccounts",
    ),
    Rule(
        "a service has a name", SIDES,
        [{"services": {"name": "", "namespace": "prod"}}],
        [{"services": {"name": "w", "namespace": "prod"}}, {"selector": "all()"}],
        ".services.name",
    ),
    *(
        Rule(
            f"a service has its own {one}", SIDES,
            [{"services": _SERVICE, one: value}, {"services": _SERVICE, other: value}],
            [{"services": _SERVICE}, {one: value}, {other: value}],
            "elector" if "elector" in one else "ets",
        )
        for one, other, value in (
            ("selector", "notSelector", "all()"), ("nets", "notNets", ["10.0.0.0/8"]),
        )
    ),
    *(
        Rule(
            f"a code is within a type, {field}", RULES,
            [{f"{field}.code": 0, "protocol": "ICMP"}],
            [{f"{field}.code": 0, f"{field}.type": 0, "protocol": "ICMP"},
             {f"{field}.type": 0, "protocol": "ICMP"}],
            f".{field}.type",
        )
        for field in ("icmp", "notICMP")
    ),
]  # fmt: skip

POOL_RULES = [
    Rule(
        "one encapsulation", _in("IPPool"),
        [{"ipipMode": "Always", "vxlanMode": "Always"},
         {"ipipMode": "CrossSubnet", "vxlanMode": "CrossSubnet"}],
        [{"ipipMode": "Always", "vxlanMode": "Never"},
         {"ipipMode": "Never", "vxlanMode": "Always"}],
        "spec.vxlanMode",
    ),
    Rule(
        "a load balancer's addresses are not encapsulated", _in("IPPool"),
        [{"allowedUses": _LB, "ipipMode": "Always"}, {"allowedUses": _LB, "vxlanMode": "Always"}],
        [{"allowedUses": _LB, "ipipMode": "Never", "vxlanMode": "Never"}, {"vxlanMode": "Always"}],
        "Mode",
    ),
    Rule(
        "nor used otherwise", _in("IPPool"),
        [{"allowedUses": ["LoadBalancer", use]} for use in ("Workload", "Tunnel")],
        [{"allowedUses": _LB}, {"allowedUses": ["Workload", "Tunnel"]}],
        "spec.allowedUses",
    ),
    Rule(
        "IPIP carries IPv4", _in("IPPool"),
        [{"cidr": "fd00::/64", "ipipMode": mode} for mode in ("Always", "CrossSubnet")],
        [{"cidr": "fd00::/64", "ipipMode": "Never"}, {"ipipMode": "Always"},
         {"cidr": "fd00::/64", "vxlanMode": "Always"}],
        "spec.ipipMode",
    ),
    Rule(
        "a load balancer's addresses are announced", _in("IPPool"),
        [{"allowedUses": _LB, "disableBGPExport": True}],
        [{"allowedUses": _LB, "disableBGPExport": False}, {"disableBGPExport": True}],
        "spec.disableBGPExport",
    ),
    Rule(
        "and are of no node", _in("IPPool"),
        [{"allowedUses": _LB, "nodeSelector": "a == 'b'"}],
        [{"allowedUses": _LB, "nodeSelector": "all()"}, {"nodeSelector": "a == 'b'"}],
        "spec.nodeSelector",
    ),
    Rule(
        "tunnels have no namespace", _in("IPPool"),
        [{"allowedUses": ["Tunnel"], "namespaceSelector": "all()"}],
        [{"allowedUses": ["Workload"], "namespaceSelector": "all()"}, {"allowedUses": ["Tunnel"]}],
        "spec.namespaceSelector",
    ),
    *(
        Rule(
            f"global() is no {field}", _in("IPPool"),
            [{"allowedUses": ["Workload"], field: "global()"}],
            [{"allowedUses": ["Workload"], field: "all()"}],
            f"spec.{field}",
        )
        for field in ("nodeSelector", "namespaceSelector")
    ),
    Rule(
        "no host bits", _in("IPPool"),
        [{"cidr": "10.0.0.1/16"}, {"cidr": "fd00::1/64"}],
        [{"cidr": "10.0.0.0/16"}, {"cidr": "fd00::/64"}],
        "spec.cidr",
    ),
    Rule(
        "not link-local, IPv4", _in("IPPool"),
        [{"cidr": cidr} for cidr in ("169.254.0.0/16", "169.254.128.0/20", "169.0.0.0/8")],
        [{"cidr": "169.253.0.0/16"}, {"cidr": "169.255.0.0/16"}],
        "spec.cidr",
    ),
    Rule(
        "not link-local, IPv6", _in("IPPool"),
        [{"cidr": cidr} for cidr in ("fe80::/10", "fe80:1::/64", "fe00::/8")],
        [{"cidr": "fe40::/10"}, {"cidr": "fec0::/10"}],
        "spec.cidr",
    ),
    Rule(
        "the size of a block", _in("IPPool"),
        [{"blockSize": 19}, {"blockSize": 33}, {"cidr": "fd00::/64", "blockSize": 115},
         {"cidr": "fd00::/64", "blockSize": 32}],
        [{"blockSize": 20}, {"blockSize": 32}, {"cidr": "fd00::/64", "blockSize": 116},
         {"cidr": "fd00::/64", "blockSize": 128}, {"blockSize": 0}],
        "spec.blockSize",
    ),
    Rule(
        "a pool holds a block", _in("IPPool"),
        [{"cidr": "10.0.0.0/27"}, {"cidr": "10.0.0.0/30", "blockSize": 29},
         {"cidr": "fd00::/123"}],
        [{"cidr": "10.0.0.0/26"}, {"cidr": "10.0.0.0/29", "blockSize": 29}, {"cidr": "fd00::/122"},
         {"cidr": "10.0.0.0/27", "disabled": True}],
        "spec.cidr",
    ),
]  # fmt: skip

_SELECTOR = "a == 'b'"
_MESH_OFF = {"nodeToNodeMeshEnabled": False}
_PASSWORD = {"secretKeyRef": {"name": "s", "key": "k"}}

BGP_RULES = [
    *(
        Rule(
            f"{field} is the mesh's", _in("BGPConfiguration"),
            [{field: value, **_MESH_OFF}],
            [{field: value, "nodeToNodeMeshEnabled": True}, {field: value}, _MESH_OFF],
            f"spec.{field}",
        )
        for field, value in (
            ("nodeMeshPassword", _PASSWORD), ("nodeMeshMaxRestartTime", "90s"),
        )
    ),
    Rule(
        "names of communities are for advertisements", _in("BGPConfiguration"),
        [{"communities": [{"name": "a", "value": "1:1"}]},
         {"communities": [{"name": "a", "value": "1:1"}], "prefixAdvertisements": []}],
        [{"communities": [{"name": "a", "value": "1:1"}],
          "prefixAdvertisements": [{"cidr": "10.0.0.0/8"}]},
         {"prefixAdvertisements": [{"cidr": "10.0.0.0/8"}]}],
        "spec.communities",
    ),
    *(
        rule
        for place in FILTERS
        for net in ("10.0.0.0/8" if "V4" in place[1] else "fd00::/8",)
        for rule in (
            Rule(
                "a network and how to compare with it", [place],
                [{"cidr": net}, {"matchOperator": "In"}],
                [{"cidr": net, "matchOperator": "In"}, {}],
                "is needed: cidr and matchOperator",
            ),
            Rule(
                "lengths of a network", [place],
                [{"prefixLength": {"min": 8}}],
                [{"prefixLength": {"min": 8}, "cidr": net, "matchOperator": "In"}],
                "prefixLength",
            ),
            Rule(
                "what is rejected is not changed", [place],
                [{"operations": [{"setPriority": {"value": 1}}], "action": "Reject"}],
                [{"operations": [{"setPriority": {"value": 1}}], "action": "Accept"},
                 {"action": "Reject"}],
                "operations",
            ),
        )
    ),
    Rule(
        "a node or a selector of nodes", _in("BGPPeer"),
        [{"node": "n", "nodeSelector": _SELECTOR}],
        [{"node": "n"}, {"nodeSelector": _SELECTOR}],
        "spec.nodeSelector",
    ),
    Rule(
        "an address or a selector of peers", _in("BGPPeer"),
        [{"peerSelector": _SELECTOR, "asNumber": 0}],
        [{"peerSelector": _SELECTOR, "peerIP": "", "asNumber": 0}, {}],
        "spec.peerSelector",
    ),
    Rule(
        "peers that are nodes know their AS number", _in("BGPPeer"),
        [{"peerSelector": _SELECTOR, "peerIP": "", "asNumber": 64512}],
        [{"peerSelector": _SELECTOR, "peerIP": "", "asNumber": 0}],
        "spec.asNumber",
    ),
    Rule(
        "workloads have no address given", _in("BGPPeer"),
        [{"localWorkloadSelector": _SELECTOR}],
        [{"localWorkloadSelector": _SELECTOR, "peerIP": ""}],
        "spec.peerIP",
    ),
    Rule(
        "workloads are no nodes", _in("BGPPeer"),
        [{"localWorkloadSelector": _SELECTOR, "peerIP": "", "peerSelector": _SELECTOR}],
        [{"localWorkloadSelector": _SELECTOR, "peerIP": ""}],
        "spec.peerSelector",
    ),
    Rule(
        "workloads have an AS number given", _in("BGPPeer"),
        [{"localWorkloadSelector": _SELECTOR, "peerIP": "", "asNumber": 0}],
        [{"localWorkloadSelector": _SELECTOR, "peerIP": "", "asNumber": 1}],
        "spec.asNumber",
    ),
    Rule(
        "a gateway leads to an address", _in("BGPPeer"),
        [{"reachableBy": "10.0.0.2", "peerIP": "", "peerSelector": _SELECTOR, "asNumber": 0}],
        [{"reachableBy": "10.0.0.2"}],
        "spec.reachableBy",
    ),
    Rule(
        "one way to say the next hop", _in("BGPPeer"),
        [{"keepOriginalNextHop": True, "nextHopMode": "Keep"}],
        [{"keepOriginalNextHop": True}, {"nextHopMode": "Keep"},
         {"keepOriginalNextHop": False, "nextHopMode": "Self"}],
        "spec.keepOriginalNextHop",
    ),
]  # fmt: skip

SETTINGS_RULES = [
    Rule(
        "settings for some nodes have a name of their own", _in("FelixConfiguration", ""),
        [{"metadata.name": name, "spec.nodeSelector": _SELECTOR} for name in ("default", "node.n")],
        [{"metadata.name": "default"}, {"metadata.name": "x", "spec.nodeSelector": _SELECTOR}],
        "spec.nodeSelector",
    ),
    Rule(
        "one way to say the route tables", _in("FelixConfiguration"),
        [{"routeTableRange": {"min": 1, "max": 2}, "routeTableRanges": [{"min": 1, "max": 2}]}],
        [{"routeTableRange": {"min": 1, "max": 2}}, {"routeTableRanges": [{"min": 1, "max": 2}]}],
        "spec.routeTableRanges",
    ),
    *(
        Rule(
            f"{field} is of IPv{family}", _in("FelixConfiguration"),
            [{field: bad} for bad in (other, "word", f"{good}/24")],
            [{field: good}],
            f"spec.{field}",
        )
        for field, family, good, other in (
            ("natOutgoingAddress", 4, "10.0.0.1", "fd00::1"),
            ("deviceRouteSourceAddress", 4, "10.0.0.1", "fd00::1"),
            ("deviceRouteSourceAddressIPv6", 6, "fd00::1", "10.0.0.1"),
        )
    ),
    Rule(
        "the route tables that there are", _in("FelixConfiguration", "spec.routeTableRange"),
        [{"min": 0, "max": 9}, {"min": 9, "max": 8}, {"min": 1, "max": 251}],
        [{"min": 1, "max": 1}, {"min": 250, "max": 250}],
        "spec.routeTableRange",
    ),
    Rule(
        "route tables begin at 1", _in("FelixConfiguration", "spec.routeTableRanges[]"),
        [{"min": 0, "max": 9}],
        [{"min": 1, "max": 9}],
        "spec.routeTableRanges[0]",
    ),
    Rule(
        "and end after", _in("FelixConfiguration", "spec.routeTableRanges[]"),
        [{"min": 9, "max": 8}],
        [{"min": 9, "max": 9}],
        "spec.routeTableRanges[0]",
    ),
    Rule(
        "a host endpoint is an interface or addresses", _in("HostEndpoint"),
        [{"interfaceName": ""}, {"interfaceName": "", "expectedIPs": []}],
        [{"interfaceName": "eth0"}, {"interfaceName": "", "expectedIPs": ["10.0.0.1"]},
         {"interfaceName": "*"}],
        "spec.interfaceName",
    ),
    Rule(
        "of a node", _in("HostEndpoint"),
        [{"node": ""}],
        [{"node": "n"}],
        "spec.node",
    ),
    *(
        rule
        for name, order, action, other in (
            ("kube-admin", 1000, "Pass", "Deny"),
            ("kube-baseline", 10000000, "Pass", "Deny"),
            ("default", 1000000, "Deny", "Pass"),
        )
        for right in ({"metadata.name": name, "spec.order": order, "spec.defaultAction": action},)
        for rule in (
            Rule(
                f"the end of {name}", _in("Tier", ""),
                [{**right, "spec.defaultAction": other}],
                [right, {**right, "metadata.name": "other", "spec.defaultAction": other}],
                "spec.defaultAction",
            ),
            Rule(
                f"the place of {name}", _in("Tier", ""),
                [{**right, "spec.order": order + 1}, {**right, "spec.order": 0}],
                [right, {**right, "metadata.name": "other", "spec.order": order + 1}],
                "spec.order",
            ),
        )
    ),
]  # fmt: skip

EVERY_RULE = [*POLICY_RULES, *POOL_RULES, *BGP_RULES, *SETTINGS_RULES]
