"""libvirt's `qemu` hook: a guest's interfaces are attached before it runs and removed after it.

libvirt calls its hook with a guest's name, an operation and the guest's XML on standard input,
and does not start the guest when the hook fails. Ours are interfaces of type `ethernet` with
`managed='no'` whose device has the agent's prefix: the tap is there when QEMU opens it.

    <interface type='ethernet'>
      <mac address='52:54:00:00:00:07'/>
      <target dev='calivm1' managed='no'/>
    </interface>

    <metadata>
      <t:workload xmlns:t='urn:tortie:workload:1' namespace='prod' ipv6='yes' dhcp='yes'>
        <t:label key='app' value='web'/> <t:profile name='kns.prod'/>
        <t:address dev='calivm1'>10.65.0.7</t:address> <t:pool name='blue'/>
        <t:dns>10.0.0.53</t:dns>
      </t:workload>
    </metadata>

Source: libvirt, "Hooks for specific system management", /etc/libvirt/hooks/qemu.
"""

import re
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tortie.lib.errors import InvalidInput

NAMESPACE = "urn:tortie:workload:1"
XML_MAX_BYTES = 4 << 20

ADDING = ("prepare", "reconnect", "attach")
"""Before the guest runs; when libvirtd comes back to one that runs; when it takes one over."""
REMOVING = ("release",)
"""After all of the guest's resources are given back, whatever it died of."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Interface(NamedTuple):
    """One interface of a guest that is ours to attach."""

    endpoint: str
    """`eth0` for the first, as most guests call it."""
    device: str
    mac: str
    addresses: tuple[str, ...]


class Guest(NamedTuple):
    name: str
    namespace: str
    families: tuple[int, ...]
    labels: dict[str, str]
    profiles: tuple[str, ...]
    pools: tuple[str, ...]
    dhcp: bool
    dns: tuple[str, ...]
    interfaces: tuple[Interface, ...]

    def requests(self) -> list[dict[str, Any]]:
        """Fields of an Add for each interface."""
        return [
            {
                "namespace": self.namespace,
                "workload": self.name,
                "endpoint": interface.endpoint,
                "device": "tap",
                "host_interface": interface.device,
                "mac": interface.mac,
                "labels": self.labels,
                "profiles": self.profiles,
                "pools": self.pools,
                "families": self.families,
                "addresses": interface.addresses,
                "dhcp": self.dhcp,
                "dns": self.dns,
            }
            for interface in self.interfaces
        ]


def parse_guest(xml: bytes, prefix: str) -> Guest:
    """
    Args:
        prefix: what devices that are ours begin with.

    Raises:
        InvalidInput: it cannot be read, or asks for what there is not.
    """
    if len(xml) > XML_MAX_BYTES or b"<!" in xml.replace(b"<!--", b""):
        raise InvalidInput("the guest's XML is too long, or declares types and entities")
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - without entities; see above
    except ElementTree.ParseError as error:
        raise InvalidInput(f"the guest's XML: {error}") from None
    name = root.findtext("name") or ""
    if root.tag != "domain" or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"guest {name!r}: a workload's name is at most 63 letters, digits, '_', '.' and '-'"
        )
    found = root.find(f"metadata/{{{NAMESPACE}}}workload")
    about = ElementTree.Element("none") if found is None else found
    interfaces = tuple(_interfaces(root, about, prefix))
    if found is not None and not interfaces:
        raise InvalidInput(
            f"guest {name} has a workload's metadata, and no interface whose target dev begins "
            f"with {prefix!r}: nothing of it would be attached"
        )
    return Guest(
        name,
        about.get("namespace", "default"),
        (4, 6) if about.get("ipv6") == "yes" else (4,),
        {_needed(one, "key"): one.get("value", "") for one in _all(about, "label")},
        tuple(_needed(one, "name") for one in _all(about, "profile")),
        tuple(_needed(one, "name") for one in _all(about, "pool")),
        about.get("dhcp") == "yes",
        tuple((one.text or "").strip() for one in _all(about, "dns")),
        interfaces,
    )


def _interfaces(
    root: ElementTree.Element, about: ElementTree.Element, prefix: str
) -> list[Interface]:
    wanted: dict[str, list[str]] = {}
    for address in _all(about, "address"):
        wanted.setdefault(_needed(address, "dev"), []).append((address.text or "").strip())
    found: list[Interface] = []
    for interface in root.iterfind("devices/interface"):
        target = interface.find("target")
        device = "" if target is None else target.get("dev", "")
        if not device.startswith(prefix):
            continue
        if interface.get("type") != "ethernet" or target is None or target.get("managed") != "no":
            raise InvalidInput(
                f"interface {device} must be of type ethernet, and its target managed='no': "
                "libvirt would make another device of that name"
            )
        mac = interface.find("mac")
        hardware = "" if mac is None else mac.get("address", "")
        endpoint = f"eth{len(found)}"
        found.append(Interface(endpoint, device, hardware, tuple(wanted.pop(device, ()))))
    if wanted:
        raise InvalidInput(f"address for {', '.join(sorted(wanted))}: there is no such interface")
    return found


def _all(about: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return about.findall(f"{{{NAMESPACE}}}{name}")


def _needed(element: ElementTree.Element, name: str) -> str:
    value = element.get(name)
    if not value:
        tag = element.tag.rpartition("}")[2]
        raise InvalidInput(f"metadata of the guest: {tag} needs {name}")
    return value
