"""Neutron's side of the datastore: a resync of ten thousand ports, and one port at a time.

The database is on paper, so that what is measured is what this project adds: translation,
comparison, etcd. Real fsync. In a process of its own, for its memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.datastore.etcd_server import EtcdServer
from tests.openstack.paper import PaperInventory, make_group, make_port

from benchmarks import labs
from benchmarks.results import Result, latencies
from tortie.openstack.gateway import Gateway
from tortie.openstack.inventory import SecurityGroupRule
from tortie.openstack.resync import Resync
from tortie.openstack.settings import Settings
from tortie.openstack.store import Store
from tortie.openstack.writer import Writer

PORT_COUNT, HOST_COUNT, GROUP_COUNT, RULE_COUNT = 10_000, 100, 100, 50
SINGLE_COUNT = 300


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="tortie-bench") as folder:
        server = EtcdServer(Path(folder) / "etcd", fsync=True).start()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.openstack", str(server.client_port)],
                check=True,
                capture_output=True,
            )
        finally:
            server.kill()
    for row in json.loads(done.stdout):
        yield Result(*row)


def _measure(port: int) -> Iterator[Result]:
    inventory = PaperInventory()
    for number in range(PORT_COUNT):
        made = make_port(
            number, f"host-{number % HOST_COUNT}", security_groups={f"sg-{number % 100}": "web"}
        )
        inventory.all_ports[made.id] = made
    for group in range(GROUP_COUNT):
        rules = (
            SecurityGroupRule(id=str(n), protocol="tcp", port_range_min=n + 1, port_range_max=n + 9)
            for n in range(RULE_COUNT)
        )
        inventory.all_groups[f"sg-{group}"] = make_group(f"sg-{group}", *rules)
    settings = Settings(etcd_port=port)
    store = Store(Gateway.of(settings))
    before, _ = labs.memory_mib(os.getpid())
    size = f"{PORT_COUNT:,} ports, {GROUP_COUNT} groups"
    for state, target in (("all to write", "≤ 60"), ("nothing to write", "≤ 10")):
        began, used = time.monotonic(), time.process_time()
        report = Resync(store, inventory, settings).run()
        seconds, used = time.monotonic() - began, time.process_time() - used
        assert bool(report.changes) == (state == "all to write")
        yield Result(f"resync of {size}, {state}", seconds, "s", target)
        yield Result(f"resync of {size}, {state}, processor", used, "s")
    _, peak = labs.memory_mib(os.getpid())
    yield Result("resyncs' memory", peak - before, "MiB", "≤ 30 for the driver")
    writer = Writer(store, inventory, settings)
    for confirm in (True, False):
        taken = []
        for number in range(SINGLE_COUNT):
            one = make_port(PORT_COUNT + number, f"host-{confirm:d}")
            inventory.all_ports[one.id] = one
            began = time.monotonic()
            writer.port(one.id, [(one.host, one.device_id)], confirm=confirm)
            taken.append(time.monotonic() - began)
        name = "a port is stored" + ("" if confirm else ", confirmed later")
        yield from latencies(name, taken, "≤ 10 with Neutron's own")


if __name__ == "__main__":
    print(json.dumps([*_measure(int(sys.argv[1]))]))
