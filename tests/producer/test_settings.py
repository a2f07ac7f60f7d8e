from __future__ import annotations

import dataclasses

import pytest

from voxspool import Settings, SettingsError
from voxspool.protocol import environment
from voxspool.protocol.environment import VARIABLES, check_names

ONE, OTHER = "redis://one:1", "redis://other:2"


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings() == Settings(redis_url="redis://localhost:6379/0", redis_named=False, engine="auto", voice=None)


def test_each_variable_of_a_producer_is_read() -> None:
    found = Settings.from_env({"VOXSPOOL_REDIS_URL": ONE, "VOXSPOOL_ENGINE": "tone", "VOXSPOOL_VOICE": "v"})
    assert found == Settings(redis_url=ONE, redis_named=True, engine="tone", voice="v")
    assert Settings.from_env({"VOXSPOOL_MAX_WAITING": "50"}) == Settings(max_waiting=50)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e3", "²"])
def test_a_limit_for_waiting_jobs_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^VOXSPOOL_MAX_WAITING is '{value}'; it must be a whole number, 1 or more"
    ):
        Settings.from_env({"VOXSPOOL_MAX_WAITING": value})


@pytest.mark.parametrize(
    ("environ", "url", "named"),
    [
        ({"VOXSPOOL_REDIS_URL": ONE, "REDIS_URL": OTHER}, ONE, True),
        ({"REDIS_URL": OTHER}, OTHER, True),
        ({"VOXSPOOL_REDIS_URL": "", "REDIS_URL": OTHER}, OTHER, True),
        ({"VOXSPOOL_REDIS_URL": "", "REDIS_URL": ""}, environment.DEFAULT_REDIS_URL, False),
        ({"VOXSPOOL_REDIS_URL": environment.DEFAULT_REDIS_URL}, environment.DEFAULT_REDIS_URL, True),
    ],
)
def test_voxspools_url_variable_wins_over_redis_url_and_that_over_the_default(
    environ: dict[str, str], url: str, *, named: bool
) -> None:
    found = Settings.from_env(environ)
    assert (found.redis_url, found.redis_named) == (url, named)


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_env(dict.fromkeys(VARIABLES, "")) == Settings()


def test_the_environment_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXSPOOL_VOICE", "v1")
    assert Settings.from_env().voice == "v1"
    monkeypatch.setenv("VOXSPOOL_VOICE", "v2")
    assert Settings.from_env().voice == "v2"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().voice = "v"  # type: ignore[misc]


@pytest.mark.parametrize("value", ["", "1"])
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("VOXSPOOL_REDIS_UR", "VOXSPOOL_REDIS_URL"),
        ("VOXSPOOL_VOICES", "VOXSPOOL_VOICE"),
        ("VOXSPOOL_ENGIN", "VOXSPOOL_ENGINE"),
        ("VOXSPOOL_WORKER_JOB", "VOXSPOOL_WORKER_JOBS"),
    ],
)
def test_a_mistyped_variable_is_refused_with_the_similar_name(name: str, near: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"VOXSPOOL_VOICE": "v", name: value})
    message = str(caught.value)
    assert message.startswith(f"unknown environment variable {name} (did you mean {near}")
    assert message.endswith("unset it or correct its name")


def test_a_variable_unlike_all_others_is_refused_with_the_list() -> None:
    with pytest.raises(SettingsError, match=r"VOXSPOOL_ \(did you mean|there is: VOXSPOOL_CACHE_DIR"):
        check_names({"VOXSPOOL_0123456789_0123456789": "1"})


def test_variables_of_the_worker_and_of_other_programs_are_accepted() -> None:
    check_names(dict.fromkeys([*VARIABLES, "VOXSPOOL", "voxspool_x", "MY_VOXSPOOL_X", "PATH"], "1"))


def test_every_variable_has_the_prefix_a_constant_and_a_description() -> None:
    constants = {value for name, value in vars(environment).items() if name.isupper() and isinstance(value, str)}
    assert set(VARIABLES) == constants - {environment.PREFIX, environment.DEFAULT_REDIS_URL, environment.DEFAULT_STORE}
    for name, meaning in VARIABLES.items():
        assert name.startswith(environment.PREFIX)
        assert meaning


def test_settings_do_not_show_the_password() -> None:
    assert "hunter2" not in repr(Settings(redis_url="redis://:hunter2@localhost"))
