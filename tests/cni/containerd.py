"""containerd on a lab host, and a kubelet's calls to it (CRI runtime.v1)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.cni.host import DEBIAN_PLUGINS
from tests.cni.image import write_image

from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install
from tortie.datastore.etcd.http2 import CallFailed, Connection
from tortie.datastore.etcd.wire import bytes_field, fields, number_field
from tortie.kernel import netns
from tortie.lab import processes
from tortie.lab.description import Host, Lab

IMAGE = "docker.io/tortie/busybox:1"
START_SECONDS = 20.0
CALL_SECONDS = 60.0
CGROUP = f"tortie-{os.getpid()}"
"""Parents of pods are called so, or this and a host."""

# Source: kubernetes/cri-api, pkg/apis/runtime/v1/api.proto; numbers of the fields used here.
_SERVICE = "/runtime.v1.RuntimeService/"

CONFIG = """\
version = 2
root = "{w}/root"
state = "{w}/state"
[grpc]
  address = "{w}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{w}/bin"
    conf_dir = "{w}/net.d"
    max_conf_num = 1
[plugins."io.containerd.internal.v1.opt"]
  path = "{w}/opt"
"""


class Pod(NamedTuple):
    sandbox: str
    container: str
    address: str
    config: bytes


class Containerd:
    """One daemon, in the network namespace of a lab host, with mounts of its own."""

    def __init__(
        self,
        lab: Lab,
        host: Host,
        directory: Path,
        kubeconfig: Path | None = None,
        conflist: bytes = b"",
    ) -> None:
        """
        Args:
            conflist: the network's configuration; empty: the one that we install.
        """
        self._lab, self._host = lab, host
        self.directory = directory
        self.pid = 0
        directory.mkdir()
        (directory / "config.toml").write_text(CONFIG.format(w=directory, image=IMAGE))
        state = lab.host_directory(host.name)
        install.install(
            directory / "bin",
            directory / "net.d",
            install.Places(state / "attach.sock", state / "state" / "cni"),
            conflist or default_conflist(kubernetes=True, ipv6=False, kubeconfig=kubeconfig),
        )
        for found in DEBIAN_PLUGINS.iterdir():
            (directory / "bin" / found.name).symlink_to(found)

    def start(self) -> None:
        # /run/netns is private, or every `ip netns` of the machine would see our containers.
        script = "mount -t tmpfs tmpfs /run/netns && exec containerd -c config.toml"
        inside = netns.named_path(self._lab.host_namespace(self._host.name))
        with open(self.directory / "log", "ab") as log:
            process = subprocess.Popen(
                ["nsenter", f"--net={inside}", "unshare", "-m", "-u", "--propagation", "private",
                 "sh", "-c", script],
                cwd=self.directory, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.pid = process.pid
        process.returncode = 0
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                self._call("Status", b"")  # says when CRI, too, is there
                return
            except (OSError, CallFailed):
                assert time.monotonic() < give_up, (self.directory / "log").read_text()[-2000:]
                time.sleep(0.1)

    def stop(self) -> None:
        processes.stop([self.pid])

    def import_image(self) -> None:
        path = self.directory / "image.tar"
        write_image(path, IMAGE, ["/bin/sleep", "2147483647"])
        done = self._ctr("-n", "k8s.io", "images", "import", str(path))
        assert done.returncode == 0, done.stderr

    # What a kubelet does.

    def run_pod(
        self, name: str, namespace: str = "prod", annotations: Mapping[str, str] | None = None
    ) -> Pod:
        """A sandbox, and in it a web server on port 80."""
        config = _pod_config(name, namespace, annotations or {}, self.directory)
        sandbox = self.run_sandbox(config)
        image = bytes_field(1, IMAGE.encode())
        command = ("/bin/httpd", "-f", "-p", "80", "-h", "/www")
        container_config = bytes_field(1, bytes_field(1, b"c")) + bytes_field(2, image)
        container_config += b"".join(bytes_field(3, word.encode()) for word in command)
        container_config += bytes_field(11, b"c.log")
        created = self._call(
            "CreateContainer",
            bytes_field(1, sandbox.encode()) + bytes_field(2, container_config)
            + bytes_field(3, config),
        )  # fmt: skip
        container = _texts(created)[1]
        self._call("StartContainer", bytes_field(1, container.encode()))
        return Pod(sandbox, container, self.address(sandbox), config)

    def run_sandbox(self, config: bytes) -> str:
        return _texts(self._call("RunPodSandbox", bytes_field(1, config)))[1]

    def run_sandboxes(self, names: list[str], namespace: str = "prod") -> list[str]:
        """All at once; their ids."""
        requests = [
            bytes_field(1, _pod_config(name, namespace, {}, self.directory)) for name in names
        ]

        async def run() -> list[bytes]:
            return list(
                await asyncio.gather(*(self._unary("RunPodSandbox", each) for each in requests))
            )

        return [_texts(answer)[1] for answer in asyncio.run(run())]

    def address(self, sandbox: str) -> str:
        answer = self._call("PodSandboxStatus", bytes_field(1, sandbox.encode()))
        status = {number: data for number, _, data in fields(answer)}[1]
        network = {number: data for number, _, data in fields(status)}[5]
        return _texts(network)[1]

    def remove(self, sandbox: str) -> None:
        for method in ("StopPodSandbox", "RemovePodSandbox"):
            self._call(method, bytes_field(1, sandbox.encode()))

    def remove_all(self, sandboxes: list[str]) -> None:
        async def one(sandbox: str) -> None:
            for method in ("StopPodSandbox", "RemovePodSandbox"):
                await self._unary(method, bytes_field(1, sandbox.encode()))

        async def run() -> None:
            await asyncio.gather(*map(one, sandboxes))

        asyncio.run(run())

    def execute(self, pod: Pod, *command: str) -> tuple[int, str]:
        return self.execute_in(pod.container, *command)

    def execute_in(self, container: str, *command: str) -> tuple[int, str]:
        request = bytes_field(1, container.encode())
        request += b"".join(bytes_field(2, word.encode()) for word in command)
        answer = self._call("ExecSync", request + number_field(3, 10))
        found = {number: (value, data) for number, value, data in fields(answer)}
        return found.get(3, (0, b""))[0], found.get(1, (0, b""))[1].decode()

    def reaches(self, pod: Pod, address: str) -> bool:
        # Debian's static busybox cannot resolve, not even an address: its wget crashes.
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} 80"
        return self.execute(pod, "sh", "-c", ask)[1].endswith("here\n")

    def pid_of(self, container: str) -> int:
        done = self._ctr("-n", "k8s.io", "tasks", "ls")
        found = dict(line.split()[:2] for line in done.stdout.splitlines()[1:])
        return int(found[container])

    def _call(self, method: str, request: bytes) -> bytes:
        return asyncio.run(self._unary(method, request))

    async def _unary(self, method: str, request: bytes) -> bytes:
        address = str(self.directory / "containerd.sock")
        connection = await Connection.connect(address, None, CALL_SECONDS, CALL_SECONDS)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                call = connection.call(_SERVICE + method, [])
                await call.send(request, end=True)
                return await call.receive() or b""
        finally:
            connection.close()

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "-a", str(self.directory / "containerd.sock"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def remove_cgroups() -> None:
    """What the parents of pods leave behind in each hierarchy, and the pods that outlived their
    runtime: they are in no namespace of a lab's."""
    names = (CGROUP, f"{CGROUP}-*")
    parents = [parent for name in names for parent in Path("/sys/fs/cgroup").glob(f"**/{name}")]
    for parent in parents:
        members = [int(pid) for file in parent.rglob("cgroup.procs")
                   for pid in file.read_text().split()]  # fmt: skip
        processes.stop(members, signal.SIGKILL)
    give_up = time.monotonic() + START_SECONDS
    while parents := [parent for parent in parents if parent.exists()]:
        assert time.monotonic() < give_up, parents
        for parent in parents:
            for directory, _, _ in os.walk(parent, topdown=False):
                with contextlib.suppress(OSError):  # one that has ended is in it for a moment
                    os.rmdir(directory)
        time.sleep(0.05)


def _pod_config(
    name: str, namespace: str, annotations: Mapping[str, str], directory: Path
) -> bytes:
    metadata = bytes_field(1, name.encode()) + bytes_field(2, str(uuid.uuid4()).encode())
    metadata += bytes_field(3, namespace.encode())
    config = bytes_field(1, metadata) + bytes_field(2, name.encode())
    config += bytes_field(3, str(directory / "logs").encode())
    for key, value in annotations.items():
        pair = bytes_field(1, key.encode()) + bytes_field(2, value.encode())
        config += bytes_field(7, pair)
    return config + bytes_field(8, bytes_field(1, f"/{CGROUP}".encode()))


def _texts(message: bytes) -> dict[int, str]:
    return {number: data.decode(errors="replace") for number, _, data in fields(message)}
