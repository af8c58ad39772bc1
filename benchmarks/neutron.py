"""What the mechanism driver adds to a real Neutron 29: time to each port, memory to a process.

A thousand ports through the API; the driver's calls are timed inside the server, by a driver that
is ours and a stopwatch. A hundred groups of fifty rules, each edited once, by the API's own time.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.openstack.cloud import Cloud
from tests.openstack.mariadb import MariaDB
from tests.openstack.server import NEWEST, Neutron, Release

from benchmarks import labs
from benchmarks.results import Result, latencies

PORT_COUNT, GROUP_COUNT, RULE_COUNT = 1000, 100, 50

_STOPWATCH = """
import json, os, time
from tortie.openstack.driver import MechanismDriver

class Timed(MechanismDriver):
    def update_port_postcommit(self, context):
        started = time.monotonic()
        super().update_port_postcommit(context)
        with open(os.environ["HOME"] + "/times", "a") as file:
            print(json.dumps(time.monotonic() - started), file=file)
"""


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="tortie-bench") as name:
        folder = Path(name)
        (folder / "m").mkdir()
        (folder / "n").mkdir()
        database = MariaDB(folder / "m")
        database.start()
        try:
            release = Release(NEWEST, folder / "n", database)
            yield from _memory(release, folder)
            _add_stopwatch(release.site)
            timed = {"ml2": {"mechanism_drivers": "timed"}}
            cloud = Cloud(release, folder, "timed", settings=timed)
            try:
                cloud.start()
                yield from _ports(cloud)
                yield from _groups(cloud)
            finally:
                cloud.stop()
        finally:
            database.stop()


def _add_stopwatch(site: Path) -> None:
    (site / "timed.py").write_text(_STOPWATCH)
    information = site / "timed-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: timed\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[neutron.ml2.mechanism_drivers]\ntimed = timed:Timed\n"
    )


def _ports(cloud: Cloud) -> Iterator[Result]:
    network = cloud.network()
    for number in range(PORT_COUNT):
        if number % 50 == 0:
            cloud.hosts_alive("h1")  # whose agent is silent gets no ports
        assert cloud.port(network)["binding:vif_type"] == "tap"
    seconds = [json.loads(line) for line in (cloud.neutron.folder / "times").read_text().split()]
    yield from latencies("driver's part of a port's creation", seconds, "≤ 10 ms")


def _groups(cloud: Cloud) -> Iterator[Result]:
    groups = []
    for number in range(GROUP_COUNT):
        group = cloud.neutron.create("security_group", name=f"g{number}")["id"]
        rules = [
            {
                "tenant_id": "acme", "security_group_id": group, "direction": "ingress",
                "protocol": "tcp", "port_range_min": port, "port_range_max": port,
            }
            for port in range(1000, 1000 + RULE_COUNT)
        ]  # fmt: skip
        cloud.neutron.ok("POST", "security-group-rules", {"security_group_rules": rules})
        groups.append(group)
    seconds = []
    for group in groups:
        started = time.monotonic()
        cloud.neutron.create(
            "security_group_rule", security_group_id=group, direction="ingress", protocol="udp"
        )
        seconds.append(time.monotonic() - started)
    yield from latencies(f"rule added to a group of {RULE_COUNT}, all of the API", seconds)


def _memory(release: Release, folder: Path) -> Iterator[Result]:
    """Of the process that serves the API, after a port; with the driver and with none."""
    sizes = {}
    for drivers in ("", "calico"):
        settings = {"ml2": {"mechanism_drivers": drivers}}
        own = folder / f"with-{drivers or 'none'}"
        own.mkdir()
        cloud = Cloud(release, own, f"memory_{drivers}", settings=settings)
        try:
            cloud.etcd.start()
            cloud.neutron.start()
            cloud.port(cloud.network())
            sizes[drivers] = _server_mib(cloud.neutron)
        finally:
            cloud.stop()
    added = sizes["calico"] - sizes[""]
    yield Result("memory that the driver adds to a process of the API", added, "MiB", "≤ 30")


def _server_mib(neutron: Neutron) -> float:
    parent = neutron.started[0].pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return max(labs.memory_mib(int(pid))[0] for pid in children)
