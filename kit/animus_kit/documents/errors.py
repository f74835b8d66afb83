"""The one error of this package."""


class DocumentError(ValueError):
    """A document, envelope or value that is refused.

    `reason` is stable UPPER_SNAKE; `path` says where in the document, for example `inputs[0].manifest`, and is empty
    when the fault has no such place. A ValueError rather than an AppError: documents are verified by programs that
    know no RPC, and a caller decides itself whose fault a bad document is.
    """

    def __init__(self, reason: str, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.reason = reason
        self.path = path
        self.message = message

    def under(self, parent: str) -> "DocumentError":
        """The same fault, seen from a document that holds this one at `parent`."""
        joined = parent + self.path if self.path.startswith("[") else ".".join(filter(None, (parent, self.path)))
        return DocumentError(self.reason, self.message, joined)
