"""DHCP options that users of OpenStack ask for a port, as far as they may be sent. Pure.

An option has a name of this table and a value of that option's type, which is parsed and written
anew: no text of a user comes through as it was. What is not in the table is not sent: among
dnsmasq's names there are some that do other things than tell the guest something.

Source: RFC 2132, 5859, 5970; Neutron's extra_dhcp_opts; OSSA-2021-005 (CVE-2021-40085), where a
line break in a value became a line of dnsmasq's configuration.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address

OPTIONS_MAX = 16
"""Of one port."""
VALUES_MAX = 8

_TEXT = re.compile("[A-Za-z0-9][A-Za-z0-9._/:@+~-]{0,127}")
"""Names of hosts, paths, URLs: no comma, quote, space, bracket, backslash, `#`."""


class Option(NamedTuple):
    """Ready to be written; number and value have been checked."""

    family: int
    number: int
    value: str


def _addresses(family: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        found = [parse_address(part.strip()) for part in text.split(",")]
        if len(found) > VALUES_MAX or any(one.family != family for one in found):
            raise InvalidInput("must be a few addresses of one family")
        texts = (one.address_text for one in found)
        return ",".join(texts if family == 4 else (f"[{text}]" for text in texts))

    return parse


def _number(low: int, high: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise InvalidInput(f"must be from {low} to {high}")
        return str(int(text))

    return parse


def _text(text: str) -> str:
    if not _TEXT.fullmatch(text):
        raise InvalidInput("must be letters, digits and ._/:@+~-")
    return text


_V4: dict[str, tuple[int, Callable[[str], str]]] = {
    "time-offset": (2, _number(0, 2**31 - 1)),
    "dns-server": (6, _addresses(4)),
    "log-server": (7, _addresses(4)),
    "domain-name": (15, _text),
    "root-path": (17, _text),
    "mtu": (26, _number(68, 65535)),
    "ntp-server": (42, _addresses(4)),
    "netbios-ns": (44, _addresses(4)),
    "smtp-server": (69, _addresses(4)),
    "tftp-server": (66, _text),
    "server-ip-address": (150, _addresses(4)),
    "tftp-server-address": (150, _addresses(4)),
    "bootfile-name": (67, _text),
    "posix-timezone": (100, _text),
    "tzdb-timezone": (101, _text),
}
_V6: dict[str, tuple[int, Callable[[str], str]]] = {
    "dns-server": (23, _addresses(6)),
    "domain-search": (24, _text),
    "sntp-server": (31, _addresses(6)),
    "ntp-server": (56, _addresses(6)),
    "bootfile-url": (59, _text),
}
TABLE = {4: _V4, 6: _V6}


class _Wanted(msgspec.Struct, frozen=True):
    opt_name: str = ""
    opt_value: Any = ""
    ip_version: int = 4


_decoder = msgspec.json.Decoder(list[_Wanted])


def parse_options(text: str) -> tuple[Option, ...]:
    """Those of a JSON list that may be sent, the last of each number; nothing if it is none."""
    try:
        wanted = _decoder.decode(text or "[]")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ()
    found: dict[tuple[int, int], Option] = {}
    for one in wanted[:OPTIONS_MAX]:
        known = TABLE.get(one.ip_version, {})
        row = known.get(one.opt_name) or _by_number(known, one.opt_name)
        if row is None:
            continue
        number, parse = row
        try:
            value = parse(str(one.opt_value).strip())
        except InvalidInput:
            continue
        found[one.ip_version, number] = Option(one.ip_version, number, value)
    return tuple(found.values())


def _by_number(
    known: dict[str, tuple[int, Callable[[str], str]]], name: str
) -> tuple[int, Callable[[str], str]] | None:
    """Neutron takes numbers for names, too."""
    return next((row for row in known.values() if str(row[0]) == name), None)
