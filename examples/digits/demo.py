"""The whole product on one machine, as somebody would use it: `make demo`, `make demo-smoke`, `make demo-down`.

A stack of its own in a folder of its own; every step is an `animus` command that you could type. Ends with what was
recorded, and leaves nothing running. Exit status 3: the machine lacks something, one line each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from animus_cli import requirements, show
from animus_client.config import stack_folder

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
ANIMUS = [sys.executable, "-m", "animus_cli.main"]
PROJECT = "digits"


class Failed(Exception):
    """A command ended with this status."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.digits.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="two shell steps on busybox instead of training")
    parser.add_argument("--keep", action="store_true", help="leave the stack running (make demo-down ends it)")
    parser.add_argument("--down", action="store_true", help="end a stack that was left running, and remove its data")
    chosen = parser.parse_args(arguments)
    folder = demo_folder()
    os.environ["ANIMUS_DIR"] = str(folder)
    # What belongs to another gateway must not lead the demo astray.
    for name in ("ANIMUS_ENDPOINT", "ANIMUS_TOKEN", "ANIMUS_TOKEN_FILE", "ANIMUS_PROJECT", "ANIMUS_OUTPUT"):
        os.environ.pop(name, None)
    if chosen.down:
        clean(folder)
        return 0
    if missing := requirements.missing():
        print("\n".join(missing), file=sys.stderr)
        return 3
    began = time.monotonic()
    clean(folder)
    try:
        Demo(folder, chosen.smoke).run()
        print(f"\nall of it in {time.monotonic() - began:.0f} s")
        return 0
    except Failed as failed:
        return failed.status
    except KeyboardInterrupt:
        return 130
    finally:
        if chosen.keep:
            print(f"the stack goes on: export ANIMUS_DIR={folder}; make demo-down ends it")
        else:
            clean(folder)


def demo_folder() -> Path:
    """$ANIMUS_DEMO_DIR, or a folder beside the user's own stack: never the same."""
    if given := os.environ.get("ANIMUS_DEMO_DIR"):
        return Path(given).resolve()
    return stack_folder({k: v for k, v in os.environ.items() if k != "ANIMUS_DIR"}).parent / "animus-demo"


def clean(folder: Path) -> None:
    if folder.exists():
        subprocess.run([*ANIMUS, "down"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder)


class Demo:
    def __init__(self, folder: Path, smoke: bool):
        self._data = folder / "demo"
        self._smoke = smoke
        self._pipeline = "smoke" if smoke else "digits"
        self._times: list[tuple[str, float]] = []

    def run(self) -> None:
        self.stage("a control plane on this machine, and an agent that joined it")
        self.animus("up", "--detach")
        self.animus("project", "create", PROJECT)
        self.stage("data: a folder becomes an immutable version")
        self._data.mkdir(parents=True)
        self.python(HERE / "export_data.py", self._data / "digits")
        self.animus("dataset", "push", self._data / "digits", "--dataset", "digits", *self.here())
        if not self._smoke:
            self.stage("code: a commit, whose Git ids the server recomputes")
            self.animus("code", "push", self.repository(), *self.here())
        self.stage("environment: an image, by digest, with its packages")
        document = self._data / f"{self._pipeline}.yaml"
        smoke = ["--smoke"] if self._smoke else []
        self.python(HERE / "build_image.py", self._data / "image", "--pipeline", document, *smoke)
        self.animus("image", "import", self._data / "image", "--environment", "digits", *self.here())
        self.stage("pipeline: a document, then a plan, before anything runs")
        self.animus("pipeline", "apply", document, "--pipeline", self._pipeline, *self.here())
        self.animus("run", "plan", "--pipeline", self._pipeline, *self.here())
        self.stage("run: each step in a sandbox of its own")
        self.animus("run", "submit", "--pipeline", self._pipeline, "--run-id", "first", "--watch", *self.here())
        last = "check" if self._smoke else "evaluate"
        self.animus("run", "logs", "first", "--step", last, *self.here())
        self.stage("model: an artifact gets a name")
        self.animus("model", "register", "digits", "--run", "first", "--step", last, *self.here())
        self.report()

    def report(self) -> None:
        self.stage("what was recorded: the steps")
        found = self.read("run", "show", "first", *self.here())
        rows = []
        for step in found["steps"]:
            metrics = " ".join(f"{m['name']}={m['value']:.4g}" for m in step["metrics"])
            outputs = " ".join(f"{o['name']}@{o['manifestDigest'][7:19]}" for o in step["outputs"])
            action = step["actionDigest"][7:19]
            rows.append((step["name"].rpartition("/")[2], seconds(step), metrics, action, outputs))
        show.table(["step", ">took", "metrics", "action", "outputs"], rows)
        self.stage("what was recorded: where the model comes from")
        model = f"projects/{PROJECT}/models/digits/versions/v1"
        self.applied(model)
        self.animus("lineage", "up", "models/digits/versions/v1", *self.here())
        self.origins(model)
        self.stage("what was recorded: the events")
        self.animus("audit", "list", *self.here())
        self.animus("audit", "sources")
        print("\nseconds for each command:")
        show.table([">seconds", "command"], [(f"{took:.1f}", command) for command, took in self._times])

    def applied(self, model: str) -> None:
        """Waits until lineage has read that far in the log."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            done = self.run_quietly("lineage", "up", model)
            if done.returncode == 0 and len(json.loads(done.stdout)["nodes"]) > 3:
                return
            time.sleep(0.2)
        raise Failed(1)

    def origins(self, model: str) -> None:
        """The files and the commit at the far end of the graph."""
        graph = self.read("lineage", "up", model)
        for node in graph["nodes"]:
            if node["kind"] == "dataset-version":
                version = self.read("dataset", "show", node["name"])
                print(f"\n{node['name']}")
                show.table(
                    ["file", ">bytes", "digest"], [(e["path"], e["sizeBytes"], e["digest"]) for e in version["entries"]]
                )
            if node["kind"] == "code-snapshot":
                commits = self.read("code", "list", *self.here())["codeSnapshots"]
                commit = next(c for c in commits if c["name"] == node["name"])
                print(f"\n{node['name']}\ncommit {commit['commitId']}\ntree   {commit['treeId']}")

    def repository(self) -> Path:
        """This repository; where it is an export without Git's objects, a repository made of the example's code."""
        done = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True)
        if done.returncode == 0:
            return REPOSITORY
        made = self._data / "repository"
        shutil.copytree(HERE / "code", made / "examples" / "digits" / "code")
        git = ["git", "-C", str(made), "-c", "user.name=demo", "-c", "user.email=demo@localhost"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "The steps of the digits example"]):
            subprocess.run([*git, *command], check=True)
        return made

    def here(self) -> list[str]:
        return ["--project", PROJECT]

    def stage(self, title: str) -> None:
        print(f"\n== {title}", flush=True)

    def animus(self, *arguments: object) -> None:
        words = [str(a) for a in arguments]
        print("$ animus " + " ".join(words), flush=True)
        self.timed("animus " + " ".join(words[:2]), [*ANIMUS, *words])

    def python(self, *arguments: object) -> None:
        words = [str(a) for a in arguments]
        print("$ python " + " ".join(words), flush=True)
        self.timed(f"python {Path(words[0]).name}", [sys.executable, *words])

    def timed(self, name: str, command: list[str]) -> None:
        began = time.monotonic()
        done = subprocess.run(command, cwd=REPOSITORY)
        self._times.append((name, time.monotonic() - began))
        if done.returncode != 0:
            raise Failed(done.returncode)

    def read(self, *arguments: str) -> dict:
        done = self.run_quietly(*arguments)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            raise Failed(done.returncode)
        return json.loads(done.stdout)

    def run_quietly(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*ANIMUS, *arguments, "--output", "json"], capture_output=True, text=True)


def seconds(step: dict) -> str:
    from datetime import datetime

    try:
        start, end = (datetime.fromisoformat(step[name]) for name in ("startTime", "endTime"))
    except (KeyError, ValueError, TypeError):
        return ""
    return f"{(end - start).total_seconds():.2f}s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
