"""`animus-agent run | enroll | doctor | purge`. Exit status: 0 well, 1 refused or failed, 2 wrong use, 3 the machine
cannot, 4 the node is revoked and need not be started again."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from animus_agent import files
from animus_agent.errors import AgentError, SandboxUnavailable
from animus_agent.identity import Identity, enroll_again
from animus_agent.settings import Settings
from animus_kit import log, settings
from animus_kit.clock import SystemClock
from animus_kit.ids import RandomIds


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        chosen = settings.load(Settings, os.environ)
        log.configure("agent", chosen.log_level)
        return arguments.act(chosen, arguments)
    except settings.SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except SandboxUnavailable as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 3
    except AgentError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 4 if error.reason == "AGENT_REVOKED" else 1


def run(chosen: Settings, _: argparse.Namespace) -> int:
    """Works until SIGTERM."""
    files.spare_memory()
    from animus_agent.loop import Agent

    async def live() -> None:
        await Agent(chosen, SystemClock(), RandomIds()).run()

    with _only_one(chosen):
        asyncio.run(live())
    return 0


def enroll(chosen: Settings, arguments: argparse.Namespace) -> int:
    """Trades a join token for an identity; the same token may be given again after a lost answer."""
    try:
        token = arguments.token or Path(arguments.token_file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        print(f"{arguments.token_file}: {getattr(error, 'strerror', None) or 'not text'}", file=sys.stderr)
        return 2
    chosen.agent_state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    if arguments.replace:
        with _only_one(chosen):
            about = enroll_again(
                chosen.agent_state_dir, SystemClock(), chosen.agent_root_key, arguments.endpoint, token
            )
    else:
        identity = Identity(chosen.agent_state_dir / "identity", SystemClock(), chosen.agent_root_key)
        about = identity.enroll(arguments.endpoint, token)
    print(f"joined as {about.agent}; dispatch at {about.dispatch_endpoint}")
    return 0


def doctor(chosen: Settings, arguments: argparse.Namespace) -> int:
    """Says what this node has and what its canaries show, one line each; changes nothing that stays."""
    from animus_agent.doctor import examine

    return examine(chosen, arguments.output)


def purge(chosen: Settings, _: argparse.Namespace) -> int:
    """Ends what a stopped agent left running: containers, mounts, cgroups. Its files stay."""
    from animus_agent import node

    with _only_one(chosen):
        node.purge(chosen)
    return 0


def _only_one(chosen: Settings):  # type: ignore[no-untyped-def]
    """Two agents on one state folder would adopt each other's containers. Raises AgentError."""
    import fcntl

    chosen.agent_state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    lock = (chosen.agent_state_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AgentError(f"another agent works on {chosen.agent_state_dir}", "ALREADY_RUNNING") from None
    return lock


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="animus-agent", description="Runs the attempts of Animus on this node.")
    commands = parser.add_subparsers(required=True, metavar="run|enroll|doctor|purge")
    commands.add_parser("run", help=run.__doc__).set_defaults(act=run)
    joining = commands.add_parser("enroll", help=enroll.__doc__)
    joining.add_argument("endpoint", help="host:port of dispatch's enrolment listener")
    source = joining.add_mutually_exclusive_group(required=True)
    source.add_argument("--token", help="the join token; visible in the process list, so prefer --token-file")
    source.add_argument("--token-file", help="a file that holds the join token")
    joining.add_argument("--replace", action="store_true", help="new keys for a node that has joined; it must not run")
    joining.set_defaults(act=enroll)
    commands.add_parser("purge", help=purge.__doc__).set_defaults(act=purge)
    examining = commands.add_parser("doctor", help=doctor.__doc__)
    examining.add_argument("--output", choices=("text", "json"), default="text")
    examining.set_defaults(act=doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
