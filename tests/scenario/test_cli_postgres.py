"""The command line on a PostgreSQL database: the same commands, with a URL in place of a path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Server, find_binaries
from tests.scenario.cli_program import Cli, Done


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="no psycopg: PostgreSQL is not tested")
    found = find_binaries()
    if found is None:
        pytest.skip("no PostgreSQL: install the dev group, or Debian's postgresql")
    server = Server(found)
    yield server
    server.close()


@pytest.fixture
def url(server: Server) -> str:
    """With a password, which the server does not ask for, and nobody may see."""
    return server.fresh().replace("flowkit@", "flowkit:sesame@")


@pytest.fixture
def cli(tmp_path: Path, url: str) -> Cli:
    return Cli.made(tmp_path)


def tables(server: Server, url: str) -> int:
    return len(
        server.execute("SELECT 1 FROM pg_tables WHERE schemaname = current_schema()", url=url)
    )


@pytest.mark.long
def test_the_commands_work_on_a_servers_database_and_tell_no_password(
    cli: Cli, server: Server, url: str
) -> None:
    said: list[Done] = []

    def call(*args: str, env: bool = False) -> Done:
        db = [] if env else ["--db", url]
        said.append(cli(*args, *db, env={"FLOWKIT_DB": url} if env else None))
        return said[-1]

    assert (call("ls").code, call("show", "one").code) == (0, 4)
    assert "there are no runs yet: the database postgresql://flowkit@127.0.0.1" in said[-1].err
    assert "made by the first run" in call("doctor").out
    assert tables(server, url) == 0, "looking makes nothing"

    waits = call("run", "flows.py:asking", "-i", "text=hi", "--run-id", "one")
    assert waits.code == 3
    assert "flowkit signal one approve JSON --db 'postgresql://flowkit@127.0.0.1" in waits.err
    assert call("signal", "one", "approve", '"yes"', env=True).code == 0
    assert call("resume", "one", "flows.py:asking").json == {"text": "hi yes"}
    assert call("ls", "--json", env=True).json["status"] == "succeeded"
    assert call("show", "one", "--json").json["status"] == "succeeded"
    assert call("watch", "one", "-q").code == 0
    fork = call("fork", "one", "flows.py:asking", "--set", 'ask={"text": "no"}', "--run-id", "f")
    assert fork.json == {"text": "no"}
    assert call("diff", "one", "f").code == 1
    assert "its tables are there" in call("doctor").out

    assert call("export", "f", "--out", "f.jsonl").code == 0
    assert cli("import", "f.jsonl", "--db", "file.db").code == 0
    assert call("import", "f.jsonl", "--as", "g").code == 0
    assert cli("show", "f", "--db", "file.db").code == 0
    assert call("gc", "--run", "g", "--vacuum").code == 0
    assert [line.split()[0] for line in call("ls").out.splitlines()[1:]] == ["f", "one"]
    assert cli.effects("one") == ["write"]
    assert not (cli.folder / "runs.db").exists()
    assert all("sesame" not in done.out + done.err for done in said)


@pytest.mark.long
def test_a_server_that_cannot_be_reached_or_used_is_78_without_its_password(
    cli: Cli, server: Server
) -> None:
    nowhere = "postgresql://flowkit:sesame@127.0.0.1:1/x"
    missing = server.url("missing").replace("flowkit@", "flowkit:sesame@")
    run = ("run", "flows.py:fine", "-i", "text=x")
    cli("run", "flows.py:fine", "-i", "text=x", "--run-id", "one", "-q", "--db", "f.db")
    cli("export", "one", "--out", "one.jsonl", "--db", "f.db")
    for target in (nowhere, missing, "mysql://u:sesame@h/x", "post gres://u:sesame@h/x"):
        for command in (("ls",), ("show", "x"), run, ("import", "one.jsonl")):
            done = cli(*command, "--db", target)
            assert (done.code, done.out) == (78, ""), done
            assert len(done.err.splitlines()) == 1, done.err
            assert "sesame" not in done.err
    assert cli("doctor", "--db", nowhere).code == 78
