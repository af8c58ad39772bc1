"""`tortie delete`: delete resources."""

from collections.abc import Sequence

from tortie.ctl import access, selection
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.writing import READ_ONLY, in_order
from tortie.datastore.resources import Resources
from tortie.ipam import deletion
from tortie.lib.errors import Denied, InvalidInput, NotFound, TortieError, Unavailable
from tortie.model.keys import ResourceKey


def main(given: Given, screen: Screen) -> int:
    if bool(given.texts("filename")) == bool(given.words):
        raise InvalidInput("give kinds and names, or files with -f; see tortie delete --help")
    if given.words:
        keys = _named(given)
    else:
        # What others rest on goes last, so a tier after its policies.
        documents = in_order(access.read_files(given, complete=False))
        keys = [document.key for document in reversed(documents)]
    if not keys:
        screen.print("No resources specified")
        return 0
    for key in keys:
        if key.kind in READ_ONLY:
            raise InvalidInput(
                f"operation delete is not supported on {key.kind}: resource is readonly"
            )

    async def act(resources: Resources) -> None:
        await delete(resources, keys, screen, skip_missing=given.has("skip-not-exists"))

    access.with_resources(access.config_file(given), act)
    return 0


def _named(given: Given) -> list[ResourceKey]:
    chosen = selection.parse(given.words)
    for selected in chosen:
        if selected.names is None:
            raise InvalidInput(f"say which {selected.kind} to delete, by name")
    return [k for selected in chosen for k in selection.keys(selected, given.text("namespace"))]


async def delete(
    resources: Resources, keys: Sequence[ResourceKey], screen: Screen, *, skip_missing: bool
) -> None:
    """Delete them all, or as many as can be.

    Raises:
        InvalidInput: says of each that could not be deleted, why.
    """
    done = 0
    errors: list[str] = []
    kind = access.single_kind([key.kind for key in keys])
    progress = screen.progress("deleting", len(keys))
    for key in keys:
        try:
            await deletion.delete(resources, key)
        except TortieError as error:
            if not (skip_missing and isinstance(error, NotFound)):
                quoted = f"'{kind}' " if kind else ""
                errors.append(f"Failed to delete {quoted}resource: {access.told(error, key)}")
                if isinstance(error, (Unavailable, Denied)):
                    break
                continue
        done += 1
        progress.step()
    progress.wipe()
    if done:
        screen.print(access.success("deleted", done, kind))
    if errors:
        raise InvalidInput("\n".join(errors))
