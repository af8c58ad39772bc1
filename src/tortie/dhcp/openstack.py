"""`tortie openstack`: what OpenStack's operators run beside Neutron's servers."""

import argparse
from collections.abc import Sequence

from tortie.dhcp.main import ABOUT, add_options, serve_openstack
from tortie.lib.arguments import Parser


def parser() -> Parser:
    made = Parser(prog="tortie openstack", description=__doc__, allow_abbrev=False)
    verbs = made.add_subparsers(
        dest="verb", required=True, metavar="dhcp-agent|resync", parser_class=Parser
    )
    agent = verbs.add_parser(
        "dhcp-agent", help="addresses for this host's ports", description=ABOUT, allow_abbrev=False
    )
    add_options(agent)
    resync = verbs.add_parser(
        "resync", help="make etcd equal to Neutron's database; as calico-resync", add_help=False
    )
    resync.add_argument("arguments", nargs=argparse.REMAINDER, help="of calico-resync")
    return made


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["resync"]:
        from tortie.openstack import resync_command

        return resync_command.main(argv[1:])
    return serve_openstack(parser().parse_args(argv))
