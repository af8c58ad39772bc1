"""`tortie datastore migrate-policy-names`: policies of before v3.32 to where they belong now.

Their keys had the tier's name in front, `default.web` for the policy `web`.
"""

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.datastore.client import Client, Delete, Put, Txn, absent, unchanged
from tortie.datastore.resources import Resources
from tortie.lib.errors import Conflict
from tortie.model.codec import POLICY_KINDS, encode
from tortie.model.keys import ResourceKey


def main(given: Given, screen: Screen) -> int:
    migrated = access.with_client(access.config_file(given), migrate)
    screen.print(f"Policy name migration complete, migrated {migrated} policies.")
    return 0


async def migrate(client: Client) -> int:
    """How many were moved; safe to run again.

    Raises:
        Conflict: a policy was changed meanwhile, or both its names are taken.
    """
    migrated = 0
    resources = Resources(client)
    for kind in sorted(POLICY_KINDS):
        for stored in (await resources.list(kind)).items:
            metadata = stored.resource.metadata
            key = ResourceKey(kind, metadata.name, metadata.namespace)
            if stored.path == key.path:
                continue
            compares = [unchanged(stored.path, stored.revision), absent(key.path)]
            put = Put(key.path, encode(key, stored.resource, stored.raw))
            result = await client.transact(Txn(compares, [Delete(stored.path), put]))
            if not result.succeeded:
                raise Conflict(f"{stored.path} was changed, or {key} is there already")
            migrated += 1
    return migrated
