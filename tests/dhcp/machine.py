"""A stock guest: user-mode Linux on this machine's own files, which asks for its addresses.

Its DHCP client, with the scripts that configure the interface, is Debian's, as in a cloud image;
router advertisements are the kernel's business. It serves one page once it has an address.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

from tortie.kernel import netns

_MODULES = "/usr/lib/uml/modules"
_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/root/lib /run/etc /run/www /run/var
ln -s {modules} /run/root/lib/modules
printf '#!/bin/sh\\nexec modprobe -d /run/root "$@"\\n' > /run/modprobe
chmod +x /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
for module in ipv6 af_packet; do /run/modprobe $module 2>/dev/null; done
cp -a /etc/dhcp /etc/services /etc/protocols /etc/passwd /etc/group /etc/nsswitch.conf /run/etc/
: > /run/etc/fstab
: > /run/etc/resolv.conf
mount --bind /run/etc /etc
mount --bind /run/var /var/lib
mkdir -p /var/lib/dhcp
hostname localhost
ip link set lo up
ip link set eth0 up
echo GUEST-UP
dhclient -4 -1 -v -pf /run/4.pid -lf /run/4.leases eth0 2>&1 && echo GUEST-HAS-4
{wait6}
ip -brief address show eth0
ip route
ip -6 route
cat /etc/resolv.conf
hostname
echo mtu $(cat /sys/class/net/eth0/mtu)
echo here > /run/www/index.html
echo GUEST-CONFIGURED
{commands}
exec busybox httpd -f -p {port} -h /run/www
"""
_WAIT6 = """\
for i in $(seq 100); do
    ip -6 route | grep -q '^default' &&
        ip -6 address show dev eth0 -tentative | grep -q fe80 && break
    sleep 0.3
done
dhclient -6 -1 -v -pf /run/6.pid -lf /run/6.leases eth0 2>&1 && echo GUEST-HAS-6
"""
_WAIT_SLAAC = """\
for i in $(seq 100); do
    ip -6 route | grep -q '^default' &&
        ip -6 address show dev eth0 scope global -tentative | grep -q inet6 && break
    sleep 0.3
done
"""


class Machine:
    """Runs until `stop`, in a host's network namespace, on a tap that is there.

    Args:
        ipv6: it asks for an address, once a router has told it to.
        slaac: it makes its address itself, once a router has told it in which prefix.
        commands: of a shell, run when it has its addresses.
    """

    def __init__(
        self,
        host_namespace: str,
        tap: str,
        mac: str,
        directory: Path,
        *,
        ipv6: bool = False,
        slaac: bool = False,
        commands: str = "",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        init = directory / "init"
        wait6 = _WAIT6 if ipv6 else _WAIT_SLAAC if slaac else ""
        init.write_text(_INIT.format(modules=_MODULES, wait6=wait6, commands=commands, port="80"))
        init.chmod(0o755)
        self._log = directory / "console.log"
        with open(self._log, "wb") as log:
            self._process: subprocess.Popen[Any] = netns.spawn_in(
                netns.named_path(host_namespace),
                ["linux.uml", "mem=128M", "rootfstype=hostfs", "ro", f"init={init}", "quiet",
                 "con=null", "con0=null,fd:1", "ssl=null", f"eth0=tuntap,{tap},{mac}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, own_session=True,
                cwd=str(directory),
                env={**os.environ, "HOME": str(directory), "TMPDIR": str(directory)},
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def is_configured(self) -> bool:
        assert self._process.poll() is None, self.log
        return "GUEST-CONFIGURED" in self.log

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
