"""A temporary PostgreSQL server on a Unix socket, if Debian's package is installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy


def binaries() -> Path | None:
    """The folder with the newest version's initdb and pg_ctl, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name.split(".")[0]))
    on_path = shutil.which("initdb")
    return found[-1] if found else Path(on_path).parent if on_path else None


@contextmanager
def server(programs: Path) -> Iterator[str]:
    """The URL of an empty database while the block runs.

    Root starts it as another user: PostgreSQL refuses root.
    """
    user = ("postgres" if _exists("postgres") else "nobody") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="abq-pg-", dir="/tmp"))  # the path of a socket is limited to 107 characters
    if user:
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        with (folder / "log").open("ab") as log:
            done = subprocess.run(command, user=user, cwd=folder, stdout=log, stderr=log, timeout=120, check=False)
        assert done.returncode == 0, (folder / "log").read_text()

    try:
        run("initdb", "--auth=trust", "--username=abq", "--encoding=UTF8", "--locale=C", "--no-sync")
        run(
            "pg_ctl",
            "-w",
            "-o",
            f"-k {folder} -c listen_addresses='' -c fsync=off",
            "-l",
            str(folder / "server"),
            "start",
        )
        try:
            yield f"postgresql+psycopg://abq@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def empty(url: str) -> None:
    """Remove all tables of the database."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


def _exists(user: str) -> bool:
    import pwd

    return any(entry.pw_name == user for entry in pwd.getpwall())
