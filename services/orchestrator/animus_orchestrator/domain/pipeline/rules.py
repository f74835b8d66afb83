"""What must hold between the fields of a document. Each rule speaks of what the schema left standing and notes all it finds."""

from collections.abc import Iterable, Iterator
from typing import Any

from animus_kit.documents import DocumentError, values

from . import graph, template
from .formats import V1
from .node import join
from .schema import Context

Data = dict[str, Any]


def check(data: Data, context: Context) -> None:
    """Notes every broken rule. `data` is what `Object.check` returned."""
    _Rules(data, context).run()


class _Rules:
    def __init__(self, data: Data, context: Context) -> None:
        spec = data.get("spec", {})
        self._context = context
        self._v1 = data.get("apiVersion") == V1
        self._steps = list(_objects(spec.get("steps", []), "spec.steps"))
        self._dependencies = list(_objects(spec.get("dependencies", []), "spec.dependencies"))
        self._parameters = list(_objects(spec.get("parameters", []), "spec.parameters"))
        self._gates = list(_objects(spec.get("gates", []), "spec.gates"))
        self._names = {step["name"] for _, step in self._steps if "name" in step}
        # With a name missing, "no such step" might only repeat that fault: then it is not said.
        self._names_known = (
            "steps" in spec
            and all("name" in step for _, step in self._steps)
            and len(self._steps) == len(spec["steps"])
        )
        self._outputs = {
            step["name"]: {output.get("name") for _, output in _objects(_dig(step, "outputs", "artifacts"), "")}
            for _, step in self._steps
            if "name" in step
        }

    def run(self) -> None:
        self._unique(self._steps, "name")
        edges = self._edges()
        before = self._order(edges)
        for path, step in self._steps:
            self._step(path, step)
            self._artifact_inputs(path, step, before)
        if self._v1:
            self._v1_rules()

    # --- edges ---

    def _edges(self) -> set[tuple[str, str]]:
        edges: set[tuple[str, str]] = set()
        for path, dependency in self._dependencies:
            known = True
            for end in ("from", "to"):
                if end in dependency:
                    known &= self._known_step(dependency[end], join(path, end))
            if not known or not {"from", "to"} <= dependency.keys():
                continue
            edge = dependency["from"], dependency["to"]
            if edge[0] == edge[1]:
                self._refuse(path, "SELF_DEPENDENCY", f"{edge[0]} cannot wait for itself")
            elif edge in edges:
                self._refuse(path, "DUPLICATE_DEPENDENCY", f"{edge[0]} → {edge[1]} stands before")
            else:
                edges.add(edge)
        return {edge for edge in edges if set(edge) <= self._names}

    def _order(self, edges: set[tuple[str, str]]) -> dict[str, frozenset[str]] | None:
        """Ancestors of each step, or None when there is a cycle, which is told at the edge that closes it."""
        cycle = graph.find_cycle(self._names, edges)
        if not cycle:
            return dict(graph.ancestors(graph.order(self._names, edges), edges))
        closing = cycle[-1], cycle[0]
        path = next(p for p, d in self._dependencies if (d.get("from"), d.get("to")) == closing)
        self._refuse(path, "DEPENDENCY_CYCLE", " → ".join([*cycle, cycle[0]]))
        return None

    def _artifact_inputs(self, path: str, step: Data, before: dict[str, frozenset[str]] | None) -> None:
        base = f"{path}.inputs.artifacts"
        for where, one in _objects(_dig(step, "inputs", "artifacts"), base):
            source = one.get("fromStep")
            if source is None or not self._known_step(source, f"{where}.fromStep"):
                continue
            if source == step.get("name"):
                self._refuse(f"{where}.fromStep", "SELF_DEPENDENCY", f"{source} cannot read its own output")
                continue
            if source not in self._outputs:
                continue  # unknown, and the names are not all known
            if "artifact" in one and one["artifact"] not in self._outputs[source]:
                self._refuse(f"{where}.artifact", "UNKNOWN_ARTIFACT", f"{source} declares no output {one['artifact']}")
            if before is not None and "name" in step and source not in before[step["name"]]:
                self._refuse(
                    f"{where}.fromStep",
                    "DEPENDENCY_MISSING",
                    f"spec.dependencies has no way from {source} to {step['name']}; an order is never implied",
                )

    # --- inside a step ---

    def _step(self, path: str, step: Data) -> None:
        inputs = [
            *_objects(_dig(step, "inputs", "datasets"), f"{path}.inputs.datasets"),
            *_objects(_dig(step, "inputs", "artifacts"), f"{path}.inputs.artifacts"),
        ]
        env = list(_objects(step.get("env", []), f"{path}.env"))
        self._unique(inputs, "name")
        self._unique(_objects(_dig(step, "outputs", "artifacts"), f"{path}.outputs.artifacts"), "name")
        self._unique(env, "name")
        if "command" in step and "args" in step:
            argv = step["command"] + step["args"]
            if not argv or argv[0] == "":
                self._refuse(
                    f"{path}.command", "COMMAND_EMPTY", "names no program; the image's own entrypoint is never used"
                )
        for where, one in env:
            if one.get("name") == "SOURCE_DATE_EPOCH" and "value" in one and "${" not in one["value"]:
                if not is_epoch(one["value"]):
                    self._refuse(f"{where}.value", "SOURCE_DATE_EPOCH_INVALID", "whole seconds since 1970")

    # --- animus/v1 ---

    def _v1_rules(self) -> None:
        self._unique(self._parameters, "name")
        self._unique(self._gates, "name")
        for path, parameter in self._parameters:
            self._default(path, parameter)
        declared = {parameter["name"] for _, parameter in self._parameters if "name" in parameter}
        all_declared = all("name" in parameter for _, parameter in self._parameters)
        for path, step in self._steps:
            self._references(path, step, declared, all_declared)
            self._options(path, step)
        for path, gate in self._gates:
            for index, name in enumerate(gate.get("before", [])):
                if isinstance(name, str):
                    self._known_step(name, f"{path}.before[{index}]")
            self._unique(
                (
                    (f"{path}.before[{index}]", {"": name})
                    for index, name in enumerate(gate.get("before", []))
                    if isinstance(name, str)
                ),
                "",
            )

    def _default(self, path: str, parameter: Data) -> None:
        if "default" not in parameter or "type" not in parameter:
            return
        try:
            parameter_value(parameter["type"], parameter["default"])
        except DocumentError as error:
            self._refuse(f"{path}.default", "PARAMETER_TYPE", error.message)

    def _references(self, path: str, step: Data, declared: set[str], all_declared: bool) -> None:
        texts = [(f"{path}.args[{index}]", text) for index, text in enumerate(step.get("args", []))]
        texts += [(f"{where}.value", one.get("value")) for where, one in _objects(step.get("env", []), f"{path}.env")]
        for where, text in texts:
            if not isinstance(text, str):
                continue
            try:
                unknown = set(template.references(text)) - declared
            except template.BadReference as error:
                self._refuse(where, "PARAMETER_SYNTAX", str(error))
                continue
            if unknown and all_declared:
                self._refuse(where, "PARAMETER_UNKNOWN", f"spec.parameters has no {min(unknown)}")

    def _options(self, path: str, step: Data) -> None:
        self._unique(_objects(step.get("secrets", []), f"{path}.secrets"), "name")
        if "accelerator" in step and _dig(step, "resources", "gpu", default=1) == 0:
            self._refuse(f"{path}.accelerator", "ACCELERATOR_WITHOUT_GPU", "resources.gpu is 0")
        network = step.get("network", {})
        if {"mode", "allow"} <= network.keys() and (network["mode"] == "none") != (not network["allow"]):
            self._refuse(f"{path}.network.allow", "NETWORK_ALLOW", "an allow-list names hosts, and only it does")
        for index, host in enumerate(network.get("allow", [])):
            port = str(host).rpartition(":")[2]
            if port.isascii() and port.isdigit() and int(port) > 65535:
                self._refuse(f"{path}.network.allow[{index}]", "HOST_INVALID", "a port is at most 65535")
        for where, output in _objects(_dig(step, "outputs", "artifacts"), f"{path}.outputs.artifacts"):
            compare = output.get("compare", {})
            if "method" in compare and (compare["method"] == "numeric") != ("tolerance" in compare):
                self._refuse(f"{where}.compare", "COMPARE_TOLERANCE", "numeric has a tolerance, and only it has")

    # --- helpers ---

    def _known_step(self, name: str, path: str) -> bool:
        if name in self._names or not self._names_known:
            return True
        self._refuse(path, "UNKNOWN_STEP", f"there is no step {name}")
        return False

    def _unique(self, items: Iterable[tuple[str, Data]], key: str) -> None:
        seen: set[str] = set()
        for path, item in items:
            name = item.get(key)
            if name in seen:
                self._refuse(f"{path}.{key}" if key else path, "DUPLICATE_NAME", f"{name} stands before")
            elif name is not None:
                seen.add(name)

    def _refuse(self, path: str, reason: str, message: str) -> None:
        self._context.problems.add(self._context.places.get(path, (0, 0)), path, reason, message)


def parameter_value(kind: str, value: Any) -> values.Scalar:
    """A written or bound value as its declared type has it: whole numbers serve as doubles, 64-bit integers may be
    decimal strings. Raises DocumentError."""
    if kind == "double" and type(value) is int:
        value = float(value)
    elif kind == "int64" and type(value) is str:
        return values.from_json({"int64": value})
    if values.type_name(value) != kind:
        raise DocumentError("VALUE_TYPE", f"expected {kind}, not {values.type_name(value)}")
    return values.check(value)


def is_epoch(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 11 and str(int(text)) == text


def _objects(items: Any, path: str) -> Iterator[tuple[str, Data]]:
    """Path and value of the entries that are objects; others were refused."""
    for index, item in enumerate(items):
        if isinstance(item, dict):
            yield f"{path}[{index}]", item


def _dig(step: Data, *keys: str, default: Any = ()) -> Any:
    value: Any = step
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value
