from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxspool.errors import InvalidJobError, UnknownEngineError, UnknownQueueError
from voxspool.protocol import VERSION, jobs
from voxspool.protocol.jobs import (
    AUTO,
    ENGINES,
    MAX_KEEP_S,
    MAX_SEED,
    MAX_TEXT_CHARS,
    PRIORITIES,
    JobSpec,
    Priority,
    all_queue_names,
    engine_of,
    priority_of,
    queue_name,
    queue_names,
)

LEAST = {"version": VERSION, "id": "a", "text": "x"}
FIELDS = [field.name for field in dataclasses.fields(JobSpec)]

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**300), 10**300) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
Languages = st.from_regex(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,2}", fullmatch=True)
Voices = st.text(min_size=1, max_size=200).filter(str.isprintable)
Specs = st.builds(
    JobSpec,
    text=st.text(),
    id=st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True),
    voice=st.none() | Voices,
    language=st.none() | Languages,
    engine=st.sampled_from((AUTO, *ENGINES)),
    speed=st.floats(0.5, 2.0) | st.sampled_from((1, 2)),
    seed=st.integers(0, MAX_SEED),
    priority=st.sampled_from(PRIORITIES),
    keep_s=st.integers(1, MAX_KEEP_S),
    live_s=st.none() | st.integers(jobs.MIN_LIVE_S, jobs.MAX_LIVE_S),
    window_s=st.none() | st.integers(jobs.MIN_WINDOW_S, jobs.MAX_WINDOW_S),
    meta=st.none() | st.dictionaries(st.text(max_size=8), st.integers(), max_size=8),
)


def refusal(**fields: Any) -> str:  # noqa: ANN401 - ill-typed fields are the point
    with pytest.raises(InvalidJobError) as caught:
        JobSpec(**({"text": "x"} | fields))
    return str(caught.value)


# Limits


@pytest.mark.parametrize(
    "fields",
    [
        {"text": ""},
        {"text": "\0\n\U0001f600"},
        {"text": "a" * MAX_TEXT_CHARS},
        {"text": "\U0001f600" * MAX_TEXT_CHARS},  # characters count, not bytes
        {"id": "a"},
        {"id": "-"},
        {"id": "aZ09_-" + "a" * 122},
        {"voice": "v"},
        {"voice": "José, Nr. 2: ü"},
        {"voice": "v" * 200},
        {"language": "en"},
        {"language": "yue"},
        {"language": "pt-br"},
        {"language": "zh_Hant-TW"},
        {"engine": "auto"},
        {"engine": "piper"},
        {"engine": "tone"},
        {"speed": 0.5},
        {"speed": 2.0},
        {"speed": 1},
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"priority": "batch"},
        {"keep_s": 1},
        {"keep_s": 30 * 24 * 3600},
    ],
)
def test_values_on_a_limit_are_accepted(fields: dict[str, Any]) -> None:
    spec = JobSpec(**({"text": "x"} | fields))
    assert {name: getattr(spec, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "a" * (MAX_TEXT_CHARS + 1)}, ["100,001", "100,000", "in parts"]),
        ({"id": ""}, ['""', "1 to 128"]),
        ({"id": "a" * 129}, ["aaaa...", "1 to 128"]),
        ({"id": "two words"}, ['"two words"', "letters, digits, _ and -"]),
        ({"id": "a:b"}, ['"a:b"', "letters, digits"]),
        ({"id": "a\n"}, [r'"a\n"', "letters, digits"]),
        ({"id": "\na"}, [r'"\na"', "letters, digits"]),
        ({"id": "ä"}, [r'"\u00e4"', "letters, digits"]),
        ({"id": "\u0661"}, [r'"\u0661"', "letters, digits"]),  # an Arabic digit
        ({"id": "a}:audio"}, ['"a}:audio"', "letters, digits"]),
        ({"id": "a\0b"}, [r'"a\u0000b"', "letters, digits"]),
        ({"voice": ""}, ['""', "1 to 200"]),
        ({"voice": "v" * 201}, ["vvv...", "1 to 200"]),
        ({"voice": "a\nb"}, [r'"a\nb"', "1 to 200"]),
        ({"voice": "a\x1b[31m"}, [r'"a\u001b[31m"', "1 to 200"]),
        ({"language": ""}, ['""', "en or pt-br"]),
        ({"language": "english"}, ['"english"', "en or pt-br"]),
        ({"language": "en\n"}, [r'"en\n"', "en or pt-br"]),
        ({"language": "en-"}, ['"en-"', "en or pt-br"]),
        ({"language": "en" + "-aa" * 12}, ["en or pt-br"]),
        ({"engine": ""}, ['""', "there is: auto, piper, tone, xtts"]),
        ({"engine": "pipper!"}, ['"pipper!"', "did you mean piper?"]),
        ({"engine": "Piper"}, ['"Piper"', "did you mean piper?"]),
        ({"speed": 0.49}, ["0.49", "0.5 to 2.0"]),
        ({"speed": 2.01}, ["2.01", "0.5 to 2.0"]),
        ({"speed": -1}, ["-1", "0.5 to 2.0"]),
        ({"speed": 10**300}, ["1000000", "0.5 to 2.0"]),
        ({"speed": math.nan}, ["NaN", "0.5 to 2.0"]),
        ({"speed": math.inf}, ["Infinity", "0.5 to 2.0"]),
        ({"seed": -1}, ["-1", "0 to 4294967295"]),
        ({"seed": 2**32}, ["4294967296", "0 to 4294967295"]),
        ({"priority": ""}, ['""', "interactive nor batch"]),
        ({"priority": "urgent"}, ['"urgent"', "interactive nor batch"]),
        ({"keep_s": 0}, ["0", "1 to 2592000"]),
        ({"keep_s": 2_592_001}, ["2592001", "1 to 2592000"]),
    ],
)
def test_the_error_for_an_invalid_value_shows_the_value_and_the_limits(fields: dict[str, Any], said: list[str]) -> None:
    message = refusal(**fields)
    assert next(iter(fields)) in message
    for part in said:
        assert part in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Piper",
        "a" * 33,
        "-a",
        "a-",
        "a_",
        "1a",
        "a.b",
        "a b",
        "a:b",
        "a}",
        "a/b",
        "a\n",
        "\u00e4",
        "batch",
        "interactive",
    ],
)
def test_an_invalid_name_of_an_engine_is_an_unknown_engine_error(value: str) -> None:
    with pytest.raises(UnknownEngineError, match=r"there is no engine .*; a name has 1 to 32"):
        JobSpec("x", engine=value)


@pytest.mark.parametrize("value", ["pipper", "a", "a" * 32, "xtts-v2", "espeak_ng", "batch-1", "auto2"])
def test_an_engine_may_have_any_name_that_a_queue_can(value: str) -> None:
    spec = JobSpec("x", engine=value, priority="batch")
    assert JobSpec.decode(spec.encode()) == spec
    assert spec.queue == f"voxspool-{value}-batch"
    assert engine_of(spec.queue) == value
    assert priority_of(spec.queue) == "batch"


@pytest.mark.parametrize(
    "queue",
    [
        "default",
        "",
        "voxspool-piper",
        "voxspool--batch",
        "voxspool-Piper-batch",
        "voxspool-batch-batch",
        "x-voxspool-piper-batch",
        "voxspool-piper-batch\n",
    ],
)
def test_a_queue_of_another_program_has_no_engine(queue: str) -> None:
    assert engine_of(queue) is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("text", None, "text is null, not str"),
        ("text", b"bytes", "text is bytes, not str"),
        ("text", ["a"], "text is list, not str"),
        ("id", 7, "id is 7, not str"),
        ("id", None, "id is null, not str"),
        ("voice", 1, "voice is 1, not str or null"),
        ("language", {"a": 1}, 'language is {"a": 1}, not str or null'),
        ("engine", None, "engine is null, not str"),
        ("speed", "1.0", 'speed is "1.0", not float or int'),
        ("speed", True, "speed is true, not float or int"),
        ("speed", None, "speed is null, not float or int"),
        ("seed", 1.0, "seed is 1.0, not int"),
        ("seed", math.nan, "seed is NaN, not int"),
        ("seed", False, "seed is false, not int"),
        ("priority", 1, "priority is 1, not str"),
        ("keep_s", True, "keep_s is true, not int"),
        ("keep_s", 3600.5, "keep_s is 3600.5, not int"),
        ("keep_s", "60", 'keep_s is "60", not int'),
    ],
)
def test_the_error_for_a_field_of_a_wrong_type_names_the_field(name: str, value: object, said: str) -> None:
    assert refusal(**{name: value}) == said


def test_a_long_value_is_shown_shortened_on_one_line() -> None:
    message = refusal(voice="secret\n" * 1000)
    assert r"secret\nsecret" in message
    assert len(message) < 150


def test_the_default_id_is_new_and_valid() -> None:
    assert JobSpec("x").id != JobSpec("x").id
    JobSpec("x", id=JobSpec("x").id)


def test_a_speed_just_above_the_limit_is_not_rounded_in_the_error() -> None:
    assert "2.0000001" in refusal(speed=2.0000001)


@pytest.mark.parametrize(
    ("name", "value"),
    [("speed", 10**400), ("speed", -(10**400)), ("seed", 10**5000), ("keep_s", 10**5000)],
    ids=["speed", "negative-speed", "seed", "keep_s"],
)
def test_a_number_that_is_too_long_to_show_is_refused(name: str, value: int) -> None:
    assert name in refusal(**{name: value})


# The wire


def test_the_json_of_a_job_does_not_change() -> None:
    spec = JobSpec("Guten Tag, Zoë.", id="a-1", voice="v", language="de", engine="tone", speed=1.5, seed=7, keep_s=60)
    assert json.dumps(spec.encode(), ensure_ascii=False) == (
        '{"version": 1, "text": "Guten Tag, Zoë.", "id": "a-1", "voice": "v", "language": "de", "engine": "tone", '
        '"speed": 1.5, "seed": 7, "priority": "interactive", "keep_s": 60}'
    )


@given(Specs)
def test_a_job_is_unchanged_by_encoding_and_decoding(spec: JobSpec) -> None:
    assert JobSpec.decode(json.loads(json.dumps(spec.encode()))) == spec


def test_missing_fields_have_their_defaults() -> None:
    assert JobSpec.decode(LEAST) == JobSpec("x", id="a")


def test_decoding_does_not_change_the_object() -> None:
    data = dict(LEAST)
    JobSpec.decode(data)
    assert data == LEAST


@settings(max_examples=150)
@given(Json | st.dictionaries(st.sampled_from([*FIELDS, "version"]) | st.text(max_size=5), Json))
def test_any_json_is_decoded_as_a_job_or_refused(data: object) -> None:
    try:
        spec = JobSpec.decode(data)
    except InvalidJobError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused
    else:
        assert JobSpec.decode(spec.encode()) == spec


@settings(max_examples=150)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, Json)), st.sampled_from(FIELDS), Json)
def test_a_valid_job_with_one_random_field_is_decoded_or_refused(
    rest: dict[str, object], name: str, value: object
) -> None:
    """Most fields are valid, so that each check is reached, which is not so for arbitrary JSON."""
    for data in (LEAST | {name: value}, LEAST | rest):
        try:
            assert isinstance(JobSpec.decode(data), JobSpec)
        except InvalidJobError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most are refused


@pytest.mark.parametrize("data", [None, True, 1, 1.5, "{}", [], [LEAST]])
def test_json_that_is_not_an_object_is_refused(data: object) -> None:
    with pytest.raises(InvalidJobError, match=r"a job's argument is a JSON object, not "):
        JobSpec.decode(data)


@pytest.mark.parametrize(
    "data", ["Rosebud.", ["Rosebud."], LEAST | {"text": ["Rosebud."]}, LEAST | {"text": {"a": "Rosebud."}}]
)
def test_an_error_does_not_contain_the_text_of_the_job(data: object) -> None:
    with pytest.raises(InvalidJobError) as caught:
        JobSpec.decode(data)
    assert "Rosebud" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, [1], {"1": 1}, math.nan, 10**300])
def test_another_version_is_refused_before_any_other_check(version: object) -> None:
    with pytest.raises(InvalidJobError, match=r"protocol version .*; this worker supports 1"):
        JobSpec.decode({"version": version, "novelty": 1})


@pytest.mark.parametrize("version", [True, 1.0])
def test_a_version_that_is_not_an_integer_is_refused(version: object) -> None:
    with pytest.raises(InvalidJobError, match="protocol version"):
        JobSpec.decode(LEAST | {"version": version})


def test_a_job_without_a_version_is_refused() -> None:
    with pytest.raises(InvalidJobError, match="protocol version null"):
        JobSpec.decode({"id": "a", "text": "x"})


@pytest.mark.parametrize("name", ["volume", "Text", "", "__class__", "queue", "timeout_s", "a\nb"])
def test_the_error_for_an_unknown_field_names_it(name: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        JobSpec.decode(LEAST | {name: None})
    assert str(caught.value) == f"the job has an unknown field: {json.dumps(name)}"


@pytest.mark.parametrize("name", ["id", "text"])
def test_the_error_for_a_missing_field_names_it(name: str) -> None:
    with pytest.raises(InvalidJobError, match=f"^the job has no {name}$"):
        JobSpec.decode({key: value for key, value in LEAST.items() if key != name})


# Properties


def test_jobs_that_differ_in_priority_and_lifetime_give_the_same_audio() -> None:
    spec = JobSpec("x", id="a")
    for other in ({"priority": "batch"}, {"keep_s": 1}, {"live_s": 9}, {"window_s": 9}, {"meta": {"page": 3}}):
        assert spec.says_the_same(JobSpec("x", id="a", **other))
        assert JobSpec("x", id="a", **other).digest == spec.digest


def test_a_digest_does_not_depend_on_how_a_number_is_written() -> None:
    assert JobSpec("x", speed=1).digest == JobSpec("x", speed=1.0).digest


@pytest.mark.parametrize(
    "other",
    [
        {"text": "y"},
        {"id": "b"},
        {"voice": "v"},
        {"language": "en"},
        {"engine": "tone"},
        {"speed": 1.1},
        {"seed": 1},
        {"reuse": True},
    ],
)
def test_jobs_that_differ_in_any_other_field_give_different_audio(other: dict[str, Any]) -> None:
    spec = JobSpec("x", id="a")
    assert not spec.says_the_same(dataclasses.replace(spec, **other))
    assert (dataclasses.replace(spec, **other).digest != spec.digest) is ("id" not in other)
    assert not dataclasses.replace(spec, **other).says_the_same(spec)


def test_the_fields_that_affect_the_audio_are_known() -> None:
    heard = {"text", "id", "voice", "language", "engine", "speed", "seed", "reuse"}
    assert set(FIELDS) == heard | {"priority", "keep_s", "live_s", "window_s", "meta"}, (
        "a new field: does it affect the audio?"
    )


@pytest.mark.parametrize(("chars", "timeout_s"), [(0, 120), (1, 120), (2, 121), (724, 482), (100_000, 50_120)])
def test_the_time_limit_depends_on_the_length_of_the_text(chars: int, timeout_s: int) -> None:
    assert JobSpec("a" * chars).timeout_s == timeout_s


def test_the_limit_for_the_audio_depends_on_the_length_of_the_text_and_the_speed() -> None:
    assert JobSpec("").max_audio_s == 60
    assert JobSpec("a" * 100).max_audio_s == 260
    assert JobSpec("a" * 100, speed=0.5).max_audio_s == 460
    assert JobSpec("a" * MAX_TEXT_CHARS).max_audio_s == 6 * 3600


@pytest.mark.parametrize(
    "fields",
    [{"live_s": 0}, {"live_s": 86_401}, {"live_s": True}, {"live_s": 5.0}, {"window_s": 0}, {"window_s": 3601}],
)
def test_the_error_for_a_duration_outside_its_limits_names_the_field(fields: dict[str, Any]) -> None:
    (name,) = fields
    assert name in refusal(**fields)


def test_a_job_with_a_window_has_a_limit_for_the_time_without_a_reader() -> None:
    assert JobSpec("x").unread_limit_s is None
    assert JobSpec("x", window_s=5).unread_limit_s == 600
    assert JobSpec("x", window_s=5, live_s=30).unread_limit_s == 30
    assert JobSpec("x", live_s=7).unread_limit_s == 7


def test_fields_that_were_added_later_are_encoded_only_if_they_are_set() -> None:
    assert set(FIELDS) - set(JobSpec("x").encode()) == {"live_s", "window_s", "meta", "reuse"}
    asked = JobSpec("x", live_s=9, window_s=3, meta={"page": 3}, reuse=True)
    assert JobSpec.decode(asked.encode()) == asked


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"a": "x" * 1024}, "meta has 1,032 bytes as JSON and the limit is 1,024"),
        ({"a": b"x"}, "meta is not a JSON object"),
        ({"a": float("nan")}, "meta is not a JSON object"),
        (["a"], "meta is"),
    ],
)
def test_metadata_that_is_no_json_object_or_too_large_is_refused(meta: Any, said: str) -> None:  # noqa: ANN401 - see above
    assert said in refusal(meta=meta)


# Queues


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ((), all_queue_names()),
        (("batch",), [name for name in all_queue_names() if name.endswith("-batch")]),
        (("piper",), ["voxspool-piper-interactive", "voxspool-piper-batch"]),
        (("voxspool-auto-batch", "voxspool-auto-batch"), ["voxspool-auto-batch"]),
        (("auto", "voxspool-tone-batch"), ["voxspool-tone-batch", "voxspool-auto-interactive", "voxspool-auto-batch"]),
    ],
)
def test_a_word_selects_the_queues_whose_names_contain_it(words: tuple[str, ...], meant: list[str]) -> None:
    assert jobs.queues_named(words) == meant


@pytest.mark.parametrize("word", ["voxspool", "batches", "", "voxspool-auto", "rq:queue:voxspool-auto-batch"])
def test_a_word_that_names_no_queue_is_refused(word: str) -> None:
    with pytest.raises(UnknownQueueError, match="there is no queue"):
        jobs.queues_named([word])


def test_a_worker_empties_interactive_queues_first_and_its_own_before_auto() -> None:
    assert queue_names("piper") == [
        "voxspool-piper-interactive",
        "voxspool-auto-interactive",
        "voxspool-piper-batch",
        "voxspool-auto-batch",
    ]


def test_words_can_name_the_queues_of_other_engines() -> None:
    engines = [*ENGINES, "my-engine"]
    assert jobs.queues_named(["my-engine"], engines) == ["voxspool-my-engine-interactive", "voxspool-my-engine-batch"]
    assert set(jobs.queues_named([], engines)) - set(all_queue_names()) == set(
        jobs.queues_named(["my-engine"], engines)
    )
    with pytest.raises(UnknownQueueError, match=r'no queue "my-engin" \(did you mean my-engine\?\)'):
        jobs.queues_named(["my-engin"], engines)


def test_jobs_are_put_into_exactly_the_queues_that_workers_serve() -> None:
    engines, urgencies = (AUTO, *ENGINES), get_args(Priority)
    lie_in = {JobSpec("x", engine=engine, priority=urgency).queue for engine in engines for urgency in urgencies}
    served = {name for engine in ENGINES for name in queue_names(engine)}
    assert lie_in == served == set(all_queue_names())
    assert len(all_queue_names()) == len(lie_in)


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("engine", [AUTO, *ENGINES])
def test_the_priority_is_read_from_the_name_of_a_queue(engine: str, priority: str) -> None:
    assert priority_of(queue_name(engine, priority)) == priority


def test_the_name_of_the_task_does_not_change() -> None:
    assert jobs.TASK == "voxspool_worker.tasks.synthesize"
