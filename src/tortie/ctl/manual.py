"""`tortie man [COMMAND]`: manual pages for man(1), from the table of commands. Pure but `main`."""

from __future__ import annotations

from collections.abc import Iterable

from tortie.ctl.commands import BY_PATH, COMMANDS, COMMON, GROUPS
from tortie.ctl.grammar import Command, Flag, Given, mistake
from tortie.ctl.screen import Screen

_SEE_DATASTORE = (
    "The datastore is named by DATASTORE_TYPE, ETCD_ENDPOINTS and so on in the environment, or in "
    "the file that \\-\\-config names."
)


def main(given: Given, screen: Screen) -> int:
    path = " ".join(given.words)
    if path and path not in BY_PATH:
        raise mistake(f"there is no command {path!r}")
    screen.out.write(command_page(BY_PATH[path]) if path else overview_page())
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
    for command in COMMANDS:
        if not command.is_hidden:
            lines += [".TP", f".B {_text(command.path)}", _text(command.summary)]
    lines += [".SH FILES", ".TP", ".B /etc/calico/calicoctl.cfg", "where the datastore is"]
    lines += [".SH EXIT STATUS", "0: done. 1: failed."]
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
    lines += [".SH OPTIONS", *_flags((*command.flags, *COMMON))]
    if command.examples:
        lines.append(".SH EXAMPLES")
        for line, meaning in command.examples:
            lines += [".TP", f".B tortie {_text(line)}", _text(meaning)]
    group = command.path.partition(" ")[0]
    also = [c for c in COMMANDS if c is not command and not c.is_hidden]
    also = [c for c in also if group in GROUPS and c.path.startswith(f"{group} ")]
    names = ["tortie", *map(page_name, also)]
    lines += [".SH ENVIRONMENT", _SEE_DATASTORE, ".SH SEE ALSO"]
    lines.append(",\n".join(f".BR {_text(other)} (1)" for other in names).replace(",\n", " ,\n"))
    return "\n".join(lines) + "\n"


def _flags(flags: Iterable[Flag]) -> list[str]:
    lines: list[str] = []
    for flag in flags:
        if not flag.is_hidden:
            choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
            lines += [".TP", f".B {_text(flag.spelled)}", _text(flag.summary + choices)]
    return lines


def _text(text: str) -> str:
    """Escaped for roff: a line must not begin like a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
