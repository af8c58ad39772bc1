"""A real guest, attached by hand: reached across hosts, policed, moved."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tests.cni.guest import MAC, Guest
from tests.cni.test_containerd import eventually
from tests.cni.test_podman import reaches_from
from tests.e2e.live import LiveLab, running_lab
from tests.unit.ctl.test_ctl_libvirt import INTERFACE, guest

from tortie.ctl import workload

POLICY = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: default.guest, namespace: red}
spec:
  selector: app == 'guest'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: role == 'friend'}, destination: {ports: [80]}}
"""


@pytest.fixture
def live() -> Iterator[LiveLab]:
    with running_lab("vm", hosts=2, ipv6=False) as made:
        yield made


def tortie_workload(live: LiveLab, host: str, *arguments: str) -> str:
    socket = live.lab.host_directory(host) / "attach.sock"
    out = io.StringIO()
    with redirect_stdout(out):
        assert workload.main([*arguments, "--socket", str(socket)]) == 0
    return out.getvalue()


def test_a_guest_is_reached_policed_and_moves(live: LiveLab, tmp_path: Path) -> None:
    live.add("friend", "h2", role="friend")
    live.add("other", "h2", role="other")
    live.apply(POLICY, tmp_path)
    paths = {name: live.path(live.lab.workload(f"red/{name}")) for name in ("friend", "other")}
    add = ("add", "vm", "-n", "red", "--label", "app=guest", "--profile", "kns.red", "--mac", MAC)

    def attach(host: str, *more: str) -> tuple[str, str]:
        [found] = json.loads(tortie_workload(live, host, *add, "--tap", "-o", "json", *more))
        return found["interface"], found["addresses"][0].partition("/")[0]

    tap, address = attach("h1")
    guest = Guest(live.lab.host_namespace("h1"), tap, address, tmp_path)
    try:
        assert eventually(lambda: guest.is_up, 30), guest.log
        assert eventually(lambda: reaches_from(paths["friend"], address)), "across hosts"
        assert not reaches_from(paths["other"], address), "policy"
        guest.stop()
        tortie_workload(live, "h1", "remove", "vm", "-n", "red", "--keep-addresses")
        moved_tap, moved = attach("h2", "--address", address)
        assert moved == address
        guest = Guest(live.lab.host_namespace("h2"), moved_tap, address, tmp_path)
        assert eventually(lambda: guest.is_up, 30), guest.log
        assert eventually(lambda: reaches_from(paths["friend"], address)), "after the move"
        assert not reaches_from(paths["other"], address), "policy moved along"
    finally:
        guest.stop()
    tortie_workload(live, "h2", "remove", "vm", "-n", "red")
    assert not [key for key in live.entries() if "-vm-" in key or "red.vm" in key]


MIGRATION = """
apiVersion: projectcalico.org/v3
kind: LiveMigration
metadata: {name: web-1, namespace: red}
spec:
  source: {workloadEndpoint: {hostname: h2, orchestratorID: tortie, workloadID: red/web-1,
                              endpointID: eth0}}
  target: {workloadEndpoint: {hostname: h1, orchestratorID: tortie, workloadID: red/web-1,
                              endpointID: eth0}}
"""


def libvirt_calls(live: LiveLab, host: str, xml: bytes, *operation: str) -> None:
    socket = str(live.lab.host_directory(host) / "attach.sock")
    command = [sys.executable, "-m", "tortie", "workload", "libvirt", "--socket", socket]
    subprocess.run([*command, "web-1", *operation, "-"], input=xml, check=True)


def test_libvirt_moves_a_guest_while_it_runs(live: LiveLab, tmp_path: Path) -> None:
    """Its destination prepares before its source releases; in the end one host has it, and its
    address, which was never anybody else's."""
    about = "<t:workload xmlns:t='urn:tortie:workload:1' namespace='red'/>"
    xml = guest(INTERFACE, about)
    libvirt_calls(live, "h1", xml, "prepare", "begin")

    def endpoints() -> dict[str, list[str]]:
        return {
            key.rpartition("/")[2]: json.loads(entry.value)["spec"]["ipNetworks"]
            for key, entry in live.entries().items()
            if "/workloadendpoints/red/" in key
        }

    def leads_to(host: str) -> str:
        found = live.command_in(host, "ip", "route", "get", address).stdout
        return found.partition(" dev ")[2].partition(" ")[0]

    [(name, [network])] = endpoints().items()
    address = network.partition("/")[0]
    assert name == "h1-tortie-web--1-eth0"
    assert eventually(lambda: leads_to("h1") == "calivm1" != leads_to("h2"))
    libvirt_calls(live, "h2", xml, "prepare", "begin")
    assert endpoints() == {f"{host}-tortie-web--1-eth0": [network] for host in ("h1", "h2")}
    libvirt_calls(live, "h1", xml, "release", "end")
    assert endpoints() == {"h2-tortie-web--1-eth0": [network]}
    assert "node: h2" in live.ok("ipam", "show", "--ip", address)
    assert eventually(lambda: leads_to("h2") == "calivm1" != leads_to("h1"))
    # It does not come: the source goes on with what it has.
    libvirt_calls(live, "h1", xml, "prepare", "begin")
    libvirt_calls(live, "h1", xml, "release", "end")
    assert endpoints() == {"h2-tortie-web--1-eth0": [network]}
    assert "node: h2" in live.ok("ipam", "show", "--ip", address)
    assert eventually(lambda: leads_to("h2") == "calivm1" != leads_to("h1"))
    # Back, and its packets go where it runs until its source releases it.
    live.apply(MIGRATION, tmp_path)
    libvirt_calls(live, "h1", xml, "prepare", "begin")
    live.settle()
    assert leads_to("h2") == "calivm1" != leads_to("h1")
    libvirt_calls(live, "h2", xml, "release", "end")
    assert eventually(lambda: leads_to("h1") == "calivm1" != leads_to("h2"))
    live.ok("delete", "livemigration", "web-1", "-n", "red")
    live.settle()
    assert leads_to("h1") == "calivm1" != leads_to("h2")
    libvirt_calls(live, "h1", xml, "release", "end")
    assert endpoints() == {}
    assert not [key for key in live.entries() if "red.web-1" in key]
