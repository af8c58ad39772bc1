"""Flows for people and for programs: windows added up, rows of a table, JSON, remarks."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from tortie.agent.flow_record import Decided, Greeting, Record

TITLES = ("LAST", "VERDICT", "POLICY OF", "FROM", "TO", "PORT", "DECIDED BY", "PACKETS", "BYTES")
WIDE_TITLES = (*TITLES, "ANSWERED", "FIRST", "HOST")
STAGED_TITLE = "STAGED WOULD"


def merged(records: Iterable[Record]) -> list[Record]:
    """One for each flow, whatever windows it was in; oldest last packet first."""
    found: dict[tuple[object, ...], Record] = {}
    for record in records:
        key = (
            record.host, record.verdict, record.direction, record.source, record.destination,
            record.family, record.protocol, record.port, record.decided, record.staged,
        )  # fmt: skip
        known = found.get(key)
        if known is None:
            found[key] = record
            continue
        known.packets += record.packets
        known.bytes += record.bytes
        known.answered_packets += record.answered_packets
        known.answered_bytes += record.answered_bytes
        known.start = min(known.start, record.start)
        known.end = max(known.end, record.end)
    return sorted(found.values(), key=lambda record: record.end)


def remarks(greeting: Greeting) -> Iterator[str]:
    """What to know about how complete the answer is."""
    if greeting.sees == "nothing":
        yield f"packets are not logged: {greeting.why}"
    elif greeting.sees == "denied":
        yield f"only what is denied is logged: {greeting.why}"
    if greeting.lost:
        yield f"{greeting.lost} logged packets were lost"
    for what, count in sorted(greeting.beyond_limit.items()):
        if count:
            verdict, _, direction = what.partition("-")
            yield (
                f"{count} packets that were {verdict} ({direction}) are missing: the kernel logs "
                "only so many a second"
            )


def as_json(record: Record) -> str:
    plain = msgspec.to_builtins(record)
    plain["start"], plain["end"] = _time(record.start), _time(record.end)
    return msgspec.json.encode(plain).decode()


def decided_text(found: Decided, direction: str) -> str:
    """`default: NetworkPolicy(default/web) ingress[0]`, as `tortie policy why` names it."""
    tier = f"{found.tier}: " if found.tier else ""
    if found.policy and found.rule is not None:
        return f"{tier}{found.policy} {direction}[{found.rule}]"
    return f"{tier}{found.policy} {found.reason}" if found.policy else f"{tier}{found.reason}"


def row(record: Record, *, wide: bool, staged: bool) -> tuple[str, ...]:
    """Under `TITLES` or `WIDE_TITLES`, with `STAGED_TITLE` if anything is staged."""
    port = record.protocol
    if record.port or record.protocol in ("tcp", "udp", "sctp", "icmp", "icmpv6"):
        port += f"/{record.port or ('*' if '*' in (record.source, record.destination) else 0)}"
    found: tuple[str, ...] = (
        _clock(record.end),
        record.verdict,
        "source" if record.direction == "egress" else "destination",
        record.source,
        record.destination,
        port,
        decided_text(record.decided, record.direction),
        str(record.packets),
        str(record.bytes),
    )
    if wide:
        answered = f"{record.answered_packets} / {record.answered_bytes}"
        found += (answered if record.answered_packets else "-", _clock(record.start), record.host)
    if staged:
        found += (_staged_text(record),)
    return found


def _staged_text(record: Record) -> str:
    would = record.staged
    return f"{would.verdict}: {decided_text(would, record.direction)}" if would else "-"


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().strftime("%H:%M:%S")


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
