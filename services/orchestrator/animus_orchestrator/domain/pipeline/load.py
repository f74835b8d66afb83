"""The way in: bytes and media type to a checked document, or to all of its problems."""

from animus_kit.documents import canonical
from animus_kit.documents.shape import digest_of

from . import formats, json_reader, rules, yaml_reader
from .document import PipelineDocument, build
from .node import MAX_BYTES, OBJECT, STRING, Node, Problems
from .problem import MAX_PROBLEMS, Problem, UnreadableDocument
from .schema import Context

JSON = "application/json"
YAML = "application/yaml"
_READERS = {JSON: json_reader.read, YAML: yaml_reader.read}


class PipelineInvalid(ValueError):
    """A document that is refused; `problems` are in the order of the text, at most MAX_PROBLEMS."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(set(problems))[:MAX_PROBLEMS])
        first = self.problems[0]
        super().__init__(f"{first.line}:{first.column}: {first.path}: {first.message}")


def load(data: bytes, media_type: str) -> PipelineDocument:
    """Reads a pipeline document. Raises PipelineInvalid."""
    problems = Problems()
    context = Context(problems, {})
    try:
        root = _read(data, media_type, problems)
        value = _check(root, context)
    except UnreadableDocument:
        raise PipelineInvalid(problems) from None
    if problems:
        raise PipelineInvalid(problems)
    plain = canonical.dumps(root.plain())
    return build(data, media_type, plain, digest_of(plain), value, context.places)


def validate(data: bytes, media_type: str) -> tuple[Problem, ...]:
    """Every problem of a document, () when it is valid."""
    try:
        load(data, media_type)
    except PipelineInvalid as error:
        return error.problems
    return ()


def _read(data: bytes, media_type: str, problems: Problems) -> Node:
    reader = _READERS.get(media_type)
    if reader is None:
        raise problems.stop((0, 0), "", "MEDIA_TYPE_UNKNOWN", f"send {JSON} or {YAML}")
    if len(data) > MAX_BYTES:
        raise problems.stop((0, 0), "", "DOCUMENT_TOO_LARGE", f"more than {MAX_BYTES} bytes")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise problems.stop((1, 1), "", "BYTE_ORDER_MARK", "UTF-8 without a byte order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        raise problems.stop((before.count(b"\n") + 1, column), "", "NOT_UTF8", "not UTF-8") from None
    if not text.strip(" \t\r\n"):
        raise problems.stop((1, 1), "", "EMPTY_DOCUMENT", "there is nothing in it")
    return reader(text, problems)


def _check(root: Node, context: Context) -> object:
    if root.kind != OBJECT:
        context.wrong_type(root, "", "an object")
        raise UnreadableDocument
    version = next((item for key, _, item in root.members if key == "apiVersion"), None)
    if version is None:
        context.refuse(root, "apiVersion", "FIELD_REQUIRED", f"is required: {' or '.join(formats.FORMATS)}")
        raise UnreadableDocument
    if version.kind != STRING:
        context.wrong_type(version, "apiVersion", "a string")
        raise UnreadableDocument
    if version.value not in formats.FORMATS:
        known = " or ".join(formats.FORMATS)
        context.refuse(version, "apiVersion", "API_VERSION_UNKNOWN", f"there is {known}")
        raise UnreadableDocument
    value = formats.FORMATS[version.value].check(root, "", context)
    rules.check(value, context)
    return value
