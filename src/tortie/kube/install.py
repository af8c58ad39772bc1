"""Manifests for a Kubernetes cluster, and credentials for what runs beside it.

Nothing runs as a pod: agents and controllers are services of their hosts, so a cluster's network
needs no image, and no cluster, to start. What Kubernetes has to know is who they are and what
they may read: two service accounts, with no more rights than they use.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tortie.attach.cni.conflist import default_conflist
from tortie.lib.errors import InvalidInput

NAMESPACE = "kube-system"
NODE_ACCOUNT = "tortie-node"
CONTROLLERS_ACCOUNT = "tortie-kube-controllers"
ACCOUNTS = (NODE_ACCOUNT, CONTROLLERS_ACCOUNT)

_WATCH = ("get", "list", "watch")
_POLICY_API = "policy.networking.k8s.io"
_POLICY_PLURALS = (
    "adminnetworkpolicies",
    "baselineadminnetworkpolicies",
    "clusternetworkpolicies",
)
_RBAC = "rbac.authorization.k8s.io"


def manifests(endpoints: Sequence[str], *, ipv6: bool = False, mtu: int = 0) -> list[Any]:
    """What `kubectl apply` is to be given, in order.

    Args:
        endpoints: of etcd, for those who look them up in the cluster.
    """
    settings = {
        "etcd_endpoints": ",".join(endpoints),
        "cni_network_config": default_conflist(kubernetes=True, ipv6=ipv6, mtu=mtu).decode(),
    }
    made: list[Any] = [_object("v1", "ServiceAccount", name) for name in ACCOUNTS]
    made += [
        _object("v1", "Secret", f"{name}-token", more={
            "metadata": {"annotations": {"kubernetes.io/service-account.name": name}},
            "type": "kubernetes.io/service-account-token",
        })
        for name in ACCOUNTS
    ]  # fmt: skip
    made += _cluster_role(NODE_ACCOUNT, [_rule("", ("pods", "namespaces", "nodes"), ("get",))])
    made += _cluster_role(CONTROLLERS_ACCOUNT, _controllers_rules())
    made += _lease_role()
    made.append(_object("v1", "ConfigMap", "tortie-config", more={"data": settings}))
    return made


def text(objects: Iterable[Any]) -> str:
    """YAML, one document each."""
    import yaml  # slow to import

    return yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True)


def kubeconfig(server: str, secret: Mapping[str, Any]) -> bytes:
    """For a program outside of the cluster that is to be a service account.

    Args:
        secret: the account's, as the API has it.

    Raises:
        InvalidInput: it holds no token (yet).
    """
    data = secret.get("data") or {}
    try:
        token = base64.b64decode(data["token"], validate=True).decode()
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
        raise InvalidInput("the secret has no token; is the controller manager running?") from None
    cluster = {"server": server}
    if data.get("ca.crt"):
        cluster["certificate-authority-data"] = data["ca.crt"]
    else:
        raise InvalidInput("the secret has no ca.crt: give the cluster a certificate authority")
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": cluster}],
        "users": [{"name": "tortie", "user": {"token": token}}],
        "contexts": [{"name": "tortie", "context": {"cluster": "kubernetes", "user": "tortie"}}],
        "current-context": "tortie",
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def account_of_role(role: str) -> str:
    """
    Raises:
        InvalidInput: there is no such role.
    """
    accounts = {"node": NODE_ACCOUNT, "controllers": CONTROLLERS_ACCOUNT}
    if role not in accounts:
        raise InvalidInput(f"{role!r} is no role; there are {', '.join(accounts)}")
    return accounts[role]


def _controllers_rules() -> list[dict[str, Any]]:
    return [
        _rule("", ("nodes", "pods", "namespaces", "serviceaccounts", "services"), _WATCH),
        _rule("", ("services/status",), ("patch",)),
        _rule("", ("events",), ("create", "patch")),
        _rule("discovery.k8s.io", ("endpointslices",), _WATCH),
        _rule("networking.k8s.io", ("networkpolicies",), _WATCH),
        _rule(_POLICY_API, _POLICY_PLURALS, _WATCH),
        _rule(_POLICY_API, [f"{plural}/status" for plural in _POLICY_PLURALS], ("patch",)),
    ]


def _lease_role() -> list[Any]:
    name = f"{CONTROLLERS_ACCOUNT}-lease"
    rules = [
        _rule("coordination.k8s.io", ("leases",), ("create",)),
        _rule("coordination.k8s.io", ("leases",), ("get", "update"))
        | {"resourceNames": [CONTROLLERS_ACCOUNT]},
    ]
    version = f"{_RBAC}/v1"
    return [
        _object(version, "Role", name, more={"rules": rules}),
        _object(version, "RoleBinding", name, more=_binding("Role", name, CONTROLLERS_ACCOUNT)),
    ]


def _cluster_role(account: str, rules: Sequence[dict[str, Any]]) -> list[Any]:
    version = f"{_RBAC}/v1"
    return [
        _object(version, "ClusterRole", account, namespace="", more={"rules": list(rules)}),
        _object(
            version, "ClusterRoleBinding", account, namespace="",
            more=_binding("ClusterRole", account, account),
        ),
    ]  # fmt: skip


def _binding(kind: str, role: str, account: str) -> dict[str, Any]:
    return {
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    }


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


def _object(
    version: str,
    kind: str,
    name: str,
    *,
    namespace: str = NAMESPACE,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    rest = dict(more or {})
    metadata |= rest.pop("metadata", {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}
