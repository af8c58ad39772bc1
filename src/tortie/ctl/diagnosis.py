"""What a check of `tortie doctor` looks at, and what it says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tortie.agent.config import Config, Local, read_local, resolve
from tortie.agent.early import interface_prefix
from tortie.agent.parameters import workload_prefixes
from tortie.agent.routing import Routing, choose_routing
from tortie.ctl.cluster_facts import Cluster, EtcdServer, ask_etcd, read_cluster
from tortie.datastore.connect import DatastoreSettings, from_environment
from tortie.lib.errors import TortieError


class State(Enum):
    GOOD = "good"
    WARNING = "warning"
    """It works, and may not for long."""
    PROBLEM = "problem"
    UNKNOWN = "unknown"
    """It could not be told."""


class Finding(NamedTuple):
    state: State
    detail: str
    remedy: str = ""
    """What to do; empty where all is well."""


def good(detail: str) -> Finding:
    return Finding(State.GOOD, detail)


def warning(detail: str, remedy: str) -> Finding:
    return Finding(State.WARNING, detail, remedy)


def problem(detail: str, remedy: str) -> Finding:
    return Finding(State.PROBLEM, detail, remedy)


def unknown(detail: str, remedy: str = "") -> Finding:
    return Finding(State.UNKNOWN, detail, remedy)


class Host:
    """This machine, as far as the checks look at it; each fact is looked up once.

    Settings are the agent's: what its unit has from `environment_file` counts
    where this process's own environment says nothing.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        run_directory: Path,
        state_directory: Path,
        felix_config: Path,
        config_file: Path | None,
        environment_file: Path,
    ) -> None:
        self.environment = {**read_environment_file(environment_file), **environment}
        self.environment_file = environment_file
        self.run_directory = run_directory
        self.state_directory = state_directory
        self.felix_config = felix_config
        self.config_file = config_file

    @cached_property
    def local(self) -> Local:
        """Raises: InvalidInput."""
        return read_local(self.environment, self.felix_config)

    @cached_property
    def datastore(self) -> DatastoreSettings:
        """Raises: InvalidInput, NotFound."""
        return from_environment(self.environment, self.config_file)

    @cached_property
    def config(self) -> Config:
        """The agent's settings; without those in the datastore where it is out of reach."""
        cluster = self.cluster
        if isinstance(cluster, TortieError):
            return resolve(self.local)
        labels = cluster.labels_of(resolve(self.local).host)
        return resolve(self.local, cluster.felix_configurations, labels)

    @property
    def name(self) -> str:
        """Of this host as a node."""
        return resolve(self.local).host

    @cached_property
    def cluster(self) -> Cluster | TortieError:
        """What the datastore says, or why it says nothing."""
        try:
            return read_cluster(self.datastore)
        except TortieError as error:
            return error

    @cached_property
    def etcd_servers(self) -> tuple[list[EtcdServer], list[TortieError]]:
        """Every endpoint that says what it is, and why the others do not."""
        answers: list[EtcdServer] = []
        failures: list[TortieError] = []
        for endpoint in self.datastore.endpoints:
            try:
                answers.append(ask_etcd(endpoint, self.datastore))
            except TortieError as error:
                failures.append(error)
        return answers, failures

    @property
    def routing(self) -> Routing:
        cluster = self.cluster
        bgp = "" if isinstance(cluster, TortieError) else cluster.program_cluster_routes
        return choose_routing(self.config["ProgramClusterRoutes"], bgp, self.datastore.type)

    @property
    def interface_prefixes(self) -> tuple[str, ...]:
        """Of workloads' interfaces."""
        return workload_prefixes(interface_prefix(self.local, self.state_directory))


def read_environment_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines as systemd reads them; what is no assignment is left out.

    Source: systemd.exec(5), EnvironmentFile.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    found = {}
    for line in text.replace("\\\n", "").splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith(("#", ";")):
            continue
        try:
            found[name.strip()] = " ".join(shlex.split(value)) if set("'\"") & set(value) else value
        except ValueError:  # a quote that does not end
            continue
    return found
