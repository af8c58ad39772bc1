"""The reference pages, made of the table of commands and the structs of the model. Pure.

`scripts/reference` writes them to `docs/reference`; a test says when they are not current.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tortie.agent.parameters import BY_YAML_NAME, PARAMETERS
from tortie.ctl import manual
from tortie.ctl.felix_settings import HONOURED, why_not
from tortie.ctl.fields import Described, describe
from tortie.ctl.grammar import Command, Flag
from tortie.ctl.help import overview
from tortie.ctl.kinds import ALIASES, COLUMNS, NAMESPACED
from tortie.ctl.main import VERBS
from tortie.ctl.programs import all_commands, flags_of
from tortie.datastore.etcd.messages import Access, Permission, range_end
from tortie.datastore.roles import cluster_roles, host_roles
from tortie.model.catalogue import TYPES
from tortie.model.felix_configuration import FelixConfigurationSpec

GENERATED = "<!-- Made by scripts/reference; change the source instead. -->\n"

_DEPTH_MAX = 12


def pages() -> dict[str, str]:
    """File name, below docs/reference → text."""
    found = {
        "README.md": _index(),
        "commands.md": _commands(),
        "etcd-roles.md": _roles(),
        "settings.md": _settings(),
    }
    found |= {f"resources/{kind.lower()}.md": _kind(kind) for kind in sorted(TYPES)}
    found["man/tortie.1"] = manual.overview_page()
    for command in all_commands():
        found[f"man/{manual.page_name(command)}.1"] = manual.command_page(command)
    return found


def _index() -> str:
    kinds = "\n".join(f"- [{kind}](resources/{kind.lower()}.md)" for kind in sorted(TYPES))
    return f"""{GENERATED}
# Reference

- [Commands](commands.md), and the same as manual pages in `man/`
- [Compared with calicoctl](calicoctl.md)
- [Roles of etcd](etcd-roles.md)
- [Settings of the agent](settings.md): which of Felix's count here

Resources are of `apiVersion: projectcalico.org/v3`. `tortie explain KIND.FIELD` says the same
as these pages:

{kinds}
"""


def _settings() -> str:
    rows = []
    for one in sorted(PARAMETERS, key=lambda one: one.yaml_name or one.name):
        if one.yaml_name:
            cells = (f"`{one.yaml_name}`", f"`FELIX_{one.name}`", HONOURED[one.yaml_name])
            rows.append(f"| {' | '.join(cells)} |")
    names = [field.encode_name for field in msgspec.structs.fields(FelixConfigurationSpec)]
    others = [name for name in names if name not in BY_YAML_NAME]
    kept = "\n".join(f"| `{name}` | {why_not(name)} |" for name in sorted(others))
    local = ", ".join(f"`FELIX_{one.name}`" for one in PARAMETERS if not one.yaml_name)
    return f"""{GENERATED}
# Settings of the agent

Felix's, from where Felix has them: the environment (`FELIX_` and the name, in any case),
`/etc/calico/felix.cfg`, FelixConfiguration `node.<host>`, those whose `nodeSelector` fits, and
`default`; the first that has one counts. A value that does not parse counts as not set, and is
logged. Types and limits are on the page of [FelixConfiguration](resources/felixconfiguration.md).

In the environment and the file only: {local}.

## Honoured

| setting | in the environment | |
|---|---|---|
{chr(10).join(rows)}

## Stored, and without effect here

| setting | why |
|---|---|
{kept}
"""


def _commands() -> str:
    programs = {name: verb.summary for name, verb in VERBS.items()}
    parts = [
        f"{GENERATED}\n# Commands\n\n```\n{overview(programs)}\n```\n\n"
        f"Exit status {manual.EXIT_STATUS}\n"
    ]
    parts += [_command(command) for command in all_commands()]
    return "\n".join(parts)


def _command(command: Command) -> str:
    words = f" {command.words}" if command.words else ""
    lines = [f"## tortie {command.path}", "", f"`tortie {command.path}{words}`", ""]
    lines.append(f"{command.summary[:1].upper()}{command.summary[1:]}.")
    if flags := flags_of(command):
        lines += ["", "| Flag | What it does |", "|---|---|", *map(_flag, flags)]
    for note in command.notes:
        lines += ["", note]
    if command.examples:
        lines += ["", "```"]
        lines += [f"# {meaning}\ntortie {line}" for line, meaning in command.examples]
        lines.append("```")
    return "\n".join(lines) + "\n"


def _flag(flag: Flag) -> str:
    choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
    return f"| `{_cell(flag.spelled)}` | {_cell(flag.summary + choices)} |"


def _roles() -> str:
    parts = [
        f"{GENERATED}\n# Roles of etcd\n\n"
        "`tortie datastore roles` shows how to make them, or makes them; "
        "[why, and how to switch it on](../etcd.md). `n1` stands for a host.\n"
    ]
    for role in (*cluster_roles(), *host_roles("n1", ["default"])):
        rows = [
            f"| `{permission.key.decode()}` | {_reach(permission)} | {_WORDS[permission.access]} |"
            for permission in sorted(role.permissions, key=lambda permission: permission.key)
        ]
        summary = f"{role.summary[0].upper()}{role.summary[1:]}."
        table = "\n".join(["| Key | | |", "|---|---|---|", *rows])
        parts.append(f"## {role.name}\n\n{summary}\n\n{table}\n")
    return "\n".join(parts)


_WORDS = {Access.READ: "read", Access.WRITE: "write", Access.READ_WRITE: "read, write"}


def _reach(permission: Permission) -> str:
    if not permission.end:
        return "itself"
    is_prefix = permission.end == range_end(permission.key)
    return "and all below" if is_prefix else f"up to `{permission.end.decode()}`"


def _kind(kind: str) -> str:
    described = describe(TYPES[kind])
    aliases = ", ".join(f"`{alias}`" for alias, named in ALIASES.items() if named == kind)
    columns = ", ".join(
        f"{column.title}{' (wide)' if column.wide_only else ''}" for column in COLUMNS[kind]
    )
    scope = "In a namespace." if kind in NAMESPACED else "Of the whole cluster."
    text = f"{described.text}\n\n" if described.text else ""
    rows = "\n".join(_rows(described, "", 1))
    return f"""{GENERATED}
# {kind}

{text}{scope}

Names on the command line: {aliases}

Columns of `tortie get`: {columns}

| Field | Type | Rules | What it is |
|---|---|---|---|
{rows}
"""


def _rows(described: Described, prefix: str, depth: int) -> Iterator[str]:
    for name, field in described.fields.items():
        path = f"{prefix}{name}"
        text = " ".join(field.text.split())
        cells = (f"`{path}`", _cell(field.shape), _cell(field.limits), _cell(text))
        yield f"| {' | '.join(cells)} |"
        if depth < _DEPTH_MAX:
            suffix = "[]." if field.shape.startswith("[]") else "."
            yield from _rows(field.resolved(), path + suffix, depth + 1)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
