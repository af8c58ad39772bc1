"""`tortie cni install|uninstall|show`: the plugins, in their places."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install as installing
from tortie.lib.errors import Unavailable

BIN_DIR = Path("/opt/cni/bin")
CONF_DIR = Path("/etc/cni/net.d")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tortie cni", description="The CNI plugins of this host, for container runtimes."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    install = verbs.add_parser("install", help="put plugins and configuration in place")
    show = verbs.add_parser("show", help="print the configuration that install would write")
    uninstall = verbs.add_parser("uninstall", help="remove them again")
    for verb in (install, uninstall):
        verb.add_argument("--bin-dir", type=Path, default=BIN_DIR, help="default %(default)s")
        verb.add_argument("--conf-dir", type=Path, default=CONF_DIR, help="default %(default)s")
        verb.add_argument("--no-conf", action="store_true", help="the plugins only")
    for verb in (install, show):
        verb.add_argument("--conflist", type=Path, help="this configuration, not one of ours")
        verb.add_argument("--ipv6", action="store_true", help="an IPv6 address for each, too")
        verb.add_argument("--mtu", type=int, default=0, help="of the containers' interfaces")
        verb.add_argument(
            "--kubeconfig", type=Path, metavar="FILE",
            help="asks the Kubernetes API about pods; made by tortie kube kubeconfig node",
        )  # fmt: skip
        verb.add_argument(
            "--plain", action="store_true", help="not for Kubernetes: profiles by network"
        )
    install.add_argument(
        "--run-directory", type=Path, default=Path("/run/tortie"), help="the agent's"
    )
    install.add_argument(
        "--state-directory", type=Path, default=Path("/var/lib/tortie"), help="the agent's"
    )
    install.add_argument("--python", default="", help="interpreter (default: the system's)")
    install.add_argument(
        "--perl", default="", help="starts faster, for the usual case (default: the system's; none)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    conf_dir = (
        None if getattr(arguments, "no_conf", False) else getattr(arguments, "conf_dir", None)
    )
    if arguments.verb == "uninstall":
        changed = installing.uninstall(arguments.bin_dir, conf_dir)
    elif arguments.verb == "show":
        sys.stdout.write(_conflist(arguments).decode())
        return 0
    else:
        places = installing.Places(
            arguments.run_directory / "attach.sock",
            arguments.state_directory / "cni",
            arguments.python,
            arguments.perl,
        )
        conflist = _conflist(arguments)
        changed = installing.install(arguments.bin_dir, conf_dir, places, conflist)
    for path in changed:
        print(path)
    return 0


def _conflist(arguments: argparse.Namespace) -> bytes:
    if arguments.conflist is None:
        return default_conflist(
            kubernetes=not arguments.plain,
            ipv6=arguments.ipv6,
            mtu=arguments.mtu,
            kubeconfig=arguments.kubeconfig,
        )
    path: Path = arguments.conflist
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error
