"""Machines with a systemd of their own: this system's files, another network and boot.

A machine is a process in namespaces of its own (network, mounts, processes,
cgroups, name), whose root is this system's root with a layer in memory on top:
whatever it writes is gone with it. In it runs the systemd of this system, which
is told nothing of the services that are enabled here. So units are started,
confined and supervised by the real thing.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tortie.kernel import netns

BOOT_SECONDS = 60
COMMAND_SECONDS = 60

MASKED = (
    "systemd-logind.service", "systemd-networkd.service", "systemd-resolved.service",
    "systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-clean.timer", "systemd-sysctl.service", "systemd-update-utmp.service",
    "systemd-journal-flush.service", "systemd-random-seed.service", "systemd-sysusers.service",
    "systemd-remount-fs.service", "systemd-timesyncd.service", "networking.service",
    "dbus.service", "dbus.socket", "getty.target", "e2scrub_reap.service", "timers.target",
)  # fmt: skip
"""Of no use here, or about the real machine."""

FRESH = (
    "/etc/calico", "/etc/tortie", "/var/lib/tortie", "/var/lib/calico", "/var/lib/etcd/default",
    "/var/log/journal", "/etc/default/etcd",
)  # fmt: skip
"""Whatever they hold here, a machine begins without."""

_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs {layer}
mkdir {layer}/upper {layer}/work {layer}/root
R={layer}/root
mount -t overlay overlay -o lowerdir=/,upperdir={layer}/upper,workdir={layer}/work $R
{binds}
rm -rf {fresh} $R/etc/systemd/system/*.wants
if [ -n "{files}" ]; then cp -a "{files}/." $R/; fi
for unit in {masked}; do ln -sf /dev/null $R/etc/systemd/system/$unit; done
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys
mount -t tmpfs -o mode=755 tmpfs $R/run
if [ -d /sys/fs/cgroup/systemd ]; then
    mount -t tmpfs tmpfs $R/sys/fs/cgroup
    mkdir $R/sys/fs/cgroup/systemd $R/sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup $R/sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 $R/sys/fs/cgroup/unified
else
    mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
fi
mount -t tmpfs -o mode=755 tmpfs $R/dev
mkdir $R/dev/net $R/dev/shm $R/dev/pts $R/dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
for device in null zero full random urandom tty net/tun; do
    touch $R/dev/$device
    mount --bind /dev/$device $R/dev/$device
done
ln -s /proc/self/fd $R/dev/fd
hostname {name}
echo {name} > $R/etc/hostname
echo {identity} > $R/etc/machine-id
cd $R
mkdir -p old-root
pivot_root . old-root
umount -l /old-root
rmdir /old-root
mount --make-rshared /
exec env -i container=tortie PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=0 --log-target=journal
"""


class Machine:
    """
    Args:
        name: its host name.
        network: path of the network namespace where it lives.
        directory: for what must be outside of it.
    """

    def __init__(self, name: str, network: str, directory: Path) -> None:
        self.name = name
        self._network = network
        self.network_identity = netns.identity(network)
        self._layer = directory / name
        self._cgroup = f"tortie-test-{os.getpid()}-{name}"
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        """Of its systemd, as seen from here; 0 while it is off."""

    def boot(self, files: Path | None = None) -> None:
        """Start it; returns when its systemd has reached its target.

        Args:
            files: a tree that is on its disk, as a boot before this one may have left it.
        """
        self._layer.mkdir(exist_ok=True)
        script = _BOOT.format(
            layer=self._layer,
            binds=_binds(),
            files=files or "",
            fresh=" ".join(f"$R{path}" for path in FRESH),
            masked=" ".join(MASKED),
            name=self.name,
            identity=os.urandom(16).hex(),
        )
        for place in self._cgroups():
            place.mkdir(exist_ok=True)
        enter = [f"echo $$ > {place}/cgroup.procs" for place in self._cgroups()]
        words = ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--cgroup"]
        words += ["--kill-child", "sh", "-c", script]
        with open(self._layer.with_suffix(".log"), "ab") as log:
            self._process = netns.spawn_in(
                self._network,
                ["sh", "-c", f"{'; '.join(enter)}; exec {shlex.join(words)}"],
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        give_up = time.monotonic() + BOOT_SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, self._layer.with_suffix(".log").read_text()
            self.pid = self._find()
            if self.pid and self.systemctl("is-system-running") in ("running", "degraded"):
                return
            assert time.monotonic() < give_up, f"{self.name} does not boot: {self.log()}"
            time.sleep(0.3)

    def _find(self) -> int:
        """Its systemd, once it is that."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                return int(pid)
        return 0

    def run(self, *argv: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """A command on it, as root."""
        return subprocess.run(
            self._inside(argv), input=stdin, capture_output=True, text=True, env=_ENVIRONMENT,
            timeout=COMMAND_SECONDS,
        )  # fmt: skip

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        """A command that goes on; the caller ends it."""
        return subprocess.Popen(
            self._inside(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=_ENVIRONMENT,
        )  # fmt: skip

    def ok(self, *argv: str, stdin: str = "") -> str:
        """Its output; it must succeed."""
        done = self.run(*argv, stdin=stdin)
        assert done.returncode == 0, f"{shlex.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def tortie(self, *words: str, stdin: str = "") -> str:
        return self.ok(sys.executable, "-P", "-m", "tortie", *words, stdin=stdin)

    def systemctl(self, *words: str) -> str:
        """What it says, whatever its exit code means."""
        return self.run("systemctl", *words).stdout.strip()

    def log(self, unit: str = "*") -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-n", "60", "-u", unit).stdout

    def write(self, path: str, text: str) -> None:
        self.ok("sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    def power_off(self) -> None:
        """As if the plug were pulled: its processes, files and cgroups are gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        give_up = time.monotonic() + 10
        for place in self._cgroups():
            while not _remove_cgroup(place):
                assert time.monotonic() < give_up, f"{place} is still in use"
                time.sleep(0.1)
        shutil.rmtree(self._layer, ignore_errors=True)

    def _inside(self, argv: tuple[str, ...]) -> list[str]:
        flags = ("--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wdns=/")
        return ["nsenter", "--target", str(self.pid), *flags, "--", *argv]

    def _cgroups(self) -> list[Path]:
        root = Path("/sys/fs/cgroup")
        places = [root / "systemd", root / "unified"] if (root / "systemd").exists() else [root]
        return [place / self._cgroup for place in places]


_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}


def _binds() -> str:
    """The program's places that are on other file systems than the root."""
    import tortie

    root = os.stat("/").st_dev
    places = {sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(tortie.__path__[0]))}
    return "\n".join(
        f"mkdir -p $R{place}; mount --rbind {place} $R{place}"
        for place in sorted(places)
        if os.stat(place).st_dev != root
    )


def _remove_cgroup(place: Path) -> bool:
    if not place.exists():
        return True
    for directory, _, _ in os.walk(place, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            return False
    return True
