"""The planner: a pure function of document, bindings, resolved facts and policy snapshot.

`references` tells what must be resolved, `plan` makes the plan of it. What changed between two plans: plan_diff.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from animus_kit.documents import DocumentError
from animus_kit.documents.action import (
    DEFAULT_ISOLATION,
    DEFAULT_SOURCE_DATE_EPOCH,
    NO_NETWORK,
    Accelerator,
    Action,
    Input,
    Isolation,
    Network,
    SecretRef,
    process_environment,
    threads_for,
)
from animus_kit.documents.action import Output as ActionOutput
from animus_kit.documents.bindings import Bindings
from animus_kit.documents.contract import NamedDigest
from animus_kit.documents.plan import ArtifactSource, Cache, Compare, DatasetSource, Gate, Plan, StepPlan
from animus_kit.documents.values import Parameter, Scalar

from .pipeline import graph, template
from .pipeline.document import PipelineDocument, Step
from .pipeline.formats import V1ALPHA1
from .pipeline.problem import Problem
from .pipeline.rules import is_epoch, parameter_value

GPU = "gpu"
"""The one kind of accelerator that agents count and give."""

FEATURES = frozenset({"gates", "network-allow-list", "secrets"})
"""What a document may ask for and an installation may not be able to do: refused then, never left out."""


@dataclass(frozen=True, slots=True)
class ImageFact:
    """The environment lock of an image in the project."""

    platform: str
    lock: str
    lock_digest: str


@dataclass(frozen=True, slots=True)
class ResolvedFacts:
    """What the names stand for: manifests by dataset version and by code snapshot, locks by image digest.

    `problems` are the references that could not be resolved, as (reference, reason, message). `features` are those of
    FEATURES that this installation can do."""

    dataset_versions: Mapping[str, str]
    code_snapshots: Mapping[str, str]
    images: Mapping[str, ImageFact]
    problems: tuple[tuple[str, str, str], ...] = ()
    features: frozenset[str] = frozenset()
    isolation: Isolation = DEFAULT_ISOLATION


@dataclass(frozen=True, slots=True)
class References:
    """Everything that `resolve` has to look up, each once, sorted."""

    dataset_versions: tuple[str, ...]
    code_snapshots: tuple[str, ...]
    image_digests: tuple[str, ...]
    experiment: str


class NotPlannable(ValueError):
    """A run that cannot be planned; `problems` are all the reasons, with places in the document where they have one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("; ".join(f"{one.path}: {one.message}" for one in self.problems[:5]))


def references(document: PipelineDocument, bindings: Bindings) -> References:
    """What a plan of this document with these bindings will ask for. Names that the document does not use are not
    resolved; `plan` refuses them."""
    refs = {one.dataset_ref for step in document.steps for one in step.dataset_inputs}
    code = {bindings.code_for(step.name) for step in document.steps}
    return References(
        dataset_versions=_sorted(one.dataset_version for one in bindings.datasets if one.dataset_ref in refs),
        code_snapshots=_sorted(name for name in code if name),
        image_digests=_sorted(step.image_digest for step in document.steps),
        experiment=bindings.experiment or "",
    )


def plan(document: PipelineDocument, bindings: Bindings, facts: ResolvedFacts, policy_snapshot_digest: str) -> Plan:
    """Makes the plan. Pure: the same arguments give the same bytes, whatever the order of lists in the document whose
    order means nothing. Labels, experiment, name and descriptions play no part.

    Raises NotPlannable.
    """
    return _Planner(document, bindings, facts).plan(policy_snapshot_digest)


class _Planner:
    def __init__(self, document: PipelineDocument, bindings: Bindings, facts: ResolvedFacts) -> None:
        self._document = document
        self._bindings = bindings
        self._facts = facts
        self._steps = {step.name: step for step in document.steps}
        self._index = {step.name: index for index, step in enumerate(document.steps)}
        self._problems: list[Problem] = []
        self._planned: dict[str, StepPlan] = {}

    def plan(self, policy_snapshot_digest: str) -> Plan:
        self._check_features()
        self._check_bindings()
        values = self._parameters()
        for reference, reason, message in self._facts.problems:
            self._refuse(self._place_of(reference), reason, message)
        if self._problems:
            raise NotPlannable(self._problems)
        # The loader refused cycles: the order holds every step.
        for name in graph.order(self._steps, self._document.dependencies):
            self._step(self._steps[name], values)
        if self._problems:
            raise NotPlannable(self._problems)
        return Plan(
            steps=tuple(self._planned.values()),
            gates=tuple(
                Gate(name=one.name, type=one.type, before=one.before, approvals=one.approvals)
                for one in self._document.gates
            ),
            policy_snapshot_digest=policy_snapshot_digest,
        )

    # --- checks ---

    def _check_features(self) -> None:
        wanted = [("spec.gates[0]", "gates")] if self._document.gates else []
        for step in self._document.steps:
            path = self._path(step)
            if step.secrets:
                wanted.append((f"{path}.secrets", "secrets"))
            if step.network_mode == "allow-list":
                wanted.append((f"{path}.network", "network-allow-list"))
        for path, feature in wanted:
            if feature not in self._facts.features:
                self._refuse(path, "FEATURE_NOT_AVAILABLE", f"this installation does not offer {feature}")

    def _check_bindings(self) -> None:
        used = {one.dataset_ref for step in self._document.steps for one in step.dataset_inputs}
        for index, one in enumerate(self._bindings.datasets):
            if one.dataset_ref not in used:
                self._refuse(
                    f"bindings.datasets[{index}]", "DATASET_REF_UNKNOWN", f"no step reads datasetRef {one.dataset_ref}"
                )
        for index, one in enumerate(self._bindings.code):
            if one.step is not None and one.step not in self._steps:
                self._refuse(f"bindings.code[{index}]", "UNKNOWN_STEP", f"there is no step {one.step}")
        for step in self._document.steps:
            for index, one in enumerate(step.dataset_inputs):
                if self._bindings.dataset(one.dataset_ref) is None:
                    self._refuse(
                        f"{self._path(step)}.inputs.datasets[{index}].datasetRef",
                        "DATASET_NOT_BOUND",
                        f"bind {one.dataset_ref} to a dataset version",
                    )

    def _parameters(self) -> dict[str, Scalar]:
        bound = self._bindings.values()
        declared = {one.name: one for one in self._document.parameters}
        for name in bound.keys() - declared.keys():
            self._refuse(f"bindings.parameters.{name}", "PARAMETER_UNKNOWN", f"the pipeline declares no {name}")
        result: dict[str, Scalar] = {}
        for name, parameter in declared.items():
            value = bound.get(name, parameter.default)
            if value is None:
                self._refuse(f"bindings.parameters.{name}", "PARAMETER_NOT_BOUND", "has no default and no value")
                continue
            try:
                result[name] = parameter_value(parameter.type, value)
            except DocumentError as error:
                self._refuse(f"bindings.parameters.{name}", "PARAMETER_TYPE", error.message)
        return result

    # --- steps ---

    def _step(self, step: Step, values: Mapping[str, Scalar]) -> None:
        image = self._facts.images.get(step.image_digest)
        code = self._code(step)
        datasets = self._datasets(step)
        if image is None:
            self._refuse(
                f"{self._path(step)}.image", "ENVIRONMENT_NOT_LOCKED", "the project has no environment lock of it"
            )
        if image is None or len(datasets) < len(step.dataset_inputs):
            return
        if any(one.from_step not in self._planned for one in step.artifact_inputs):
            return  # a step before it was refused
        try:
            recipe = self._recipe(step, values, image, code, datasets)
        except DocumentError as error:
            self._refuse(self._path(step), error.reason, str(error))
            return
        self._planned[step.name] = StepPlan(
            name=step.name,
            recipe=recipe,
            recipe_digest=recipe.digest,
            dependencies=tuple({before for before, after in self._document.dependencies if after == step.name}),
            dataset_sources=datasets,
            artifact_sources=tuple(
                ArtifactSource(name=one.name, step=one.from_step, output=one.artifact) for one in step.artifact_inputs
            ),
            code=code,
            environment_lock=NamedDigest(resource=image.lock, digest=image.lock_digest),
            resources=step.resources,
            retry=step.retry,
            timeout_seconds=step.timeout_seconds,
            cache=Cache(enabled=step.cache_enabled, host=step.cache_host),
            compare=tuple(
                Compare(output=one.name, method=one.compare, tolerance=one.tolerance) for one in step.outputs
            ),
        )

    def _recipe(
        self,
        step: Step,
        values: Mapping[str, Scalar],
        image: ImageFact,
        code: NamedDigest | None,
        datasets: tuple[DatasetSource, ...],
    ) -> Action:
        args, env, used = self._render(step, values)
        epoch = dict(env).get("SOURCE_DATE_EPOCH", str(DEFAULT_SOURCE_DATE_EPOCH))
        if not is_epoch(epoch):
            raise DocumentError("SOURCE_DATE_EPOCH_INVALID", "whole seconds since 1970", "SOURCE_DATE_EPOCH")
        threads = threads_for(step.resources.cpu_millis)
        inputs = [Input(name=one.name, manifest=one.manifest) for one in datasets]
        inputs += (
            Input(name=one.name, recipe=self._planned[one.from_step].recipe_digest, output=one.artifact)
            for one in step.artifact_inputs
        )
        isolation = self._facts.isolation
        network = NO_NETWORK if step.network_mode == "none" else Network(mode="allow-list", allow=step.network_allow)
        return Action(
            image=step.image_digest,
            platform=image.platform,
            command=step.command,
            args=args,
            environment=process_environment(env, threads, int(epoch), network),
            parameters=tuple(Parameter(name=name, value=values[name]) for name in used),
            inputs=tuple(inputs),
            code=code.digest if code else None,
            outputs=tuple(
                ActionOutput(name=one.name, type=one.type, media_type=one.media_type) for one in step.outputs
            ),
            threads=threads,
            accelerator=self._accelerator(step),
            network=network,
            secrets=tuple(
                SecretRef(name=one.name, reference=one.reference, version=one.version) for one in step.secrets
            ),
            isolation=Isolation(
                aslr=step.aslr,
                hostname=isolation.hostname,
                uid=isolation.uid,
                gid=isolation.gid,
                seccomp=isolation.seccomp,
            ),
            source_date_epoch=int(epoch),
        )

    def _render(
        self, step: Step, values: Mapping[str, Scalar]
    ) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], set[str]]:
        """Arguments and environment with parameters put in, and the names of those that were used."""
        if self._document.api_version == V1ALPHA1:
            return step.args, step.env, set()  # the published format knows no references
        texts = [*step.args, *(value for _, value in step.env)]
        used = {name for text in texts for name in template.references(text)}
        args = tuple(template.render(text, values) for text in step.args)
        env = tuple((name, template.render(value, values)) for name, value in step.env)
        return args, env, used

    def _accelerator(self, step: Step) -> Accelerator | None:
        if not step.resources.gpu:
            return None
        if step.accelerator_kind != GPU:
            message = f"no node has accelerators of kind {step.accelerator_kind}, only {GPU}"
            self._refuse(f"{self._path(step)}.accelerator", "FEATURE_NOT_AVAILABLE", message)
            return None
        return Accelerator(kind=step.accelerator_kind, count=step.resources.gpu, model=step.accelerator_model)

    def _code(self, step: Step) -> NamedDigest | None:
        name = self._bindings.code_for(step.name)
        if name is None:
            return None
        manifest = self._facts.code_snapshots.get(name)
        if manifest is None:
            self._refuse(self._place_of(name), "CODE_SNAPSHOT_NOT_FOUND", f"{name} was not found")
            return None
        return NamedDigest(resource=name, digest=manifest)

    def _datasets(self, step: Step) -> tuple[DatasetSource, ...]:
        found = []
        for one in step.dataset_inputs:
            version = self._bindings.dataset(one.dataset_ref) or ""
            manifest = self._facts.dataset_versions.get(version)
            if manifest is None:
                self._refuse(self._place_of(version), "DATASET_VERSION_NOT_FOUND", f"{version} was not found")
                continue
            found.append(
                DatasetSource(name=one.name, dataset_ref=one.dataset_ref, dataset_version=version, manifest=manifest)
            )
        return tuple(found)

    # --- helpers ---

    def _path(self, step: Step) -> str:
        return f"spec.steps[{self._index[step.name]}]"

    def _place_of(self, reference: str) -> str:
        """The path at which a reference that could not be resolved was given."""
        for index, one in enumerate(self._bindings.datasets):
            if one.dataset_version == reference:
                return f"bindings.datasets[{index}].datasetVersion"
        for index, code in enumerate(self._bindings.code):
            if code.code_snapshot == reference:
                return f"bindings.code[{index}].codeSnapshot"
        for step in self._document.steps:
            if step.image_digest == reference:
                return f"{self._path(step)}.image"
        return "bindings.experiment" if reference == self._bindings.experiment else "bindings"

    def _refuse(self, path: str, reason: str, message: str) -> None:
        line, column = self._document.places.get(path, (0, 0))
        self._problems.append(Problem(line, column, path, reason, message))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
