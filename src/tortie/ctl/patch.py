"""`tortie patch`: change fields of one resource."""

from typing import Any

import msgspec

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.patching import WAYS
from tortie.ctl.screen import Screen
from tortie.ctl.selection import one_key
from tortie.ctl.writing import READ_ONLY
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput, NotFound, TortieError
from tortie.model.codec import to_plain
from tortie.model.documents import load
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Resource
from tortie.model.positions import TextSyntax, read_documents


def main(given: Given, screen: Screen) -> int:
    key = one_key(given.words, given.text("namespace"))
    if not given.has("patch"):
        raise InvalidInput('required flag(s) "patch" not set')
    if key.kind in READ_ONLY:
        raise InvalidInput(f"operation patch is not supported on {key.kind}: resource is readonly")
    way = WAYS[given.text("type", "strategic")]
    change = parse(given.text("patch"))

    async def act(resources: Resources) -> None:
        try:
            before = (await resources.get(key)).resource
            await resources.update(patched(key, before, way(to_plain(before), change)))
        except NotFound as error:
            raise InvalidInput(f"hit error: {access.told(error, key)}") from None
        except TortieError as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"hit error: {access.told(error, key)}") from error

    access.with_resources(access.config_file(given), act)
    screen.print(f"Successfully patched 1 '{key.kind}' resource")
    return 0


def parse(text: str) -> Any:
    """
    Raises:
        InvalidInput: neither JSON nor YAML, or not one document.
    """
    try:
        documents = read_documents(text)
    except TextSyntax as error:
        raise InvalidInput(f"--patch: {error}") from None
    if len(documents) != 1:
        raise InvalidInput("--patch: one document is needed")
    return documents[0].value


def patched(key: ResourceKey, before: Resource, plain: Any) -> Resource:
    """The resource that a patch made, checked like one from a file.

    Raises:
        InvalidInput: it breaks a rule, or is another resource now.
    """
    raw = msgspec.json.encode(plain)
    documents = load(raw, f"patched {key}", namespace=key.namespace or "default")
    if len(documents) != 1 or documents[0].key != key:
        raise InvalidInput(f"--patch: must not change what names {key}")
    resource = documents[0].resource
    if resource.metadata.resource_version != before.metadata.resource_version:
        raise InvalidInput("--patch: metadata.resourceVersion cannot be changed")
    return resource
