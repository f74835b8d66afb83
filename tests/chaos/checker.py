"""What must be true of a history, whatever was done to the system. Pure: it reads a History and nothing else.

Each rule is one function that yields a line for each thing that is wrong; RULES lists them all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from animus_agent.attempt.directory import identifier
from tests.chaos import load
from tests.chaos.history import Event, History

TERMINAL_RUN = ("SUCCEEDED", "FAILED", "CANCELED")
TERMINAL_STEP = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
TERMINAL_ATTEMPT = ("SUCCEEDED", "FAILED", "CANCELED", "LOST")
LEASED = "orchestrator.attempt.leased"
STARTED = "orchestrator.attempt.started"
COMMITTED = "orchestrator.attempt.committed"
FAILED = "orchestrator.attempt.failed"

# What every node needs to keep what it holds.
SHARED = ("dispatch", "postgres", "catalog")

Rule = Callable[[History], Iterator[str]]


def check(history: History) -> list[str]:
    """Everything that is wrong, each line beginning with the rule's name."""
    return [f"{rule.__name__}: {line}" for rule in RULES for line in rule(history)]


def every_run_is_terminal(history: History) -> Iterator[str]:
    found = {run.name: run for run in history.runs}
    for asked in history.asked:
        run = found.pop(asked.name, None)
        if run is None:
            yield f"{asked.name} was submitted and does not exist"
        elif run.state not in TERMINAL_RUN:
            yield f"{run.name} is {run.state}"
    for name in found:
        yield f"{name} was never submitted"
    for step in history.steps:
        if step.state not in TERMINAL_STEP:
            yield f"{step.name} is {step.state}"
    for attempt in history.attempts:
        if attempt.state not in TERMINAL_ATTEMPT:
            yield f"{attempt.name} is {attempt.state}"


def every_run_ends_as_it_must(history: History) -> Iterator[str]:
    """Faults delay a run and never decide it: only the step that fails by itself fails, only a cancel cancels."""
    found = {run.name: run for run in history.runs}
    for asked in history.asked:
        run = found.get(asked.name)
        if run is None or run.state not in TERMINAL_RUN:
            continue
        allowed = {"FAILED"} if asked.shape == "broken" else {"SUCCEEDED"}
        if asked.cancel:
            allowed |= {"CANCELED"}
        if run.state not in allowed:
            yield f"{run.name} ({asked.shape}) is {run.state}: {run.reason}"


def at_most_one_result_of_a_step_is_committed(history: History) -> Iterator[str]:
    commits: dict[str, list[str]] = defaultdict(list)
    for event in _of(history, COMMITTED):
        commits[_step(event.resource)].append(event.resource)
    states = {attempt.name: attempt.state for attempt in history.attempts}
    for step in history.steps:
        found = commits.pop(step.name, [])
        if len(found) > 1:
            yield f"{step.name} has {len(found)} committed results: {', '.join(found)}"
        if (step.state == "SUCCEEDED") != bool(found):
            yield f"{step.name} is {step.state} and has {len(found)} committed results"
        for name in found:
            if name != f"{step.name}/attempts/{step.current_attempt}":
                yield f"{name} is committed, but {step.name} stands at attempt {step.current_attempt}"
            if states.get(name) != "SUCCEEDED":
                yield f"{name} is committed and {states.get(name)}"
    for name in commits:
        yield f"{name} has a committed result and does not exist"


def no_stale_attempt_has_an_effect(history: History) -> Iterator[str]:
    """In the order of the log: what an attempt reports lies between its lease and its end, and the next attempt's lease
    comes after that end."""
    current: dict[str, str] = {}
    ended: set[str] = set()
    for event in sorted(_of(history, LEASED, STARTED, COMMITTED, FAILED), key=lambda one: one.index):
        name, step = event.resource, _step(event.resource)
        if event.type == LEASED:
            former = current.get(step)
            if former is not None and former not in ended:
                yield f"{name} was leased before {former} had ended"
            expected = 1 + (int(former.rpartition("/")[2]) if former else 0)
            if int(name.rpartition("/")[2]) != expected:
                yield f"{name} was leased where attempt {expected} was due"
            current[step] = name
            continue
        verb = event.type.rpartition(".")[2]
        if current.get(step) != name:
            yield f"{name} was {verb} (event {event.index}) while {current.get(step)} was current"
        elif name in ended:
            yield f"{name} was {verb} (event {event.index}) after it had ended"
        if event.type != STARTED:
            ended.add(name)


def a_container_is_started_at_most_once(history: History) -> Iterator[str]:
    """By the nodes' own records, and only by the node that was given the attempt."""
    starts: dict[str, list[str]] = defaultdict(list)
    for start in history.starts:
        starts[start.container].append(start.agent)
    holders = {identifier(attempt.name): attempt for attempt in history.attempts}
    for container, agents in starts.items():
        attempt = holders.get(container)
        if attempt is None:
            yield f"{', '.join(agents)} started {container}, which is no attempt's"
            continue
        if len(agents) > 1:
            yield f"{attempt.name} was started {len(agents)} times, by {', '.join(agents)}"
        if strangers := [agent for agent in agents if f"agents/{agent}" != attempt.agent]:
            yield f"{attempt.name} of {attempt.agent} was started by {', '.join(strangers)}"
    for container, attempt in holders.items():
        if attempt.state == "SUCCEEDED" and container not in starts:
            yield f"{attempt.name} succeeded and no node has started it"


def no_source_has_a_gap(history: History) -> Iterator[str]:
    indices = sorted(event.index for event in history.events)
    if indices != list(range(history.log_size)):
        yield f"the log holds {history.log_size} events; their indices are {_ranges(indices)}"
    seqs: dict[str, list[int]] = defaultdict(list)
    for event in history.events:
        seqs[event.source].append(event.seq)
    for source, last in history.sources.items():
        found = sorted(seqs.pop(source, []))
        if found != list(range(1, last + 1)):
            yield f"{source} is at {last}; its events are {_ranges(found)}"
    for source in seqs:
        yield f"{source} has events and is no source"


def logs_are_complete_or_marked(history: History) -> Iterator[str]:
    """Every byte stands where the step printed it; what is not there is missing at the end of an attempt that was
    stopped, or marked."""
    shapes = {asked.name: asked.shape for asked in history.asked}
    for attempt in history.attempts:
        run, _, step = attempt.step.partition("/steps/")
        expected = load.log_of(shapes.get(run, ""), step).decode()
        end, gap = 0, False
        for offset, text in attempt.log:
            if text != expected[offset : offset + len(text)]:
                yield f"{attempt.name} ({attempt.state}) has at byte {offset} {text[:60]!r}, which it never printed there"
            if offset < end:
                yield f"{attempt.name} has bytes {offset} to {end} twice"
            gap = gap or offset > end
            end = offset + len(text)
        to_its_end = attempt.state == "SUCCEEDED" or attempt.reason == "NONZERO_EXIT"
        if not attempt.cut and (gap or (to_its_end and end < len(expected))):
            where = "with a gap" if gap else f"{end} bytes of {len(expected)}"
            yield f"{attempt.name} ({attempt.state}) has an incomplete log, {where}, and it is not marked as cut"


def equal_steps_have_equal_outputs(history: History) -> Iterator[str]:
    """Every step is deterministic: an output that was half written, or mixed up, would differ."""
    shapes = {asked.name: asked.shape for asked in history.asked}
    found: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for step in history.steps:
        if step.state == "SUCCEEDED" and "out" not in step.outputs:
            yield f"{step.name} succeeded without its output"
        for output, digest in step.outputs.items():
            found[shapes.get(step.run, ""), step.id, output][digest] += 1
    for (shape, name, output), digests in found.items():
        if len(digests) > 1:
            yield f"{shape}/{name} has {len(digests)} different outputs {output}: {dict(digests)}"


def a_wrong_clock_stops_new_work_and_nothing_else(history: History) -> Iterator[str]:
    leases = [(event.detail.get("agent", ""), event) for event in _of(history, LEASED)]
    by_name = {attempt.name: attempt for attempt in history.attempts}
    for skew in history.skews:
        for agent, event in leases:
            if agent == f"agents/{skew.agent}" and skew.since < event.time < skew.until:
                yield f"{event.resource} was leased to {skew.agent} while its clock was wrong"
        for name in skew.held:
            attempt = by_name.get(name)
            if attempt is None or _disturbed(history, skew.agent, skew.since, attempt.end):
                continue
            if attempt.state in ("LOST", "FAILED") and attempt.reason != "NONZERO_EXIT":
                yield f"{name} ran when its node's clock went wrong, and is {attempt.state}: {attempt.reason}"


def _disturbed(history: History, node: str, since: float, until: float) -> bool:
    """Whether anything but a clock may have ended what this node ran then: also what began up to a lease before."""
    return any(
        fault.kind != "shift-clock"
        and (fault.target == node or fault.target in SHARED)
        and fault.since < until
        and fault.until > since - 30
        for fault in history.faults
    )


def nothing_is_left_on_the_host(history: History) -> Iterator[str]:
    yield from history.left


def the_run_itself_went_well(history: History) -> Iterator[str]:
    yield from history.troubles


RULES: tuple[Rule, ...] = (
    every_run_is_terminal,
    every_run_ends_as_it_must,
    at_most_one_result_of_a_step_is_committed,
    no_stale_attempt_has_an_effect,
    a_container_is_started_at_most_once,
    no_source_has_a_gap,
    logs_are_complete_or_marked,
    equal_steps_have_equal_outputs,
    a_wrong_clock_stops_new_work_and_nothing_else,
    nothing_is_left_on_the_host,
    the_run_itself_went_well,
)


def _of(history: History, *types: str) -> list[Event]:
    return [event for event in history.events if event.type in types]


def _step(attempt: str) -> str:
    return attempt.rpartition("/attempts/")[0]


def _ranges(numbers: Iterable[int]) -> str:
    """1-4, 6, 6-9 for [1,2,3,4,6,6,7,8,9]."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in parts) or "none"
