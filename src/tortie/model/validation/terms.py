"""The small things that every kind is made of: names, labels, networks, ports, selectors.

Each check yields a `Problem` for what is wrong and nothing for what is right.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network, parsed_network
from tortie.model import names
from tortie.selector.normal import uses_global
from tortie.selector.syntax import Global, SelectorSyntax, compile_selector

SELECTOR_MAX_CHARACTERS = 1024

PROTOCOL_NAMES = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}
"""The API's names, compared without regard to case, and their IP protocol numbers."""

_NUMBERS = {name.lower(): number for name, number in PROTOCOL_NAMES.items()}

WITH_PORTS = frozenset({6, 17, 132})

_MAC = re.compile("[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_GO_DURATION = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+|0")


class Problem(NamedTuple):
    """One thing that is wrong with a resource."""

    path: str
    """In JSON's names, as in `spec.ingress[0].source.nets[1]`."""
    value: Any
    rule: str
    """What the value should have been."""

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.rule} (it is {_shown(self.value)})"


def printable(text: str) -> str:
    """Text of a user for a message of one line: control characters are spelled out."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _shown(value: Any) -> str:
    if value is None or value in ("", ()):
        return "not given"
    text = repr(value) if not isinstance(value, tuple) else repr(list(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def network_problems(path: str, text: str, *, strict: bool) -> Iterator[Problem]:
    """One network.

    Args:
        strict: refuse host bits; what is stored already may have them.
    """
    try:
        parse_network(text, strict=strict)
    except InvalidInput as error:
        yield Problem(path, text, _rule_of(error, text))


def _rule_of(error: InvalidInput, text: str) -> str:
    return str(error).removeprefix(repr(text)).strip()


def networks_problems(path: str, texts: Sequence[str], *, strict: bool) -> Iterator[Problem]:
    for index, text in enumerate(texts):
        yield from network_problems(f"{path}[{index}]", text, strict=strict)


def address_problems(path: str, text: str, family: int | None = None) -> Iterator[Problem]:
    """One address, with or without its full length."""
    network = parsed_network(text)
    if network is None or not network.is_address:
        yield Problem(path, text, "must be one IP address")
    elif family not in (None, network.family):
        yield Problem(path, text, f"must be an IPv{family} address")


def host_network_problems(path: str, text: str, family: int) -> Iterator[Problem]:
    """An address of a host, with or without the length of its subnet."""
    network = parsed_network(text)
    if network is None or network.family != family:
        yield Problem(path, text, f"must be an IPv{family} address, as in 10.0.0.1/24")


def selector_problems(path: str, text: str, *, may_be_global: bool = False) -> Iterator[Problem]:
    """A selector; where `may_be_global`, `global()` alone is one too."""
    if len(text) > SELECTOR_MAX_CHARACTERS:
        yield Problem(path, text, f"must have at most {SELECTOR_MAX_CHARACTERS} characters")
        return
    try:
        node = compile_selector(text)
    except SelectorSyntax as error:
        yield Problem(path, text, str(error))
        return
    if uses_global(node) and not (may_be_global and isinstance(node, Global)):
        yield Problem(path, text, "global() may stand only alone, in a rule's namespaceSelector")


def protocol_number(value: int | str | None) -> int | None:
    """The IP protocol that the API's name or number means; None when it is none of them."""
    if isinstance(value, str):
        if is_digits(value):
            value = int(value)
        else:
            return _NUMBERS.get(value.lower())
    return value if value is not None and 1 <= value <= 255 else None


def protocol_problems(path: str, value: int | str) -> Iterator[Problem]:
    if protocol_number(value) is None:
        yield Problem(path, value, f"must be one of {', '.join(PROTOCOL_NAMES)}, or 1 to 255")


def is_digits(text: str) -> bool:
    """A number that `int` reads; of thousands of digits it would raise another error."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def is_port_number(value: int | str) -> TypeGuard[int]:
    return isinstance(value, int) and 1 <= value <= 65535


def port_problems(path: str, value: int | str) -> Iterator[Problem]:
    """A port of a rule: a number, a range `low:high`, or the name of a port."""
    if isinstance(value, int):
        if not is_port_number(value):
            yield Problem(path, value, "must be 1 to 65535")
        return
    low, colon, high = value.partition(":")
    if is_digits(low):
        first, last = int(low), int(high) if is_digits(high) else 0
        if not colon:
            last = first
        if not 1 <= first <= last <= 65535:
            yield Problem(path, value, "must be a range low:high within 1 to 65535")
    elif not names.is_port_name(value):
        yield Problem(path, value, "must be a number, a range low:high or the name of a port")


def is_named_port(value: int | str) -> bool:
    return isinstance(value, str) and not value[:1].isdigit()


def name_problems(kind: str, name: str) -> Iterator[Problem]:
    if not name:
        yield Problem("metadata.name", name, "is needed")
    elif not names.is_name(kind, name):
        limit = names.LABEL_MAX_CHARACTERS if kind == "Tier" else names.NAME_MAX_CHARACTERS
        dots = {"Tier": ", and no '.'", "GlobalNetworkPolicy": ", and at most one '.'"}
        rule = f"must be {names.NAME_RULE}{dots.get(kind, '')}; at most {limit} characters"
        yield Problem("metadata.name", name, rule)


def labels_problems(path: str, labels: Mapping[str, str]) -> Iterator[Problem]:
    for key, value in labels.items():
        if not names.is_label_key(key):
            yield Problem(f"{path}.{key}", key, "is not a legal name of a label")
        if not names.is_label_value(value):
            rule = "must be at most 63 letters, digits and inner '-', '_' and '.'"
            yield Problem(f"{path}.{key}", value, rule)


def annotations_problems(annotations: Mapping[str, str]) -> Iterator[Problem]:
    size = 0
    for key, value in annotations.items():
        size += len(key.encode()) + len(value.encode(errors="surrogatepass"))
        if not names.is_label_key(key.lower()):
            yield Problem(
                f"metadata.annotations.{key}", key, "is not a legal name of an annotation"
            )
    if size > names.ANNOTATIONS_MAX_BYTES:
        limit = names.ANNOTATIONS_MAX_BYTES
        yield Problem("metadata.annotations", f"{size} bytes", f"must be at most {limit} bytes")


def choice_problems(
    path: str, value: str | None, choices: Sequence[str], *, any_case: bool = False
) -> Iterator[Problem]:
    if value is None or value in choices:
        return
    if any_case and value.lower() in {"", *map(str.lower, choices)}:
        return
    yield Problem(path, value, f"must be one of {', '.join(choices)}")


def duration_problems(
    path: str, value: str | None, pattern: re.Pattern[str] = _GO_DURATION
) -> Iterator[Problem]:
    if value and not pattern.fullmatch(value):
        yield Problem(path, value, "must be a duration such as 90s, 1m30s or 200ms")


def range_problems(
    path: str, value: int | None, low: int | None, high: int | None
) -> Iterator[Problem]:
    if value is None:
        return
    if (low is not None and value < low) or (high is not None and value > high):
        rule = f"must be {low} to {high}" if high is not None else f"must be at least {low}"
        yield Problem(path, value, rule)


def mac_problems(path: str, text: str) -> Iterator[Problem]:
    if not _MAC.fullmatch(text):
        yield Problem(path, text, "must be a MAC address, as in ee:ee:ee:ee:ee:ee")


def interface_problems(path: str, name: str, *, star: bool = False) -> Iterator[Problem]:
    if not names.is_interface_name(name) and not (star and name == "*"):
        yield Problem(path, name, "must be 1 to 15 letters, digits, '_', '.' and '-'")


def unique_problems(path: str, values: Sequence[Any]) -> Iterator[Problem]:
    seen: set[Any] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Problem(f"{path}[{index}]", value, "must not be there twice")
        seen.add(value)


def count_problems(path: str, values: Sequence[Any], most: int) -> Iterator[Problem]:
    if len(values) > most:
        yield Problem(path, f"{len(values)} entries", f"must have at most {most}")


def forbidden(path: str, value: Any, why: str) -> Iterable[Problem]:
    """A problem if `value` is there at all."""
    return [Problem(path, value, why)] if value else []
