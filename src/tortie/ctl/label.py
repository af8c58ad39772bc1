"""`tortie label`: set or remove one label of one resource."""

import msgspec

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.selection import one_key
from tortie.ctl.writing import READ_ONLY
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput, NotFound, TortieError
from tortie.model.keys import ResourceKey


def main(given: Given, screen: Screen) -> int:
    if given.has("overwrite") and given.has("remove"):
        raise InvalidInput("--overwrite and --remove cannot go together")
    *named, change = given.words
    key = one_key(named, given.text("namespace"))
    if key.kind in READ_ONLY:
        raise InvalidInput(f"operation label is not supported on {key.kind}: resource is readonly")
    # Messages name the resource as the user did.
    what = " ".join(named[0].split("/", 1) if len(named) == 1 else named)
    name, equals, value = change.partition("=")
    removes = given.has("remove")
    if (removes and equals) or not name or not (removes or equals) or "=" in value:
        raise InvalidInput(f"invalid label {change}")

    async def act(resources: Resources) -> str:
        if removes:
            return await _remove(resources, key, what, name)
        return await _set(resources, key, what, name, value, overwrite=given.has("overwrite"))

    screen.print(access.with_resources(access.config_file(given), act))
    return 0


async def _set(
    resources: Resources, key: ResourceKey, what: str, name: str, value: str, *, overwrite: bool
) -> str:
    labels = await _labels(resources, key, what)
    if name in labels and labels[name] != value and not overwrite:
        raise InvalidInput(
            f"failed to update label of {what}, key {name} is already present. "  # noqa: S608
            "please use '--overwrite' to set a new value."
        )
    await _write(resources, key, what, {**labels, name: value})
    return f"Successfully {'updated' if name in labels else 'set'} label {name} on {what}"


async def _remove(resources: Resources, key: ResourceKey, what: str, name: str) -> str:
    labels = await _labels(resources, key, what)
    if name not in labels:
        raise InvalidInput(f"cannot remove label of {what}, key {name} does not exist")
    await _write(resources, key, what, {k: v for k, v in labels.items() if k != name})
    return f"Successfully removed label {name} from {what}"


async def _labels(resources: Resources, key: ResourceKey, what: str) -> dict[str, str]:
    try:
        return (await resources.get(key)).resource.metadata.labels
    except NotFound as error:
        raise InvalidInput(f"failed to get {what}, error {access.told(error, key)}") from None


async def _write(resources: Resources, key: ResourceKey, what: str, labels: dict[str, str]) -> None:
    resource = (await resources.get(key)).resource
    metadata = msgspec.structs.replace(resource.metadata, labels=labels)
    try:
        await resources.update(msgspec.structs.replace(resource, metadata=metadata))
    except TortieError as error:
        raise InvalidInput(f"failed to update {what}, label not changed: {error}") from error
