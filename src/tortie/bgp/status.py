"""What BIRD says of its sessions and routes, read back as records. Pure.

Source: BIRD 2.0, `show protocols all` and `show route`, nest/proto.c and nest/rt-show.c.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tortie.bgp.snapshot import PeerKind

Lines = Iterable[tuple[int, str]]
"""An answer of BIRD's: code and text."""

_PROTOCOL, _DETAIL = 1002, 1006

_REASONS = (
    ("Connection refused", "nothing listens there; does BIRD run on the peer?"),
    ("No route to host", "the peer's host is down, or a filter refuses"),
    ("Network is unreachable", "there is no route to the peer"),
    ("Connection reset", "the peer ended the connection; does it know this session?"),
    ("Bad peer AS", "the peer's AS number is another one than ours for it"),
    ("Hold timer expired", "the peer fell silent"),
    ("BFD session down", "the link to the peer fell silent"),
    ("Connection collision", "two connections at once; it tries again"),
    ("Administrative shutdown", "the peer has switched the session off"),
)
"""What an error of BIRD's says to somebody who has to act."""

NO_ERROR = "no answer; is it reachable, and is the password the same on both sides?"


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    as_number: str
    kind: PeerKind
    state: str
    """`up`, `start` or `down`."""
    since: str
    bgp_state: str
    """`Established`, `Active`, `Connect`, …"""
    error: str
    """BIRD's last error; may be older than what is up now."""

    @property
    def is_up(self) -> bool:
        return self.state == "up" and self.bgp_state == "Established"

    @property
    def info(self) -> str:
        """The session's state and, if it is not up, why."""
        if self.is_up:
            return self.bgp_state
        for text, reason in _REASONS:
            if text in self.error:
                return f"{self.bgp_state} {self.error}: {reason}"
        return f"{self.bgp_state} {self.error}: {NO_ERROR}".replace(" : ", ": ")


class LearntRoute(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    kind: str
    """`unicast`, `blackhole`, `unreachable`."""
    protocol: str
    """Who gave it: a session's name, `kernel4`, `direct1`, …"""
    since: str
    best: bool
    via: tuple[str, ...] = ()
    """Gateways and interfaces."""


def session_symbol(address: str) -> str:
    """What BIRD calls the session to an address, without the port that a name may have."""
    return "Peer_" + address.replace(".", "_").replace(":", "_")


def peers(lines: Lines) -> list[PeerStatus]:
    """All sessions of an answer to `show protocols all`."""
    found = []
    for head, details in _protocols(lines):
        name, protocol, _, state, since = head[:5]
        if protocol != "BGP" or not name.startswith("Peer_"):
            continue
        found.append(
            PeerStatus(
                address=details.get("Neighbor address", "").partition("%")[0],
                as_number=details.get("Neighbor AS", ""),
                kind=_kind(details.get("Description", "")),
                state=state,
                since=since,
                bgp_state=details.get("BGP state", "Down"),
                error=details.get("Last error", ""),
            )
        )
    return found


def _protocols(lines: Lines) -> Iterator[tuple[Sequence[str], dict[str, str]]]:
    head: Sequence[str] = ()
    details: dict[str, str] = {}
    for code, text in lines:
        if code == _PROTOCOL:
            if len(head) >= 5:
                yield head, details
            head, details = text.split(None, 5), {}
        elif code == _DETAIL:
            field, colon, value = text.strip().partition(":")
            if colon:
                details.setdefault(field, value.strip())
    if len(head) >= 5:
        yield head, details


def _kind(text: str) -> PeerKind:
    try:
        return PeerKind(text)
    except ValueError:
        return PeerKind.GLOBAL


_ROUTE = re.compile(r"(?P<net>\S+)?\s+(?P<kind>\w+) \[(?P<by>\S+) (?P<since>[^\]]*?)\](?P<rest>.*)")


def routes(lines: Lines) -> list[LearntRoute]:
    """All of an answer to `show route`."""
    found: list[LearntRoute] = []
    destination = ""
    for _, text in lines:
        if text.startswith("\t"):
            if found:
                via = (*found[-1].via, text.strip())
                found[-1] = msgspec.structs.replace(found[-1], via=via)
        elif match := _ROUTE.fullmatch(text):
            destination = match["net"] or destination
            found.append(
                LearntRoute(
                    destination=destination,
                    kind=match["kind"],
                    protocol=match["by"],
                    since=match["since"].partition(" from ")[0],
                    best="*" in match["rest"],
                )
            )
    return found
