"""`tortie agent`: the daemon of one host.

Start: settings of this machine, workload interfaces closed unless policy is in
force, datastore, settings stored there, then everything else. Stop (SIGTERM): the kernel's state
stays, so nothing that was protected is open. A crash is the same, less polite.
"""

import argparse
import asyncio
import faulthandler
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tortie.agent import daemon, early, wiring
from tortie.agent.config import FELIX_CFG, Local, read_local, resolve
from tortie.agent.effective import Effective, StoredSettings
from tortie.agent.health_server import waiting
from tortie.agent.settings_watch import Restart
from tortie.attach import namespaces
from tortie.datastore.client import Client
from tortie.datastore.connect import DatastoreSettings, connect, from_environment
from tortie.datastore.resources import Resources, key_of
from tortie.kernel import capabilities
from tortie.kernel.capabilities import Capability
from tortie.lib import log as logs
from tortie.lib import loop_watch, supervisor
from tortie.lib.backoff import Backoff
from tortie.lib.errors import Denied, InvalidInput, NotFound, TortieError, Unavailable, failures
from tortie.lib.loop_watch import WatchedSelector
from tortie.lib.signals import until_signalled
from tortie.lib.threads import SteadyExecutor
from tortie.model.keys import ResourceKey
from tortie.model.node import ClusterInformation

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_INVALID = 2


SWITCH_SECONDS = 0.0005
"""How long a thread that has something to do waits for the loop: most of them only wait for the
kernel or the disk, and the default (5 ms) is longer than a container takes to attach."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tortie agent",
        description="Route for this host's workloads and enforce their policy. Settings: "
        "FELIX_* in the environment, felix.cfg, FelixConfiguration.",
    )
    parser.add_argument(
        "--run-directory",
        type=Path,
        default=Path("/run/tortie"),
        help="sockets (default %(default)s)",
    )
    parser.add_argument(
        "--state-directory",
        type=Path,
        default=Path("/var/lib/tortie"),
        help="what must outlive a reboot (default %(default)s)",
    )
    parser.add_argument("--felix-config", type=Path, default=FELIX_CFG, help="default %(default)s")
    parser.add_argument("-c", "--config", type=Path, help="a CalicoAPIConfig file")
    parser.add_argument("--log-json", action="store_true", help="log JSON instead of text")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    faulthandler.enable()
    sys.setswitchinterval(SWITCH_SECONDS)
    logs.configure(json=arguments.log_json)
    if os.geteuid() != 0:
        print("tortie agent: needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN)", file=sys.stderr)
        return EXIT_FAILED
    # Forked before any thread or event loop exists.
    helper = namespaces.start()
    capabilities.keep((Capability.NET_ADMIN,))
    supervisor.notify(READY="1", STATUS="waiting for the datastore")
    try:
        local = read_local(os.environ, arguments.felix_config)
        settings = from_environment(os.environ, arguments.config)
        with (
            loop_watch.bounded() as watch,
            asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watch)) as runner,
        ):
            runner.run(
                until_signalled(
                    _serve(arguments, local, settings, helper, watch),
                    lambda: log.info("stopping; what is in the kernel stays"),
                )
            )
    except Restart as reason:
        log.info("%s; starting anew", reason)
        helper.close()  # exec keeps children, and nobody would wait for it
        logging.shutdown()
        if capabilities.no_new_privileges():
            return 0  # the next helper needs what we gave up; whoever supervises us starts us
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
    except TortieError as error:
        print(f"tortie agent: {error}", file=sys.stderr)
        return EXIT_FAILED if error.retryable else EXIT_INVALID
    finally:
        helper.close()
    return 0


async def _serve(
    arguments: argparse.Namespace,
    local: Local,
    settings: DatastoreSettings,
    helper: namespaces.Namespaces,
    watch: WatchedSelector,
) -> None:
    asyncio.get_running_loop().set_default_executor(SteadyExecutor())
    prefix = early.interface_prefix(local, arguments.state_directory)
    await early.close_workloads(arguments.run_directory, prefix)
    async with waiting(resolve(local)):
        client = await _connect(settings)
    try:
        running = await _read_settings(StoredSettings(local, settings.type), client)
        logs.configure(running.config["LogSeverityScreen"], json=arguments.log_json)
        fields = {
            "host": running.config.host,
            "datastore": settings.type and settings.type.value,
            "routing": running.routing.value,
        }
        log.info("starting", extra={"fields": fields})
        paths = wiring.Paths(arguments.run_directory, arguments.state_directory)
        stored = StoredSettings(local, settings.type)
        await daemon.serve(stored, running, client, paths, helper, watch)
    except BaseExceptionGroup as group:
        raise next(failures(group)) from group
    finally:
        await client.close()


async def _connect(settings: DatastoreSettings) -> Client:
    """Reach the datastore, however long it takes: the kernel's state stands meanwhile."""
    backoff = Backoff(0.1, 5.0)
    while True:
        try:
            return await connect(settings, create=True)
        except Unavailable as error:
            log.warning("datastore not reachable, will try again: %s", error)
            supervisor.alive()
            await asyncio.sleep(backoff.next_seconds())


async def _read_settings(stored: StoredSettings, client: Client) -> Effective:
    """What to run with; settings that we may not read count as not there."""
    resources = Resources(client)
    try:
        if not await _is_locked(resources):
            await resources.ensure_initialized()
    except Denied as error:
        log.warning("this cluster is not initialized, and we may not do it: %s", error)
    try:
        for kind in ("FelixConfiguration", "BGPConfiguration", "Node"):
            for found in (await resources.list(kind)).items:
                stored.on_resource(key_of(found.resource), found.resource)
    except Denied as error:
        log.warning("may not read the stored settings: %s", error)
    return stored.effective()


async def _is_locked(resources: Resources) -> bool:
    """Whether nobody is to write now, as during a migration; the loop waits for the end of it."""
    try:
        found = (await resources.get(ResourceKey("ClusterInformation", "default"))).resource
    except NotFound:
        return False
    except InvalidInput:
        return True  # not ours to repair
    return isinstance(found, ClusterInformation) and found.spec.datastore_ready is False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
