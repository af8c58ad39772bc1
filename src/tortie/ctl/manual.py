"""`tortie man [COMMAND]`: manual pages for man(1), from the table of commands. Pure but `main`."""

from __future__ import annotations

from collections.abc import Iterable

from tortie.ctl.grammar import Command, Flag, Given, mistake
from tortie.ctl.programs import all_commands, command_at, flags_of
from tortie.ctl.screen import Screen

EXIT_STATUS = (
    "0: done. 1: failed, for whatever reason, as with calicoctl. Where 1 is an answer (diff: there "
    "are differences; policy why: the packet does not pass), 2 is failed. Programs that calicoctl "
    "does not have (agent, cni, demo, docker, kube, lab, workload) tell more: 2 for wrong input, 3 "
    "for what is not available or not permitted."
)
_SEE_DATASTORE = (
    "The datastore is named by DATASTORE_TYPE, ETCD_ENDPOINTS and so on in the environment, or in "
    "the file that \\-\\-config names."
)


def main(given: Given, screen: Screen) -> int:
    if not given.words:
        screen.out.write(overview_page())
        return 0
    command = command_at(given.words)
    if command is None:
        raise mistake(f"there is no command {' '.join(given.words)!r}")
    screen.out.write(command_page(command))
    return 0


def page_name(command: Command) -> str:
    """Of the file, without its section: `tortie-ipam-show`."""
    return f"tortie-{command.path.replace(' ', '-')}"


def overview_page() -> str:
    """tortie(1)."""
    lines = [
        '.TH TORTIE 1 "" "tortie" "Tortie manual"',
        ".SH NAME",
        "tortie \\- networks and network policy of containers, VMs and hosts",
        ".SH SYNOPSIS",
        ".B tortie",
        "[\\-c CONFIG] VERB ...",
        ".SH COMMANDS",
    ]
    for command in all_commands():
        lines += [".TP", f".B {_text(command.path)}", _text(command.summary)]
    lines += [".SH FILES", ".TP", ".B /etc/calico/calicoctl.cfg", "where the datastore is"]
    lines += [".SH EXIT STATUS", _text(EXIT_STATUS)]
    return "\n".join(lines) + "\n"


def command_page(command: Command) -> str:
    """tortie-VERB(1)."""
    name = page_name(command)
    lines = [
        f'.TH {_text(name.upper())} 1 "" "tortie" "Tortie manual"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(command.summary)}",
        ".SH SYNOPSIS",
        f".B tortie {_text(command.path)}",
        f"{_text(command.words)} [FLAGS]".strip(),
    ]
    if command.notes:
        lines.append(".SH DESCRIPTION")
        for note in command.notes:
            lines += [_text(note), ".PP"]
        lines.pop()
    if flags := flags_of(command):
        lines += [".SH OPTIONS", *_flags(flags)]
    if command.examples:
        lines.append(".SH EXAMPLES")
        for line, meaning in command.examples:
            lines += [".TP", f".B tortie {_text(line)}", _text(meaning)]
    group = command.path.partition(" ")[0]
    also = [c for c in all_commands() if c.path != command.path]
    names = ["tortie", *(page_name(c) for c in also if c.path.startswith(f"{group} "))]
    lines += [".SH ENVIRONMENT", _SEE_DATASTORE, ".SH SEE ALSO"]
    lines.append(",\n".join(f".BR {_text(other)} (1)" for other in names).replace(",\n", " ,\n"))
    return "\n".join(lines) + "\n"


def _flags(flags: Iterable[Flag]) -> list[str]:
    lines: list[str] = []
    for flag in flags:
        choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
        lines += [".TP", f".B {_text(flag.spelled)}", _text(flag.summary + choices)]
    return lines


def _text(text: str) -> str:
    """Escaped for roff: a line must not begin like a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
