"""`tortie kube controllers` as a process: settings, health, signals, wrong input."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.datastore.etcd_server import free_ports
from tests.kube.control_plane import CONTROLLERS, ControlPlane

from tortie.datastore.embedded import EmbeddedClient
from tortie.datastore.resources import Resources
from tortie.kube.settings import KEY
from tortie.model.keys import ResourceKey

WAIT_SECONDS = 25.0
ENTRY = "from tortie.ctl.main import entry; entry()"


class Process:
    def __init__(self, plane: ControlPlane, directory: Path, **environment: str) -> None:
        self.path = directory / "datastore.db"
        [self.port] = free_ports(1)
        self.log = directory / "log"
        settings = {
            "DATASTORE_TYPE": "embedded",
            "TORTIE_EMBEDDED_PATH": str(self.path),
            "KUBECONFIG": str(plane.kubeconfig(CONTROLLERS, "process.conf")),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ENTRY, "kube", "controllers",
                 "--health-port", str(self.port)],
                env={**os.environ, **settings, **environment}, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def readiness(self) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readiness") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_until_in_step(self) -> None:
        give_up = time.monotonic() + WAIT_SECONDS
        while "in step" not in self.readiness()[1]:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.1)

    def stored(self, key: ResourceKey) -> Any:
        async def read() -> Any:
            client = EmbeddedClient(self.path)
            try:
                return (await Resources(client).get(key)).resource
            finally:
                await client.close()

        return asyncio.run(read())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    asyncio.run(_make_store(tmp_path / "datastore.db"))
    return tmp_path


async def _make_store(path: Path) -> None:
    client = EmbeddedClient(path, create=True)
    await client.revision()
    await client.close()


def test_it_says_what_is_in_force_and_steps_down_when_it_stops(
    control_plane: ControlPlane, directory: Path
) -> None:
    running = Process(control_plane, directory, RECONCILER_PERIOD="7m")
    try:
        running.wait_until_in_step()
        assert running.readiness()[0] == 200
        status = running.stored(KEY).status
        assert status.environment_vars == {"RECONCILER_PERIOD": "7m"}
        assert status.running_config.controllers.policy.reconciler_period == "7m"
        assert running.stored(KEY).spec.controllers.policy.reconciler_period == "5m"
        assert running.stored(ResourceKey("Profile", "kns.default")).spec.ingress
        lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/tortie-kube-controllers"
        assert control_plane.call("GET", lease)["spec"]["holderIdentity"]
    finally:
        assert running.stop() == 0
    assert control_plane.call("GET", lease)["spec"].get("holderIdentity", "") == ""
    assert "Traceback" not in running.log.read_text()


def test_it_ends_with_one_line_where_a_variable_is_wrong(
    control_plane: ControlPlane, directory: Path
) -> None:
    running = Process(control_plane, directory, ENABLED_CONTROLLERS="polcy")
    assert running.process.wait(WAIT_SECONDS) != 0
    last = running.log.read_text().strip().splitlines()[-1]
    assert "polcy" in last
    assert "Traceback" not in running.log.read_text()
