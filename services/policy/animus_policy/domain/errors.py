"""What policy refuses, and why. A denial is an answer, not an error.

AppError
├── InvalidArgument
│   ├── FactsNotCanonical       FACTS_NOT_CANONICAL
│   └── QuestionInvalid         QUESTION_INVALID
├── NotFound
│   ├── RoleBindingNotFound     ROLE_BINDING_NOT_FOUND
│   ├── DecisionNotFound        DECISION_NOT_FOUND
│   └── SnapshotNotFound        POLICY_SNAPSHOT_NOT_FOUND
└── FailedPrecondition
    └── SnapshotNotInForce      POLICY_SNAPSHOT_NOT_IN_FORCE
"""

from animus_kit.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound


class FactsNotCanonical(InvalidArgument):
    reason = "FACTS_NOT_CANONICAL"

    def __init__(self, problem: str):
        super().__init__(
            f"facts are not a canonical JSON document: {problem}",
            violations=[FieldViolation("facts", "FACTS_NOT_CANONICAL", problem)],
        )


class QuestionInvalid(InvalidArgument):
    """A decision's document cannot hold a field of the request."""

    reason = "QUESTION_INVALID"

    def __init__(self, path: str, problem: str):
        super().__init__(f"{path}: {problem}", violations=[FieldViolation(path, "QUESTION_INVALID", problem)])


class RoleBindingNotFound(NotFound):
    reason = "ROLE_BINDING_NOT_FOUND"

    def __init__(self, name: str):
        super().__init__(f"{name} does not exist", resource=("animus.dev/RoleBinding", name))


class DecisionNotFound(NotFound):
    reason = "DECISION_NOT_FOUND"

    def __init__(self, name: str):
        super().__init__(f"{name} does not exist", resource=("animus.dev/Decision", name))


class SnapshotNotFound(NotFound):
    reason = "POLICY_SNAPSHOT_NOT_FOUND"

    def __init__(self, name: str):
        super().__init__(f"{name} does not exist", resource=("animus.dev/PolicySnapshot", name))


class SnapshotNotInForce(FailedPrecondition):
    """A run is decided on once, under the snapshot of its plan; plan again under the one in force."""

    reason = "POLICY_SNAPSHOT_NOT_IN_FORCE"

    def __init__(self, asked: str, current: str):
        super().__init__(
            "the policy snapshot is not the one in force in the project",
            metadata={"policy_snapshot_digest": asked, "current_policy_snapshot_digest": current},
        )
