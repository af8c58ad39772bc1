"""A guest: user-mode Linux on a tap, with busybox for everything else."""

import gzip
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.cni.image import BUSYBOX

from tortie.kernel import netns

MAC = "02:54:00:00:00:07"
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
for word in $(cat /proc/cmdline); do
  case $word in address=*) address=${word#address=};; esac
done
ip link set lo up
ip link set eth0 up
ip addr add $address/32 dev eth0
ip route add 169.254.1.1 dev eth0
ip route add default via 169.254.1.1 dev eth0
echo GUEST-UP
exec httpd -f -p 80 -h /www
"""


def write_initramfs(path: Path) -> None:
    """A cpio archive (newc) with busybox, an init and one page."""
    entries: list[tuple[str, int, bytes]] = [
        *((name, 0o040755, b"") for name in ("bin", "proc", "sys", "dev", "www")),
        ("bin/busybox", 0o100755, BUSYBOX.read_bytes()),
        ("www/index.html", 0o100644, b"here\n"),
        ("init", 0o100755, _INIT.encode()),
    ]
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        numbers = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + "".join(f"{value:08x}" for value in numbers).encode()
        for part in (name.encode() + b"\0", content):
            out += part
            out += b"\0" * (-len(out) % 4)
    path.write_bytes(gzip.compress(bytes(out), 1))


class Guest:
    """Runs until `stop`, in a host's network namespace, on a tap that is there."""

    def __init__(self, host_namespace: str, tap: str, address: str, directory: Path) -> None:
        initramfs = directory / "initramfs.gz"
        if not initramfs.exists():
            write_initramfs(initramfs)
        self._log = directory / f"{tap}.log"
        with open(self._log, "wb") as log:
            self._process: subprocess.Popen[Any] = netns.spawn_in(
                netns.named_path(host_namespace),
                ["linux.uml", "mem=64M", f"initrd={initramfs}", "root=/dev/ram0", "rdinit=/init",
                 "con=null", "con0=null,fd:1", "ssl=null", "quiet", f"address={address}",
                 f"eth0=tuntap,{tap},{MAC}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, own_session=True,
                cwd=str(directory), env={**os.environ, "HOME": str(directory)},
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def is_up(self) -> bool:
        assert self._process.poll() is None, self.log
        return "GUEST-UP" in self.log

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
