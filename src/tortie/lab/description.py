"""What a lab is: its hosts, addresses and settings, and where it keeps them.

    /run/tortie/labs/<lab>/lab.json     this description, written before anything is made
                          datastore.db  the embedded datastore
                          etcd/         or the real one
                          <host>/       the host's run directory: sockets, logs, BIRD

Namespaces are named `tortie.<lab>.<host>` and `tortie.<lab>.<namespace>.<workload>`,
so that `ip netns` shows them and nobody else's are touched.
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from tortie.lib.errors import AlreadyExists, Denied, InvalidInput, NotFound
from tortie.lib.files import replace_file
from tortie.lib.ip import Network, parse_network

ROOT = Path("/run/tortie/labs")

Datastore = Literal["embedded", "etcd"]
Routing = Literal["direct", "bgp"]

FABRIC = parse_network("172.30.0.0/24")
FABRIC6 = parse_network("fd00:30::/64")
"""The L2 segment; labs are apart from each other, so all use the same addresses."""

POOL = parse_network("10.65.0.0/16")
POOL6 = parse_network("fd65::/64")

ETCD_ORDINAL = 254
"""Where etcd listens on the segment: 172.30.0.254."""

HOSTS_MAX = 200
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


class Host(msgspec.Struct, frozen=True):
    name: str
    ordinal: int
    """From 1: the last byte of its address."""

    @property
    def ipv4(self) -> Network:
        return FABRIC.address(self.ordinal)

    @property
    def ipv6(self) -> Network:
        return FABRIC6.address(self.ordinal)


class Workload(msgspec.Struct, frozen=True):
    name: str
    namespace: str
    host: str
    labels: dict[str, str] = {}
    listen: tuple[str, ...] = ()
    """`tcp:80`, `udp:53`."""
    addresses: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


class Lab(msgspec.Struct, frozen=True):
    name: str
    hosts: tuple[Host, ...]
    datastore: Datastore = "embedded"
    routing: Routing = "direct"
    ipv6: bool = False
    workloads: tuple[Workload, ...] = ()

    @property
    def directory(self) -> Path:
        return ROOT / self.name

    @property
    def prefix(self) -> str:
        """What the names of all our namespaces begin with."""
        return f"tortie.{self.name}."

    @property
    def fabric_namespace(self) -> str:
        return f"{self.prefix}fabric"

    def host_namespace(self, host: str) -> str:
        return f"{self.prefix}{host}"

    def workload_namespace(self, workload: Workload) -> str:
        return f"{self.prefix}{workload.namespace}.{workload.name}"

    def host_directory(self, host: str) -> Path:
        return self.directory / host

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise NotFound(f"lab {self.name} has no host {name}; it has {known}")

    def workload(self, name: str) -> Workload:
        """By `name`, or by `namespace/name` where the name alone is not enough.

        Raises:
            NotFound, InvalidInput: none, or more than one.
        """
        found = [
            workload for workload in self.workloads if name in (workload.name, workload.full_name)
        ]
        if len(found) > 1:
            names = " or ".join(workload.full_name for workload in found)
            raise InvalidInput(f"{name} is ambiguous; say {names}")
        if not found:
            known = ", ".join(workload.full_name for workload in self.workloads) or "none"
            raise NotFound(f"lab {self.name} has no workload {name}; it has {known}")
        return found[0]

    def with_workload(self, workload: Workload) -> "Lab":
        """With it added, or in the place of what has its name."""
        by_name = {known.full_name: known for known in self.workloads}
        by_name[workload.full_name] = workload
        return msgspec.structs.replace(self, workloads=tuple(by_name.values()))

    def without_workload(self, workload: Workload) -> "Lab":
        others = tuple(w for w in self.workloads if w.full_name != workload.full_name)
        return msgspec.structs.replace(self, workloads=others)


def plan(name: str, host_count: int, datastore: Datastore, routing: Routing, *, ipv6: bool) -> Lab:
    """A lab's description, before anything of it exists.

    Raises:
        InvalidInput: a name or a number of hosts that does not do.
    """
    check_name(name)
    if not 1 <= host_count <= HOSTS_MAX:
        raise InvalidInput(f"a lab has from 1 to {HOSTS_MAX} hosts, not {host_count}")
    hosts = tuple(Host(f"h{ordinal}", ordinal) for ordinal in range(1, host_count + 1))
    return Lab(name, hosts, datastore, routing, ipv6)


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name for a lab: 1 to 20 small letters, digits and dashes"
        )
    return name


def create(lab: Lab) -> None:
    """Write the description, which claims the name.

    Raises:
        AlreadyExists: a lab of that name is there, or what is left of one.
    """
    ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lab.directory.mkdir(mode=0o700)
    except FileExistsError:
        raise AlreadyExists(
            f"lab {lab.name} is already there; choose another --name, "
            f"or remove it: tortie lab down --name {lab.name}"
        ) from None
    save(lab)


def load(name: str) -> Lab:
    """
    Raises:
        NotFound: no such lab.
        Denied: not root.
    """
    check_name(name)
    path = ROOT / name / "lab.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lab)
    except PermissionError:
        raise Denied(f"labs belong to root: cannot read {path}; use sudo") from None
    except FileNotFoundError:
        others = ", ".join(names()) or "none"
        raise NotFound(
            f"there is no lab {name} (labs: {others}); make one: tortie lab up --name {name}"
        ) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path}: {error}; remove it: tortie lab down --name {name}") from None


def save(lab: Lab) -> None:
    replace_file(lab.directory / "lab.json", msgspec.json.format(msgspec.json.encode(lab)), 0o644)


def names() -> list[str]:
    if not ROOT.is_dir():
        return []
    return sorted(entry.name for entry in ROOT.iterdir() if (entry / "lab.json").exists())


@contextmanager
def locked(name: str) -> Iterator[Lab]:
    """The description, while nobody else changes it.

    Raises:
        NotFound: no such lab.
    """
    load(name)
    with open(ROOT / name / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield load(name)
