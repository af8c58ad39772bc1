"""`tortie explain KIND.spec.field`: from the structs that read the very resources."""

from tortie.ctl.fields import Described, describe
from tortie.ctl.grammar import Given
from tortie.ctl.kinds import kind_named
from tortie.ctl.screen import Screen
from tortie.lib.errors import InvalidInput
from tortie.model.catalogue import TYPES
from tortie.model.documents import nearest

DEPTH_MAX = 12


def main(given: Given, screen: Screen) -> int:
    kind_text, *steps = given.words[0].split(".")
    kind = kind_named(kind_text)
    found = follow(kind, steps)
    parts = [f"KIND:     {kind}\nVERSION:  projectcalico.org/v3"]
    if steps:
        parts.append(f"FIELD:    {'.'.join(steps)} <{found.shape}>")
    if found.text:
        parts.append(found.text)
    if found.limits:
        parts.append(f"RULES:    {found.limits}")
    if found.fields:
        parts.append("\n".join(["FIELDS:", *field_lines(found, deep=given.has("recursive"))]))
    screen.print("\n\n".join(parts))
    return 0


def follow(kind: str, steps: list[str]) -> Described:
    """
    Raises:
        InvalidInput: there is no such field; with the nearest name.
    """
    found = describe(TYPES[kind])
    for count, step in enumerate(steps):
        name = step.partition("[")[0]
        by_lower = {field.lower(): field for field in found.fields}
        if name.lower() not in by_lower:
            path = ".".join([kind, *steps[:count]])
            if not found.fields:
                raise InvalidInput(f"{path} is {found.shape}; it has no fields")
            best = nearest(name, found.fields)
            names = ", ".join(found.fields)
            hint = f"did you mean {best!r}?" if best else f"there are: {names}"
            raise InvalidInput(f"{path} has no field {name!r}; {hint}")
        found = found.fields[by_lower[name.lower()]].resolved()
    return found


def field_lines(found: Described, *, deep: bool, depth: int = 1) -> list[str]:
    indent = "   " * depth
    lines: list[str] = []
    for name, field in found.fields.items():
        rules = f"  {field.limits}" if field.limits else ""
        lines.append(f"{indent}{name} <{field.shape}>{rules}")
        if field.text and not deep:
            lines += [f"{indent}   {line}" for line in field.text.splitlines()]
        inner = field.resolved()
        if deep and depth < DEPTH_MAX:
            lines += field_lines(inner, deep=True, depth=depth + 1)
    return lines
