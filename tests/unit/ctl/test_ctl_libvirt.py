"""What a guest's XML asks for, and what it may not."""

import pytest

from tortie.ctl.libvirt_hook import Interface, parse_guest
from tortie.lib.errors import InvalidInput

INTERFACE = """\
    <interface type='ethernet'>
      <mac address='52:54:00:00:00:07'/><target dev='calivm1' managed='no'/><model type='virtio'/>
    </interface>"""
BRIDGED = "<interface type='bridge'><source bridge='br0'/><target dev='vnet3'/></interface>"
ABOUT = """\
    <t:workload xmlns:t='urn:tortie:workload:1' namespace='prod' ipv6='yes' dhcp='yes'>
      <t:label key='app' value='web'/><t:profile name='kns.prod'/><t:pool name='blue'/>
      <t:address dev='calivm1'>10.65.0.7</t:address><t:dns>10.0.0.53</t:dns>
    </t:workload>"""


def guest(interfaces: str = INTERFACE, about: str = "", name: str = "web-1") -> bytes:
    return f"""\
<domain type='kvm' id='3'>
  <name>{name}</name><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <metadata>{about}</metadata>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
{interfaces}
  </devices>
</domain>""".encode()


def test_the_smallest_guest() -> None:
    found = parse_guest(guest(BRIDGED + INTERFACE), "cali")
    assert (found.name, found.namespace, found.families) == ("web-1", "default", (4,))
    assert found.interfaces == (Interface("eth0", "calivm1", "52:54:00:00:00:07", ()),)


def test_what_metadata_says() -> None:
    [request] = parse_guest(guest(about=ABOUT), "cali").requests()
    assert request == {
        "namespace": "prod", "workload": "web-1", "endpoint": "eth0", "device": "tap",
        "host_interface": "calivm1", "mac": "52:54:00:00:00:07", "labels": {"app": "web"},
        "profiles": ("kns.prod",), "pools": ("blue",), "families": (4, 6),
        "addresses": ("10.65.0.7",), "dhcp": True, "dns": ("10.0.0.53",),
    }  # fmt: skip


def test_a_guest_that_is_not_ours() -> None:
    assert parse_guest(guest(BRIDGED), "cali").requests() == []
    assert parse_guest(guest(""), "cali").requests() == []


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (b"", "no element found"),
        (b"<domain>", "no element found"),
        (b"<network><name>x</name></network>", "at most 63"),
        (guest(name="two words"), "at most 63"),
        (guest(name="a/b"), "at most 63"),
        (
            guest(BRIDGED, ABOUT.replace("<t:address dev='calivm1'>10.65.0.7</t:address>", "")),
            "no interface whose target dev begins with 'cali'",
        ),
        (guest(INTERFACE.replace(" managed='no'", "")), "managed='no'"),
        (guest(INTERFACE.replace("ethernet", "bridge")), "of type ethernet"),
        (guest(about=ABOUT.replace("dev='calivm1'", "dev='calivm9'")), "no such interface"),
        (guest(about=ABOUT.replace("key='app' ", "")), "label needs key"),
        (b"<!DOCTYPE d [<!ENTITY a 'b'>]><domain><name>&a;</name></domain>", "entities"),
    ],
)
def test_bad_guests(xml: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_guest(xml, "cali")


def test_comments_are_no_declarations() -> None:
    assert parse_guest(guest(INTERFACE + "<!-- a note -->"), "cali").interfaces
