"""Platform administrators come from the settings alone, so a misspelt one must not pass."""

import pytest

from animus_kit.settings import SettingsError, load
from animus_policy.settings import Settings

GOOD = {
    f"ANIMUS_{name}": "x"
    for name in (
        "DSN", "TLS_CERT", "TLS_KEY", "TLS_CA", "ACTOR_KEY", "OIDC_ISSUER", "OIDC_KEYS", "LISTEN", "AUDIT_TARGET",
    )
}  # fmt: skip


def test_platform_admins():
    given = {"ANIMUS_POLICY_PLATFORM_ADMINS": "group:platform-admins, user:root"}
    assert load(Settings, GOOD | given).platform_admins == {"group:platform-admins", "user:root"}
    assert load(Settings, GOOD).platform_admins == frozenset()


@pytest.mark.parametrize("bad", ["root", "group:", "role:admin", "user:a b"])
def test_what_is_no_member_is_refused(bad):
    with pytest.raises(SettingsError, match="ANIMUS_POLICY_PLATFORM_ADMINS"):
        load(Settings, GOOD | {"ANIMUS_POLICY_PLATFORM_ADMINS": bad})
