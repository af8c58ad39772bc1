"""`calico-resync`: make etcd equal to Neutron's database, all of it or what the flags name.

It reads neutron-server's own configuration, needs no server to run, and may run beside several:
it writes by the same rule as they do. What it did is printed as JSON.

Exit codes: 0 done; 1 not, and `error` says why; 2 the command line or the configuration.

Source: Calico, networking-calico, resync/cli.py (flags, exit codes, the shape of the result).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from tortie.lib.errors import InvalidInput, TortieError
from tortie.openstack.resync import Report, Resync, Scope

DEFAULT_FILE = "/etc/neutron/neutron.conf"

_PHASES = {"subnets": "subnets", "security groups": "policy", "ports": "endpoints"}


def entry() -> None:
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    scope = Scope(
        networks=frozenset(options.networks),
        subnets=frozenset(options.subnets),
        ports=frozenset(options.ports),
        security_groups=frozenset(options.security_groups),
        include_security_groups_for_ports=options.include_sgs_for_ports,
    )
    if options.all and not scope.is_all:
        print("calico-resync: --all goes with no other object", file=sys.stderr)
        return 2
    try:
        resync = _resync(options.config_file or [DEFAULT_FILE])
    except InvalidInput as error:
        print(f"calico-resync: {error}", file=sys.stderr)
        return 2
    result = run(resync, scope)
    json.dump(result, sys.stdout, indent=2, sort_keys=True)
    print()
    return 0 if result["ok"] else 1


def run(resync: Resync, scope: Scope, clock: Callable[[], float] = time.time) -> dict[str, Any]:
    """One run, as it is printed. Beside Calico's fields: `problems`, left out and so closed."""
    started = clock()
    error = None
    try:
        resync.run(scope)
    except TortieError as failure:
        error = f"{type(failure).__name__}: {failure}"
    except Exception as failure:  # noqa: BLE001 - the database's, of which there are many
        error = f"{type(failure).__name__}: {failure}"
    finished = clock()
    return {
        "scope": {
            "all": scope.is_all,
            "networks": sorted(scope.networks),
            "subnets": sorted(scope.subnets),
            "ports": sorted(scope.ports),
            "security_groups": sorted(scope.security_groups),
            "include_security_groups_for_ports": scope.include_security_groups_for_ports,
        },
        "phases": _phases(resync.report),
        "problems": list(resync.report.problems),
        "started_at": _moment(started),
        "finished_at": _moment(finished),
        "total_ms": round((finished - started) * 1000),
        "ok": error is None,
        "error": error,
    }


def _phases(report: Report) -> dict[str, dict[str, Any]]:
    return {
        _PHASES.get(kind, kind): {
            "checked": counts.checked,
            "writes": counts.created + counts.updated,
            "deletes": counts.deleted,
            "raced": counts.raced,
            "total_ms": round(counts.seconds * 1000),
        }
        for kind, counts in report.kinds.items()
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _resync(files: Sequence[str]) -> Resync:
    """
    Raises:
        InvalidInput: an option, or a file that is not there.
    """
    from neutron.common import config
    from neutron.db.migration.models import head  # noqa: F401 - all tables, which name each other
    from oslo_config import cfg

    from tortie.openstack import options
    from tortie.openstack.database import Database
    from tortie.openstack.gateway import Gateway
    from tortie.openstack.names import fqdn
    from tortie.openstack.projects import Projects
    from tortie.openstack.store import Store

    config.register_common_config_options()
    options.register(cfg.CONF)
    try:
        config.init([f"--config-file={path}" for path in files])
    except cfg.Error as error:
        raise InvalidInput(str(error)) from None
    settings = options.settings_of(cfg.CONF)
    database = Database(Projects(cfg.CONF, settings.project_name_cache_max), fqdn)
    return Resync(Store(Gateway.of(settings)), database, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calico-resync",
        description="Make etcd equal to Neutron's database, all of it or a part.",
    )
    parser.add_argument(
        "--config-file",
        action="append",
        metavar="PATH",
        help=f"neutron.conf; several are read in order (default: {DEFAULT_FILE})",
    )
    parser.add_argument("--all", action="store_true", help="everything, as without any other flag")
    for flag, name, what in (
        ("--network", "networks", "this network, with its subnets and ports"),
        ("--subnet", "subnets", "this subnet, with the ports that have addresses in it"),
        ("--port", "ports", "this port"),
        ("--security-group", "security_groups", "this security group's policy"),
    ):
        parser.add_argument(flag, action="append", default=[], dest=name, metavar="ID", help=what)
    parser.add_argument(
        "--include-sgs-for-ports",
        action="store_true",
        help="with ports, the security groups that they are in, too",
    )
    return parser


if __name__ == "__main__":
    entry()
