"""`tortie kube`: what a Kubernetes cluster needs beside an agent on each node."""

import argparse
import asyncio
import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from tortie.lib import log as logs
from tortie.lib.arguments import Parser
from tortie.lib.errors import NotFound
from tortie.lib.signals import until_signalled

log = logging.getLogger(__name__)

LEASE = "tortie-kube-controllers"


def parser() -> Parser:
    made = Parser(prog="tortie kube", description=__doc__, allow_abbrev=False)
    verbs = made.add_subparsers(
        dest="verb", required=True, metavar="controllers|install|kubeconfig"
    )
    controllers = verbs.add_parser(
        "controllers",
        help="keep the datastore in step with the Kubernetes API",
        description="Keep the datastore in step with the Kubernetes API. Settings: the resource "
        "KubeControllersConfiguration, and ENABLED_CONTROLLERS, RECONCILER_PERIOD, "
        "COMPACTION_PERIOD, SYNC_NODE_LABELS, AUTO_HOST_ENDPOINTS, LOG_LEVEL, HEALTH_ENABLED.",
    )
    controllers.add_argument(
        "--kubeconfig", type=Path, metavar="FILE",
        help="default: KUBECONFIG, a pod's own account, ~/.kube/config",
    )  # fmt: skip
    controllers.add_argument("-c", "--config", type=Path, metavar="FILE", help="a CalicoAPIConfig")
    controllers.add_argument(
        "--lease-namespace", default="kube-system", metavar="NS",
        help="of the Lease that says which of several works (default %(default)s)",
    )  # fmt: skip
    controllers.add_argument(
        "--no-leader-elect", action="store_true", help="work at once: there is only one"
    )
    controllers.add_argument(
        "--health-port", type=int, default=9097, metavar="PORT",
        help="/liveness and /readiness on loopback (default %(default)s)",
    )  # fmt: skip
    controllers.add_argument("--log-json", action="store_true", help="log JSON instead of text")
    controllers.set_defaults(run=_controllers)
    _add_install(verbs)
    return made


def _add_install(verbs: "argparse._SubParsersAction[Parser]") -> None:
    install = verbs.add_parser(
        "install",
        help="print manifests for kubectl apply",
        description="Print the manifests that a cluster needs: accounts, what they may read, and "
        "a ConfigMap. Agents and controllers themselves are services of their hosts.",
    )
    install.add_argument(
        "--etcd-endpoints", default="", metavar="URLS", help="for the ConfigMap, with commas"
    )
    install.add_argument("--ipv6", action="store_true", help="an IPv6 address for each pod, too")
    install.add_argument("--mtu", type=int, default=0, help="of the pods' interfaces")
    install.set_defaults(run=_install)
    kubeconfig = verbs.add_parser(
        "kubeconfig",
        help="write the credentials of agents or controllers",
        description="Write a kubeconfig for a service account that `tortie kube install` made. "
        "It is as secret as a password: the file is for its owner only.",
    )
    kubeconfig.add_argument("role", choices=("node", "controllers"), help="whose")
    kubeconfig.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="where to"
    )
    kubeconfig.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="of who may read secrets of kube-system"
    )
    kubeconfig.set_defaults(run=_kubeconfig)


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise NotFound(
            "tortie kube needs the library aiohttp: install tortie[kube], or Debian's "
            "python3-aiohttp"
        ) from None


def _install(arguments: argparse.Namespace) -> int:
    from tortie.kube.install import manifests, text

    endpoints = [word.strip() for word in arguments.etcd_endpoints.split(",") if word.strip()]
    if not endpoints:
        from tortie.datastore.connect import from_environment

        endpoints = [*from_environment(os.environ).endpoints]
    sys.stdout.write(text(manifests(endpoints, ipv6=arguments.ipv6, mtu=arguments.mtu)))
    return 0


def _kubeconfig(arguments: argparse.Namespace) -> int:
    from tortie.kube import install
    from tortie.kube.api import HttpApi, Kind, Name
    from tortie.lib.files import replace_file
    from tortie.lib.kubeconfig import from_environment

    cluster = from_environment(os.environ, arguments.kubeconfig)
    account = install.account_of_role(arguments.role)

    async def read() -> bytes:
        api = HttpApi(cluster)
        try:
            name = Name(install.NAMESPACE, f"{account}-token")
            secret = await api.get(Kind("", "v1", "secrets"), name)
        except NotFound as error:
            raise NotFound(f"{error}; apply the manifests of `tortie kube install` first") from None
        finally:
            await api.close()
        return install.kubeconfig(cluster.server, secret)

    replace_file(arguments.output, asyncio.run(read()), 0o600)
    print(arguments.output)
    return 0


def _controllers(arguments: argparse.Namespace) -> int:
    logs.configure(json=arguments.log_json)
    asyncio.run(until_signalled(_serve(arguments), lambda: log.info("stopping")))
    return 0


async def _serve(arguments: argparse.Namespace) -> None:
    from tortie.datastore.connect import from_environment, open_client
    from tortie.kube.api import HttpApi, Name
    from tortie.kube.leader import Election
    from tortie.kube.running import Running
    from tortie.lib.health import Health
    from tortie.lib.kubeconfig import from_environment as cluster_of

    cluster = cluster_of(os.environ, arguments.kubeconfig)
    client = open_client(from_environment(os.environ, arguments.config))
    api = HttpApi(cluster, "tortie-kube-controllers")
    election = Election(
        api, Name(arguments.lease_namespace, LEASE), f"{os.uname().nodename}_{uuid.uuid4()}"
    )
    health = Health()
    running = Running(client, api, os.environ, health, json_logs=arguments.log_json)
    log.info("starting", extra={"fields": {"api": cluster.server}})
    try:
        async with running.health_served(arguments.health_port):
            while True:
                running.stand_by()
                if arguments.no_leader_elect:
                    await running.run()
                else:
                    await election.lead(running.run)
    finally:
        if not arguments.no_leader_elect:
            await asyncio.shield(election.step_down())
        await api.close()
        await client.close()
