"""`tortie diff`: what `apply` would change, as kubectl's diff."""

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.preview import changes, difference
from tortie.ctl.screen import Screen
from tortie.datastore.resources import Resources

DIFFERENT = 1

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def main(given: Given, screen: Screen) -> int:
    documents = access.read_files(given)

    async def act(resources: Resources) -> int:
        code = 0
        for change in await changes(resources, documents):
            text = difference(change)
            for line in text.splitlines():
                colour = _COLOURS.get(line[:1])
                screen.print(screen.paint(line, colour) if colour else line)
            code = DIFFERENT if text else code
        return code

    return access.with_resources(access.config_file(given), act)
