"""A Neutron with its etcd, its hosts as far as it sees them, and what is stored."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.datastore.etcd_server import EtcdServer
from tests.openstack.server import Neutron, Release

from tortie.datastore.client import Delete, Operation, Put, Txn
from tortie.model.keys import EndpointStatusKey, HostStatusKey, ResourceKey
from tortie.openstack.gateway import Gateway
from tortie.openstack.labels import endpoint_name

HOSTS = ("h1", "h2", "h3")


class Cloud:
    def __init__(
        self,
        release: Release,
        folder: Path,
        name: str,
        *,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        region: str = "",
        processes: int = 1,
    ) -> None:
        self.region = f"region-{region}" if region else "no-region"
        self.namespace = f"openstack-region-{region}" if region else "openstack"
        self.etcd = EtcdServer(folder / "etcd")
        merged = {section: dict(values) for section, values in (settings or {}).items()}
        if region:
            merged.setdefault("calico", {})["openstack_region"] = region
        self.neutron = Neutron(
            release, folder, name, self.etcd.client_port, settings=merged, processes=processes
        )
        self.gateway = Gateway([("127.0.0.1", self.etcd.client_port)])

    def start(self, *hosts: str) -> None:
        self.etcd.start()
        self.etcd.wait()
        self.neutron.start()
        self.hosts_alive(*(hosts or HOSTS))

    def stop(self) -> None:
        self.neutron.stop()
        self.etcd.kill()
        self.gateway.close()

    # As agents do.

    def hosts_alive(self, *hosts: str) -> None:
        """Their agents report, and Neutron knows it."""
        for host in hosts:
            self.put(HostStatusKey(host, self.region).path, {"first_update": True})
        self.neutron.eventually(
            lambda: (
                {each["host"] for each in self.neutron.list("agent") if each["alive"]} >= set(hosts)
            ),
            f"agents of {hosts}",
        )

    def report(self, port: Mapping[str, Any], host: str, status: str | None) -> None:
        """An agent says of a port: `up`, `down`, or (None) that it is there no more."""
        workload = f"{self.namespace}/{port['device_id']}"
        key = EndpointStatusKey(host, "openstack", workload, port["id"], self.region)
        self.put(key.path, None if status is None else {"status": status})

    def becomes(self, port_id: str, status: str) -> None:
        self.neutron.eventually(
            lambda: self.neutron.show("port", port_id)["status"] == status,
            f"port {port_id} does not become {status}",
        )

    # What is stored.

    def put(self, path: str, value: Any) -> None:
        operation: Operation = (
            Delete(path) if value is None else Put(path, json.dumps(value).encode())
        )
        self.gateway.transact(Txn(success=[operation]))

    def value(self, path: str) -> Any:
        entry = self.gateway.get(path)
        return None if entry is None else json.loads(entry.value)

    def stored(self, prefix: str = "/calico/") -> dict[str, Any]:
        return {
            entry.key: json.loads(entry.value)
            for page in self.gateway.pages(prefix)
            for entry in page.entries
        }

    def stored_keys(self, prefix: str = "/calico/") -> set[str]:
        pages = self.gateway.pages(prefix, keys_only=True)
        return {entry.key for page in pages for entry in page.entries}

    def endpoint(self, port: Mapping[str, Any], host: str) -> Any:
        """As stored, or None."""
        return self.value(self.endpoint_path(port, host))

    def endpoint_path(
        self, port: Mapping[str, Any], host: str, kind: str = "WorkloadEndpoint"
    ) -> str:
        name = endpoint_name(host, port["device_id"], port["id"])
        return ResourceKey(kind, name, self.namespace).path

    def endpoints_of(self, port: Mapping[str, Any]) -> set[str]:
        """The hosts that have one."""
        prefix = f"/calico/resources/v3/projectcalico.org/workloadendpoints/{self.namespace}/"
        return {
            value["spec"]["node"]
            for value in self.stored(prefix).values()
            if value["spec"]["endpoint"] == port["id"]
        }

    def policy_path(self, group_id: str) -> str:
        return ResourceKey("NetworkPolicy", f"ossg.default.{group_id}", self.namespace).path

    def policy(self, group_id: str) -> Any:
        """The spec of a group's policy, or None."""
        found = self.value(self.policy_path(group_id))
        return None if found is None else found["spec"]

    # Short for what most tests begin with.

    def network(self, cidr: str = "10.65.0.0/16", *more: str, **fields: Any) -> dict[str, Any]:
        network = self.neutron.create("network", name=fields.pop("name", "net"), **fields)
        for each in (cidr, *more):
            version = 6 if ":" in each else 4
            self.neutron.create("subnet", network_id=network["id"], cidr=each, ip_version=version)
        return network

    def port(self, network: Mapping[str, Any], host: str = "h1", **fields: Any) -> dict[str, Any]:
        """Of a VM on a host."""
        wanted = {
            "device_owner": "compute:nova",
            "device_id": f"vm-{time.monotonic_ns()}",
            "binding:host_id": host,
            **fields,
        }
        return self.neutron.create("port", network_id=network["id"], **wanted)
