"""The worker's settings: which values the environment may have, and the error message for each of the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from voxspool.errors import SettingsError
from voxspool.protocol import environment
from voxspool_worker.settings import DEFAULT_DATA_DIR, DEFAULT_JOBS, SPIN_COUNT, Settings, let_threads_sleep


def test_without_an_environment_there_are_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings == Settings(
        redis_url="redis://localhost:6379/0", engine="piper", jobs=DEFAULT_JOBS, piper_voices=None
    )


def test_every_setting_is_read_from_the_environment() -> None:
    settings = Settings.from_env(
        {
            "VOXSPOOL_REDIS_URL": "rediss://elsewhere:1/2",
            "VOXSPOOL_WORKER_ENGINE": "tone",
            "VOXSPOOL_WORKER_JOBS": "3",
            "VOXSPOOL_PIPER_VOICES": "/srv/voices",
            "VOXSPOOL_XTTS_DIR": "/srv/xtts",
            "VOXSPOOL_DEVICE": "cuda",
            "VOXSPOOL_PRECISION": "bf16",
            "VOXSPOOL_CACHE_DIR": "/srv/cache",
            "COQUI_TOS_AGREED": "1",
        }
    )
    assert settings == Settings(
        "rediss://elsewhere:1/2", "tone", 3, Path("/srv/voices"), Path("/srv/xtts"), "cuda", "bf16",
        Path("/srv/cache"), tos_agreed=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "allowed"), [("DEVICE", "auto, mps, cuda or cpu"), ("PRECISION", "auto, fp32, bf16 or int8")]
)
def test_a_word_that_is_not_allowed_is_refused_with_the_allowed_ones(name: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"VOXSPOOL_{name} is 'tpu'; it must be {allowed}"):
        Settings.from_env({f"VOXSPOOL_{name}": "tpu"})


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VOXSPOOL_WORKER_JOBS", "5")
    assert Settings.from_env().jobs == 5


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"REDIS_URL": "redis://general"}, "redis://general"),
        ({"VOXSPOOL_REDIS_URL": "redis://ours"}, "redis://ours"),
        ({"VOXSPOOL_REDIS_URL": "redis://ours", "REDIS_URL": "redis://general"}, "redis://ours"),
        ({"VOXSPOOL_REDIS_URL": "", "REDIS_URL": "redis://general"}, "redis://general"),
        ({"VOXSPOOL_REDIS_URL": "", "REDIS_URL": ""}, "redis://localhost:6379/0"),
    ],
)
def test_voxspool_redis_url_overrides_redis_url(environ: dict[str, str], url: str) -> None:
    assert Settings.from_env(environ).redis_url == url


@pytest.mark.parametrize("name", ["VOXSPOOL_WORKER_ENGINE", "VOXSPOOL_WORKER_JOBS", "VOXSPOOL_PIPER_VOICES"])
def test_an_empty_variable_counts_as_not_set(name: str) -> None:
    assert Settings.from_env({name: ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("VOXSPOOL_REDIS_URI", "VOXSPOOL_REDIS_URL"),
        ("VOXSPOOL_WORKER_JOB", "VOXSPOOL_WORKER_JOBS"),
        ("VOXSPOOL_PIPER_VOICE", "VOXSPOOL_PIPER_VOICES"),
        ("VOXSPOOL_WORKER_ENGIN", "VOXSPOOL_WORKER_ENGINE"),
    ],
)
def test_a_mistyped_variable_is_refused_with_the_near_name(name: str, near: str) -> None:
    with pytest.raises(SettingsError, match=rf"\b{name}\b.*did you mean.*\b{near}\b"):
        Settings.from_env({name: "1"})


def test_variables_of_the_producer_and_of_other_programs_are_ignored() -> None:
    environ = dict.fromkeys(environment.VARIABLES, "") | {"VOXSPOOLER": "1", "PATH": "/bin", "voxspool_x": "1"}
    assert Settings.from_env(environ) == Settings()


@pytest.mark.parametrize("value", ["0", "-1", "+3", "1.5", "two", " 8", "8 ", "1e3", "0x8", "８", "²", "1_000"])
def test_an_invalid_number_of_jobs_is_refused_with_its_name_and_value(value: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^VOXSPOOL_WORKER_JOBS is '.*'; it must be a whole number, 1 or more$"
    ) as bad:
        Settings.from_env({"VOXSPOOL_WORKER_JOBS": value})
    assert repr(value) in str(bad.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().jobs = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environ", "coqui", "hub"),
    [
        ({"TTS_HOME": "/a", "XDG_DATA_HOME": "/b"}, "/a/tts", None),
        ({"XDG_DATA_HOME": "/b"}, "/b/tts", None),
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/d"}, None, "/c"),
        ({"HF_HOME": "/d"}, None, "/d/hub"),
        ({"XDG_CACHE_HOME": "/e"}, None, "/e/huggingface/hub"),
    ],
)
def test_the_model_folders_follow_the_rules_of_coqui_and_hugging_face(
    environ: dict[str, str], coqui: str | None, hub: str | None
) -> None:
    settings = Settings.from_env(environ)
    assert settings.coqui_dir == (Path(coqui) if coqui else Settings().coqui_dir)
    assert settings.hub_dir == (Path(hub) if hub else Settings().hub_dir)


@pytest.mark.parametrize("named", [None, "/data"])
def test_a_users_own_voices_are_in_the_users_data_folder(named: str | None) -> None:
    home = Path(named) if named else DEFAULT_DATA_DIR
    environ = {"XDG_DATA_HOME": named} if named else {}
    assert Settings.from_env(environ).voices_dir == home / "voxspool" / "piper-voices"


def test_the_catalogue_is_a_web_address() -> None:
    url = "http://127.0.0.1:8000/voices.json"
    assert Settings.from_env({"VOXSPOOL_PIPER_CATALOGUE": url}).piper_catalogue == url


@pytest.mark.parametrize(
    "value", ["voices.json", "file:///voices.json", "http://", "https://me:secret@host/", "http://[x"]
)
def test_an_invalid_web_address_is_refused_and_its_password_is_not_shown(value: str) -> None:
    with pytest.raises(SettingsError, match="VOXSPOOL_PIPER_CATALOGUE is not an address like https://") as refused:
        Settings.from_env({"VOXSPOOL_PIPER_CATALOGUE": value})
    assert "secret" not in str(refused.value)


def test_threads_sleep_sooner_unless_the_user_chose_a_spin_count() -> None:
    environ: dict[str, str] = {}
    let_threads_sleep(environ)
    assert environ == {"GOMP_SPINCOUNT": SPIN_COUNT}
    chosen = {"GOMP_SPINCOUNT": "7"}
    let_threads_sleep(chosen)
    assert chosen == {"GOMP_SPINCOUNT": "7"}


def test_settings_do_not_show_the_password() -> None:
    assert "hunter2" not in repr(Settings(redis_url="redis://:hunter2@localhost"))
