"""How a command is made: `--output`, the client, errors and exit codes are the same for all."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from animus_cli import exits, show


class Format(StrEnum):
    table = "table"
    json = "json"


Project = Annotated[
    str, typer.Option("--project", "-p", envvar="ANIMUS_PROJECT", help="The project's id.", show_default=False)
]
Labels = Annotated[list[str], typer.Option("--label", help="key=value; may be repeated.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]
Subject = Annotated[str, typer.Option("--as", help="Local stack: act as this subject.", show_default=False)]

_OUTPUT = Annotated[Format, typer.Option("--output", "-o", envvar="ANIMUS_OUTPUT", help="How to print the answer.")]
_output = Format.table


class Stop(Exception):
    """Ends the command with an exit status; message and reason are for people."""

    def __init__(self, code: int, message: str, reason: str = "", next_step: str = ""):
        super().__init__(message)
        self.code, self.message, self.reason, self.next_step = code, message, reason, next_step


def group(help: str) -> typer.Typer:
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)


def command(
    app: typer.Typer, name: str | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As app.command(), with `--output` and errors that end in exit codes."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, output: Format = Format.table, **given: Any) -> None:
            global _output
            _output = output
            with handled():
                function(*arguments, **given)

        # typer reads the signature; strings there would lose what stands in Annotated.
        signature = inspect.signature(function, eval_str=True)
        extra = inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default=Format.table, annotation=_OUTPUT)
        parameters = [*signature.parameters.values(), extra]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, **options)(run)
        return function

    return add


def wants_json() -> bool:
    return _output is Format.json


def answer(value: Any, human: Callable[[], object]) -> None:
    """Prints the answer: value as JSON, or what human prints."""
    if wants_json():
        show.as_json(value)
    else:
        human()


def say(message: str) -> None:
    """Progress and notes, on stderr, for people."""
    if not wants_json():
        print(show.clean(message), file=sys.stderr, flush=True)


@contextmanager
def client(subject: str = "") -> Iterator[Any]:
    from animus_client import Client

    with Client.from_environment(subject or None) as made:
        yield made


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], object]]:
    """A bar on a terminal; nothing elsewhere."""
    if wants_json() or not sys.stderr.isatty():
        yield lambda done, whole: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=show.console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)


@contextmanager
def handled() -> Iterator[None]:
    """Turns what went wrong into a message and an exit status."""
    from animus_client.errors import ClientError
    from animus_kit.status import RemoteError

    try:
        yield
    except Stop as stop:
        if stop.message:
            _tell(stop.message, stop.reason, "", stop.next_step or exits.next_step(stop.reason, ""))
        raise typer.Exit(stop.code) from None
    except ClientError as error:
        _tell(error.message, error.reason, "", exits.next_step(error.reason, ""))
        raise typer.Exit(exits.of_client(error.reason)) from None
    except RemoteError as error:
        violations = [{"field": v.field, "reason": v.reason, "description": v.description} for v in error.violations]
        _tell(
            error.message,
            error.reason,
            error.code,
            exits.next_step(error.reason, error.code),
            violations,
            error.request_id,
        )
        raise typer.Exit(exits.BY_CODE.get(error.code, exits.ERROR)) from None
    except BrokenPipeError:
        # Whoever read it has seen enough. What Python would flush at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(exits.OK) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _tell(f"{where}{error.strerror or error}", errno.errorcode.get(error.errno or 0, type(error).__name__), "", "")
        raise typer.Exit(exits.ERROR) from None
    except ValueError as error:
        _tell(str(error), type(error).__name__, "", "")
        raise typer.Exit(exits.ERROR) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _tell(
    message: str,
    reason: str,
    code: str,
    next_step: str,
    violations: list[dict[str, str]] | None = None,
    request_id: str = "",
) -> None:
    if wants_json():
        error = {"message": message, "reason": reason, "code": code, "violations": violations or []}
        print(json.dumps({"error": {**error, "requestId": request_id, "next": next_step}}), file=sys.stderr)
        return
    lines = [f"error: {show.clean(message)}"]
    for violation in violations or []:
        detail = violation["description"] or violation["reason"]
        if message == f"{violation['field']}: {detail}":
            continue  # the message is that already
        lines.append(f"  {show.clean(violation['field'])}: {show.clean(detail)} [{violation['reason']}]")
    lines += [
        f"  {name}: {value}"
        for name, value in (("reason", reason), ("request", request_id), ("next", next_step))
        if value
    ]
    print("\n".join(lines), file=sys.stderr)


def full(project: str, collection: str = "", name: str = "") -> str:
    """The full name of `name` in `collection` of a project; a full name stays as it is."""
    if name.startswith("projects/"):
        return name
    base = project if project.startswith("projects/") else f"projects/{need_project(project)}"
    return f"{base}/{collection}/{name}" if collection else base


def scope(project: str, name: str) -> str:
    """The project to look in: the name's own, where it is a full one."""
    return "/".join(name.split("/")[:2]) if name.startswith("projects/") else full(project)


def need_project(project: str) -> str:
    if not project:
        raise Stop(exits.USAGE, "which project? give --project, or set ANIMUS_PROJECT", "PROJECT_MISSING")
    return project


def assignments(given: list[str], what: str) -> dict[str, str]:
    """key=value, key=value … Raises Stop."""
    found = {}
    for item in given:
        key, mark, value = item.partition("=")
        if not mark or not key:
            raise Stop(exits.USAGE, f"{what} is written key=value, not {item!r}", "USAGE")
        found[key] = value
    return found
