from dataclasses import replace
from datetime import timedelta

import pytest

from animus_kit.documents import DocumentError, dsse
from animus_kit.documents.contract import Contract, Grant, open_contract, open_grant
from tests.kit.documents.samples import ACTION, ATTEMPT, CONTRACT, GRANT, LATER, NOW, digest, key

KEY = key(1)
KEYS = [KEY.public_key()]


def signed(document, by=KEY):
    return dsse.sign(document.to_bytes(), document.NOUN, by)


def refused(reason, call, *args):
    with pytest.raises(DocumentError) as error:
        call(*args)
    assert error.value.reason == reason


def open_both(contract=CONTRACT, grant=GRANT, agent="agents/node-1"):
    return open_contract(signed(contract), signed(grant), KEYS, agent)


def test_a_true_pair_opens():
    assert open_both() == (CONTRACT, GRANT)
    assert CONTRACT.run == "projects/risk/runs/r1"
    assert CONTRACT.step == "train"


def test_another_agent_cannot_use_it():
    refused("WRONG_AGENT", open_both, CONTRACT, GRANT, "agents/node-2")


def test_the_grant_is_the_one_that_was_meant():
    wider = replace(GRANT, write_bytes=GRANT.write_bytes + 1)
    refused("GRANT_MISMATCH", open_both, CONTRACT, wider)
    other = replace(GRANT, attempt=ATTEMPT[:-1] + "3")
    refused("GRANT_MISMATCH", open_both, replace(CONTRACT, grant_digest=other.digest), other)


def test_the_action_reads_only_what_the_grant_names():
    narrow = replace(GRANT, readable_manifests=(digest("b"),))
    refused("OUTSIDE_GRANT", open_both, replace(CONTRACT, grant_digest=narrow.digest), narrow)
    no_image = replace(GRANT, readable_images=())
    refused("OUTSIDE_GRANT", open_both, replace(CONTRACT, grant_digest=no_image.digest), no_image)


def test_a_key_of_another_hand_or_purpose_is_refused():
    other = key(2)
    refused("KEY_UNKNOWN", open_contract, signed(CONTRACT, other), signed(GRANT), KEYS, CONTRACT.agent)
    refused("KEY_UNKNOWN", open_contract, signed(CONTRACT), signed(GRANT, other), KEYS, CONTRACT.agent)
    # A grant is no contract, whatever its bytes say.
    refused("WRONG_NOUN", open_contract, signed(GRANT), signed(CONTRACT), KEYS, CONTRACT.agent)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 3}, "ATTEMPT_NUMBER"),
        ({"project": "projects/other"}, "OUTSIDE_PROJECT"),
        ({"action_digest": digest("0")}, "ACTION_DIGEST"),
        ({"action": replace(ACTION, threads=7)}, "ACTION_DIGEST"),
        ({"inputs": ()}, "INPUTS"),
        ({"code": None}, "CODE"),
        ({"lease_seconds": 0}, "OUT_OF_RANGE"),
        ({"timeout_seconds": 31 * 86400}, "OUT_OF_RANGE"),
        ({"agent": "node-1"}, "PATTERN"),
        ({"attempt": "projects/risk/runs/r1/steps/train/attempts/0"}, "PATTERN"),
        ({"gpu_uuids": ("GPU-1", "GPU-2")}, "GPUS"),
        ({"gpu_uuids": ("GPU-1", "GPU-1")}, "DUPLICATE"),
        ({"gpu_uuids": ()}, "LIST_LENGTH"),
        ({"gpu_uuids": ("../GPU-1",)}, "PATTERN"),
    ],
)
def test_a_contract_agrees_with_itself(change, reason):
    refused(reason, lambda: replace(CONTRACT, **change))


def test_an_incomplete_action_makes_no_contract():
    from tests.kit.documents.samples import RECIPE

    refused("ACTION_INCOMPLETE", lambda: replace(CONTRACT, action=RECIPE, action_digest=RECIPE.digest))


def test_the_blob_listener_takes_a_grant_by_its_own_clock():
    data = signed(GRANT)
    assert open_grant(data, KEYS, GRANT.agent, NOW) == GRANT
    refused("GRANT_EXPIRED", open_grant, data, KEYS, GRANT.agent, LATER)
    refused("GRANT_INVALID", open_grant, data, KEYS, "agents/node-2", NOW)
    refused("GRANT_INVALID", open_grant, data, [key(2).public_key()], GRANT.agent, NOW)
    refused("GRANT_INVALID", open_grant, signed(CONTRACT), KEYS, GRANT.agent, NOW)
    refused("GRANT_INVALID", open_grant, b"x", KEYS, GRANT.agent, NOW)


def test_a_grant_ends_after_it_began_and_stays_in_its_project():
    refused("OUT_OF_RANGE", lambda: replace(GRANT, expire_time=NOW))
    refused("OUT_OF_RANGE", lambda: replace(GRANT, expire_time=NOW - timedelta(seconds=1)))
    refused("OUTSIDE_PROJECT", lambda: replace(GRANT, project="projects/ris"))


def test_lists_without_order_have_one_form():
    shuffled = replace(GRANT, readable_manifests=tuple(reversed(GRANT.readable_manifests)))
    assert shuffled.to_bytes() == GRANT.to_bytes()
    refused("DUPLICATE", lambda: replace(GRANT, readable_manifests=(digest("a"), digest("a"))))
    # And the other form is refused when read, canonical JSON though it is.
    first, second = GRANT.readable_manifests[:2]
    swapped = GRANT.to_bytes().replace(f'"{first}","{second}"'.encode(), f'"{second}","{first}"'.encode())
    refused("NOT_CANONICAL", Grant.from_bytes, swapped)


def test_64_bit_integers_are_strings_on_the_wire():
    assert CONTRACT.to_dict()["number"] == "2"
    data = CONTRACT.to_bytes().replace(b'"number":"2"', b'"number":2')
    refused("NOT_AN_INTEGER", Contract.from_bytes, data)
