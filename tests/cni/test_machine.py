"""A real guest, attached by hand: reached across hosts, policed, moved."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tests.cni.guest import MAC, Guest
from tests.cni.test_containerd import eventually
from tests.cni.test_podman import reaches_from
from tests.e2e.live import LiveLab

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
    made = LiveLab(f"vm{os.getpid()}", "embedded", "direct", hosts=2)
    made.lab_ok("up", "--hosts", "2")
    yield made
    made.down()


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
