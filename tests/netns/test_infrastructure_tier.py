"""A7: the infrastructure tier, applied, keeps workloads from what it names; packets decide."""

import subprocess

import pytest
from msgspec.structs import replace
from tests.graph.resources import Entry, allow, policy, profile, workload
from tests.netns.dataplane_host import BRIEF, Host, wait_until_local, workloads
from tests.netns.outside import THIS_HOST, Machine, machines, tcp, udp

from tortie.calc.graph import Graph
from tortie.ctl.infrastructure import manifest
from tortie.kernel.netns import run_in
from tortie.lib.ip import parse_address
from tortie.model.endpoint import WorkloadEndpoint
from tortie.model.keys import ResourceKey

pytestmark = pytest.mark.usefixtures("netns")

METADATA = {4: parse_address("169.254.169.254"), 6: parse_address("fd00:ec2::254")}


def has_metadata(machine: Machine) -> None:
    for family in (4, 6):
        text = METADATA[family].address_text
        flag = "nodad" if family == 6 else ""
        machine.run(f"ip -{family} addr add {text} dev eth0 {flag}")
    run_in(machine.namespace, lambda: wait_until_local(METADATA[6]))
    for family in (4, 6):
        via = machine.address(family).address_text
        route = ["ip", f"-{family}", "route", "add", METADATA[family].address_text, "via", via]
        subprocess.run(route, check=True)


def test_metadata_and_datastore_are_out_of_reach_once_it_is_applied() -> None:
    host = Host()
    with workloads(host, 1) as (a,), machines(host, "up0") as (outside,):
        has_metadata(outside)
        graph = Graph("h1", host.update)
        key, endpoint = workload("red/a", "h1", "10.65.0.1", "fd00:65::1", interface=a.interface)
        assert isinstance(endpoint, WorkloadEndpoint)
        entries: list[Entry] = [
            (key, replace(endpoint, spec=replace(endpoint.spec, mac=a.mac))),
            profile("kns.red", {}, (allow(),), (allow(),)),
            policy("open", selector="all()", egress=(allow(),), types=("Egress",)),
        ]
        for entry in entries:
            graph.on_update(*entry)
        graph.flush()
        host.apply()
        for family in (4, 6):
            assert udp(a, outside, METADATA[family], 80), "by itself it is not there"
        tier = list(manifest([], [str(one) for one in outside.addresses.values()], []))
        for resource in tier:
            graph.on_update(ResourceKey(resource.kind, resource.metadata.name), resource)
        graph.flush()
        host.apply()
        for family in (4, 6):
            near = outside.address(family)
            assert not udp(a, outside, METADATA[family], 80, patience=BRIEF)
            assert not tcp(a, outside, METADATA[family], 80, patience=BRIEF)
            assert not tcp(a, outside, near, 2379, patience=BRIEF)
            assert tcp(a, outside, near, 443), "the rest is left to the other tiers"
            assert udp(THIS_HOST, outside, METADATA[family], 80), "the host is not meant"
    host.close()
