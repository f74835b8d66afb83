"""The system under chaos: a stack of its own on the run's network, and three nodes with real agents."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animus_cli.stack import processes, programs
from animus_cli.stack import stack as stacks
from animus_cli.stack.layout import Layout
from animus_cli.stack.options import Options
from tests.chaos import enclosure, netns
from tests.chaos.netns import Link
from tests.system.world import Client, wait_for

NODES = 3
LEASE_SECONDS = 12.0
SETTINGS = {"dispatch": {"lease_duration": "12s", "lease_margin": "3s", "status_interval": "1s"}}
START_SECONDS = 60.0
CALL_SECONDS = 120.0
# An attempt's container (animus_agent.attempt.directory.identifier).
CONTAINER = re.compile(r"an-[0-9a-f]{24}")
# What a caller tries again: the service, or the one behind it, is away.
AWAY = (429, 500, 502, 503, 504)


class Refused(Exception):
    """The services answered, and not with what was asked for."""


@dataclass
class Node:
    """One node: its link, its folders and its agent."""

    link: Link
    layout: Layout
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    _weather: dict[str, float] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.link.name

    @property
    def folder(self) -> Path:
        return self.layout.root / "nodes" / self.name

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def run(self) -> Path:
        return Path("/run") / self.name

    def prepare(self) -> None:
        self.link.make()
        self.state.mkdir(parents=True, mode=0o711)
        for path in (self.folder.parent, self.folder, self.state):
            path.chmod(0o711)
        self._record_starts()
        self.weather()

    def join(self, token: str) -> None:
        path = self.folder / "token"
        path.write_text(token)
        self._agent("enroll", self.layout.address("enrollment"), "--token-file", str(path))

    def start(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.link.inside(sys.executable, "-m", "tests.chaos.node", "run"),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(20)

    def died(self) -> int | None:
        """The exit status of an agent that ended by itself; it is started again, as a service manager would."""
        status = self.process.poll() if self.process is not None else None
        if status is None or status == -signal.SIGKILL:
            return None
        self.start()
        return status

    def stop(self) -> None:
        """In an orderly way, as a service manager would."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self.process.wait(40)

    def purge(self) -> None:
        self._agent("purge")

    def weather(self, **changed: float) -> None:
        """What of its stream and its clock is wrong from now on (see node.py), beside what was before."""
        with self._changing:
            self._weather |= changed
            new = self.folder / "weather.new"
            new.write_text(json.dumps(self._weather))
            new.rename(self.folder / "weather.json")

    def deeds(self) -> Counter[str]:
        """How many messages were lost and doubled: `drop to status` and the like."""
        path = self.folder / "deeds"
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def containers(self) -> list[str]:
        """Ids of the attempts' containers that its runc was asked to create, each as often as it was."""
        path = self.folder / "starts"
        words = [line.split()[-1] for line in path.read_text().splitlines()] if path.exists() else []
        return [word for word in words if CONTAINER.fullmatch(word)]

    def conmons(self) -> list[int]:
        """Of the attempts' containers that run now."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                # Not those of the canaries, with which an agent examines its node before it begins.
                attempts = (word for word in words if CONTAINER.fullmatch(word))
                if Path(words[0]).name == "conmon" and f"{self.state}/attempts" in " ".join(words) and any(attempts):
                    found.append(pid)
        return found

    def _record_starts(self) -> None:
        """A runc that writes down what it is asked to create, and does it: a witness beside the agent's own word."""
        runc = shutil.which("runc") or shutil.which("runc", path="/usr/sbin:/sbin")
        script = self.folder / "bin" / "runc"
        script.parent.mkdir()
        script.write_text(
            # Under its own name: the agent knows `runc init` by it.
            "#!/bin/bash\n"
            f'case " $* " in *" create "*) echo "$*" >>{self.folder}/starts ;; esac\n'
            f'exec -a "$0" {runc} "$@"\n'
        )
        script.chmod(0o755)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ANIMUS_AGENT_STATE_DIR": str(self.state),
            "ANIMUS_AGENT_RUN_DIR": str(self.run),
            "ANIMUS_AGENT_ROOT_KEY": str(self.layout.pki / "root.pub"),
            "ANIMUS_AGENT_MAX_ATTEMPTS": "6",
            "ANIMUS_AGENT_LEASE_MARGIN": "2s",
            "CHAOS_WEATHER": str(self.folder),
        }

    def _agent(self, *words: str) -> None:
        command = self.link.inside(sys.executable, "-m", "animus_agent", *words)
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=START_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: animus-agent {words[0]}: {(done.stderr or done.stdout).strip()}")


@dataclass
class World:
    """`root`: the run's folder."""

    root: Path
    layout: Layout = field(init=False)
    client: Client = field(init=False)
    nodes: list[Node] = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.root)
        self.client = Client(self.layout)
        self.nodes = [Node(Link(number), self.layout) for number in range(1, NODES + 1)]
        # One change of the stack at a time: its own lock refuses the second.
        self._stack = threading.Lock()

    def up(self) -> None:
        netns.prepare()
        stacks.up(self.layout, lambda line: None, agent=False, chosen=Options(netns.SERVICES, SETTINGS))
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(self._join, self.nodes))
        wait_for(lambda: all(self.online(node) for node in self.nodes), START_SECONDS, "the nodes to come")

    def down(self) -> None:
        """Everything, in an orderly way; what goes wrong here is told by what is left."""
        with contextlib.suppress(stacks.StackError):
            stacks.down(self.layout, lambda line: None)

    def _join(self, node: Node) -> None:
        node.prepare()
        node.join(self.call("POST", "/orchestrator/v1/joinTokens", {"agentId": node.name})["token"])
        node.start()

    def online(self, node: Node) -> bool:
        return self.agent(node).get("state") == "STATE_ONLINE"

    def agent(self, node: Node) -> dict[str, Any]:
        """As the services show it; {} while they do not answer."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = self.client.send("GET", f"/orchestrator/v1/agents/{node.name}")
            return answer.json if answer.status == 200 else {}
        return {}

    def call(self, method: str, path: str, body: Any = None, *, seconds: float = CALL_SECONDS, **query: Any) -> Any:
        """Tries until the services answer. Raises Refused, AssertionError at the deadline."""
        return json.loads(self.fetch(method, path, body, seconds=seconds, **query))

    def fetch(self, method: str, path: str, body: Any = None, *, seconds: float = CALL_SECONDS, **query: Any) -> bytes:
        def attempt() -> bytes | None:
            try:
                answer = self.client.send(method, path, body, query=query)
            except (OSError, http.client.HTTPException):
                return None
            if answer.status == 200:
                return answer.body
            if answer.status not in AWAY:
                raise Refused(f"{method} {path}: {answer.status} {answer.body.decode(errors='replace')[:500]}")
            return None

        return wait_for(attempt, seconds, f"{method} {path}")

    def pages(self, path: str, noun: str, **query: Any) -> list[Any]:
        """Every item of a list."""
        found: list[Any] = []
        token = ""
        while True:
            page = self.call("GET", path, pageSize=500, pageToken=token or None, **query)
            found += page.get(noun, [])
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def kill_service(self, name: str) -> None:
        processes.stop(self.layout, name, kill=True)

    def start_service(self, name: str) -> None:
        """Starts it, or starts it again. Does not wait for it: whoever it needs may be down as well."""
        with self._stack:
            stacks.restart(self.layout, name, wait=False)

    def ended(self) -> list[str]:
        """Services that do not run."""
        return [name for name in programs.CONTROL_PLANE if processes.find(self.layout, name) is None]

    def kill_database(self) -> None:
        with self._stack:
            stacks.restart(self.layout, "postgres", kill=True)

    def envoy(self) -> int | None:
        """The pid of Envoy itself, below the gateway's own process."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                if (entry / "comm").read_text().strip().startswith("envoy"):
                    return pid
        return None

    def left(self) -> list[str]:
        """What the nodes still have, a line each: nothing is expected where every attempt was forgotten."""
        found: list[str] = []
        for node in self.nodes:
            found += [f"{node.name} runs conmon {pid}" for pid in node.conmons()]
            found += [f"{node.name} has the container {path.name}" for path in _entries(node.run / "runc")]
            found += [f"{node.name} has the attempt folder {path.name}" for path in _entries(node.state / "attempts")]
            for group in enclosure.groups(enclosure.group_name(node.state)):
                found += [f"{node.name} has the cgroup {path}" for path in _entries(group) if path.is_dir()]
        return found

    def mounts(self) -> list[str]:
        """Mount points below the run's folder and the nodes' run folders."""
        inside = (str(self.root), *(str(node.run) for node in self.nodes))
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines]
        return sorted(point for point in points if any(point.startswith(f"{path}/") for path in inside))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
