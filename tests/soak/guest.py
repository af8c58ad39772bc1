"""A machine with another kernel: user-mode Linux on this machine's files, which it cannot write.

It has no owner tables (6.1), and nf_tables for single families alone: so it is what a user meets
whose kernel lacks something.
"""

import os
import subprocess
import sys
from pathlib import Path

_MODULES = "/usr/lib/uml/modules"
_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/root/lib
ln -s {modules} /run/root/lib/modules
printf '#!/bin/sh\\nexec modprobe -d /run/root "$@"\\n' > /run/modprobe
chmod +x /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
for module in ipv6 nf_tables veth; do /run/modprobe $module; done
ip link set lo up
cd {directory}
echo BEGIN
{commands}
echo END
halt -f
"""


def run_in_guest(directory: Path, commands: str, *, kernel_options: tuple[str, ...] = ()) -> str:
    """What these commands of a shell print there, errors included.

    Args:
        commands: `$PYTHON` is our interpreter, and `$BIN` where our programs are.
    """
    init = directory / "init"
    script = _INIT.format(modules=_MODULES, directory=Path.cwd(), commands=commands)
    script = script.replace("$BIN", str(Path(sys.executable).parent))
    init.write_text(script.replace("$PYTHON", sys.executable))
    init.chmod(0o755)
    command = ["linux.uml", "mem=512M", "rootfstype=hostfs", "ro", f"init={init}", "quiet"]
    command += ["con=null", "con0=null,fd:1", "ssl=null", *kernel_options]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    _, begun, rest = done.stdout.partition("BEGIN\n")
    assert begun, f"the guest did not start: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    said, ended, _ = rest.partition("END\n")
    assert ended, f"the guest did not end: {rest[-2000:]}"
    return said
