"""The numbers of nf_tables, under the kernel's names.

Source: include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h, nf_conntrack_common.h.
"""

from enum import IntEnum, IntFlag


class Family(IntEnum):
    """Address family of a table: NFPROTO_*, include/uapi/linux/netfilter.h."""

    INET = 1
    IP = 2
    ARP = 3
    NETDEV = 5
    BRIDGE = 7
    IP6 = 10


class TableFlag(IntFlag):
    DORMANT = 0x1
    OWNER = 0x2
    """Only the socket that made the table may change it."""
    PERSIST = 0x4
    """Outlives that socket, without owner, until another one adopts it (Linux 6.9)."""


class Hook(IntEnum):
    """Hooks of the ip, ip6 and inet families."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4
    INGRESS = 5


class ArpHook(IntEnum):
    INPUT = 0
    OUTPUT = 1


class Policy(IntEnum):
    """What a base chain does with a packet that reaches its end: NF_DROP, NF_ACCEPT."""

    DROP = 0
    ACCEPT = 1


class VerdictCode(IntEnum):
    DROP = 0
    ACCEPT = 1
    QUEUE = 3
    CONTINUE = -1
    BREAK = -2
    JUMP = -3
    GOTO = -4
    RETURN = -5


class SetFlag(IntFlag):
    ANONYMOUS = 0x1
    CONSTANT = 0x2
    INTERVAL = 0x4
    MAP = 0x8
    TIMEOUT = 0x10
    EVAL = 0x20
    OBJECT = 0x40
    CONCAT = 0x80
    EXPR = 0x100


class MetaKey(IntEnum):
    LENGTH = 0
    PROTOCOL = 1
    PRIORITY = 2
    MARK = 3
    IIF = 4
    OIF = 5
    IIFNAME = 6
    OIFNAME = 7
    IIFTYPE = 8
    OIFTYPE = 9
    SKUID = 10
    SKGID = 11
    NFTRACE = 12
    RTCLASSID = 13
    NFPROTO = 15
    L4PROTO = 16
    IBRNAME = 17
    OBRNAME = 18
    PKTTYPE = 19
    CPU = 20
    IIFGROUP = 21
    OIFGROUP = 22
    CGROUP = 23
    RANDOM = 24
    IPSEC = 25
    IIFKIND = 26
    OIFKIND = 27
    SDIF = 33
    SDIFNAME = 34


class CtKey(IntEnum):
    STATE = 0
    DIRECTION = 1
    STATUS = 2
    MARK = 3
    EXPIRATION = 5
    HELPER = 6
    L3PROTOCOL = 7
    SADDR = 8
    DADDR = 9
    PROTOCOL = 10
    PROTO_SRC = 11
    PROTO_DST = 12
    LABEL = 13
    PACKETS = 14
    BYTES = 15
    ZONE = 17
    IP_SADDR = 19
    IP_DADDR = 20
    IP6_SADDR = 21
    IP6_DADDR = 22
    ID = 23


class CtDirection(IntEnum):
    ORIGINAL = 0
    REPLY = 1


class CtState(IntFlag):
    """Bits of `ct state`, a number in host byte order."""

    INVALID = 1
    ESTABLISHED = 2
    RELATED = 4
    NEW = 8
    UNTRACKED = 64


class CtStatus(IntFlag):
    """Bits of `ct status`: IPS_*, nf_conntrack_common.h."""

    EXPECTED = 0x1
    SEEN_REPLY = 0x2
    ASSURED = 0x4
    CONFIRMED = 0x8
    SNAT = 0x10
    DNAT = 0x20
    DYING = 0x200


class PayloadBase(IntEnum):
    LINK = 0
    NETWORK = 1
    TRANSPORT = 2
    INNER = 3


class CmpOp(IntEnum):
    EQ = 0
    NEQ = 1
    LT = 2
    LTE = 3
    GT = 4
    GTE = 5


class RangeOp(IntEnum):
    EQ = 0
    NEQ = 1


class ShiftOp(IntEnum):
    LEFT = 1
    RIGHT = 2


class ByteorderOp(IntEnum):
    NTOH = 0
    HTON = 1


class LimitKind(IntEnum):
    PACKETS = 0
    BYTES = 1


class LogLevel(IntEnum):
    EMERG = 0
    ALERT = 1
    CRIT = 2
    ERR = 3
    WARN = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7
    AUDIT = 8


class RejectKind(IntEnum):
    ICMP = 0
    TCP_RESET = 1
    ICMPX = 2


class NatKind(IntEnum):
    SNAT = 0
    DNAT = 1


class NatFlag(IntFlag):
    """NF_NAT_RANGE_*, include/uapi/linux/netfilter/nf_nat.h."""

    MAP_IPS = 1
    PROTO_SPECIFIED = 2
    RANDOM = 4
    PERSISTENT = 8
    FULLY_RANDOM = 16
    PROTO_OFFSET = 32
    NETMAP = 64


class FibResult(IntEnum):
    OIF = 1
    OIFNAME = 2
    TYPE = 3


class FibFlag(IntFlag):
    SADDR = 1
    DADDR = 2
    MARK = 4
    IIF = 8
    OIF = 16
    PRESENT = 32


class ExthdrOp(IntEnum):
    IPV6 = 0
    TCP_OPTION = 1
    IPV4 = 2
    SCTP = 3
    DCCP = 4


# Message types: the nf_tables subsystem in the high byte, enum nf_tables_msg_types.

SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES

NEWTABLE, GETTABLE, DELTABLE = SUBSYSTEM, SUBSYSTEM + 1, SUBSYSTEM + 2
NEWCHAIN, GETCHAIN, DELCHAIN = SUBSYSTEM + 3, SUBSYSTEM + 4, SUBSYSTEM + 5
NEWRULE, GETRULE, DELRULE = SUBSYSTEM + 6, SUBSYSTEM + 7, SUBSYSTEM + 8
NEWSET, GETSET, DELSET = SUBSYSTEM + 9, SUBSYSTEM + 10, SUBSYSTEM + 11
NEWSETELEM, GETSETELEM, DELSETELEM = SUBSYSTEM + 12, SUBSYSTEM + 13, SUBSYSTEM + 14
NEWGEN, GETGEN = SUBSYSTEM + 15, SUBSYSTEM + 16

BATCH_BEGIN, BATCH_END = 0x10, 0x11
BATCH_GENID = 1  # NFNL_BATCH_GENID

GROUP_NFTABLES = 7
"""Multicast group of every change: NFNLGRP_NFTABLES."""

# Attributes that nest. Attributes of each object stand beside its encoder.

LIST_ELEM = 1
DATA_VALUE, DATA_VERDICT = 1, 2
VERDICT_CODE, VERDICT_CHAIN = 1, 2
EXPR_NAME, EXPR_DATA = 1, 2

NAME_BYTES = 255
"""Longest name of a table, chain or set: NFT_NAME_MAXLEN with its NUL is 256."""

USERDATA_BYTES = 256
"""NFT_USERDATA_MAXLEN."""
