"""Settings of the DHCP agent: neutron.conf and dhcp_agent.ini, Calico's variables, options.

Operators of Calico keep their files. Of them this agent reads `[calico]` (where etcd is, the
region) and from `[DEFAULT]` what is about DHCP; everything else there is for others.
"""

import configparser
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tortie.datastore.connect import DatastoreSettings, DatastoreType
from tortie.dhcp.served import NAMESERVERS_MAX, Defaults, is_domain
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parse_address
from tortie.openstack.settings import Settings as CalicoOptions
from tortie.openstack.settings import read_settings

LEASE_SECONDS = 86400
"""Neutron's own default."""
LEASE_MIN_SECONDS = 120
"""dnsmasq's."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    """As endpoints name it."""
    region: str = "no-region"
    """As keys have it."""
    namespace: str = "openstack"
    """Of OpenStack's endpoints."""
    openstack_only: bool = False
    lease_seconds: int = LEASE_SECONDS
    """-1: for ever."""
    defaults: Defaults = Defaults()
    log_dhcp: bool = False

    def __post_init__(self) -> None:
        if self.lease_seconds != -1 and self.lease_seconds < LEASE_MIN_SECONDS:
            raise InvalidInput(
                f"a lease of {self.lease_seconds} s: must be at least {LEASE_MIN_SECONDS}, or -1"
            )


class NeutronFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What is in neutron.conf and dhcp_agent.ini for us."""

    calico: CalicoOptions | None = None
    """None: no file has a section `[calico]`."""
    host: str = ""
    lease_seconds: int | None = None
    dns: tuple[Network, ...] = ()
    domain: str = ""

    @property
    def datastore(self) -> DatastoreSettings | None:
        calico = self.calico
        if calico is None:
            return None
        return DatastoreSettings(
            type=DatastoreType.ETCDV3,
            endpoints=tuple(
                f"{calico.etcd_scheme}://{f'[{host}]' if ':' in host else host}:{port}"
                for host, port in calico.endpoints
            ),
            key_file=_path(calico.etcd_key_file),
            certificate_file=_path(calico.etcd_cert_file),
            ca_file=_path(calico.etcd_ca_cert_file),
            username=calico.etcd_username or "",
            password=calico.etcd_password or "",
        )


def read_files(paths: Iterable[Path]) -> NeutronFiles:
    """Later files win, as with oslo.config.

    Raises:
        InvalidInput: a file cannot be read, or an option is wrong.
    """
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, default_section="", inline_comment_prefixes=None
    )
    for path in paths:
        try:
            parser.read_string(path.read_text(), source=str(path))
        except configparser.Error as error:
            # Its text may quote from the file, and there are passwords in it.
            raise InvalidInput(f"{path}: {type(error).__name__}: no INI file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path}: {error}") from None
    sections = {name: dict(parser[name]) for name in parser.sections()}
    defaults = sections.get("DEFAULT", {})
    return NeutronFiles(
        calico=_calico(sections["calico"]) if "calico" in sections else None,
        host=defaults.get("host", "").strip(),
        lease_seconds=_integer(defaults, "dhcp_lease_duration"),
        dns=parse_dns(defaults.get("dnsmasq_dns_servers", "")),
        domain=defaults.get("dns_domain", "").strip().rstrip("."),
    )


def parse_dns(text: str) -> tuple[Network, ...]:
    """
    Raises:
        InvalidInput: a part is no address.
    """
    found = tuple(parse_address(part.strip()) for part in text.split(",") if part.strip())
    if len(found) > NAMESERVERS_MAX:
        raise InvalidInput(f"{len(found)} name servers; at most {NAMESERVERS_MAX}")
    return found


def parse_domain(text: str) -> str:
    """
    Raises:
        InvalidInput: it is none.
    """
    if text and not is_domain(text):
        raise InvalidInput(f"{text!r} is no domain")
    return text


def nameservers_of_this_host(path: Path = Path("/etc/resolv.conf")) -> tuple[Network, ...]:
    """Those that a guest can reach, too: not on loopback."""
    found: list[Network] = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = parse_address(words[1])
            except InvalidInput:
                continue
            if not address.address_text.startswith("127.") and address.address_text != "::1":
                found.append(address)
    return tuple(found[:NAMESERVERS_MAX])


def _calico(section: Mapping[str, str]) -> CalicoOptions:
    from tortie.openstack.settings import OPTIONS

    by_name = {option.name: option for option in OPTIONS}

    def value_of(name: str) -> Any:
        option = by_name[name]
        text = section.get(name, "").strip()
        if not text:
            return option.default
        if option.type is int:
            return _integer(section, name)
        if option.type is bool:
            return text.lower() in ("true", "1", "yes", "on")
        return text

    return read_settings(value_of)


def _integer(section: Mapping[str, str], name: str) -> int | None:
    text = section.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"{name} = {text!r} is no number") from None


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
