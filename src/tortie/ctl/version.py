"""`tortie version`: of this command, and of the cluster."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TextIO, cast

from tortie.ctl import command
from tortie.datastore.resources import Resources
from tortie.lib.errors import NotFound, Unavailable
from tortie.model.keys import ResourceKey
from tortie.model.node import ClusterInformation


def main(argv: Sequence[str], out: TextIO) -> int:
    parser = command.parser("version", "show the version of this command and of the cluster")
    parser.add_argument("--client", action="store_true", help="only this command's")
    arguments = parser.parse_args(argv)
    print(f"Client Version:    {client_version()}", file=out)
    if arguments.client:
        return 0
    try:
        cluster = command.with_resources(arguments.config, _cluster)
    except Unavailable as error:
        print(f"Cluster Version:   unknown: {error}", file=out)
        return 0
    if cluster is None:
        print("Cluster Version:   none yet: no agent has initialized the datastore", file=out)
        return 0
    print(f"Cluster Version:   {cluster.spec.calico_version or 'not given'}", file=out)
    print(f"Cluster Type:      {cluster.spec.cluster_type or 'not given'}", file=out)
    return 0


def client_version() -> str:
    try:
        return version("tortie")
    except PackageNotFoundError:
        return "not installed"


async def _cluster(resources: Resources) -> ClusterInformation | None:
    try:
        stored = await resources.get(ResourceKey("ClusterInformation", "default"))
    except NotFound:
        return None
    return cast(ClusterInformation, stored.resource)
