"""Asks agents for flows, chooses among them, and shows them."""

import contextlib
import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from tortie.agent.flow_record import Greeting, Question, Record
from tortie.agent.flow_view import STAGED_TITLE, TITLES, WIDE_TITLES, as_json, merged, remarks, row
from tortie.lib.errors import Denied, InvalidInput, TortieError, Unavailable
from tortie.lib.ip import parsed_network
from tortie.lib.table import aligned

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""For an agent that has something long to do just now."""

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Wanted(NamedTuple):
    """Which flows, and how they are shown."""

    output: Literal["table", "wide", "json"] = "table"
    follow: bool = False
    since_seconds: float | None = None
    verdict: str = ""
    """`Allow`, `Deny`, or empty for both."""
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()

    def takes(self, record: Record) -> bool:
        return (
            self.verdict in ("", record.verdict)
            and _is_end(self.sources, record.source)
            and _is_end(self.destinations, record.destination)
            and (not self.ports or any(_is_port(one, record) for one in self.ports))
        )


def make_wanted(
    *,
    output: str = "",
    follow: bool = False,
    since: str = "",
    verdict: str = "",
    sources: Sequence[str] = (),
    destinations: Sequence[str] = (),
    ports: Sequence[str] = (),
) -> Wanted:
    """
    Raises:
        InvalidInput: a value that means nothing.
    """
    forms: Mapping[str, Literal["table", "wide", "json"]] = {
        "": "table", "ps": "table", "table": "table", "wide": "wide", "json": "json"
    }  # fmt: skip
    if output not in forms:
        raise InvalidInput(f"-o {output}: must be wide or json")
    verdicts = {"": "", "allow": "Allow", "deny": "Deny"}
    if verdict.lower() not in verdicts:
        raise InvalidInput(f"--verdict {verdict}: must be allow or deny")
    for port in ports:
        if not re.fullmatch(r"\d{1,5}|[a-z0-9]+(/\d{1,5})?", port.lower()):
            raise InvalidInput(f"--port {port}: must be such as 80, tcp/80 or icmp")
    return Wanted(
        forms[output],
        follow,
        _seconds(since) if since else None,
        verdicts[verdict.lower()],
        tuple(sources),
        tuple(destinations),
        tuple(port.lower() for port in ports),
    )


def show(
    paths: Mapping[str, Path],
    wanted: Wanted,
    out: Callable[[str], None],
    err: Callable[[str], None],
) -> int:
    """Ask every agent, and print what it says. Returns the exit code: 1 if one does not answer.

    Args:
        paths: the socket of each host's agent.

    Raises:
        TortieError: none of them answers.
    """
    since = time.time() - wanted.since_seconds if wanted.since_seconds is not None else 0.0
    question = Question(since, wanted.follow)
    with contextlib.ExitStack() as stack:
        agents, failure = [], None
        for host, path in paths.items():
            try:
                agents.append(stack.enter_context(_Agent(path, question)))
            except TortieError as error:
                failure = error
                err(f"{host}: {error}" if host else str(error))
        if not agents:
            raise failure or Unavailable("there is no agent to ask")
        is_whole = _Printer(wanted, out, len(paths) > 1).show(agents, err)
    return 0 if is_whole and failure is None else 1


class _Printer:
    def __init__(self, wanted: Wanted, out: Callable[[str], None], several: bool) -> None:
        self._wanted = wanted
        self._out = out
        self._several = several
        self._widths: list[int] = []

    def show(self, agents: Sequence["_Agent"], err: Callable[[str], None]) -> bool:
        """Whether every agent answered to the end."""
        wanted = self._wanted
        kept = [one for agent in agents for one in agent.kept() if wanted.takes(one)]
        for agent in agents:
            for line in remarks(agent.greeting):
                err(f"{agent.greeting.host}: {line}" if self._several else line)
        self._print(merged(kept), with_titles=True)
        if wanted.follow:
            with contextlib.suppress(KeyboardInterrupt):
                self._follow(agents, err)
                return False
        return True

    def _follow(self, agents: Sequence["_Agent"], err: Callable[[str], None]) -> None:
        """Until none of them is left."""
        open_agents = {agent.fileno(): agent for agent in agents}
        while open_agents:
            waiting = [number for number, agent in open_agents.items() if not agent.has_line]
            if len(waiting) == len(open_agents):
                select.select(waiting, [], [])
            for number, agent in tuple(open_agents.items()):
                try:
                    lines = agent.available()
                except Unavailable as error:
                    err(f"{agent.greeting.host}: {error}")
                    del open_agents[number]
                    continue
                missed = sum(line.get("missed", 0) for line in lines)
                if missed:
                    err(f"{agent.greeting.host}: {missed} flows were missed; reading is too slow")
                records = [agent.record(line) for line in lines if "verdict" in line]
                self._print([one for one in records if self._wanted.takes(one)])

    def _print(self, records: Sequence[Record], *, with_titles: bool = False) -> None:
        if self._wanted.output == "json":
            for record in records:
                self._out(as_json(record))
            return
        wide = self._wanted.output == "wide" or self._several
        staged = any(record.staged for record in records)
        rows = [row(record, wide=wide, staged=staged) for record in records]
        if with_titles:
            titles = WIDE_TITLES if wide else TITLES
            rows.insert(0, (*titles, STAGED_TITLE) if staged else titles)
        if rows:
            # What follows keeps to the columns of what came before, as far as it fits.
            spaces = tuple(" " * width for width in self._widths[: len(rows[0])])
            spaces += ("",) * (len(rows[0]) - len(spaces))
            self._widths = [max(map(len, cells)) for cells in zip(*rows, spaces, strict=True)]
            self._out("\n".join(aligned([*rows, spaces]).split("\n")[:-1]))


class _Agent:
    """One connection."""

    def __init__(self, path: Path, question: Question) -> None:
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._received = bytearray()
        try:
            self._sock.settimeout(CONNECT_SECONDS)
            self._sock.connect(str(path))
            self._sock.settimeout(ANSWER_SECONDS)
            self._sock.sendall(msgspec.json.encode(question) + b"\n")
            said = self._line() or {}
            if "error" in said:
                raise TortieError(str(said["error"]))
            self.greeting = msgspec.convert(said, Greeting)
        except OSError as error:
            self._sock.close()
            raise self._failure(error) from error
        except msgspec.MsgspecError as error:
            self._sock.close()
            raise InvalidInput(f"{path} does not speak of flows: {error}") from error
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> "_Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def kept(self) -> Iterator[Record]:
        """What the agent has added up until now."""
        while True:
            try:
                line = self._line()
            except OSError as error:
                raise self._failure(error) from error
            if line is None or "now" in line:
                return
            yield self.record(line)

    @property
    def has_line(self) -> bool:
        return b"\n" in self._received

    def available(self) -> list[dict[str, Any]]:
        """Lines that have come, without waiting.

        Raises:
            Unavailable: the agent has gone.
        """
        self._sock.setblocking(False)
        try:
            while part := self._sock.recv(1 << 16):
                self._received += part
            ended = True
        except BlockingIOError:
            ended = False
        except OSError as error:
            raise self._failure(error) from error
        lines = []
        while self.has_line:
            lines.append(self._take())
        if ended and not lines:
            raise Unavailable("the agent has ended; ask again when it is back")
        return lines

    def record(self, line: dict[str, Any]) -> Record:
        found = msgspec.convert(line, Record)
        found.host = self.greeting.host
        return found

    def _line(self) -> dict[str, Any] | None:
        while not self.has_line:
            part = self._sock.recv(1 << 16)
            if not part:
                return None
            self._received += part
        return self._take()

    def _take(self) -> dict[str, Any]:
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        found: dict[str, Any] = msgspec.json.decode(line)
        return found

    def _failure(self, error: OSError) -> TortieError:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return Unavailable(
                f"no agent answers at {self._path}: flows are kept by the agent of this host; "
                "start it with `tortie agent`, or name its --run-directory"
            )
        if isinstance(error, PermissionError):
            return Denied(f"{self._path}: {error.strerror}; asking for flows needs root")
        if isinstance(error, TimeoutError):
            return Unavailable(f"the agent at {self._path} does not answer; see its log")
        return Unavailable(f"the agent at {self._path}: {error}")


def _seconds(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"--since {text}: must be a time such as 90s, 10m or 1h")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _is_end(wanted: Sequence[str], end: str) -> bool:
    return not wanted or any(_names(one, end) for one in wanted)


def _names(wanted: str, end: str) -> bool:
    """`namespace/workload`, `workload`, an address, or a network."""
    if wanted == end or end.endswith(f"/{wanted}"):
        return True
    network, address = parsed_network(wanted), parsed_network(end)
    return network is not None and address is not None and network.contains(address)


def _is_port(wanted: str, record: Record) -> bool:
    name, slash, number = wanted.rpartition("/")
    if slash:
        return (name, number) == (record.protocol, str(record.port))
    return wanted in (record.protocol, str(record.port))
