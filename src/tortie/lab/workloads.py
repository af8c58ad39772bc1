"""The lab's workloads: namespaces brought in through the agent's socket, as containers are."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tortie.attach.client import Client as AttachClient
from tortie.kernel import netns
from tortie.kernel.rtnl.connection import Rtnl
from tortie.kernel.rtnl.link import LinkChange
from tortie.lab import cluster, description, listener, processes
from tortie.lab import probe as probing
from tortie.lab.description import Lab, Workload
from tortie.lab.probe import Port, Probe
from tortie.lib.errors import AlreadyExists, InvalidInput, NotFound, TortieError
from tortie.lib.ip import Network, parse_address
from tortie.lib.table import aligned
from tortie.model import names
from tortie.model.endpoint import WorkloadEndpoint, WorkloadEndpointSpec
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.policy import Profile, ProfileSpec, Rule

ORCHESTRATOR = "tortie"
TIMEOUT_SECONDS = 30.0


def add(
    lab_name: str,
    name: str,
    host: str,
    namespace: str,
    labels: Mapping[str, str],
    listen: tuple[str, ...],
) -> Workload:
    """Make a namespace, have the host's agent attach it, and let it listen.

    Raises:
        AlreadyExists: the name is taken in its namespace.
        TortieError: it could not be attached; nothing of it stays.
    """
    _check_names(name, namespace)
    for port in map(probing.parse_port, listen):
        if port.protocol == "icmp":
            raise InvalidInput("a workload listens on tcp:PORT or udp:PORT")
    with description.locked(lab_name) as lab:
        lab.host(host)
        workload = Workload(name, namespace, host, dict(labels), listen)
        if any(other.full_name == workload.full_name for other in lab.workloads):
            raise AlreadyExists(
                f"lab {lab.name} has a workload {workload.full_name} already; "
                f"remove it first: tortie lab workload rm --name {lab.name} {workload.full_name}"
            )
        asyncio.run(_ensure_namespace_profile(lab, namespace))
        path = netns.create_named(lab.workload_namespace(workload))
        try:
            netns.run_in(path, _loopback_up)
            workload = _attach(lab, workload, ())
            if listen:
                processes.start(
                    lab.workload_namespace(workload),
                    [sys.executable, "-I", "-S", str(Path(listener.__file__)), *listen],
                    lab.directory / "listeners.log",
                )
        except BaseException:
            with contextlib.suppress(TortieError):
                _detach(lab, workload, keep_addresses=False)
            with contextlib.suppress(NotFound):
                netns.delete_named(lab.workload_namespace(workload))
            raise
        description.save(lab.with_workload(workload))
    return workload


def remove(lab_name: str, name: str) -> Workload:
    """Detach, stop what runs inside, and forget.

    Raises:
        NotFound: no such workload.
    """
    with description.locked(lab_name) as lab:
        workload = lab.workload(name)
        _detach(lab, workload, keep_addresses=False)
        namespace = lab.workload_namespace(workload)
        processes.stop(processes.inside([namespace]))
        netns.delete_named(namespace)
        description.save(lab.without_workload(workload))
    return workload


def move(lab_name: str, name: str, to: str) -> Workload:
    """Bring the workload up on another host, with its addresses, labels and processes.

    It is closed on the old host before it is open on the new one, so it is
    never at both, and never without its policy.
    """
    with description.locked(lab_name) as lab:
        workload = lab.workload(name)
        lab.host(to)
        if workload.host == to:
            raise InvalidInput(f"{workload.full_name} is on {to} already")
        addresses = workload.addresses
        _detach(lab, workload, keep_addresses=True)
        moved = msgspec.structs.replace(workload, host=to)
        moved = _attach(lab, moved, addresses)
        description.save(lab.with_workload(moved))
    return moved


def label(lab_name: str, name: str, changes: Sequence[str]) -> Workload:
    """Change labels of the workload's endpoint: `k=v` sets, `k-` removes."""
    with description.locked(lab_name) as lab:
        workload = lab.workload(name)
        labels = dict(workload.labels)
        for change in changes:
            if change.endswith("-") and "=" not in change:
                labels.pop(change[:-1], None)
            else:
                labels.update(parse_labels([change]))
        asyncio.run(_write_labels(lab, workload, labels))
        changed = msgspec.structs.replace(workload, labels=labels)
        description.save(lab.with_workload(changed))
    return changed


def endpoint_key(workload: Workload) -> ResourceKey:
    spec = WorkloadEndpointSpec(
        orchestrator=ORCHESTRATOR, node=workload.host, workload=workload.name, endpoint="eth0"
    )
    return ResourceKey("WorkloadEndpoint", names.workload_endpoint_name(spec), workload.namespace)


def profile_name(namespace: str) -> str:
    """As Kubernetes namespaces have it in Calico."""
    return f"kns.{namespace}"


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """
    Raises:
        InvalidInput: not `key=value`, or not a label as Kubernetes has them.
    """
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and names.is_label_key(key) and names.is_label_value(value)):
            raise InvalidInput(f"{text!r} is no label: say key=value")
        labels[key] = value
    return labels


class Matrix(NamedTuple):
    """Who reaches whom, for each port asked for."""

    sources: list[str]
    targets: list[str]
    answered: dict[Port, set[tuple[str, str]]]

    def table(self) -> str:
        parts = []
        for port, reached in self.answered.items():
            parts.append(f"{port}\n{probing.matrix(self.sources, self.targets, reached)}")
        return "\n\n".join(parts)

    def json(self) -> str:
        return json.dumps(
            [
                {"from": source, "to": target, "port": str(port), "reached": pair in reached}
                for port, reached in self.answered.items()
                for source in self.sources
                for target in self.targets
                if (pair := (source, target)) and source != target
            ],
            indent=2,
        )


def probe(
    lab: Lab,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    ports: Sequence[str] | None = None,
    *,
    ipv6: bool = False,
) -> Matrix:
    """Ask from every source to every target, all at once.

    Args:
        ports: None means all that the targets listen on, or icmp if they listen on none.
    """
    if ipv6 and not lab.ipv6:
        raise InvalidInput(f"lab {lab.name} has no IPv6; make one with tortie lab up --ipv6")
    asking = [lab.workload(name) for name in sources] if sources else list(lab.workloads)
    asked = [lab.workload(name) for name in targets] if targets else list(lab.workloads)
    if not asking or not asked:
        raise NotFound(f"lab {lab.name} has no workloads; tortie lab workload add NAME --host h1")
    texts = ports or sorted({port for workload in asked for port in workload.listen}) or ["icmp"]
    wanted = [probing.parse_port(text) for text in texts]
    pairs = [(a, b, port) for port in wanted for a in asking for b in asked if a != b]
    results = probing.run(
        [
            Probe(netns.named_path(lab.workload_namespace(a)), address_of(b, ipv6=ipv6), port)
            for a, b, port in pairs
        ]
    )
    answered: dict[Port, set[tuple[str, str]]] = {port: set() for port in wanted}
    for (a, b, port), reached in zip(pairs, results, strict=True):
        if reached:
            answered[port].add((a.full_name, b.full_name))
    return Matrix(
        [workload.full_name for workload in asking],
        [workload.full_name for workload in asked],
        answered,
    )


def address_of(workload: Workload, *, ipv6: bool = False) -> Network:
    for text in workload.addresses:
        address = parse_address(text)
        if address.family == (6 if ipv6 else 4):
            return address
    raise NotFound(f"{workload.full_name} has no IPv{6 if ipv6 else 4} address")


def listing(lab: Lab) -> str:
    rows = [("WORKLOAD", "HOST", "ADDRESSES", "LABELS", "LISTENS ON")]
    for workload in lab.workloads:
        rows.append(
            (
                workload.full_name,
                workload.host,
                ",".join(workload.addresses),
                labels_text(workload.labels),
                ",".join(workload.listen),
            )
        )
    return aligned(rows)


def listing_json(lab: Lab) -> str:
    return msgspec.json.format(msgspec.json.encode(lab.workloads), indent=2).decode()


def labels_text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _check_names(name: str, namespace: str) -> None:
    for kind, text in (("workload", name), ("namespace", namespace)):
        if not names.is_dns_label(text):
            raise InvalidInput(
                f"{text!r} is no name for a {kind}: small letters, digits and dashes"
            )


def _attach(lab: Lab, workload: Workload, addresses: Sequence[str]) -> Workload:
    """Ask the host's agent; returns the workload with its addresses."""
    with _agent(lab, workload.host) as agent:
        attached = agent.add(
            namespace=workload.namespace,
            workload=workload.name,
            netns=netns.named_path(lab.workload_namespace(workload)),
            labels=dict(workload.labels),
            profiles=[profile_name(workload.namespace)],
            families=[4, 6] if lab.ipv6 else [4],
            addresses=list(addresses),
            timeout_seconds=TIMEOUT_SECONDS,
        )
    plain = tuple(parse_address(text).address_text for text in attached["addresses"])
    return msgspec.structs.replace(workload, addresses=plain)


def _detach(lab: Lab, workload: Workload, *, keep_addresses: bool) -> None:
    with _agent(lab, workload.host) as agent:
        agent.remove(
            namespace=workload.namespace,
            workload=workload.name,
            keep_addresses=keep_addresses,
            timeout_seconds=TIMEOUT_SECONDS,
        )


def _agent(lab: Lab, host: str) -> AttachClient:
    return AttachClient(lab.host_directory(host) / "attach.sock")


def _loopback_up() -> None:
    with Rtnl.open() as rtnl:
        rtnl.change_link(rtnl.link("lo").index, LinkChange(up=True))


async def _ensure_namespace_profile(lab: Lab, namespace: str) -> None:
    """What a Kubernetes namespace is to Calico: a profile that allows, and lends its labels."""
    profile = Profile(
        kind="Profile",
        metadata=Metadata(name=profile_name(namespace)),
        spec=ProfileSpec(
            ingress=(Rule(action="Allow"),),
            egress=(Rule(action="Allow"),),
            labels_to_apply={"pcns.projectcalico.org/name": namespace},
        ),
    )
    async with cluster.resources(lab) as store:
        with contextlib.suppress(AlreadyExists):
            await store.create(profile)


async def _write_labels(lab: Lab, workload: Workload, labels: Mapping[str, str]) -> None:
    async with cluster.resources(lab) as store:
        stored = (await store.get(endpoint_key(workload))).resource
        assert isinstance(stored, WorkloadEndpoint)
        kept = {
            key: value
            for key, value in stored.metadata.labels.items()
            if key.startswith("projectcalico.org/")
        }
        metadata = msgspec.structs.replace(stored.metadata, labels={**kept, **labels})
        await store.update(msgspec.structs.replace(stored, metadata=metadata))
