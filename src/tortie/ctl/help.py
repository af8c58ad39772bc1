"""Help as text, from the table of commands. Pure."""

from __future__ import annotations

from tortie.ctl.commands import COMMANDS, ELSEWHERE, GROUPS
from tortie.ctl.grammar import Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_WIDTH = 12
_FLAG_WIDTH = 34


def overview(programs: Mapping[str, str]) -> str:
    """What `tortie --help` prints.

    Args:
        programs: name → summary of verbs that are programs of their own.
    """
    verbs = {c.path: c.summary for c in COMMANDS if " " not in c.path and not c.is_hidden}
    verbs |= {group: text for group, text in GROUPS.items() if " " not in group} | dict(programs)
    lines = "\n".join(f"  {name:<{_WIDTH}}{summary}" for name, summary in verbs.items())
    return f"""\
usage: tortie [-c CONFIG] VERB ...

{lines}

`tortie VERB --help` shows what a verb takes. The datastore is named by DATASTORE_TYPE,
ETCD_ENDPOINTS and so on in the environment, or in the file that -c names
(/etc/calico/calicoctl.cfg)."""


def group_help(group: str) -> str:
    """The commands that start with `group`."""
    every = {c.path: c.summary for c in COMMANDS if not c.is_hidden} | ELSEWHERE
    inside = {path: text for path, text in every.items() if path.startswith(f"{group} ")}
    width = max(map(len, inside)) + 2
    lines = "\n".join(f"  {path:<{width}}{text}" for path, text in inside.items())
    return f"usage: tortie {group} VERB ...\n\n{GROUPS[group]}\n\n{lines}"


def command_help(command: Command) -> str:
    """What `tortie … --help` prints."""
    from tortie.ctl.commands import COMMON

    words = f" {command.words}" if command.words else ""
    text = [f"usage: tortie {command.path}{words} [FLAGS]", "", command.summary, ""]
    shown = [flag for flag in (*command.flags, *COMMON) if not flag.is_hidden]
    text += [_flag_line(flag) for flag in shown]
    for note in command.notes:
        text += ["", note]
    if command.examples:
        text += ["", "examples:"]
        text += [f"  tortie {line}\n      {meaning}" for line, meaning in command.examples]
    return "\n".join(text)


def _flag_line(flag: Flag) -> str:
    indent = "" if flag.short else "    "
    head = f"  {indent}{flag.spelled}"
    choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
    if len(head) >= _FLAG_WIDTH:
        return f"{head}\n{' ' * _FLAG_WIDTH}{flag.summary}{choices}"
    return f"{head:<{_FLAG_WIDTH}}{flag.summary}{choices}"
