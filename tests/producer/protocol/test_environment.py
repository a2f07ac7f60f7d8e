from __future__ import annotations

import pytest

from voxspool.errors import SettingsError
from voxspool.protocol.environment import TELEMETRY_OFF, VARIABLES, check_names, redis_url


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, None),
        ({"VOXSPOOL_REDIS_URL": "", "REDIS_URL": ""}, None),
        ({"REDIS_URL": "redis://b"}, "redis://b"),
        ({"VOXSPOOL_REDIS_URL": "redis://a", "REDIS_URL": "redis://b"}, "redis://a"),
    ],
)
def test_our_variable_for_redis_takes_precedence_over_the_common_one(environ: dict[str, str], url: str | None) -> None:
    assert redis_url(environ) == url


def test_a_key_prefix_of_rq_other_than_its_default_is_refused() -> None:
    check_names({"RQ_KEY_PREFIX": "rq"})
    with pytest.raises(SettingsError, match=r"RQ_KEY_PREFIX is 'mine'.*; unset it"):
        check_names({"RQ_KEY_PREFIX": "mine"})


def test_the_first_unknown_variable_by_name_is_reported() -> None:
    with pytest.raises(SettingsError, match="unknown environment variable VOXSPOOL_A"):
        check_names({"VOXSPOOL_B": "1", "VOXSPOOL_A": "1"})


def test_variables_that_switch_off_telemetry_are_not_settings_of_ours() -> None:
    assert not set(TELEMETRY_OFF) & set(VARIABLES)
    check_names(TELEMETRY_OFF)
