"""animus login, token"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from animus_cli import exits
from animus_cli.base import Stop, Subject, answer, command


def add(app: typer.Typer) -> None:
    command(app)(login)
    command(app)(logout)
    command(app)(token)


def login(
    endpoint: Annotated[str, typer.Argument(help="https://HOST:PORT of the gateway.")],
    token_file: Annotated[Path, typer.Option("--token-file", help="Where your bearer token is kept fresh.")],
    ca: Annotated[
        Path, typer.Option("--ca", help="PEM of the gateway's CA; the system's if absent.", show_default=False)
    ] = Path(),
) -> None:
    """Remember a gateway. Tokens stay where they are: your identity provider's helper keeps the file fresh."""
    from animus.catalog.v1 import project_pb2
    from animus_client import Client, Config, FileToken
    from animus_client.config import user_file

    if not token_file.is_file():
        raise Stop(exits.ERROR, f"{token_file} is not a file", "TOKEN_FILE_MISSING")
    authority = None if ca == Path() else ca.resolve()
    with Client(Config(endpoint, FileToken(token_file.resolve()), authority)) as client:
        client.call(client.projects_api.ListProjects, project_pb2.ListProjectsRequest(page_size=1))
    path = user_file(os.environ)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"endpoint": endpoint, "token_file": str(token_file.resolve()), "ca": str(authority) if authority else ""}
    path.write_text(json.dumps(found, indent=2) + "\n")
    answer(found, lambda: print(f"logged in at {endpoint}"))


def logout() -> None:
    """Forget the gateway."""
    from animus_client.config import user_file

    user_file(os.environ).unlink(missing_ok=True)
    answer({}, lambda: print("forgotten"))


def token(as_: Subject = "") -> None:
    """Print a bearer token, for curl and other tools: TOKEN=$(animus token)"""
    from animus_client import Config

    found = Config.discover(subject=as_ or None)
    value = {"token": found.tokens.token(), "endpoint": found.endpoint, "ca": str(found.ca or "")}
    answer(value, lambda: print(value["token"]))
