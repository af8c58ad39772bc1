"""`tortie node install`: systemd units that make this host a node, now and after each boot.

Again after an upgrade: units that differ are replaced, the agent is started
anew, and no packet notices, because what is in the kernel, the keeper of its
tables and BIRD stay as they are.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import tortie
from tortie.agent import keeper
from tortie.ctl import installation, systemd
from tortie.ctl.grammar import Given
from tortie.ctl.installation import File
from tortie.ctl.node import RUN_DIRECTORY
from tortie.ctl.screen import Screen
from tortie.ctl.units import ENVIRONMENT_FILE, UNITS, Program, Unit, unit_file
from tortie.lib.errors import InvalidInput

UNIT_DIRECTORY = "/etc/systemd/system"

ENVIRONMENT = """\
# Settings of tortie-agent.service, NAME=value; every name is optional.
# Calico's own calico.env does as it is. See `man tortie-node-run`.

# Where the datastore is. /etc/calico/calicoctl.cfg says the same, with keys inline too.
#ETCD_ENDPOINTS=http://192.0.2.1:2379,http://192.0.2.2:2379
#ETCD_CA_CERT_FILE=/etc/calico/certs/ca.pem
#ETCD_CERT_FILE=/etc/calico/certs/cert.pem
#ETCD_KEY_FILE=/etc/calico/certs/key.pem

# This host as a node: its name, addresses and AS number.
#NODENAME=
#IP=autodetect
#IP_AUTODETECTION_METHOD=first-found
#IP6=autodetect
#AS=

# The first pool of a new cluster.
#CALICO_IPV4POOL_CIDR=192.168.0.0/16
#NO_DEFAULT_POOLS=true

# Any setting of the agent; /etc/calico/felix.cfg and FelixConfiguration have them, too.
#FELIX_HEALTHENABLED=true
"""


def main(given: Given, screen: Screen) -> int:
    wanted = files(program())
    if given.has("print"):
        for path, file in wanted.items():
            if not file.is_link:
                screen.print(f"# {path}\n{file.text}")
        return 0
    root = Path(given.text("root", "/"))
    if given.has("dry-run"):
        for change in installation.changes(root, wanted):
            screen.print(f"would {'write' if change.is_new else 'replace'} {change.path}")
        return 0
    _check(root)
    try:
        different = installation.write(root, wanted)
    except OSError as error:
        raise InvalidInput(f"cannot write {error.filename}: {error.strerror}") from None
    for change in different:
        screen.print(f"{'written' if change.is_new else 'replaced'} {change.path}")
    if root != Path("/") or given.has("no-start"):
        return 0
    if not systemd.is_running():
        screen.warn("systemd does not run here: the units are installed, and nothing is started")
        return 0
    _start(different, screen)
    return 0


def _check(root: Path) -> None:
    if root == Path("/") and os.geteuid() != 0:
        raise InvalidInput("tortie node install needs root; --root DIRECTORY installs elsewhere")
    if not root.is_dir():
        raise InvalidInput(f"--root: {root} is no directory")


def _start(different: list[installation.Change], screen: Screen) -> None:
    """In the order of the table; of what runs only the agent is started anew."""
    if different:
        systemd.systemctl("daemon-reload")
    changed = {Path(change.path).name for change in different}
    for unit in UNITS:
        if not unit.wanted_by or systemd.state(unit.wanted_by) not in ("active", "activating"):
            continue
        before = systemd.state(unit.name)
        is_old = unit.restarts and (unit.name in changed or _is_older_than_program())
        if before == "active" and not is_old:
            continue
        systemd.systemctl("restart" if before == "active" else "start", unit.name)
        if systemd.is_wanted(unit.name):
            screen.print(f"{'restarted' if before == 'active' else 'started'} {unit.name}")
    screen.print("`tortie doctor` says how it is")


def _is_older_than_program() -> bool:
    """Whether the agent runs what was installed before the program changed."""
    try:
        started = (RUN_DIRECTORY / "agent.pid").stat().st_mtime
    except OSError:
        return False
    package = Path(tortie.__path__[0])
    return any(path.stat().st_ctime > started for path in package.rglob("*.py"))


def files(program: Program) -> Mapping[str, File]:
    """Everything that an installation consists of, by its path on the host."""
    found = {f"{UNIT_DIRECTORY}/{unit.name}": File(unit_file(unit, program)) for unit in UNITS}
    found |= {
        _link(unit): File(f"{UNIT_DIRECTORY}/{unit.name}", is_link=True)
        for unit in UNITS
        if unit.wanted_by
    }
    found[ENVIRONMENT_FILE] = File(ENVIRONMENT, 0o600, is_settings=True)
    return found


def _link(unit: Unit) -> str:
    """What `systemctl enable` would make."""
    return f"{UNIT_DIRECTORY}/{unit.wanted_by}.wants/{unit.name}"


def program() -> Program:
    """This one, as it runs here."""
    python = os.path.abspath(sys.executable)
    package = os.path.realpath(tortie.__path__[0])
    places = {sys.prefix, os.path.realpath(sys.base_prefix), os.path.dirname(package)}
    places.add(os.path.dirname(os.path.realpath(python)))
    for path in (python, package):
        if any(c.isspace() or c in "%$\"'\\" for c in path):
            raise InvalidInput(f"{path}: systemd's units cannot name such a path; move it")
    return Program(
        python=python,
        keeper=os.path.join(package, os.path.relpath(keeper.__file__, tortie.__path__[0])),
        bird=_find("bird"),
        directories=tuple(sorted(places)),
    )


def _find(name: str) -> str:
    """Where it is, or where Debian will put it."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return shutil.which(name, path=search) or f"/usr/sbin/{name}"
