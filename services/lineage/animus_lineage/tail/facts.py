"""The tail: from events of the log to the view's rows, in the transaction that moves the cursor."""

from sqlalchemy import Connection

from animus_kit.db.tail import Event
from animus_kit.documents.errors import DocumentError
from animus_kit.log import get_logger
from animus_kit.server import metrics

from ..domain.facts import FactsInvalid, facts_of
from ..store import graph

log = get_logger(__name__)


def apply(conn: Connection, event: Event) -> None:
    """Adds what the event states. An event that cannot be read states nothing and stops nobody: what it should have
    said is in the log, and the view tells that it was skipped."""
    try:
        if not event.payload:
            raise FactsInvalid("the payload was erased")
        facts = facts_of(event.type, event.project or None, event.resource, event.body)
    except (FactsInvalid, DocumentError, ValueError) as problem:
        log.warning("event states nothing", index=event.index, problem=str(problem))
        metrics.tail_skipped("lineage")
        graph.skip(conn, event.index, event.type, str(problem))
        return
    graph.add_facts(conn, event.project, event.index, facts)
