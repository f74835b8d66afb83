"""What lineage refuses, and why.

AppError
├── NotFound
│   └── NodeNotFound        NODE_NOT_FOUND
└── FailedPrecondition
    └── IndexNotApplied     INDEX_NOT_APPLIED
"""

from animus_kit.errors import FailedPrecondition, NotFound


class NodeNotFound(NotFound):
    """The log, as far as it is applied, says nothing of the resource."""

    reason = "NODE_NOT_FOUND"

    def __init__(self, name: str, applied_index: int):
        super().__init__(
            f"the log says nothing of {name} below index {applied_index}",
            metadata={"applied_index": str(applied_index)},
            resource=("animus.dev/LineageNode", name),
        )


class IndexNotApplied(FailedPrecondition):
    reason = "INDEX_NOT_APPLIED"

    def __init__(self, asked: int, applied_index: int):
        super().__init__(
            f"the graph is applied up to index {applied_index}, {asked} was asked for",
            metadata={"applied_index": str(applied_index), "as_of_index": str(asked)},
            retry_after=0.5,
        )
