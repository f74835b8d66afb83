"""Who may call what. Default deny; a test compares the table with the descriptors and with cedar/permissions.toml."""

from animus_kit.server.authz import in_project, internal, public

_PREFIX = "/animus.policy.v1."

ROWS = {
    _PREFIX + "RoleBindingService/GetRoleBinding": public("policy.roleBindings.get", in_project("name")),
    _PREFIX + "RoleBindingService/ListRoleBindings": public("policy.roleBindings.list", in_project("parent")),
    _PREFIX + "RoleBindingService/CreateRoleBinding": public("policy.roleBindings.create", in_project("parent")),
    _PREFIX + "RoleBindingService/DeleteRoleBinding": public("policy.roleBindings.delete", in_project("name")),
    _PREFIX + "DecisionService/GetDecision": public("policy.decisions.get", in_project("name")),
    _PREFIX + "DecisionService/ListDecisions": public("policy.decisions.list", in_project("parent")),
    _PREFIX + "DecisionService/GetPolicySnapshot": public("policy.snapshots.get", in_project("name")),
    _PREFIX + "AccessService/CheckAccess": internal("catalog", "orchestrator", "lineage", "audit"),
    _PREFIX + "AccessService/ListAccessibleProjects": internal("catalog", "orchestrator", "lineage", "audit"),
    _PREFIX + "DecisionPointService/GetCurrentSnapshot": internal("orchestrator"),
    _PREFIX + "DecisionPointService/Decide": internal("orchestrator"),
}
