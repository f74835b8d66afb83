"""Who may call what. Default deny; a test compares the tables with the descriptors and with policy's list."""

from animus_kit.server.authz import NO_CERTIFICATE, Row, from_agents, in_project, no_project, public

_PREFIX = "/animus.orchestrator.v1."
_AGENT = "/animus.agent.v1."

API_ROWS = {
    _PREFIX + "PipelineService/GetPipeline": public("orchestrator.pipelines.get", in_project("name")),
    _PREFIX + "PipelineService/ListPipelines": public("orchestrator.pipelines.list", in_project("parent")),
    _PREFIX + "PipelineService/CreatePipeline": public("orchestrator.pipelines.create", in_project("parent")),
    _PREFIX + "PipelineService/UpdatePipeline": public("orchestrator.pipelines.update", in_project("pipeline.name")),
    _PREFIX + "PipelineService/GetPipelineVersion": public("orchestrator.pipelineVersions.get", in_project("name")),
    _PREFIX + "PipelineService/ListPipelineVersions": public(
        "orchestrator.pipelineVersions.list", in_project("parent")
    ),
    _PREFIX + "PipelineService/CreatePipelineVersion": public(
        "orchestrator.pipelineVersions.create", in_project("parent")
    ),
    _PREFIX + "PipelineService/ValidatePipeline": public("orchestrator.pipelines.validate", in_project("parent")),
    _PREFIX + "RunService/PlanRun": public("orchestrator.runs.plan", in_project("parent")),
    _PREFIX + "RunService/CreateRun": public("orchestrator.runs.create", in_project("parent")),
    _PREFIX + "RunService/GetRun": public("orchestrator.runs.get", in_project("name")),
    _PREFIX + "RunService/ListRuns": public("orchestrator.runs.list", in_project("parent")),
    _PREFIX + "RunService/CancelRun": public("orchestrator.runs.cancel", in_project("name")),
    _PREFIX + "RunService/GetStep": public("orchestrator.runs.get", in_project("name")),
    _PREFIX + "RunService/ListSteps": public("orchestrator.runs.get", in_project("parent")),
    _PREFIX + "RunService/GetAttempt": public("orchestrator.runs.get", in_project("name")),
    _PREFIX + "RunService/ListAttempts": public("orchestrator.runs.get", in_project("parent")),
    _PREFIX + "RunService/ListMetricPoints": public("orchestrator.runs.get", in_project("parent")),
    _PREFIX + "QuotaService/GetQuota": public("orchestrator.quotas.get", in_project("name")),
    _PREFIX + "QuotaService/UpdateQuota": public("orchestrator.quotas.update", in_project("quota.name")),
    _PREFIX + "PoolService/GetPool": public("orchestrator.pools.get"),
    _PREFIX + "PoolService/ListPools": public("orchestrator.pools.list"),
    _PREFIX + "PoolService/CreatePool": public("orchestrator.pools.create"),
    _PREFIX + "PoolService/UpdatePool": public("orchestrator.pools.update"),
    _PREFIX + "AgentService/GetAgent": public("orchestrator.agents.get"),
    _PREFIX + "AgentService/ListAgents": public("orchestrator.agents.list"),
    _PREFIX + "AgentService/CordonAgent": public("orchestrator.agents.cordon"),
    _PREFIX + "AgentService/UncordonAgent": public("orchestrator.agents.uncordon"),
    _PREFIX + "AgentService/DrainAgent": public("orchestrator.agents.drain"),
    _PREFIX + "AgentService/RevokeAgent": public("orchestrator.agents.revoke"),
    _PREFIX + "AgentService/ListAgentAttempts": public("orchestrator.agents.get"),
    _PREFIX + "AgentService/ListAgentLogs": public("orchestrator.agents.logs"),
    _PREFIX + "AgentService/CreateJoinToken": public("orchestrator.joinTokens.create"),
    _PREFIX + "AgentService/ListJoinTokens": public("orchestrator.joinTokens.list"),
    _PREFIX + "AgentService/RevokeJoinToken": public("orchestrator.joinTokens.revoke"),
}

PRIORITIZE = "orchestrator.runs.prioritize"
"""Asked by CreateRun and PlanRun themselves: for a priority above normal."""

STREAM_ROWS = {
    _PREFIX + "RunStreamService/WatchRun": public("orchestrator.runs.watch", in_project("name")),
    _PREFIX + "RunStreamService/ReadLogs": public("orchestrator.logs.read", in_project("name")),
}

DISPATCH_ROWS = {
    _AGENT + "DispatchService/Connect": from_agents(),
    _AGENT + "DispatchService/RenewCertificate": from_agents(),
}

ENROLLMENT_ROWS = {
    # The one method without a client certificate: the join token is what it asks for.
    _AGENT + "EnrollmentService/Enroll": Row(None, NO_CERTIFICATE, no_project),
}

ROWS = API_ROWS | STREAM_ROWS | DISPATCH_ROWS | ENROLLMENT_ROWS
