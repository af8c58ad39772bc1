"""`tortie edit`: change one resource in the user's editor."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.selection import one_key
from tortie.ctl.writing import READ_ONLY
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput, NotFound, TortieError
from tortie.model.codec import to_plain
from tortie.model.documents import load
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource
from tortie.model.yaml_text import to_yaml


def main(given: Given, screen: Screen) -> int:
    key = one_key(given.words, given.text("namespace"))
    if key.kind in READ_ONLY:
        raise InvalidInput(f"operation edit is not supported on {key.kind}: resource is readonly")
    config = access.config_file(given)

    async def fetch(resources: Resources) -> Resource:
        try:
            return (await resources.get(key)).resource
        except NotFound as error:
            raise InvalidInput(access.told(error, key)) from None

    text = to_yaml(to_plain(access.with_resources(config, fetch)))
    with tempfile.TemporaryDirectory(prefix="tortie-edit-") as directory:
        path = Path(directory) / f"{key.name}.yaml"
        path.write_text(text)
        _open_editor(path)
        edited = path.read_bytes()
    if edited == text.encode():
        screen.print("Edit cancelled, no changes made.")
        return 0
    try:
        resource = _read(key, edited)

        async def write(resources: Resources) -> None:
            await resources.update(resource)

        access.with_resources(config, write)
    except TortieError as error:
        kept = _keep(key, edited)
        raise InvalidInput(f"{error}\nwhat you wrote is in {kept}") from error
    screen.print(f"Successfully replaced 1 '{key.kind}' resource(s)")
    return 0


def _read(key: ResourceKey, raw: bytes) -> Resource:
    documents = load(raw, str(key), namespace=key.namespace or "default")
    if [document.key for document in documents] != [key]:
        raise InvalidInput(f"it must stay one resource, and {key}")
    return documents[0].resource


def _open_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), str(path)], check=False)  # noqa: S603 - theirs
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot start the editor {editor!r}: {error}") from None
    if done.returncode:
        raise InvalidInput(f"the editor {editor!r} failed with {done.returncode}; nothing changed")


def _keep(key: ResourceKey, raw: bytes) -> str:
    descriptor, name = tempfile.mkstemp(prefix=f"{key.name}-", suffix=".yaml")
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
    return name
