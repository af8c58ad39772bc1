"""`tortie ipam show`: how much of the pools is used, and by whom."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from tortie.ctl import access
from tortie.ctl.boxes import boxed
from tortie.ctl.grammar import Given
from tortie.ctl.ipam_records import address, records
from tortie.ctl.screen import Screen
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.ipam.growth import (
    LEAST_SECONDS,
    PLAIN_STEPS,
    STEPS,
    Forecast,
    HostUse,
    by_host,
    forecasts,
    glyph,
)
from tortie.ipam.pools import parse_pools
from tortie.ipam.report import Held, Usage, held, usage
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import Network, parsed_network
from tortie.model.codec import decode
from tortie.model.ipam import IPAMConfig
from tortie.model.keys import IPAMConfigKey
from tortie.model.node import IPPool
from tortie.model.reservation import IPReservation

_NOBODY = "(nobody)"
_FORECAST_TITLES = ("POOL", "BLOCKS TAKEN", "CLAIMED", "FULL")
_TITLES = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")

_SETTINGS = {
    "strict_affinity": "StrictAffinity",
    "auto_allocate_blocks": "AutoAllocateBlocks",
    "max_blocks_per_host": "MaxBlocksPerHost",
    "ip_cooldown_seconds": "IPCooldownSeconds",
}


def main(given: Given, screen: Screen) -> int:
    wanted = (
        "ip", "show-blocks", "show-borrowed", "show-configuration", "show-hosts", "forecast",
    )  # fmt: skip
    if sum(given.has(name) for name in wanted) > 1:
        raise InvalidInput(f"give one of --{', --'.join(wanted)}")

    async def act(client: Client) -> None:
        if given.has("show-configuration"):
            screen.print(await _configuration(client))
            return
        found = await records(client)
        for problem in found.unreadable:
            screen.warn(f"left out, because it is not valid: {problem}")
        everything = [one for block in found.blocks for one in held(block)]
        if given.has("ip"):
            screen.print(_address(given.text("ip"), everything))
        elif given.has("show-borrowed"):
            screen.print(_borrowed(everything))
        elif given.has("show-hosts"):
            for line in host_map(by_host(found.blocks), screen):
                screen.print(line)
        elif given.has("forecast"):
            parsed = parse_pools(await Resources(client).all_of(IPPool))
            for problem in parsed.problems:
                screen.warn(f"left out: {problem}")
            kept = await _reserved(client)
            foretold = forecasts(parsed.usable, found.blocks, time.time_ns(), kept)
            screen.print(boxed(_FORECAST_TITLES, [forecast_row(one) for one in foretold]))
        else:
            resources = Resources(client)
            pools = [parsed_network(p.spec.cidr) for p in await resources.all_of(IPPool)]
            used = usage([p for p in pools if p], found.blocks, await _reserved(client))
            rows = [
                row
                for pool in used
                for row in _rows(pool.pool, pool.blocks if given.has("show-blocks") else ())
            ]
            screen.print(boxed(_TITLES, rows))

    access.with_client(access.config_file(given), act)
    return 0


async def _reserved(client: Client) -> list[Network]:
    reservations = await Resources(client).all_of(IPReservation)
    kept = (parsed_network(text) for r in reservations for text in r.spec.reserved_cidrs)
    return [network for network in kept if network]


def host_map(uses: Sequence[HostUse], screen: Screen) -> Iterator[str]:
    """Fullest host first, IPv4 before IPv6; on a terminal, what is nearly full is red."""
    steps = STEPS if screen.can_show(STEPS) else PLAIN_STEPS
    width = max((len(use.host) for use in uses), default=0)
    width = max(width, len(_NOBODY))
    for use in uses:
        families = groupby(use.blocks, lambda block: block[0].family)
        blocks = " ".join(
            "".join(
                screen.paint(glyph(cidr.size, used, steps), _colour(used / cidr.size))
                for cidr, used in inside
            )
            for _, inside in families
        )
        share = f"{use.used}/{use.total}"
        notes = [f"{use.lent} lent"] if use.lent else []
        notes += [f"{use.borrowed} borrowed"] if use.borrowed else []
        tail = f"  ({', '.join(notes)})" if notes else ""
        yield f"{use.host or _NOBODY:<{width}}  {share:>11}  {blocks}{tail}"
    if not uses:
        yield "no host has a block"


def _colour(share: float) -> str:
    return "red" if share >= 0.9 else "yellow" if share >= 0.6 else "green"


def forecast_row(one: Forecast) -> list[str]:
    left = one.seconds_left
    if one.disabled:
        told = "disabled: no block is claimed"
    elif not one.blocks_free:
        told = "every block is taken"
    elif one.seconds < LEAST_SECONDS:
        told = "not known: less than an hour of history"
    elif left is None:
        told = f"no block was claimed in {_duration(one.seconds)}"
    else:
        told = f"in {_duration(left)} at the earliest"
    blocks = f"{one.blocks_taken}/{_number(one.blocks_total)}"
    pace = f"{one.claims} in {_duration(one.seconds)}" if one.seconds else "none recorded"
    return [one.pool, blocks, pace, told]


def _duration(seconds: float) -> str:
    for unit, size in (("years", 365 * 86400.0), ("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"


def _rows(pool: Usage | None, blocks: tuple[Usage, ...]) -> Iterator[list[str]]:
    if pool is not None:
        yield _row("IP Pool", pool)
    for block in blocks:
        yield _row("Block", block)


def _row(grouping: str, use: Usage) -> list[str]:
    def share(count: int) -> str:
        return f"{_number(count)} ({100 * count / use.total:.0f}%)"

    numbers = (share(use.in_use), share(use.reserved), share(use.free))
    return [grouping, str(use.cidr), _number(use.total), *numbers]


def _number(count: int) -> str:
    """Five digits of it; `7.3787e+19` of a large one."""
    return f"{float(count):.5g}"


def _address(text: str, everything: list[Held]) -> str:
    wanted = address(text)
    shown = wanted.address_text
    one = next((h for h in everything if h.address == wanted and not h.is_cooling), None)
    if one is None:
        return f"{shown} is not assigned"
    lines = [f"IP {shown} is in use", f"Handle ID: {one.attribute.handle_id or '<none>'}"]
    owners = (
        ("Active Owner Attributes", one.attribute.secondary),
        ("Alternate Owner Attributes", one.attribute.alternate_owner_attrs),
    )
    for title, attributes in owners:
        if attributes:
            lines += [f"{title}:", *(f"  {n}: {v}" for n, v in sorted(attributes.items()))]
    if not one.attribute.secondary:
        lines.append("No Active Owner attributes defined")
    return "\n".join(lines)


def _borrowed(everything: list[Held]) -> str:
    titles = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")
    rows = []
    for one in everything:
        if not one.is_borrowed:
            continue
        attributes = one.attribute.secondary or {}
        kind, who = attributes.get("type", ""), ""
        if "pod" in attributes:
            kind, who = "pod", f"{attributes.get('namespace', '')}/{attributes['pod']}"
        shown = one.address.address_text
        rows.append([shown, one.node or "", str(one.block), one.owner, kind, who])
    table = boxed(titles, rows)
    nameless = sum(one.node is None and not one.is_cooling for one in everything)
    if not nameless:
        return table
    return (
        f"{table}\n\n{nameless} addresses have no node in their record: "
        "whether they are borrowed is not known"
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def _configuration(client: Client) -> str:
    entry = await client.get(IPAMConfigKey().path)
    config = decode(IPAMConfigKey(), entry.value) if entry else IPAMConfig()
    values = msgspec.structs.asdict(config)
    rows = [[title, _text(values[name])] for name, title in _SETTINGS.items()]
    # Nobody here acts on it; who set it wants to see it.
    raw = msgspec.json.decode(entry.value) if entry else {}
    kept = raw.get("kubeVirtVMAddressPersistence") or "Enabled"
    rows.append(["KubeVirtVMAddressPersistence", str(kept)])
    return boxed(("PROPERTY", "VALUE"), rows)
