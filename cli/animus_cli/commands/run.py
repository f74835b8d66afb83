"""animus run"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer

from animus_cli import exits, show
from animus_cli.base import (
    Labels,
    Limit,
    Project,
    Stop,
    Subject,
    answer,
    assignments,
    client,
    command,
    full,
    group,
    say,
    wants_json,
)
from animus_cli.commands.pipeline import problems, version_of

app = group("Runs: plan, submit, follow.")

Pipeline = Annotated[
    str, typer.Option("--pipeline", help="PIPELINE, or PIPELINE@VERSION; the newest version if absent.")
]
Datasets = Annotated[
    list[str], typer.Option("--dataset", "-d", help="REF=DATASET[@VERSION]; a dataset of that name if absent.")
]
Code = Annotated[
    list[str], typer.Option("--code", help="SNAPSHOT, or STEP=SNAPSHOT; the newest if absent; 'none' for none.")
]
Parameters = Annotated[list[str], typer.Option("--param", "-P", help="NAME=VALUE; 7, 0.5, true, or text.")]
Experiment = Annotated[str, typer.Option(help="The experiment that it belongs to.")]
Pool = Annotated[str, typer.Option(help="The pool whose agents may take it; 'default' if absent.", show_default=False)]
NodeLabels = Annotated[
    list[str],
    typer.Option(
        "--node-label", help="key=value that an agent's join token gave it; may be repeated.", show_default=False
    ),
]
Priority = Annotated[
    int, typer.Option(min=-100, max=100, help="Before others of the project; above 0 needs a permission of its own.")
]
Id = Annotated[str, typer.Argument(help="The run's id.")]


@command(app)
def plan(
    project: Project = "",
    pipeline: Pipeline = "",
    dataset: Datasets = [],
    code: Code = [],
    param: Parameters = [],
    label: Labels = [],
    experiment: Experiment = "",
    pool: Pool = "",
    node_label: NodeLabels = [],
    priority: Priority = 0,
    as_: Subject = "",
) -> None:
    """Tell what would run, and every problem, before anything does. Writes nothing."""
    from animus.orchestrator.v1 import run_pb2

    with client(as_) as it:
        version, bindings = _bound(it, project, pipeline, dataset, code, param, label, experiment)
        where = run_pb2.Scheduling(pool=pool, node_labels=assignments(node_label, "a node's label"), priority=priority)
        request = run_pb2.PlanRunRequest(
            parent=full(project), pipeline_version=version, bindings=bindings, scheduling=where
        )
        found = it.call(it.runs_api.PlanRun, request)

    def human() -> None:
        problems("plan", found.problems)
        show.pairs([("pipeline", version), ("plan", found.plan_digest), ("allowed", "yes" if found.allowed else "no")])
        if found.denial_message:
            print(show.clean(found.denial_message))
        print()
        show.table(
            ["step", "recipe", "action", ">agents", "placement"],
            [
                (
                    s.step,
                    show.short(s.recipe_digest),
                    show.short(s.action_digest),
                    s.eligible_agents,
                    f"{s.wait_reason} {s.placement_message}".strip(),
                )
                for s in found.steps
            ],
        )

    answer(found, human)
    if found.problems:
        raise Stop(exits.ERROR, "")


def waits(steps: Any) -> list[str]:
    """A line for each step of a plan that no agent could take as things are."""
    return [
        f"{s.step} waits: {s.wait_reason} {s.placement_message}".strip()
        for s in steps
        if s.wait_reason and not s.eligible_agents
    ]


@command(app)
def submit(
    project: Project = "",
    pipeline: Pipeline = "",
    run_id: Annotated[str, typer.Option(help="Made by the server if absent.")] = "",
    dataset: Datasets = [],
    code: Code = [],
    param: Parameters = [],
    label: Labels = [],
    experiment: Experiment = "",
    pool: Pool = "",
    node_label: NodeLabels = [],
    priority: Priority = 0,
    plan: Annotated[str, typer.Option("--plan", help="Refuse unless the plan has this digest.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    as_: Subject = "",
) -> None:
    """Submit a run."""
    from animus.orchestrator.v1 import run_pb2
    from animus_kit.status import RemoteError

    with client(as_) as it:
        version, bindings = _bound(it, project, pipeline, dataset, code, param, label, experiment)
        where = run_pb2.Scheduling(pool=pool, node_labels=assignments(node_label, "a node's label"), priority=priority)
        request = run_pb2.CreateRunRequest(
            parent=full(project),
            run_id=run_id,
            pipeline_version=version,
            bindings=bindings,
            expected_plan_digest=plan,
            scheduling=where,
        )
        found = it.call(it.runs_api.CreateRun, request)
        if not watch:
            answer(found, lambda: show.pairs([("run", found.name), ("plan", found.plan_digest)]))
            if not wants_json():
                asked = run_pb2.PlanRunRequest(
                    parent=full(project), pipeline_version=version, bindings=bindings, scheduling=where
                )
                with suppress(RemoteError):  # the run is there, whatever becomes of the question
                    for line in waits(it.call(it.runs_api.PlanRun, asked).steps):
                        say(line)
            return
        say(f"{found.name}  {found.plan_digest}")
        _follow(it, found.name)


@command(app)
def watch(run: Id, project: Project = "", as_: Subject = "") -> None:
    """Follow a run to its end. Exit status 6 when it does not succeed."""
    with client(as_) as it:
        _follow(it, full(project, "runs", run))


@command(app, "show")
def show_(run: Id, project: Project = "", as_: Subject = "") -> None:
    """One run with its steps, digests and metrics."""
    from animus.orchestrator.v1 import run_pb2

    with client(as_) as it:
        name = full(project, "runs", run)
        found = it.call(it.runs_api.GetRun, run_pb2.GetRunRequest(name=name))
        steps = list(it.pages(it.runs_api.ListSteps, run_pb2.ListStepsRequest(parent=name), "steps"))
    answer({"run": found, "steps": steps}, lambda: summary(found, steps))


@command(app, "list")
def list_(
    project: Project = "",
    pipeline: Pipeline = "",
    state: Annotated[list[str], typer.Option(help="Only runs in this state, for example failed.")] = [],
    label: Labels = [],
    limit: Limit = 50,
    as_: Subject = "",
) -> None:
    """Runs of a project, newest first."""
    from animus.orchestrator.v1 import run_pb2

    states = dict(run_pb2.Run.State.items())
    for given in state:
        if f"STATE_{given.upper()}" not in states:
            known = ", ".join(sorted(name.removeprefix("STATE_").lower() for name in states))
            raise Stop(exits.USAGE, f"no state {given!r}; there are {known}", "USAGE")
    with client(as_) as it:
        request = run_pb2.ListRunsRequest(
            parent=full(project),
            states=[states[f"STATE_{given.upper()}"] for given in state],
            labels=label,
            pipeline=full(project, "pipelines", pipeline) if pipeline else "",
        )
        found = list(it.pages(it.runs_api.ListRuns, request, "runs", limit))
    rows = [
        (r.name, show.state(r), r.pipeline_version.partition("/pipelines/")[2], r.creator, show.moment(r.create_time), show.seconds(r.create_time, r.end_time))
        for r in found
    ]  # fmt: skip
    columns = ["run", "state", "pipeline", "creator", "created", ">took"]
    answer({"runs": found}, lambda: show.table(columns, rows))


@command(app)
def cancel(run: Id, project: Project = "", as_: Subject = "") -> None:
    """Ask a run to stop. It is canceled when every node confirms that its processes are gone."""
    from animus.orchestrator.v1 import run_pb2

    with client(as_) as it:
        found = it.call(it.runs_api.CancelRun, run_pb2.CancelRunRequest(name=full(project, "runs", run)))
    answer(found, lambda: print(f"{found.name}: {show.state(found)}"))


@command(app)
def logs(
    run: Id,
    step: Annotated[str, typer.Option("--step", "-s", help="The step; may be left out when there is one only.")] = "",
    attempt: Annotated[int, typer.Option(help="Its number; the newest if absent.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the attempt ends.")] = False,
    raw: Annotated[bool, typer.Option(help="Write the bytes as they are, escape sequences included.")] = False,
    project: Project = "",
    as_: Subject = "",
) -> None:
    """What a step wrote to its output."""
    from animus.orchestrator.v1 import run_pb2, run_stream_pb2

    with client(as_) as it:
        name = full(project, "runs", run)
        if not step:
            steps = list(it.pages(it.runs_api.ListSteps, run_pb2.ListStepsRequest(parent=name), "steps"))
            if len(steps) != 1:
                raise Stop(exits.USAGE, "which step? --step " + "|".join(s.name.rpartition("/")[2] for s in steps))
            step = steps[0].name.rpartition("/")[2]
        wanted: Iterable[int] = [attempt]
        if follow and not attempt:
            wanted = _attempts(it, name, step)
        elif not attempt:
            found = it.call(it.runs_api.GetStep, run_pb2.GetStepRequest(name=f"{name}/steps/{step}"))
            wanted = [found.current_attempt] if found.current_attempt else []
        number = 0
        for before, number in enumerate(wanted):
            if before:
                say(f"[attempt {number}]")
            for message in it.runs.logs(f"{name}/steps/{step}/attempts/{number}", follow):
                if message.truncated:
                    say(f"[bytes are missing before {message.offset_bytes}]")
                if wants_json():
                    stream = run_stream_pb2.ReadLogsResponse.Stream.Name(message.stream)
                    text = message.data.decode("utf-8", "replace")
                    print(json.dumps({"offset": message.offset_bytes, "stream": stream, "text": text}), flush=True)
                elif message.data:
                    _write(message.data, raw)
        if not number:
            state = "ended without an attempt" if follow else "has not started yet"
            raise Stop(exits.NOT_FOUND, f"{name}/steps/{step} {state}", "NO_ATTEMPT")


def _attempts(it: Any, run: str, step: str) -> Iterator[int]:
    """The number of the step's newest attempt, once there is one, and of each that follows while it is read."""
    from animus.orchestrator.v1 import run_pb2

    told = 0
    name = f"{run}/steps/{step}"
    it.call(it.runs_api.GetStep, run_pb2.GetStepRequest(name=name))  # which may not exist
    for message in it.runs.watch(run):
        for found in message.steps:
            if found.name == name and found.current_attempt > told:
                told = found.current_attempt
                yield told
            if found.name == name and found.end_time.seconds:
                return


def _write(data: bytes, raw: bool) -> None:
    if raw or not sys.stdout.isatty():
        sys.stdout.buffer.write(data)
    else:
        sys.stdout.write(show.clean(data.decode("utf-8", "replace").replace("\r\n", "\n")))
    sys.stdout.flush()


def _bound(
    it: Any,
    project: str,
    pipeline: str,
    dataset: list[str],
    code: list[str],
    param: list[str],
    label: list[str],
    experiment: str,
) -> tuple[str, Any]:
    if not pipeline:
        raise Stop(exits.USAGE, "which pipeline? give --pipeline", "PIPELINE_MISSING")
    parent = full(project)
    version = version_of(it, parent, pipeline)
    codes: Any = None
    if code == ["none"]:
        codes = {}
    elif code:
        codes = {step or "": name for step, _, name in (_code(item) for item in code)}
    return version, it.runs.bindings(
        parent,
        version,
        datasets=assignments(dataset, "a dataset"),
        code=codes,
        parameters={name: _typed(text) for name, text in assignments(param, "a parameter").items()},
        labels=assignments(label, "a label"),
        experiment=experiment,
    )


def _code(item: str) -> tuple[str, str, str]:
    step, mark, name = item.partition("=")
    return (step, mark, name) if mark else ("", "", item)


def _typed(text: str) -> Any:
    """A JSON scalar where it is one, text otherwise; text that looks like a number is written in quotes."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _follow(it: Any, name: str) -> None:
    from animus.orchestrator.v1 import run_pb2
    from animus_client.runs import SUCCEEDED

    shown: dict[str, tuple[str, str]] = {}
    waiting = ""
    for message in it.runs.watch(name):
        held_back = f"{message.run.state_reason} {message.run.state_message}".strip()
        if show.state(message.run) == "QUEUED" and held_back != waiting:
            waiting = held_back
            say(f"  the run waits: {held_back}" if held_back else "  the run waits no more")
        for step in message.steps:
            state = show.state(step)
            short = step.name.rpartition("/")[2]
            # Why it waits is news too.
            if shown.get(short) != (state, step.state_reason):
                shown[short] = (state, step.state_reason)
                took = show.seconds(step.start_time, step.end_time)
                why = f"  {step.state_reason} {step.state_message}".rstrip()
                say(f"  {short.ljust(24)} {state.ljust(10)} {took}{why}".rstrip())
    found = it.call(it.runs_api.GetRun, run_pb2.GetRunRequest(name=name))
    steps = list(it.pages(it.runs_api.ListSteps, run_pb2.ListStepsRequest(parent=name), "steps"))
    answer({"run": found, "steps": steps}, lambda: summary(found, steps))
    if found.state != SUCCEEDED:
        failed = next((s.name.rpartition("/")[2] for s in steps if show.state(s) == "FAILED"), "")
        step = f" --step {failed}" if failed else ""
        hint = f"animus run logs {name.rpartition('/')[2]}{step} --project {name.split('/')[1]}"
        text = f"{name} is {show.state(found)}: {found.state_message}".rstrip(": ")
        raise Stop(exits.RUN_FAILED, text, found.state_reason, hint)


def summary(run: Any, steps: list[Any]) -> None:
    """A run for people."""
    show.pairs(
        [
            ("run", run.name),
            ("state", show.state(run)),
            ("reason", f"{run.state_reason} {run.state_message}".strip()),
            ("pipeline", run.pipeline_version),
            ("pool", run.scheduling.pool if run.scheduling.pool != "default" else ""),
            ("nodes", ", ".join(f"{k}={v}" for k, v in sorted(run.scheduling.node_labels.items()))),
            ("priority", run.scheduling.priority),
            ("plan", run.plan_digest),
            ("creator", run.creator),
            ("created", show.moment(run.create_time)),
            ("took", show.seconds(run.create_time, run.end_time)),
        ]
    )
    print()
    rows = []
    for step in steps:
        metrics = ", ".join(f"{m.name}={m.value:.6g}" for m in step.metrics)
        outputs = ", ".join(f"{o.name} {show.short(o.manifest_digest)}" for o in step.outputs)
        took = show.seconds(step.start_time, step.end_time)
        rows.append(
            (step.name.rpartition("/")[2], show.state(step), step.current_attempt or "", took, metrics, outputs)
        )
    show.table(["step", "state", ">attempt", ">took", "metrics", "outputs"], rows)
    for step in steps:
        if show.state(step) == "READY" and step.state_reason:
            print(f"\n{step.name.rpartition('/')[2]} waits, {step.state_reason}: {show.clean(step.state_message)}")
            for one in step.obstacles:
                who = f"{one.agents} agent{'s' if one.agents != 1 else ''}" if one.agents else "all"
                print(f"  {one.reason.lower().ljust(14)} {who}: {show.clean(one.message)}")
