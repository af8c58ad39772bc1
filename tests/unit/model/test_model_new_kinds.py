"""Rules that are not in the schemas: of staged policies, controllers, migrations, endpoints."""

from typing import Any

import pytest
from tests.model.objects import minimal, put, refusal


def _with(kind: str, **fields: Any) -> dict[str, Any]:
    made = minimal(kind)
    for path, value in fields.items():
        put(made, kind, f"spec.{path.replace('__', '.')}", value)
    return made


_ENDPOINT = {"node": "n", "orchestrator": "lab", "workload": "w", "endpoint": "e"}
_IDENTITY = {"hostname": "n", "orchestratorID": "openstack", "workloadID": "w", "endpointID": "e"}
_SOURCE = {"workloadEndpoint": _IDENTITY}
_TEMPLATE = {"generateName": "a", "interfaceCIDRs": ["10.0.0.0/8"]}


def _endpoint(**fields: Any) -> dict[str, Any]:
    made = _with("WorkloadEndpoint", **_ENDPOINT, **fields)
    made["metadata"]["name"] = "n-lab-w-e"
    return made


def _templates(*templates: dict[str, Any]) -> dict[str, Any]:
    made = minimal("KubeControllersConfiguration")
    made["spec"]["controllers"] = {"node": {"hostEndpoint": {"templates": list(templates)}}}
    return made


def _staged(peer: dict[str, Any]) -> dict[str, Any]:
    return _with("StagedKubernetesNetworkPolicy", ingress=[{"from": [peer]}])


def _renamed(kind: str) -> dict[str, Any]:
    made = minimal(kind)
    made["metadata"]["name"] = "other"
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (_with("StagedNetworkPolicy", stagedAction="Delete", selector="all()"), "spec.selector"),
        (_with("StagedNetworkPolicy", stagedAction="Delete", types=["Ingress"]), "spec.types"),
        (_with("StagedGlobalNetworkPolicy", stagedAction="Delete", order=1), "spec.order"),
        (_with("StagedNetworkPolicy", selector="(("), "spec.selector"),
        (
            _with("StagedKubernetesNetworkPolicy", stagedAction="Delete", policyTypes=["Ingress"]),
            "spec.policyTypes: must not be given with stagedAction Delete",
        ),
        (_staged({}), "spec.ingress[0].from[0]: must have podSelector"),
        (
            _staged({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
            "from[0].podSelector: cannot go with ipBlock",
        ),
        (
            _staged({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}),
            "ipBlock.except[0]: must be a part of 10.0.0.0/8",
        ),
        (
            _staged({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Has"}]}}),
            "matchExpressions[0].operator: must be one of In, NotIn, Exists, DoesNotExist",
        ),
        (
            _staged({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "matchExpressions[0].values: is needed",
        ),
        (
            _with(
                "StagedKubernetesNetworkPolicy", egress=[{"ports": [{"port": "x", "endPort": 5}]}]
            ),
            "ports[0].endPort: needs a port that is a number",
        ),
        (
            _with("StagedKubernetesNetworkPolicy", egress=[{"ports": [{"port": 9, "endPort": 5}]}]),
            "ports[0].endPort: must be 9 to 65535",
        ),
        (_with("BlockAffinity", deleted=True), "spec.deleted"),
        (_renamed("IPAMConfiguration"), "metadata.name: must be default"),
        (_renamed("KubeControllersConfiguration"), "metadata.name: must be default"),
        (_templates({**_TEMPLATE, "generateName": ""}), "templates[0].generateName: is needed"),
        (_templates(_TEMPLATE, _TEMPLATE), "templates[1].generateName: must differ"),
        (_templates({"generateName": "a"}), "templates[0].interfaceCIDRs: is needed"),
        (_with("LiveMigration", source=_SOURCE), "spec.target: must have either"),
        (
            _with("LiveMigration", source={**_SOURCE, "workload": {}}, target={"selector": "a"}),
            "spec.source: must have either",
        ),
        (_endpoint(qosControls={"ingressBandwidth": 999}), "qosControls.ingressBandwidth"),
        (_endpoint(qosControls={"egressBurst": 34359738361}), "qosControls.egressBurst"),
        (_endpoint(qosControls={"ingressPacketRate": 10001}), "qosControls.ingressPacketRate"),
        (_endpoint(qosControls={"dscp": 64}), "qosControls.dscp"),
        (_endpoint(ports=[{"port": 80, "hostPort": 1, "hostIP": "x"}]), "spec.ports[0].hostIP"),
        (
            _with("FelixConfiguration", healthTimeoutOverrides=[{"name": "a/b", "timeout": "1s"}]),
            "spec.healthTimeoutOverrides[0].name",
        ),
        (
            _with("FelixConfiguration", routeTableRanges=[{"min": 1, "max": 65536}]),
            "spec.routeTableRanges",
        ),
    ],
)
def test_refused(made: dict[str, Any], message: str) -> None:
    assert message in refusal(made)


@pytest.mark.parametrize(
    "made",
    [
        _with("StagedNetworkPolicy", stagedAction="Delete"),
        _with("StagedGlobalNetworkPolicy", stagedAction="Delete", tier="default"),
        _with("StagedKubernetesNetworkPolicy", stagedAction="Delete"),
        _staged({"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}}),
        _staged({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}),
        _with("StagedKubernetesNetworkPolicy", egress=[{"ports": [{"port": 5, "endPort": 5}]}]),
        _templates(_TEMPLATE, {"generateName": "b", "interfacePattern": "eth.*"}),
        _with("LiveMigration", source=_SOURCE, target={"selector": "has(a)"}),
        _endpoint(
            qosControls={
                "ingressBandwidth": 1000, "egressBurst": 34359738360, "ingressPacketRate": 10000,
                "egressPeakrate": 1010, "ingressMinburst": 0, "dscp": "EF",
            }
        ),
        _with("FelixConfiguration", routeTableRanges=[{"min": 1, "max": 65535}]),
    ],
)  # fmt: skip
def test_accepted(made: dict[str, Any]) -> None:
    assert not refusal(made)
