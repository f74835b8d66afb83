"""The Python SDK of Animus.

    from animus_client import Client
    with Client.from_environment() as client:
        version = client.datasets.push("projects/digits/datasets/digits", "data/digits")

Names are full resource names. Every error is an `ApiError` with a code and a stable reason. Mutations carry a request id
made before the first try, so that what is retried happens once.
"""

from animus_client.auth import FileToken, StackToken, StaticToken, TokenSource
from animus_client.client import Client
from animus_client.config import Config, NotConfigured
from animus_client.errors import ApiError, ClientError

__all__ = [
    "ApiError",
    "Client",
    "ClientError",
    "Config",
    "FileToken",
    "NotConfigured",
    "StackToken",
    "StaticToken",
    "TokenSource",
]
