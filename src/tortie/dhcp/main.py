"""`tortie dhcp serve`, and the same under Calico's name, `calico-dhcp-agent`."""

import argparse
import asyncio
import faulthandler
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tortie.lib import log as logs
from tortie.lib.arguments import Parser
from tortie.lib.errors import Denied, TortieError, Unavailable
from tortie.lib.signals import until_signalled

log = logging.getLogger(__name__)

NEUTRON_FILES = (Path("/etc/neutron/neutron.conf"), Path("/etc/neutron/dhcp_agent.ini"))


ABOUT = (
    "Addresses by DHCP and router advertisement for the guests of this host, by dnsmasq: "
    "OpenStack's ports, and workloads that were added with --dhcp."
)


def parser() -> Parser:
    made = Parser(prog="tortie dhcp", description=__doc__, allow_abbrev=False)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="serve", parser_class=Parser)
    serving = verbs.add_parser(
        "serve", help="serve until stopped", description=ABOUT, allow_abbrev=False
    )
    add_options(serving)
    return made


def add_options(made: Parser) -> None:
    made.add_argument(
        "--config-file", type=Path, action="append", default=[], metavar="FILE",
        help="neutron.conf or dhcp_agent.ini: [calico], host, dhcp_lease_duration, "
        "dnsmasq_dns_servers, dns_domain; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--openstack-only", action="store_true",
        help="watch OpenStack's endpoints of this host and nothing else",
    )  # fmt: skip
    made.add_argument(
        "--lease", type=int, metavar="SECONDS", help="how long a lease lasts; -1: for ever"
    )
    made.add_argument(
        "--dns", default="", metavar="ADDRESSES",
        help="name servers for who has none; default: this host's own",
    )  # fmt: skip
    made.add_argument("--domain", default="", help="of guests that have none of their own")
    path: dict[str, Any] = {"type": Path, "help": "default %(default)s"}
    made.add_argument("--run-directory", default=Path("/run/tortie"), **path)
    made.add_argument("--state-directory", default=Path("/var/lib/tortie"), **path)
    made.add_argument("--felix-config", type=Path, help="default /etc/calico/felix.cfg")
    made.add_argument("-c", "--config", type=Path, help="a CalicoAPIConfig file")
    made.add_argument("--log-dhcp", action="store_true", help="log each packet of DHCP")
    made.add_argument("--log-json", action="store_true", help="log JSON instead of text")


def main(argv: Sequence[str]) -> int:
    return serve(parser().parse_args(argv))


def calico_dhcp_agent() -> None:
    """The console script: as Calico's."""
    sys.exit(_calico_dhcp_agent(sys.argv[1:]))


def _calico_dhcp_agent(argv: Sequence[str]) -> int:
    taken = Parser(prog="calico-dhcp-agent", description=ABOUT, allow_abbrev=False)
    add_options(taken)
    try:
        return serve_openstack(taken.parse_args(argv))
    except TortieError as error:
        print(f"calico-dhcp-agent: {error}", file=sys.stderr)
        return 3 if isinstance(error, Unavailable | Denied) else 2


def serve_openstack(arguments: argparse.Namespace) -> int:
    """With Neutron's files where packages have them, and for its ports alone."""
    arguments.openstack_only = True
    if not arguments.config_file:
        arguments.config_file = [path for path in NEUTRON_FILES if path.exists()]
    return serve(arguments)


def serve(arguments: argparse.Namespace) -> int:
    faulthandler.enable()
    logs.configure(json=arguments.log_json)
    if os.geteuid() != 0:
        raise Denied("the DHCP agent needs root (CAP_NET_ADMIN, ports 67 and 547)")
    asyncio.run(until_signalled(_run(arguments), lambda: log.info("stopping")))
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    from tortie.agent.config import FELIX_CFG, read_local, resolve
    from tortie.agent.early import interface_prefix
    from tortie.agent.parameters import workload_prefixes
    from tortie.datastore.connect import from_environment, open_client
    from tortie.dhcp import settings
    from tortie.dhcp.agent import DhcpAgent
    from tortie.dhcp.served import Defaults
    from tortie.lib.errors import failures

    files = settings.read_files(arguments.config_file)
    local = read_local(os.environ, arguments.felix_config or FELIX_CFG)
    felix = resolve(local)
    lease = arguments.lease if arguments.lease is not None else files.lease_seconds
    dns = settings.parse_dns(arguments.dns) or files.dns or settings.nameservers_of_this_host()
    domain = settings.parse_domain(arguments.domain or files.domain)
    running = settings.Settings(
        host=files.host or felix.host,
        region=files.calico.region if files.calico else felix.region,
        namespace=_namespace(files.calico.region if files.calico else felix.region),
        openstack_only=arguments.openstack_only,
        lease_seconds=settings.LEASE_SECONDS if lease is None else lease,
        defaults=Defaults(dns=dns, domain=domain),
        log_dhcp=arguments.log_dhcp,
    )
    datastore = files.datastore or from_environment(os.environ, arguments.config)
    client = open_client(datastore)
    log.info("starting", extra={"fields": {"host": running.host, "region": running.region}})
    try:
        directory = arguments.run_directory / "dhcp"

        def prefixes() -> tuple[str, ...]:
            return workload_prefixes(interface_prefix(local, arguments.state_directory))

        await DhcpAgent(running, client, directory, prefixes).run()
    except BaseExceptionGroup as group:
        raise next(failures(group)) from group
    finally:
        await client.close()


def _namespace(region: str) -> str:
    return "openstack" if region == "no-region" else f"openstack-{region}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
