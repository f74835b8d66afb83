"""animus up, down, status, stack restart"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from animus_cli import exits, show
from animus_cli.base import Stop, answer, command, group, say

Dir = Annotated[Path, typer.Option("--dir", envvar="ANIMUS_DIR", help="The stack's folder.", show_default=False)]
_NONE = Path()


def add(app: typer.Typer) -> None:
    command(app)(up)
    command(app)(down)
    command(app)(status)
    inner = group("Single processes of the local stack.")
    command(inner)(restart)
    app.add_typer(inner, name="stack")


def up(
    dir: Dir = _NONE,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready.")] = False,
    agent: Annotated[bool, typer.Option("--agent/--no-agent", help="Whether this machine runs steps too.")] = True,
    node_address: Annotated[
        str | None,
        typer.Option(help="An address of this machine, for agents on others. Remembered.", show_default=False),
    ] = None,
    set: Annotated[
        list[str],
        typer.Option(help="A setting, as process.name=value: dispatch.lease_duration=20s. Remembered; repeatable."),
    ] = [],
) -> None:
    """Start every process on this machine, on loopback, with mTLS and keys it makes itself. Starts what is missing."""
    from animus_cli.requirements import missing

    layout, stack = _stack(dir)
    if agent and (lacking := missing()):
        raise Stop(
            exits.REQUIREMENT, "\n".join(lacking), "REQUIREMENT_MISSING", "or start without the agent: --no-agent"
        )
    with _explained():
        stack.up(layout, say, agent=agent, chosen=_chosen(layout, node_address, set))
    states = stack.status(layout)
    value = {"endpoint": layout.endpoint, "dir": str(layout.root), "processes": [vars(s) for s in states]}
    if detach:
        answer(value, lambda: print(f"ready: {layout.endpoint}"))
        return
    say(f"ready: {layout.endpoint} (Ctrl-C ends it)")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        with _explained():
            stack.down(layout, say)


def down(dir: Dir = _NONE) -> None:
    """End every process of the stack, and what its agent's containers left. The data stays."""
    layout, stack = _stack(dir)
    made = layout.root.is_dir()
    with _explained():
        stack.down(layout, say)
    ended = f"stopped; the data stays in {layout.root}" if made else f"there is no stack in {layout.root}"
    answer({"dir": str(layout.root)}, lambda: print(ended))


def status(dir: Dir = _NONE) -> None:
    """Each process, its health and its ports. Exit status 7 when one is not ready."""
    layout, stack = _made(dir)
    states = stack.status(layout)
    rows = [
        (s.name, s.health, s.pid or "", " ".join(f"{name}:{port}" for name, port in s.ports.items())) for s in states
    ]

    def human() -> None:
        show.table(["process", "health", ">pid", "ports"], rows)
        print(f"\nendpoint {layout.endpoint}\nfolder   {layout.root}")

    answer({"endpoint": layout.endpoint, "dir": str(layout.root), "processes": [vars(s) for s in states]}, human)
    if any(s.health != "ready" for s in states):
        raise Stop(exits.UNAVAILABLE, "")


def restart(
    name: Annotated[str, typer.Argument(help="The process, as `status` names it.")],
    kill: Annotated[bool, typer.Option("--kill", help="End it with SIGKILL.")] = False,
    dir: Dir = _NONE,
) -> None:
    """End one process and start it again."""
    layout, stack = _made(dir)
    if all(state.pid is None for state in stack.status(layout)):
        raise Stop(exits.UNAVAILABLE, f"the stack in {layout.root} is down", "STACK_DOWN", "animus up --detach")
    with _explained():
        stack.restart(layout, name, kill=kill)
    answer({"process": name}, lambda: print(f"{name} is back"))


def _stack(dir: Path) -> tuple[Any, Any]:
    try:
        from animus_cli.stack import stack
        from animus_cli.stack.layout import Layout, default_folder
    except ImportError as error:
        raise Stop(
            exits.REQUIREMENT, f"no local stack here: {error}", "STACK_NOT_INSTALLED", "pip install animus-cli[stack]"
        ) from None
    return Layout((dir if dir != _NONE else default_folder()).resolve()), stack


def _chosen(layout: Any, node_address: str | None, settings: list[str]) -> Any:
    """The options given here over those of before; None when nothing was given."""
    from animus_cli.stack import options, programs

    if node_address is None and not settings:
        return None
    before = layout.options
    try:
        given = options.parse(node_address or before.node_address, settings, programs.ALL)
    except options.OptionsError as error:
        raise Stop(exits.USAGE, str(error), "USAGE", "animus up --help") from None
    names = {*before.settings, *given.settings}
    merged = {name: {**before.settings.get(name, {}), **given.settings.get(name, {})} for name in names}
    return options.Options(given.node_address, merged)


def _made(dir: Path) -> tuple[Any, Any]:
    layout, stack = _stack(dir)
    if not layout.root.is_dir():
        raise Stop(exits.UNAVAILABLE, f"there is no stack in {layout.root}", "NO_STACK", "animus up --detach")
    return layout, stack


class _explained:
    """Errors of the stack as errors of the command."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        from animus_cli.stack.stack import StackError
        from animus_kit.db.embedded import EmbeddedError

        if isinstance(error, StackError | EmbeddedError):
            raise Stop(exits.ERROR, str(error), "STACK_FAILED") from None
