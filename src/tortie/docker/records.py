"""What Docker told us once and never repeats, on disk.

Docker names a network by its id alone, creates it once, and after a crash of either side goes on
as if nothing had been. So each network's record says what its endpoints need: a number, from
which its gateways come (two networks of one container must not share them), and, as soon as
Docker's API has told, its name and whether it is internal. Beside them are the addresses that
this node borrows from swarm's manager.

One small file, replaced atomically and synced before anybody is answered.
"""

import logging
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tortie.lib.errors import Unavailable
from tortie.lib.files import replace_file
from tortie.lib.ip import Network as IPNetwork
from tortie.lib.ip import parse_address

log = logging.getLogger(__name__)

NUMBERS_MAX = 0xFE00
"""Gateways are 169.254.1.1 to 169.254.254.255."""

_FIRST_GATEWAY = parse_address("169.254.1.1").first - 1


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """One of Docker's networks, of a driver of ours."""

    id: str
    number: int
    """From 1; no other network of this host has it."""
    name: str = ""
    """Empty: Docker has not told yet."""
    internal: bool = False
    driver: str = ""

    def gateway(self, family: int) -> IPNetwork:
        """What this network's containers send to: the host's end of their link.

        The first network has the usual ones. IPv6's hold the same number as IPv4's.
        """
        last = _FIRST_GATEWAY + self.number
        if family == 4:
            return parse_address(".".join(str(byte) for byte in last.to_bytes(4, "big")))
        return parse_address(f"fe80::{last >> 16:x}:{last & 0xFFFF:x}")


class _File(msgspec.Struct, frozen=True, kw_only=True):
    networks: tuple[Network, ...] = ()
    borrowed: tuple[str, ...] = ()


class Records:
    """The file's content; only one process may use it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / "docker.json"
        found = self._read()
        self._networks = {network.id: network for network in found.networks}
        self._borrowed = set(found.borrowed)

    @property
    def networks(self) -> list[Network]:
        return list(self._networks.values())

    def get(self, network_id: str) -> Network | None:
        return self._networks.get(network_id)

    def ensure(self, network_id: str, *, internal: bool = False) -> Network:
        """The record, made if need be: of a global network Docker says nothing to other hosts.

        Raises:
            Unavailable: the disk is full or broken, or there are too many networks.
        """
        found = self._networks.get(network_id)
        if found is not None:
            return found
        taken = {network.number for network in self._networks.values()}
        number = next((n for n in range(1, NUMBERS_MAX) if n not in taken), 0)
        if not number:
            raise Unavailable(f"{NUMBERS_MAX} networks are too many")
        made = Network(id=network_id, number=number, internal=internal)
        self._write({**self._networks, network_id: made}, self._borrowed)
        return made

    def describe(self, network_id: str, *, name: str, internal: bool, driver: str) -> bool:
        """What Docker's API says; True if it is news. Raises as `ensure`."""
        before = self.ensure(network_id)
        after = replace(before, name=name, internal=internal, driver=driver)
        if after == before:
            return False
        self._write({**self._networks, network_id: after}, self._borrowed)
        return True

    def forget(self, network_id: str) -> None:
        """Raises as `ensure`."""
        if network_id in self._networks:
            rest = {known: value for known, value in self._networks.items() if known != network_id}
            self._write(rest, self._borrowed)

    def borrow(self, address: str) -> None:
        """Raises as `ensure`."""
        self._write(self._networks, self._borrowed | {address})

    def give_back(self, address: str) -> bool:
        """False if it was not borrowed. Raises as `ensure`."""
        if address not in self._borrowed:
            return False
        self._write(self._networks, self._borrowed - {address})
        return True

    def _read(self) -> _File:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return _File()
        except (OSError, msgspec.DecodeError) as error:
            # Networks are learned anew from Docker; their containers stay closed until then.
            log.error("%s is not readable and begun anew: %s", self._path, error)
            return _File()

    def _write(self, networks: dict[str, Network], borrowed: set[str]) -> None:
        content = _File(networks=tuple(networks.values()), borrowed=tuple(sorted(borrowed)))
        replace_file(self._path, msgspec.json.encode(content), 0o600)
        self._networks, self._borrowed = networks, borrowed
