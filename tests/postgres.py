"""A PostgreSQL of a test's own: a fresh cluster behind a Unix socket, reached over no network."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Postgres", "missing_postgres", "running_postgres"]

#: Of the database that is made, and of its owner, who may do no more than that.
NAME = "mfer"
_ADMIN = "postgres"


@dataclass(frozen=True)
class Postgres:
    """A running cluster with one empty database; its socket, in ``folder``, trusts everybody who gets there."""

    programs: Path
    folder: Path
    run_as: tuple[str, ...]

    def run(self, program: str, *arguments: str | Path) -> str:
        """What a program of PostgreSQL prints, when the administrator runs it."""
        env = os.environ | {"PGHOST": str(self.folder), "PGUSER": _ADMIN, "LC_ALL": "C"}
        command = [*self.run_as, self.programs / program, *arguments]
        # a server that pg_ctl leaves behind must not hold a pipe of ours, hence a file
        with tempfile.TemporaryFile("w+") as payload:
            done = subprocess.run(command, env=env, cwd=self.folder, stdout=payload, stderr=payload, check=False)
            payload.seek(0)
            text = payload.read()
        assert done.returncode == 0, f"{program}: {text}"
        return text.strip()

    def ask(self, query: str, database: str = NAME) -> str:
        return self.run("psql", "--dbname", database, "--no-psqlrc", "--tuples-only", "--no-align", "--command", query)


def missing_postgres() -> str | None:
    """Why there is no PostgreSQL to test with; None where there is one."""
    return None if _programs() else "no PostgreSQL: no initdb on the PATH or below /usr/lib/postgresql"


def _programs() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(debian, key=lambda path: float(path.parent.name), default=None)


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A cluster that is gone afterwards.

    It lies in a short folder of its own: pytest's are closed to other users, and PostgreSQL refuses to run as root; and
    the path of a socket has 107 bytes at most.
    """
    programs = _programs()
    assert programs is not None, missing_postgres()
    with tempfile.TemporaryDirectory(prefix="mfer-pg-") as name:
        folder, run_as = Path(name), ()
        if os.geteuid() == 0:
            user = _unprivileged_user()
            shutil.chown(folder, user)
            run_as = ("runuser", "-u", user, "--")
        cluster = Postgres(programs, folder, run_as)
        data = folder / "data"
        cluster.run("initdb", "-D", data, "-U", _ADMIN, "--auth=trust", "--encoding=UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        cluster.run("pg_ctl", "-D", data, "-l", folder / "log", "-w", "-t", "300", "-o", options, "start")
        try:
            cluster.run("createuser", NAME)
            cluster.run("createdb", "--owner", NAME, NAME)
            yield cluster
        finally:
            cluster.run("pg_ctl", "-D", data, "-w", "-t", "300", "-m", "immediate", "stop")


def _unprivileged_user() -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"
