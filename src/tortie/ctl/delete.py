"""`tortie delete`: delete resources."""

from collections.abc import Sequence
from typing import TextIO

from tortie.ctl import command, selection
from tortie.ctl.writing import READ_ONLY, in_order
from tortie.datastore.resources import Resources
from tortie.lib.errors import InvalidInput, NotFound, TortieError
from tortie.model.keys import ResourceKey


def main(argv: Sequence[str], out: TextIO) -> int:
    parser = command.parser("delete", "delete resources, by kind and name or from files")
    parser.add_argument(
        "what", nargs="*", metavar="KIND NAME ... | KIND/NAME ...", help="what to delete"
    )
    command.add_file_arguments(parser, required=False)
    command.add_namespace_argument(parser)
    parser.add_argument(
        "-s", "--skip-not-exists", action="store_true", help="what does not exist is no error"
    )
    arguments = parser.parse_args(argv)
    if bool(arguments.files) == bool(arguments.what):
        raise InvalidInput("give kinds and names, or files with -f; see tortie delete --help")
    if arguments.files:
        # What others rest on goes last, so a tier after its policies.
        documents = in_order(command.read_files(arguments, complete=False))
        keys = [document.key for document in reversed(documents)]
    else:
        keys = _named(arguments.what, arguments.namespace)
    for key in keys:
        if key.kind in READ_ONLY:
            raise InvalidInput(f"{key} cannot be deleted by hand")

    async def act(resources: Resources) -> None:
        await delete(resources, keys, out, skip_missing=arguments.skip_not_exists)

    command.with_resources(arguments.config, act)
    return 0


def _named(words: Sequence[str], namespace: str | None) -> list[ResourceKey]:
    chosen = selection.parse(words)
    for selected in chosen:
        if selected.names is None:
            raise InvalidInput(f"say which {selected.kind} to delete, by name")
    return [key for selected in chosen for key in selection.keys(selected, namespace)]


async def delete(
    resources: Resources, keys: Sequence[ResourceKey], out: TextIO, *, skip_missing: bool
) -> None:
    """
    Raises:
        TortieError: says how many were deleted before it.
    """
    if not skip_missing:
        for key in keys:
            await resources.get_entry(key)  # a wrong name among them: delete nothing
    done: list[str] = []
    for key in keys:
        try:
            await resources.delete(key)
        except NotFound:
            if not skip_missing:
                raise
            continue
        except TortieError:
            if done:
                count = command.count_of([key.kind for key in keys])
                print(f"Partial success: deleted the first {len(done)} out of {count}:", file=out)
            raise
        done.append(key.kind)
    count = command.count_of(done) if done else "0 resource(s)"
    print(f"Successfully deleted {count}", file=out)
