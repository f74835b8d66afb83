"""Logs are JSON lines on stderr. `log.info("blob stored", digest=d, bytes=n)`: a constant sentence, then fields.

Never log: tokens, keys, payloads, the output of steps. A field's value is cut at 4 KiB; JSON's escaping keeps control
characters of hostile text out of a terminal.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from animus_kit import trace

_MAX = 4096
_service = ""


class Logger:
    """A standard logger that takes fields as keywords."""

    __slots__ = ("_logger",)

    def __init__(self, name: str):
        self._logger = logging.getLogger(name)

    def debug(self, message: str, *args: Any, **fields: Any) -> None:
        self._log(logging.DEBUG, message, args, fields)

    def info(self, message: str, *args: Any, **fields: Any) -> None:
        self._log(logging.INFO, message, args, fields)

    def warning(self, message: str, *args: Any, **fields: Any) -> None:
        self._log(logging.WARNING, message, args, fields)

    def error(self, message: str, *args: Any, **fields: Any) -> None:
        self._log(logging.ERROR, message, args, fields)

    def exception(self, message: str, *args: Any, **fields: Any) -> None:
        self._log(logging.ERROR, message, args, {"exc_info": True, **fields})

    def _log(self, level: int, message: str, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        exc_info = fields.pop("exc_info", None)
        fields.update(fields.pop("extra", None) or {})
        self._logger.log(level, message, *args, exc_info=exc_info, extra={"animus": fields}, stacklevel=3)


class JsonFormatter(logging.Formatter):
    """One record, one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "service": _service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := trace.request_id.get():
            line["request_id"] = request_id
        if span := trace.trace.get():
            line["trace_id"], line["span_id"] = span.trace_id, span.span_id
        for key, value in getattr(record, "animus", {}).items():
            line.setdefault(key, _plain(value))
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = self.formatException(record.exc_info)[-4 * _MAX :]
        return json.dumps(line, ensure_ascii=True, default=str)


def configure(service: str, level: str = "INFO") -> None:
    """Sends all logs of this process to stderr. Call once, at the start of `__main__`."""
    global _service
    _service = service
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Alembic and SQLAlchemy speak of every statement at INFO.
    for noisy in ("alembic", "sqlalchemy", "grpc._server", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def get_logger(name: str) -> Logger:
    return Logger(name)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in list(value)[:64]]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in list(value.items())[:64]}
    text = str(value)
    return text if len(text) <= _MAX else text[:_MAX] + "…"
