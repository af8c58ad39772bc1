"""`tortie docker serve|plugin`: networks for Docker, and for its swarm mode."""

import argparse
import asyncio
import faulthandler
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tortie.agent.config import FELIX_CFG, read_local, resolve
from tortie.lib import log as logs
from tortie.lib.signals import until_signalled


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tortie docker", description="Networks of driver tortie (or calico) for Docker."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve = verbs.add_parser(
        "serve",
        help="the service itself, to run before dockerd",
        description="Answer Docker's questions about networks of driver tortie or calico. "
        "Settings: CALICO_LIBNETWORK_* in the environment.",
    )
    path: dict[str, Any] = {"type": Path, "help": "default %(default)s"}
    serve.add_argument("--run-directory", default=Path("/run/tortie"), **path)
    serve.add_argument("--state-directory", default=Path("/var/lib/tortie"), **path)
    serve.add_argument("--plugin-directory", default=Path("/run/docker/plugins"), **path)
    serve.add_argument("--docker-socket", default=Path("/var/run/docker.sock"), **path)
    serve.add_argument("--felix-config", default=FELIX_CFG, **path)
    serve.add_argument("-c", "--config", type=Path, help="a CalicoAPIConfig file")
    serve.add_argument(
        "--scope",
        choices=("local", "global"),
        default="local",
        help="global: networks are in Docker's cluster store (Docker before 23)",
    )
    serve.add_argument(
        "--leave-firewall",
        action="store_true",
        help="add no rules to Docker's chain DOCKER-USER, though Docker drops what we forward",
    )
    serve.add_argument("--log-json", action="store_true", help="log JSON instead of text")
    plugin = verbs.add_parser(
        "plugin",
        help="write the managed plugin that swarm mode needs",
        description="Write a directory for `docker plugin create`. Nothing is downloaded.",
    )
    plugin.add_argument("directory", type=Path, help="to be made; must not exist")
    plugin.add_argument("--run-directory", default=Path("/run/tortie"), **path)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    if arguments.verb == "plugin":
        from tortie.docker.managed_plugin import swarm_socket, write

        write(arguments.directory, swarm_socket(arguments.run_directory))
        return 0
    return _serve(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    from tortie.lib.errors import Denied

    faulthandler.enable()
    is_debugging = os.environ.get("CALICO_DEBUG", "").lower() in ("true", "1")
    logs.configure("Debug" if is_debugging else "Info", json=arguments.log_json)
    if os.geteuid() != 0:
        raise Denied("tortie docker serve needs root")
    asyncio.run(until_signalled(_run(arguments)))
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    from tortie.datastore.client import Client
    from tortie.datastore.connect import connect, from_environment
    from tortie.docker.managed_plugin import swarm_socket
    from tortie.docker.service import Service
    from tortie.docker.settings import Settings
    from tortie.docker.settings import from_environment as settings_from
    from tortie.lib.errors import failures
    from tortie.lib.supervisor import notify

    agent = resolve(read_local(os.environ, arguments.felix_config))
    settings = Settings(
        host=agent.host,
        agent=arguments.run_directory / "attach.sock",
        docker=arguments.docker_socket,
        plugins=arguments.plugin_directory,
        swarm=swarm_socket(arguments.run_directory),
        state=arguments.state_directory / "docker",
        scope=arguments.scope,
        workload_prefix=agent.workload_prefixes[0],
        opens_forwarding=not arguments.leave_firewall,
    )
    settings = settings_from(settings, os.environ)
    datastore = from_environment(os.environ, arguments.config)

    async def reach() -> Client:
        return await connect(datastore, create=True)

    try:
        await Service(settings, reach).run(lambda: notify(READY="1"))
    except BaseExceptionGroup as group:
        raise next(failures(group)) from group


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
