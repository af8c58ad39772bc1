"""An agent of Neutron's kind with an interface driver, on a kernel that has dummy devices.

It is user-mode Linux on this machine's own files: not every kernel that tests run on has the
module. One call a line goes to the guest's console, and an answer comes back.
"""

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 150.0
_ANSWER = "ANSWER "

_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/root/lib
ln -s /usr/lib/uml/modules /run/root/lib/modules
for module in ipv6 dummy veth; do modprobe -d /run/root $module; done
hostname agent
ip link set lo up
stty raw -echo
exec env {environment} {python} {program} {driver}
"""

# What Neutron's agents do as they start. The functions that privsep's daemon would run for an
# agent without rights, run here: this process has them.
_PROGRAM = """
import json, subprocess, sys
from neutron import privileged
from neutron.agent.common import utils
from neutron.conf.agent import common
from oslo_config import cfg
from oslo_privsep import priv_context

for context in vars(privileged).values():
    if isinstance(context, priv_context.PrivContext):
        context.set_client_mode(False)
common.register_interface_driver_opts_helper(cfg.CONF)
cfg.CONF([], project="neutron", default_config_files=[])
cfg.CONF.set_override("interface_driver", sys.argv[1])
driver = utils.load_interface_driver(cfg.CONF)

def answer(value):
    print("ANSWER " + json.dumps(value), flush=True)

def ip(words):
    return subprocess.check_output(["ip", "-json", "-details", *words], text=True)

answer([type(driver).__module__, driver.bridged, driver.use_gateway_ips])
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        answer(ip(**arguments) if name == "ip" else getattr(driver, name)(**arguments))
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
"""


class Agent:
    """From here to `stop`; `loaded` is the driver's module, `bridged` and `use_gateway_ips`."""

    def __init__(
        self, folder: Path, python: Path, environment: Mapping[str, str], driver: str
    ) -> None:
        (folder / "program.py").write_text(_PROGRAM)
        init = folder / "init"
        words = " ".join(f"{name}={value}" for name, value in environment.items())
        init.write_text(
            _INIT.format(
                environment=words, python=python, program=folder / "program.py", driver=driver
            )
        )
        init.chmod(0o755)
        self._heard = b""
        self._process = subprocess.Popen(
            ["linux.uml", "mem=384M", "rootfstype=hostfs", "ro", f"init={init}", "quiet",
             "con=null", "con0=fd:0,fd:1", "ssl=null"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, cwd=folder, bufsize=0,
            env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
        )  # fmt: skip
        try:
            self.loaded = self._answer()
        except BaseException:
            self.stop()
            raise

    def call(self, method: str, **arguments: Any) -> Any:
        """The error's text, if there is one."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([method, arguments]).encode() + b"\n")
        answer = self._answer()
        return answer["error"] if isinstance(answer, dict) else answer

    def ip(self, *words: str) -> Any:
        said = self.call("ip", words=words)
        assert "Error: " not in said, said
        return json.loads(said or "[]")

    def _answer(self) -> Any:
        assert self._process.stdout
        give_up = time.monotonic() + PATIENCE_SECONDS
        console = ""
        while True:
            while b"\n" in self._heard:
                line, self._heard = self._heard.split(b"\n", 1)
                text = line.decode(errors="replace")
                if _ANSWER in text:
                    return json.loads(text.split(_ANSWER, 1)[1])
                console += text + "\n"
            remaining = give_up - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(remaining, 0))
            assert ready, f"no answer\n{console}"
            heard = os.read(self._process.stdout.fileno(), 65536)
            assert heard, f"it has ended\n{console}"
            self._heard += heard

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)
        self._process.communicate()
