"""What the rules of a table have counted, and nothing else of them.

Decoding whole rules costs 40 µs each; this looks for the counter alone, at 3 µs. It opens a
socket of its own, so that it may run in another thread than who writes the table.

Source: include/uapi/linux/netfilter/nf_tables.h, enum nft_rule_attributes, nft_counter_attributes.
"""

import struct

from tortie.kernel import netlink
from tortie.kernel.conntrack import Counted
from tortie.kernel.netlink import NETLINK_NETFILTER, Request
from tortie.kernel.netlink_socket import NetlinkSocket
from tortie.kernel.nft import constants as nft
from tortie.kernel.nft.objects import TableName

_RULE_HANDLE, _RULE_EXPRESSIONS = 3, 4
_NAME = struct.pack("=HH", 12, 1) + b"counter\0"
"""The attribute NFTA_EXPR_NAME as it stands in the message; its padding is none."""
_BYTES, _PACKETS = 1, 2
_GENERIC_HEADER = struct.Struct("=BBH")


def read(table: TableName) -> dict[int, Counted]:
    """By handle, of every rule with a counter. Empty if there is no such table.

    Raises:
        KernelRefused, KernelBusy: the kernel does not list it.
    """
    header = _GENERIC_HEADER.pack(int(table.family), 0, 0)
    request = Request(
        f"read the counters of {table}",
        nft.GETRULE,
        0,
        header + netlink.attribute_string(1, table.name),
    )
    with NetlinkSocket.open(NETLINK_NETFILTER) as sock:
        answers = sock.dump(request)
    found = {}
    for answer in answers:
        rule = netlink.attribute_map(answer.payload[_GENERIC_HEADER.size :])
        counted = _counted(rule.get(_RULE_EXPRESSIONS, memoryview(b"")))
        if counted is not None:
            found[netlink.be(rule[_RULE_HANDLE])] = counted
    return found


def _counted(expressions: memoryview) -> Counted | None:
    at = bytes(expressions).find(_NAME)
    if at < 0:
        return None
    # Behind the name comes NFTA_EXPR_DATA with the counter's own attributes.
    _, data = next(netlink.attributes(expressions[at + len(_NAME) :]), (0, memoryview(b"")))
    values = netlink.attribute_map(data)
    nothing = memoryview(b"")
    return Counted(
        netlink.be(values.get(_PACKETS, nothing)), netlink.be(values.get(_BYTES, nothing))
    )
