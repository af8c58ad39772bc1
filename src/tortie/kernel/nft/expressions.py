"""The expressions that a rule is made of, named as the kernel names them.

A rule is a small program over sixteen registers of 4 bytes. A *register* here
is the number of its first 4-byte word, 0 to 15; a value longer than 4 bytes
goes on in the words behind it, and a concatenation is just several loads side
by side (`Meta(IIFNAME, 0)` fills words 0 to 3, so the address goes to 4).
The kernel's own numbering has two overlapping ranges for the same words; only
the codec knows it.

All are values: equal, hashable, printable. `str(expression)` prints it alone,
in the form of `nft --debug=netlink`; `rule_text` in `script` prints a whole rule
as nft syntax. Wire format: `codec`.

Source: include/uapi/linux/netfilter/nf_tables.h; the kernel's net/netfilter/nft_*.c.
"""

from typing import Final

import msgspec

from tortie.kernel.nft.constants import (
    ByteorderOp,
    CmpOp,
    CtDirection,
    CtKey,
    ExthdrOp,
    Family,
    FibFlag,
    FibResult,
    LimitKind,
    LogLevel,
    MetaKey,
    NatFlag,
    NatKind,
    PayloadBase,
    RangeOp,
    RejectKind,
    ShiftOp,
    VerdictCode,
)

VERDICT_REGISTER: Final = -1
"""As `Lookup.destination`: what the map holds is the verdict, `vmap`."""


class Verdict(msgspec.Struct, frozen=True):
    """What happens to the packet next; as an expression, or as a map's data."""

    code: VerdictCode
    chain: str = ""
    """Where to, for JUMP and GOTO only."""

    def __str__(self) -> str:
        return f"{self.code.name.lower()} {self.chain}".rstrip()


ACCEPT: Final = Verdict(VerdictCode.ACCEPT)
DROP: Final = Verdict(VerdictCode.DROP)
CONTINUE: Final = Verdict(VerdictCode.CONTINUE)
RETURN: Final = Verdict(VerdictCode.RETURN)


def jump(chain: str) -> Verdict:
    """Go to `chain`, and come back behind this rule."""
    return Verdict(VerdictCode.JUMP, chain)


def goto(chain: str) -> Verdict:
    """Go to `chain` for good: its end returns to where this chain was called."""
    return Verdict(VerdictCode.GOTO, chain)


class Meta(msgspec.Struct, frozen=True):
    """Load something that is about the packet, not in it."""

    key: MetaKey
    register: int = 0

    def __str__(self) -> str:
        return f"[ meta load {self.key.name.lower()} => reg {self.register} ]"


class MetaSet(msgspec.Struct, frozen=True):
    """Set packet metadata (mark, priority, nftrace) from a register."""

    key: MetaKey
    register: int = 0

    def __str__(self) -> str:
        return f"[ meta set {self.key.name.lower()} with reg {self.register} ]"


class Payload(msgspec.Struct, frozen=True):
    """Load bytes of the packet; ends the rule where the packet is too short."""

    header: PayloadBase
    offset: int
    length: int
    register: int = 0

    def __str__(self) -> str:
        where = f"{self.header.name.lower()} header + {self.offset}"
        return f"[ payload load {self.length}b @ {where} => reg {self.register} ]"


class PayloadSet(msgspec.Struct, frozen=True):
    """Write bytes of the packet."""

    header: PayloadBase
    offset: int
    length: int
    register: int = 0
    checksum_type: int = 0
    """0 none, 1 inet."""
    checksum_offset: int = 0
    checksum_flags: int = 0

    def __str__(self) -> str:
        where = f"{self.header.name.lower()} header + {self.offset}"
        return f"[ payload write reg {self.register} => {self.length}b @ {where} ]"


class Cmp(msgspec.Struct, frozen=True):
    """Go on if the register compares so with `value`; LT and the like compare as bytes."""

    op: CmpOp
    value: bytes
    register: int = 0

    def __str__(self) -> str:
        return f"[ cmp {self.op.name.lower()} reg {self.register} 0x{self.value.hex()} ]"


class Range(msgspec.Struct, frozen=True):
    """Go on if the register is (or, NEQ, is not) within `low` to `high`, both included."""

    op: RangeOp
    low: bytes
    high: bytes
    register: int = 0

    def __str__(self) -> str:
        span = f"0x{self.low.hex()} 0x{self.high.hex()}"
        return f"[ range {self.op.name.lower()} reg {self.register} {span} ]"


class Bitwise(msgspec.Struct, frozen=True):
    """destination = (source & mask) ^ xor; both as long as the value."""

    mask: bytes
    xor: bytes
    source: int = 0
    destination: int = 0

    @property
    def length(self) -> int:
        return len(self.mask)

    @property
    def op(self) -> int:
        return 0  # NFT_BITWISE_MASK_XOR

    def __str__(self) -> str:
        value = f"( reg {self.source} & 0x{self.mask.hex()} ) ^ 0x{self.xor.hex()}"
        return f"[ bitwise reg {self.destination} = {value} ]"


class Shift(msgspec.Struct, frozen=True):
    """destination = source shifted by `bits`, over `length` bytes."""

    op: ShiftOp
    bits: int
    length: int
    source: int = 0
    destination: int = 0

    def __str__(self) -> str:
        sign = "<<" if self.op is ShiftOp.LEFT else ">>"
        return f"[ bitwise reg {self.destination} = ( reg {self.source} {sign} {self.bits} ) ]"


class Byteorder(msgspec.Struct, frozen=True):
    """Swap between host and network byte order, in units of `size` bytes."""

    op: ByteorderOp
    length: int
    size: int
    source: int = 0
    destination: int = 0

    def __str__(self) -> str:
        value = f"{self.op.name.lower()}(reg {self.source}, {self.size}, {self.length})"
        return f"[ byteorder reg {self.destination} = {value} ]"


class Lookup(msgspec.Struct, frozen=True):
    """Go on if the register's value is in the set; from a map, also load its data.

    To look up what another look-up loaded is fine with the kernel, but nft 1.0.6
    (Debian 12) aborts when it lists the plain program (`netlink_parse_concat_expr:
    Assertion`), and with it `nft list ruleset` for everybody on the host: it
    takes what a map yields for 0 bits wide. nft follows values by the word where
    they start, so let the map's data begin with a filler word and load it one
    word before a register that holds a real value:

        meta load iifname             => words 1 to 4
        lookup word 1 in the map      => words 0 to 4, a filler and the id
        lookup word 1 in the next map: the kernel finds the id, nft the iifname
    """

    set_name: str
    register: int = 0
    destination: int | None = None
    """Register for a map's data, `VERDICT_REGISTER` for a verdict map, None for a set."""
    invert: bool = False
    """Go on if it is *not* in the set; sets only."""

    def __str__(self) -> str:
        target = ""
        if self.destination is not None:
            verdict = self.destination == VERDICT_REGISTER
            target = " dreg verdict" if verdict else f" dreg {self.destination}"
        inverted = " inv" if self.invert else ""
        return f"[ lookup reg {self.register} set {self.set_name}{target}{inverted} ]"


class SetUpdate(msgspec.Struct, frozen=True):
    """Have the register's value in the set for so long from now; go on if there is room, and while
    what the set gives each element (`Set.each`: a limit) holds for this one.

    The set is one with the flags EVAL and TIMEOUT: packets fill it, not we.
    """

    set_name: str
    timeout_milliseconds: int
    register: int = 0

    @property
    def op(self) -> int:
        """NFT_DYNSET_OP_UPDATE."""
        return 1

    def __str__(self) -> str:
        return f"[ dynset reg {self.register} set {self.set_name} ]"


class Immediate(msgspec.Struct, frozen=True):
    """Load a constant."""

    value: bytes
    register: int = 0

    def __str__(self) -> str:
        return f"[ immediate reg {self.register} 0x{self.value.hex()} ]"


class Ct(msgspec.Struct, frozen=True):
    """Load something about the packet's connection."""

    key: CtKey
    register: int = 0
    direction: CtDirection | None = None
    """Whose address or port, or of which half the counters; None where the key has none."""

    def __str__(self) -> str:
        way = f", dir {self.direction.name.lower()}" if self.direction is not None else ""
        return f"[ ct load {self.key.name.lower()} => reg {self.register}{way} ]"


class CtSet(msgspec.Struct, frozen=True):
    """Set the connection's mark, zone or label from a register."""

    key: CtKey
    register: int = 0
    direction: CtDirection | None = None

    def __str__(self) -> str:
        return f"[ ct set {self.key.name.lower()} with reg {self.register} ]"


class Counter(msgspec.Struct, frozen=True, eq=False):
    """Count packets and bytes.

    Any two are equal, whatever they have counted: a rule read back equals the
    rule that was written.
    """

    packets: int = 0
    bytes: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counter)

    def __hash__(self) -> int:
        return hash(Counter)

    def __str__(self) -> str:
        return f"[ counter pkts {self.packets} bytes {self.bytes} ]"


class Log(msgspec.Struct, frozen=True):
    """Log to the kernel log, or with `group` to whoever listens on that NFLOG group."""

    prefix: str = ""
    group: int | None = None
    snaplen: int = 0
    """With a group: bytes of the packet to copy; 0 means all."""
    queue_threshold: int = 0
    """With a group: how many packets to collect before waking the listener; 0 is 1."""
    level: LogLevel = LogLevel.WARN
    """Without a group."""
    flags: int = 0
    """Without a group: NF_LOG_*, include/uapi/linux/netfilter/nf_log.h."""

    def __str__(self) -> str:
        if self.group is not None:
            return f"[ log prefix {self.prefix} group {self.group} snaplen {self.snaplen} ]"
        return f"[ log prefix {self.prefix} level {self.level.name.lower()} ]"


class Limit(msgspec.Struct, frozen=True):
    """Go on while under the rate (or, inverted, while over it)."""

    rate: int
    """Packets or bytes for each `unit_seconds`."""
    unit_seconds: int = 1
    burst: int = 5
    """The kernel turns 0 packets into 5, so never 0 for packets."""
    kind: LimitKind = LimitKind.PACKETS
    invert: bool = False

    def __str__(self) -> str:
        over = " over" if self.invert else ""
        unit = self.kind.name.lower()
        return f"[ limit{over} {self.rate} {unit} per {self.unit_seconds}s burst {self.burst} ]"


class ConnectionLimit(msgspec.Struct, frozen=True):
    """Go on while no more connections than `count` have come by (or, inverted, when more have).

    Those that have ended count no more.
    """

    count: int
    invert: bool = False

    def __str__(self) -> str:
        return f"[ connlimit {'over ' if self.invert else ''}{self.count} ]"


class Reject(msgspec.Struct, frozen=True):
    """Drop and tell the sender. ICMPX picks the code of the packet's own family."""

    kind: RejectKind = RejectKind.ICMPX
    code: int = 1
    """ICMPX: 0 no route, 1 port, 2 host unreachable, 3 prohibited. Unused with TCP_RESET."""

    def __str__(self) -> str:
        return f"[ reject {self.kind.name.lower()} code {self.code} ]"


class Nat(msgspec.Struct, frozen=True):
    """Rewrite source or destination to what the registers hold."""

    kind: NatKind
    family: Family
    """IP or IP6, also in an inet table."""
    address: int | None = None
    """Register of the (lowest) address; None leaves it."""
    address_max: int | None = None
    """Of the highest. The kernel tells one where it was given none: the same; ports likewise."""
    port: int | None = None
    port_max: int | None = None
    flags: NatFlag = NatFlag(0)
    """MAP_IPS and PROTO_SPECIFIED are the kernel's to set; leave them out."""

    def __str__(self) -> str:
        family = self.family.name.lower()
        return f"[ nat {self.kind.name.lower()} {family} addr {self.address} port {self.port} ]"


class Masquerade(msgspec.Struct, frozen=True):
    """Source NAT to the address of the interface the packet leaves by."""

    flags: NatFlag = NatFlag(0)
    """PROTO_SPECIFIED must be among them where a port is given: here the kernel does not set it."""
    port: int | None = None
    port_max: int | None = None

    def __str__(self) -> str:
        return f"[ masq flags {int(self.flags)} port {self.port} ]"


class Redirect(msgspec.Struct, frozen=True):
    """Destination NAT to this host."""

    port: int | None = None
    port_max: int | None = None
    flags: NatFlag = NatFlag(0)

    def __str__(self) -> str:
        return f"[ redir port {self.port} ]"


class Fib(msgspec.Struct, frozen=True):
    """Look the packet's address up in the routing table."""

    result: FibResult
    flags: FibFlag
    register: int = 0

    def __str__(self) -> str:
        by = " . ".join((flag.name or "?").lower() for flag in self.flags)
        return f"[ fib {by} {self.result.name.lower()} => reg {self.register} ]"


class Exthdr(msgspec.Struct, frozen=True):
    """Load from an IPv6 extension header or a TCP option."""

    type: int
    offset: int
    length: int
    register: int = 0
    flags: int = 0
    """1: load whether it is there at all."""
    op: ExthdrOp = ExthdrOp.IPV6

    def __str__(self) -> str:
        where = f"{self.type} + {self.offset}"
        return f"[ exthdr {self.op.name.lower()} load {self.length}b @ {where} => {self.register} ]"


class Notrack(msgspec.Struct, frozen=True):
    """Keep the packet away from connection tracking; raw priority only."""

    def __str__(self) -> str:
        return "[ notrack ]"


class Opaque(msgspec.Struct, frozen=True):
    """An expression that we never write, met in another's table."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return f"[ {self.name} ]"


Expression = (
    Verdict
    | Meta
    | MetaSet
    | Payload
    | PayloadSet
    | Cmp
    | Range
    | Bitwise
    | Shift
    | Byteorder
    | Lookup
    | SetUpdate
    | Immediate
    | Ct
    | CtSet
    | Counter
    | Log
    | Limit
    | ConnectionLimit
    | Reject
    | Nat
    | Masquerade
    | Redirect
    | Fib
    | Exthdr
    | Notrack
    | Opaque
)
