"""`tortie validate`: what `apply` checks before it writes, without a datastore."""

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.writing import refuse_read_only
from tortie.lib.errors import InvalidInput


def main(given: Given, screen: Screen) -> int:
    documents = access.read_files(given)
    if not documents:
        screen.print("No resources specified")
        return 0
    refuse_read_only(documents, "validate")
    seen: dict[object, str] = {}
    for document in documents:
        if document.key in seen:
            raise InvalidInput(f"{document.where}: {document.key} is at {seen[document.key]}, too")
        seen[document.key] = document.where
    kind = access.single_kind([document.key.kind for document in documents])
    screen.print(access.success("validated", len(documents), kind))
    return 0
