"""What cannot be enforced is said on the object, by a real API server's own means."""

import asyncio
import itertools
from typing import Any

import pytest
from tests.kube.control_plane import ControlPlane, path_of
from tests.kube.test_controllers import on_thread, running, until

from tortie.datastore.memory import MemoryClient
from tortie.datastore.resources import Resources
from tortie.model.keys import ResourceKey

names = (f"reports{number}" for number in itertools.count())


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    name = next(names)
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def events(plane: ControlPlane, namespace: str, name: str) -> list[dict[str, Any]]:
    found = plane.call("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
    return [event for event in found if event["involvedObject"]["name"] == name]


def test_what_kubernetes_takes_and_we_cannot_hold_has_an_event_that_says_so_once(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A selector with more values than ours may have characters."""
    values = [f"{number:063}" for number in range(400)]
    expression = {"key": "app", "operator": "In", "values": values}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "long", "namespace": namespace},
        "spec": {"podSelector": {"matchExpressions": [expression]}},
    }

    async def run() -> None:
        await on_thread(control_plane.create, policy)
        for _ in range(2):  # a restart says nothing twice
            async with running(control_plane, Resources(MemoryClient())):

                async def said() -> list[dict[str, Any]]:
                    found = await on_thread(events, control_plane, namespace, "long")
                    assert isinstance(found, list)
                    return found

                [event] = await until(said)
                assert event["type"] == "Warning"
                assert event["reason"] == "NotEnforced"
                assert event["involvedObject"]["kind"] == "NetworkPolicy"
                assert "selector" in event["message"]

    asyncio.run(run())


def definition(plural: str, kind: str, version: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    group = "policy.networking.k8s.io"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "https://example.invalid/approved"},
        },
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": plural, "kind": kind, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def cluster_policy(name: str, action: str) -> dict[str, Any]:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "priority": 7,
            "subject": {"namespaces": {}},
            "ingress": [{"name": "r", "action": action, "from": [{"namespaces": {}}]}],
        },
    }


def condition(plane: ControlPlane, object_: dict[str, Any]) -> dict[str, Any] | None:
    found = plane.call("GET", path_of(object_))
    conditions = found.get("status", {}).get("conditions", [])
    ours = [one for one in conditions if one["type"] == "EnforcedByTortie"]
    assert len(ours) <= 1
    return ours[0] if ours else None


def test_policies_of_the_whole_cluster_are_followed_once_their_kind_is_defined(
    control_plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        resources = Resources(MemoryClient())
        good, bad = cluster_policy("good", "Deny"), cluster_policy("bad", "Explode")
        async with running(control_plane, resources):  # not defined yet: nothing is missed
            assert not (await resources.list("GlobalNetworkPolicy")).items
        crd = definition("adminnetworkpolicies", "AdminNetworkPolicy", "v1alpha1")
        await on_thread(control_plane.create, crd)

        async def created() -> bool:
            try:
                await on_thread(control_plane.create, good)
            except AssertionError:
                return False
            return True

        await until(created)
        await on_thread(control_plane.create, bad)
        async with running(control_plane, resources):
            key = ResourceKey("GlobalNetworkPolicy", "kanp.adminnetworkpolicy.good")
            stored: Any = await until(lambda: resources.get(key))
            assert stored.resource.spec.tier == "kube-admin"
            assert stored.resource.spec.order == 7

            async def said(object_: dict[str, Any], status: str) -> dict[str, Any] | None:
                found = await on_thread(condition, control_plane, object_)
                return found if found and found["status"] == status else None

            await until(lambda: said(good, "True"))
            message = (await until(lambda: said(bad, "False")))["message"]
            assert "Explode" in message
            # Repaired, it is said to be enforced.
            repaired = {"spec": cluster_policy("bad", "Allow")["spec"]}
            await on_thread(control_plane.patch, path_of(bad), repaired)
            await until(lambda: said(bad, "True"))
            # Both have priority 7, and Kubernetes does not say which is asked first.
            assert "have the same order 7 in tier kube-admin" in caplog.text

    asyncio.run(run())
