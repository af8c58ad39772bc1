"""The flag by which a datastore says that agents and plugins may act on it."""

import msgspec

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.ipam_check import cluster_information
from tortie.ctl.writing import initialize
from tortie.datastore.resources import Resources


def set_ready(given: Given, *, ready: bool) -> None:
    """
    Raises:
        Conflict: somebody else changed ClusterInformation at the same time.
    """

    async def act(resources: Resources) -> None:
        await initialize(resources)
        information = await cluster_information(resources)
        spec = msgspec.structs.replace(information.spec, datastore_ready=ready)
        await resources.update(msgspec.structs.replace(information, spec=spec))

    access.with_resources(access.config_file(given), act)
