"""Names of API v1, which took nearly any character, as names of today.

A name that had to change gets eight hex digits of the old one's SHA-1, so that two old names
never become one. Nodes' names get none: a host is called as it is.

Source: Calico, libcalico-go/lib/upgrade/converters/names.go.
"""

import hashlib
import re

from tortie.lib.ip import Network

_OTHER_CHARACTERS = re.compile("[^-.a-z0-9]+")
_DOTS_AND_DASHES = re.compile(r"[.-]*\.[.-]*")

_NAMESPACE_PREFIX = "k8s_ns."


def node_name(name: str) -> str:
    """In lower case, `/` as `.`, others as `-`, and neither of the two at either end."""
    lower = _OTHER_CHARACTERS.sub("-", name.lower().replace("/", "."))
    return _DOTS_AND_DASHES.sub(".", lower).strip(".-")


def resource_name(name: str) -> str:
    return _distinct(name, node_name(name))


def policy_name(name: str) -> str:
    """Without dots, which part a tier's name from a policy's."""
    return _distinct(name, node_name(name).replace(".", "-"))


def profile_name(name: str) -> str:
    """Namespaces' profiles have another prefix today."""
    if name.startswith(_NAMESPACE_PREFIX):
        name = "kns." + name.removeprefix(_NAMESPACE_PREFIX)
    return resource_name(name)


def address_name(address: Network) -> str:
    """`1-2-3-4`, or all eight groups of an IPv6 address, four digits each."""
    if address.family == 4:
        return address.address_text.replace(".", "-")
    return address.packed.hex("-", 2)


def network_name(network: Network) -> str:
    return re.sub("[.:/]", "-", str(network))


def _distinct(old: str, new: str) -> str:
    if new == old:
        return old
    return f"{new}-{hashlib.sha1(old.encode(), usedforsecurity=False).hexdigest()[:8]}"
