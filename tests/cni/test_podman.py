"""podman with its CNI backend on two lab hosts."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cni.host import DEBIAN_PLUGINS
from tests.cni.image import busybox_layer
from tests.cni.test_containerd import eventually
from tests.e2e.live import LiveLab, running_lab

from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install
from tortie.kernel import netns
from tortie.lab import processes
from tortie.lab.description import Host, Lab

NETWORK = "tortie"
IMAGE = "localhost/tortie/busybox:1"

CONFIG = """\
[network]
network_backend = "cni"
cni_plugin_dirs = ["{w}/bin"]
network_config_dir = "{w}/net.d"
default_network = "{network}"
[containers]
default_ulimits = ["nofile=1024:4096","nproc=1024:2048"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
"""


class Podman:
    """Its commands, each in the network namespace of a lab host and in mounts that stay."""

    def __init__(self, lab: Lab, host: Host, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        (directory / "containers.conf").write_text(CONFIG.format(w=directory, network=NETWORK))
        state = lab.host_directory(host.name)
        install.install(
            directory / "bin",
            directory / "net.d",
            install.Places(state / "attach.sock", state / "state" / "cni"),
            default_conflist(kubernetes=False, ipv6=False),
        )
        for found in DEBIAN_PLUGINS.iterdir():
            (directory / "bin" / found.name).symlink_to(found)
        inside = netns.named_path(lab.host_namespace(host.name))
        script = "mount -t tmpfs tmpfs /run/netns && echo ready && exec sleep infinity"
        holder = subprocess.Popen(
            ["nsenter", f"--net={inside}", "unshare", "-m", "--propagation", "private",
             "sh", "-c", script],
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        holder.stdout.close()
        holder.returncode = 0
        self._holder = holder.pid

    def close(self) -> None:
        self("rm", "-af", "-t", "0", check=False)
        processes.stop([self._holder])

    def __call__(self, *arguments: str, check: bool = True) -> str:
        options = [f"--{name}={self.directory / name}" for name in ("root", "runroot", "tmpdir")]
        done = subprocess.run(
            ["nsenter", "-t", str(self._holder), "-m", "-n", "podman", *options, *arguments],
            env={**os.environ, "CONTAINERS_CONF": str(self.directory / "containers.conf")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, (arguments, done.stderr)
        return done.stdout.strip()

    def run(self, name: str) -> str:
        """A container with a web server; returns its address."""
        command = ("/bin/httpd", "-f", "-p", "80", "-h", "/www")
        self("run", "-d", "--network", NETWORK, "--name", name, IMAGE, *command)
        settings = json.loads(self("inspect", name))[0]["NetworkSettings"]["Networks"][NETWORK]
        address: str = settings["IPAddress"]
        assert len(settings["MacAddress"]) == 17
        return address

    def reaches(self, name: str, address: str) -> bool:
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} 80"
        return self("exec", name, "sh", "-c", ask, check=False).endswith("here")


@pytest.fixture
def live() -> Iterator[LiveLab]:
    with running_lab("pod", hosts=2, ipv6=False) as made:
        yield made


def test_containers_of_a_network_reach_each_other_and_nobody_else_does(
    live: LiveLab, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Short: conmon's socket lies below, and has at most 107 characters.
    directory = tmp_path_factory.mktemp("p")
    archive = directory / "busybox.tar"
    archive.write_bytes(busybox_layer())
    runtimes = {host.name: Podman(live.lab, host, directory / host.name) for host in live.lab.hosts}
    try:
        for podman in runtimes.values():
            podman("import", str(archive), IMAGE)
        p1, p2 = runtimes["h1"], runtimes["h2"]
        a, b = p1.run("a"), p2.run("b")
        assert eventually(lambda: p2.reaches("b", a)), "across hosts, by the network's profile"
        live.add("outsider", "h2")
        outsider = live.lab.workload("red/outsider")
        assert not reaches_from(live.path(outsider), a), "who is not in the network does not"

        live.stop_agent("h1", signal.SIGKILL)
        assert p2.reaches("b", a), "the agent's end changes nothing"
        p1("rm", "-f", "-t", "0", "a")
        live.start_agent("h1")
        assert eventually(lambda: not [key for key in live.entries() if "/h1-cni-" in key])
        assert p1.run("c") != b
        p1("stop", "-t", "0", "c")
        p1("start", "c")
        address = json.loads(p1("inspect", "c"))[0]["NetworkSettings"]["Networks"][NETWORK]
        assert eventually(lambda: p2.reaches("b", address["IPAddress"])), "after a restart"
    finally:
        for podman in runtimes.values():
            podman.close()
    assert not [key for key in live.entries() if f"/handle/{NETWORK}.red" not in key
                and ("/handle/" in key or "-cni-" in key)]  # fmt: skip


def reaches_from(path: str, address: str) -> bool:
    done = netns.run_in(
        path,
        lambda: subprocess.run(
            ["busybox", "nc", "-w", "1", address, "80"],
            input=b"GET / HTTP/1.0\r\n\r\n",
            capture_output=True,
            check=False,
        ),
    )
    return b"here" in done.stdout
