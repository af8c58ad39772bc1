"""The controllers as a service: settings, health, a new start when the settings change."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from tortie.agent.health_server import HealthServer
from tortie.datastore.client import Client
from tortie.datastore.resources import Resources
from tortie.kube import settings as kube_settings
from tortie.kube.api import Api
from tortie.kube.controllers import Controllers
from tortie.kube.settings import Settings
from tortie.lib import log as logs
from tortie.lib.errors import InvalidInput, TortieError, failures
from tortie.lib.health import Health

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
SETTINGS_SECONDS = 30.0
"""Between looks at whether the settings are still those."""


class Running:
    """
    Args:
        environment: beats what is stored.
    """

    def __init__(
        self,
        client: Client,
        api: Api,
        environment: Mapping[str, str],
        health: Health,
        *,
        json_logs: bool = False,
    ) -> None:
        self._client = client
        self._api = api
        self._environment = environment
        self._health = health
        self._reporter = health.reporter("controllers")
        self._json_logs = json_logs

    @contextlib.asynccontextmanager
    async def health_served(self, port: int) -> AsyncIterator[None]:
        """On loopback; not at all with port 0, or where the environment says so."""
        if not port or self._environment.get("HEALTH_ENABLED", "").lower() == "false":
            yield
            return
        server = HealthServer(self._health, lambda: 0)
        await server.start("127.0.0.1", port)
        try:
            yield
        finally:
            await server.close()

    def stand_by(self) -> None:
        """Another one leads; that is as it should be."""
        self._reporter.ready("standing by")

    async def run(self) -> None:
        """While leading. Whatever fails is begun anew.

        Raises:
            InvalidInput: a variable of the environment is wrong.
        """
        while True:
            try:
                await self._run_once()
            except TortieError as error:
                self._fail(error)
            except BaseExceptionGroup as several:
                first = next(failures(several))
                if not isinstance(first, TortieError):
                    raise
                self._fail(first)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError  # a group that fails just then says nothing of it
            await asyncio.sleep(RETRY_SECONDS)

    async def _run_once(self) -> None:
        """One life with one set of settings; returns when they change."""
        self._reporter.not_ready("starting")
        resources = Resources(self._client)
        settings = await kube_settings.read(resources, self._environment)
        await kube_settings.report(resources, self._environment)
        logs.configure(settings.log_severity, json=self._json_logs)
        fields = {"run": ",".join(sorted(settings.controllers))}
        log.info("controllers", extra={"fields": fields})
        controllers = Controllers(self._api, resources, settings)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(controllers.run()),
                tasks.create_task(self._say_ready(controllers)),
                tasks.create_task(_compact(self._client, settings.compaction_seconds)),
            ]
            await self._until_changed(resources, settings)
            log.info("settings changed; starting anew")
            for task in running:
                task.cancel()

    async def _say_ready(self, controllers: Controllers) -> None:
        await controllers.settled()
        self._reporter.ready("in step")
        log.info("in step with the Kubernetes API")

    async def _until_changed(self, resources: Resources, running: Settings) -> None:
        while True:
            await asyncio.sleep(SETTINGS_SECONDS)
            try:
                if await kube_settings.read(resources, self._environment) != running:
                    return
            except TortieError as error:
                log.warning("going on with the settings that we have: %s", error)

    def _fail(self, error: TortieError) -> None:
        if isinstance(error, InvalidInput):
            raise error
        log.warning("starting anew: %s", error)
        self._reporter.not_ready(str(error))


async def _compact(client: Client, seconds: float) -> None:
    """Let the datastore forget what is older than one period; nobody else may be there to."""
    if not seconds:
        return
    revision = await client.revision()
    while True:
        await asyncio.sleep(seconds)
        try:
            newest = await client.revision()
            await client.compact(revision)
            revision = newest
        except TortieError as error:
            log.warning("history could not be compacted: %s", error)
