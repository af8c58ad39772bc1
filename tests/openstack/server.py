"""Neutron as it is installed: Debian's 21, where eventlet serves, and 29 under a WSGI server.

Each runs from its own packages. Tortie reaches it as an operator's installation would: its package,
its entry points and its dependencies, in one directory on the path.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from tests.datastore.etcd_server import free_ports
from tests.openstack.mariadb import MariaDB

from tortie.kernel import netns

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).parents[2]

ZED = 21
"""Debian 12's."""
NEWEST = 29
VERSIONS = (ZED, NEWEST)


class Response(NamedTuple):
    status: int
    body: Any


class ApiError(AssertionError):
    def __init__(self, method: str, path: str, response: Response) -> None:
        super().__init__(f"{method} {path}: {response.status} {response.body}")
        self.status = response.status
        self.body = response.body


def virtual_environment() -> Path:
    """Where `scripts/neutron` has put Neutron 29."""
    made = subprocess.run([ROOT / "scripts/neutron"], check=True, capture_output=True, text=True)
    return Path(made.stdout.strip())


def site(folder: Path) -> Path:
    """A directory that holds Tortie and what it depends on, and nothing else."""
    installed = Path(sysconfig.get_paths()["purelib"])
    folder.mkdir()
    (folder / "tortie").symlink_to(ROOT / "src/tortie")
    for pattern in ("tortie-*.dist-info", "msgspec", "msgspec-*", "h2", "hpack", "hyperframe"):
        for found in installed.glob(pattern):
            (folder / found.name).symlink_to(found)
    return folder


class Release:
    """One version of Neutron, with an empty database of its schema to copy."""

    def __init__(self, version: int, folder: Path, database: MariaDB) -> None:
        self.version = version
        self.folder = folder
        self.database = database
        self.template = f"template{version}"
        if version == ZED:
            self.python, self.paste = Path("/usr/bin/python3"), "/etc/neutron/api-paste.ini"
        else:
            venv = virtual_environment()
            self.python, self.paste = venv / "bin/python", str(venv / "etc/neutron/api-paste.ini")
        self.site = site(folder / "site")
        address = database.create(self.template)
        subprocess.run(
            [self.python, "-c", _MAKE_SCHEMA, address],
            check=True, capture_output=True, env=self.environment(folder),
        )  # fmt: skip

    def environment(self, home: Path) -> dict[str, str]:
        """stevedore caches entry points below HOME."""
        return {
            "PATH": f"{self.python.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "PYTHONPATH": str(self.site),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


_MAKE_SCHEMA = """
import sys, sqlalchemy
from neutron.db.migration.models import head
head.get_metadata().create_all(sqlalchemy.create_engine(sys.argv[1]))
"""


class Neutron:
    """One server, on a port of its own, with a database that others may share."""

    def __init__(
        self,
        release: Release,
        folder: Path,
        name: str,
        etcd_port: int,
        *,
        database: str = "",
        settings: Mapping[str, Mapping[str, str]] | None = None,
        processes: int = 1,
        works: bool = True,
        etcd_host: str = "127.0.0.1",
        namespace: str = "",
    ) -> None:
        """
        Args:
            namespace: path of a network namespace to run in; none is the test's own.
            database: of another server; none makes one.
            settings: of neutron.conf, by section, over what is here.
            processes: that serve the API.
            works: whether Neutron's background processes run too.
        """
        self.release = release
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.name = name
        (self.port,) = free_ports(1)
        self.processes = processes
        self.works = works
        self.namespace = namespace
        self._etcd_host = etcd_host
        self.database = database or self._new_database()
        self.started: list[subprocess.Popen[bytes]] = []
        self.configuration = self.folder / "neutron.conf"
        self.write_configuration(etcd_port, settings or {})

    def _new_database(self) -> str:
        self.release.database.create(self.name)
        self.release.database.copy(self.release.template, self.name)
        return self.name

    def sql(self, statement: str) -> list[list[str]]:
        return self.release.database.sql(statement, self.database)

    def write_configuration(
        self, etcd_port: int, settings: Mapping[str, Mapping[str, str]]
    ) -> None:
        address = self.release.database
        sections: dict[str, dict[str, str]] = {
            "DEFAULT": {
                "core_plugin": "ml2",
                "service_plugins": "router,qos",
                "auth_strategy": "noauth",
                "transport_url": "fake://",
                "bind_host": "127.0.0.1",
                "bind_port": str(self.port),
                "api_workers": str(self.processes),
                "rpc_workers": "1",
                "rpc_state_report_workers": "0",
                "state_path": str(self.folder),
                "api_paste_config": self.release.paste,
                "notify_nova_on_port_status_changes": "false",
                "notify_nova_on_port_data_changes": "false",
                "max_overflow": "20",
                "use_stderr": "true",
                "agent_down_time": "75",
            },
            "oslo_policy": {"policy_file": str(self.folder / "policy.yaml")},
            "oslo_concurrency": {"lock_path": str(self.folder / "lock")},
            "database": {"connection": address.address(self.database)},
            "ml2": {
                "type_drivers": "local,flat",
                "tenant_network_types": "local",
                "mechanism_drivers": "calico",
                "extension_drivers": "port_security,qos",
            },
            "quotas": {
                f"quota_{what}": "-1"
                for what in ("port", "network", "subnet", "security_group", "security_group_rule")
            },
            "calico": {"etcd_host": self._etcd_host, "etcd_port": str(etcd_port)},
        }
        for section, values in settings.items():
            sections.setdefault(section, {}).update(values)
        lines = []
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
        # What only Nova may do, and here everybody does.
        (self.folder / "policy.yaml").write_text(
            '"create_port:binding:profile": ""\n"update_port:binding:profile": ""\n'
        )
        self.configuration.write_text("\n".join(lines) + "\n")

    # Running.

    def start(self) -> "Neutron":
        environment = {**self.release.environment(self.folder), **self._wsgi_environment()}
        config = ["--config-file", str(self.configuration)]
        if self.release.version == ZED:
            commands = [[str(self.release.python), "/usr/bin/neutron-server", *config]]
        else:
            binaries = self.release.python.parent
            # In a file: Neutron takes the command line for its own. Loaded before the fork, for
            # whatever a driver opens too early is shared then.
            (self.folder / "gunicorn.conf.py").write_text(
                "wsgi_app = 'neutron.wsgi.api:application'\n"
                f"bind = '127.0.0.1:{self.port}'\n"
                f"workers = {self.processes}\nthreads = 8\ntimeout = 300\npreload_app = True\n"
            )
            commands = [[str(binaries / "gunicorn")]]
            if self.works:
                commands.append([str(binaries / "neutron-periodic-workers"), *config])
        for command in commands:
            log = (self.folder / "log").open("ab")

            def spawn(
                command: list[str] = command, log: IO[bytes] = log
            ) -> "subprocess.Popen[bytes]":
                return subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=self.folder,
                    start_new_session=True,
                )

            self.started.append(self._there(spawn))
        self.eventually(self._answers, f"{self.name} does not answer")
        return self

    def _there(self, act: Callable[[], T]) -> T:
        """In our namespace."""
        return netns.run_in(self.namespace, act) if self.namespace else act()

    def _wsgi_environment(self) -> dict[str, str]:
        return {"OS_NEUTRON_CONFIG_FILES": str(self.configuration)}

    def _answers(self) -> bool:
        assert all(process.poll() is None for process in self.started), self.log()[-6000:]
        with contextlib.suppress(OSError):
            return self.request("GET", "/v2.0/extensions").status == 200
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """With all of its processes: each server leads a process group."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        give_up = time.monotonic() + 20
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(give_up - time.monotonic(), 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.started = []

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def eventually(
        self, holds: Callable[[], object], what: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        give_up = time.monotonic() + patience_seconds
        while not holds():
            assert time.monotonic() < give_up, f"{what}\n{self.log()[-4000:]}"
            time.sleep(0.1)

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command in this release's environment."""
        environment = {**self.release.environment(self.folder), **options.pop("env", {})}
        return subprocess.run(
            [str(self.release.python), *command],
            capture_output=True, text=True, env=environment, timeout=120, **options,
        )  # fmt: skip

    # The API.

    def request(self, method: str, path: str, body: object = None) -> Response:
        return self._there(lambda: self._request(method, path, body))

    def _request(self, method: str, path: str, body: object) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
            try:
                return Response(answer.status, json.loads(data) if data else None)
            except ValueError:
                return Response(answer.status, data.decode(errors="replace"))
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: object = None) -> Any:
        response = self.request(method, f"/v2.0/{path}", body)
        if response.status >= 300:
            raise ApiError(method, path, response)
        return response.body

    def create(self, kind: str, tenant_id: str = "acme", **fields: Any) -> dict[str, Any]:
        """The resource, as the API answers; `kind` is its singular, such as `security_group`."""
        path = (
            f"{kind.replace('_', '-')}s"
            if kind != "security_group_rule"
            else ("security-group-rules")
        )
        made = self.ok("POST", path, {kind: {"tenant_id": tenant_id, **fields}})
        return dict(made[kind])

    def update(self, kind: str, resource_id: str, **fields: Any) -> dict[str, Any]:
        path = f"{kind.replace('_', '-')}s/{resource_id}"
        return dict(self.ok("PUT", path, {kind: fields})[kind])

    def show(self, kind: str, resource_id: str) -> dict[str, Any]:
        return dict(self.ok("GET", f"{kind.replace('_', '-')}s/{resource_id}")[kind])

    def list(self, kind: str, query: str = "") -> list[dict[str, Any]]:
        plural = f"{kind}s"
        return list(self.ok("GET", f"{plural.replace('_', '-')}{query}")[plural])

    def delete(self, kind: str, resource_id: str) -> None:
        self.ok("DELETE", f"{kind.replace('_', '-')}s/{resource_id}")
