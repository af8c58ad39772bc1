"""A MariaDB server of a test run, on a unix socket: what Neutron's processes share in the field."""

import subprocess
import time
from pathlib import Path

PATIENCE_SECONDS = 60.0


class MariaDB:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "s"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data = self._folder / "data"
        log = (self._folder / "log").open("wb")
        # Not the machine's own configuration; not as a service of it; without durability.
        options = ["--no-defaults", f"--datadir={data}", "--user=root", "--skip-name-resolve"]
        subprocess.run(
            ["mariadb-install-db", *options, "--auth-root-authentication-method=normal",
             "--skip-test-db"],
            check=True, stdout=log, stderr=log,
        )  # fmt: skip
        self._process = subprocess.Popen(
            ["mariadbd", *options, f"--socket={self._socket}", "--skip-networking",
             f"--pid-file={self._folder / 'pid'}", "--innodb-flush-log-at-trx-commit=0",
             "--innodb-buffer-pool-size=64M", "--performance-schema=OFF",
             "--max-connections=400"],
            stdout=log, stderr=log,
        )  # fmt: skip
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self._sql("SELECT 1", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError((self._folder / "log").read_text()[-3000:])
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def create(self, name: str) -> str:
        """An empty database; returns SQLAlchemy's address of it."""
        self.sql(f"CREATE OR REPLACE DATABASE {name} CHARACTER SET utf8mb3")
        return self.address(name)

    def address(self, name: str) -> str:
        return f"mysql+pymysql://root@/{name}?unix_socket={self._socket}"

    def copy(self, source: str, target: str) -> None:
        dump = ["mariadb-dump", f"--socket={self._socket}", "--user=root", source]
        content = subprocess.run(dump, check=True, capture_output=True).stdout
        self._sql("", target, content)

    def sql(self, statement: str, database: str = "") -> list[list[str]]:
        """Rows, each a list of columns as text."""
        lines = self._sql(statement, database).stdout.decode().splitlines()
        return [line.split("\t") for line in lines]

    def _sql(
        self,
        statement: str,
        database: str = "",
        content: bytes | None = None,
        *,
        check: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["mariadb", "--no-defaults", f"--socket={self._socket}", "--user=root"]
        command += ["--batch", "--skip-column-names"]
        command += [f"--execute={statement}"] if content is None else []
        command += [database] if database else []
        return subprocess.run(command, check=check, capture_output=True, input=content)
