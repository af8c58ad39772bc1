"""dockerd on a lab host, with the service beside it as on a real one."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.cni.image import busybox_layer

from tortie.kernel import netns
from tortie.lab import cluster, processes
from tortie.lab.description import ETCD_ORDINAL, FABRIC, Host, Lab

IMAGE = "tortie/busybox:1"
START_SECONDS = 30.0
WEB = ("/bin/httpd", "-f", "-p", "80", "-h", "/www")
"""A server that answers `here` to whoever may ask."""

# Off, where a test is not about how Docker's own networks live beside ours.
QUIET = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
         "--ip-masq=false", "--userland-proxy=false")  # fmt: skip

_MOUNTS = """\
hostname {name}
mkdir -p /run/docker
mount -t tmpfs tmpfs /run/docker
mkdir -p /run/docker/plugins
mount --bind {w}/plugins /run/docker/plugins
mkdir -p /etc/docker
mount --bind {w}/etc /etc/docker
echo nameserver 127.0.0.1 > {w}/resolv.conf
mount --bind {w}/resolv.conf /etc/resolv.conf
echo ready
exec sleep infinity
"""


class Docker:
    """One daemon and its service, in the network namespace of a lab host, with own mounts."""

    def __init__(
        self, lab: Lab, host: Host, directory: Path, options: Sequence[str] = QUIET
    ) -> None:
        self.lab, self.host = lab, host
        self.directory = directory
        self.options = options
        self.service_pid = 0
        self.daemon_pid = 0
        for name in ("plugins", "etc"):
            (directory / name).mkdir(parents=True)
        inside = netns.named_path(lab.host_namespace(host.name))
        script = _MOUNTS.format(w=directory, name=f"{lab.name}-{host.name}")
        holder = subprocess.Popen(
            ["nsenter", f"--net={inside}", "unshare", "-m", "-u", "--propagation", "private",
             "sh", "-ec", script],
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        holder.stdout.close()
        holder.returncode = 0
        self._holder = holder.pid

    # The two processes.

    def start(self) -> None:
        self.start_service()
        self.start_daemon()

    def start_service(self, *options: str, wait: bool = True, **environment: str) -> None:
        state = self.lab.host_directory(self.host.name)
        settings = cluster.environment(self.lab) | environment
        if self.lab.datastore == "etcd":
            address = FABRIC.address(ETCD_ORDINAL).address_text
            settings["ETCD_ENDPOINTS"] = f"http://{address}:{cluster.ETCD_PORT}"
        self.service_pid = processes.start(
            self.lab.host_namespace(self.host.name),
            [sys.executable, "-m", "tortie", "docker", "serve",
             "--run-directory", str(state), "--state-directory", str(state / "state"),
             "--plugin-directory", str(self.directory / "plugins"),
             "--docker-socket", str(self.socket), *options],
            self.directory / "service.log",
            environment={**settings, "FELIX_FELIXHOSTNAME": self.host.name},
        )  # fmt: skip
        if wait:
            eventually(self._service_listens, lambda: self.service_log)

    def stop_service(self, number: signal.Signals = signal.SIGTERM) -> None:
        processes.stop([self.service_pid], number)

    def start_daemon(self, *, wait: bool = True) -> None:
        # One that was killed leaves them; its containerd went with it, but may be a zombie here.
        for left in ("docker.pid", "exec/containerd/containerd.pid"):
            (self.directory / left).unlink(missing_ok=True)
        w = self.directory
        with open(w / "dockerd.log", "ab") as log:
            process = subprocess.Popen(
                ["nsenter", "-t", str(self._holder), "-m", "-n", "-u", "dockerd",
                 "--data-root", str(w / "root"), "--exec-root", str(w / "exec"),
                 "--host", f"unix://{self.socket}", "--pidfile", str(w / "docker.pid"),
                 *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        process.returncode = 0
        self.daemon_pid = process.pid
        if wait:
            eventually(self._daemon_answers, lambda: self.daemon_log[-3000:])

    def stop_daemon(self, number: signal.Signals = signal.SIGTERM) -> None:
        processes.stop([self.daemon_pid], number)

    def close(self) -> None:
        if self.daemon_pid and processes.alive(self.daemon_pid):
            if containers := self.ok("ps", "-aq").split():
                self("rm", "-f", *containers)
            self.stop_daemon()
        if self.service_pid:
            self.stop_service()
        # dockerd's containerd and its shims outlive it when it is killed.
        inside = [self.lab.host_namespace(self.host.name)]
        for _ in range(3):
            rest = set(processes.inside(inside)) - {self._holder}
            rest = {pid for pid in rest if str(self.directory) in _command_line(pid)}
            processes.stop(list(rest), signal.SIGKILL)
        processes.stop([self._holder], signal.SIGKILL)

    def clean_up(self) -> None:
        """Remove containers and networks."""
        if containers := self.ok("ps", "-aq").split():
            self.ok("rm", "-f", *containers)
        listed = self.ok("network", "ls", "--filter", "type=custom", "--format", "{{.Name}}")
        if ours := set(listed.split()) - {"docker_gwbridge", "ingress"}:
            done = self("network", "rm", *ours)
            if "has active endpoints" in done.stderr:
                self._count_anew()

    def _count_anew(self) -> None:
        """libnetwork's own count of a network's endpoints is off where many went at once.

        Its next start says so and puts it right (moby, "Fixing inconsistent endpoint_cnt").
        """
        self.stop_daemon()
        self.start_daemon()
        assert "Fixing inconsistent endpoint_cnt" in self.daemon_log, "endpoints are left"
        self.clean_up()

    # What an operator does.

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/usr/bin/docker", "-H", f"unix://{self.socket}", *arguments],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "HOME": str(self.directory)},
        )  # fmt: skip

    def ok(self, *arguments: str) -> str:
        done = self(*arguments)
        assert done.returncode == 0, (arguments, done.stderr, self.service_log[-2000:])
        return done.stdout.strip()

    def refused(self, *arguments: str) -> str:
        done = self(*arguments)
        assert done.returncode != 0, (arguments, done.stdout)
        return done.stderr.strip()

    def import_image(self) -> None:
        path = self.directory / "busybox.tar"
        path.write_bytes(busybox_layer())
        self.ok("import", str(path), IMAGE)

    def network(self, name: str, *options: str) -> str:
        return self.ok(
            "network", "create", "--driver", "tortie", "--ipam-driver", "tortie-ipam",
            *options, name,
        )  # fmt: skip

    def run(
        self, name: str, network: str, *options: str, command: Sequence[str] = WEB
    ) -> dict[str, Any]:
        """Start a container; its settings on that network."""
        # Who is process 1 hears no SIGTERM, and Docker would wait for ten seconds.
        quick = ("--stop-signal", "KILL")
        self.ok(
            "run", "-d", "--name", name, "--network", network, *quick, *options, IMAGE, *command
        )
        return self.on(name, network)

    def on(self, name: str, network: str) -> dict[str, Any]:
        found: dict[str, Any] = self.inspect(name)["NetworkSettings"]["Networks"][network]
        return found

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("inspect", name))[0]
        return found

    def inspect_node(self) -> str:
        """Its id in swarm mode."""
        return self.ok("info", "--format", "{{.Swarm.NodeID}}")

    def exec(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self("exec", name, *command)

    def reaches(self, name: str, address: str, port: int = 80) -> bool:
        """One try, of a second."""
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} {port}"
        return self.exec(name, "sh", "-c", ask).stdout.strip().endswith("here")

    # What there is.

    @property
    def socket(self) -> Path:
        return self.directory / "docker.sock"

    @property
    def service_log(self) -> str:
        return (self.directory / "service.log").read_text()

    @property
    def daemon_log(self) -> str:
        return (self.directory / "dockerd.log").read_text()

    def plugin(self, method: str, body: Any = None, name: str = "tortie") -> tuple[int, Any]:
        """Ask the service as Docker does."""
        connection = UnixConnection(str(self.directory / "plugins" / f"{name}.sock"))
        try:
            connection.request("POST", f"/{method}", json.dumps(body if body is not None else {}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def _service_listens(self) -> bool:
        assert processes.alive(self.service_pid), self.service_log
        with contextlib.suppress(OSError):
            return self.plugin("Plugin.Activate")[0] == 200
        return False

    def _daemon_answers(self) -> bool:
        assert processes.alive(self.daemon_pid), self.daemon_log[-3000:]
        return self("info").returncode == 0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def eventually(
    holds: Callable[[], object],
    otherwise: Callable[[], object] = lambda: "",
    seconds: float = START_SECONDS,
) -> bool:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, otherwise()
        time.sleep(0.1)
    return True


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
