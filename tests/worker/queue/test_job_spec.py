"""Which jobs of RQ the worker runs, and the messages with which it refuses the others. No test uses Redis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rq.exceptions import DeserializationError
from rq.job import Callback, Job, JobStatus
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from voxspool.errors import InvalidJobError
from voxspool.protocol import narration
from voxspool.protocol.jobs import TASK, JobSpec
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.queue.job_spec import MAX_LIMIT_S, decode_job, decode_spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OFFLINE = redis.Redis(unix_socket_path="/nowhere", retry=None)
RUN = JobExecution("voxspool-tone-batch", "a-job", "a-run")


def job_of(*args: object, func: str = TASK, id: str = "a-job", **options: object) -> Job:  # noqa: A002 - RQ's name
    return Job.create(func, args=list(args), id=id, connection=OFFLINE, serializer=JSONSerializer, **options)


def job_with(data: bytes) -> Job:
    """Return a job as fetched from Redis, with this data, which is not decoded yet."""
    job = Job(id="a-job", connection=OFFLINE, serializer=JSONSerializer)
    job.data = data
    return job


def spec(**changed: object) -> dict[str, Any]:
    return JobSpec("Hello.", id="a-job").encode() | changed


def refusal(job: Job) -> str:
    """Assert that a job is refused, and return the message."""
    with pytest.raises(InvalidJobError) as refused:
        decode_spec(job)
    line = str(refused.value)
    assert line.isprintable()
    assert 10 < len(line) < 400
    return line


def test_a_speech_job_is_accepted() -> None:
    assert decode_spec(job_of(spec())) == JobSpec("Hello.", id="a-job")
    assert decode_spec(job_with(JSONSerializer.dumps((TASK, None, [spec()], {})))) == JobSpec("Hello.", id="a-job")


def a_chapter(id: str = "a-job") -> dict[str, Any]:  # noqa: A002 - JobSpec's name
    return narration.chapter(id, [narration.Passage("Hello.", 0.5)], "0" * 32, engine="tone").encode()


def test_a_chapter_is_accepted_only_under_its_own_function_name() -> None:
    data = JSONSerializer.dumps((narration.TASK, None, [a_chapter()], {}))
    assert decode_spec(job_with(data)) == narration.ChapterSpec.decode(json.loads(json.dumps(a_chapter())))
    for argument, said in ((spec(), "passages"), ("Hello.", "JSON object"), (a_chapter("another-job"), "another-job")):
        assert said in refusal(job_with(JSONSerializer.dumps((narration.TASK, None, [argument], {}))))
    assert "passages" in refusal(job_with(JSONSerializer.dumps((TASK, None, [a_chapter() | {"text": "Hello."}], {}))))


def test_rq_jobs_have_the_attributes_of_callbacks_and_webhooks() -> None:
    job = job_of({})
    assert (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name) == (None, None, None)
    assert job.webhooks == []
    with pytest.raises(DeserializationError):
        _ = job_with(b"\x80").func_name


class Explosive:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.path, "w")


def test_pickle_is_never_read(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    job = Job.create(TASK, args=[Explosive(str(mark))], connection=OFFLINE)  # RQ's default serializer
    assert "not JSON" in refusal(job_with(job.data))
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"{", b"null", b"7", b"[]", b'["f"]', b"[1, 2, 3, 4, 5]", b"[" * 100_000],
    ids=lambda data: repr(data[:12]),
)
def test_data_that_are_not_a_function_call_are_refused(data: bytes) -> None:
    assert "the job's data is not JSON" in refusal(job_with(data))


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "voxspool_worker.tasks", "voxspool_worker.tasks.JobSpec.decode"],
)
def test_another_function_is_refused_by_name(name: str) -> None:
    line = refusal(job_with(JSONSerializer.dumps((name, None, [spec()], {}))))
    assert repr(name) in line
    assert TASK in line


@pytest.mark.parametrize("name", [None, 7, [TASK], {"a": TASK}, "", f"{TASK} ", "Rosebud was the word."])
def test_an_invalid_function_name_is_refused(name: object) -> None:
    line = refusal(job_with(JSONSerializer.dumps((name, None, [spec()], {}))))
    assert TASK in line
    assert "Rosebud" not in line, "it may be the text, in the wrong place"


@pytest.mark.parametrize("hook", ["on_success", "on_failure", "on_stopped"])
def test_callbacks_are_refused_and_not_imported(hook: str) -> None:
    job = job_of(spec(), **{hook: Callback("no_such_module.callback")})
    assert "callbacks or webhooks" in refusal(job)


def test_a_repeat_is_refused() -> None:
    job = job_of(spec())
    job.repeats_left = 3
    assert "the job has a Repeat" in refusal(job)


def test_webhooks_are_refused() -> None:
    assert "callbacks or webhooks" in refusal(
        job_of(spec(), webhooks=[Webhook("http://127.0.0.1:1/", JobStatus.FINISHED)])
    )


@pytest.mark.parametrize(
    ("instance", "args", "kwargs"),
    [
        (None, [], {}),
        (None, [spec(), spec()], {}),
        (None, [spec()], {"loud": True}),
        (None, [], {"spec": spec()}),
        ("an instance", [spec()], {}),
        (0, [spec()], {}),
        # Anybody with write access to Redis can write these.
        (None, None, {}),
        (None, 7, {}),
        (None, True, {}),
        (None, {"spec": spec()}, {}),
        (None, [spec()], 7),
    ],
)
def test_other_arguments_are_refused(instance: object, args: object, kwargs: object) -> None:
    line = refusal(job_with(JSONSerializer.dumps((TASK, instance, args, kwargs))))
    assert "exactly one argument" in line


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("Hello.", "JSON object"),
        (None, "JSON object"),
        ({}, "version"),
        (spec(version=99), "version 99"),
        (spec(colour="red"), "colour"),
        (spec(text=7), "text is int"),
        (spec(text="x" * 100_001), "100,001"),
        (spec(speed=9), "speed 9"),
        (spec(speed=10**400), "speed"),
        (spec(speed=float("nan")), "speed"),
        (spec(seed=-1), "seed -1"),
        (spec(seed=10**40), "seed"),
        (spec(priority="soon"), "priority"),
        (spec(voice="a\nb"), "voice"),
        (spec(language="English, please"), "language"),
        (spec(keep_s=0), "keep_s 0"),
        (spec(id="another-job"), "'another-job'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_spec_is_refused_with_the_reason(argument: object, said: str) -> None:
    assert said in refusal(job_with(JSONSerializer.dumps((TASK, None, [argument], {}))))


# Time limits


@pytest.mark.parametrize(
    ("timeout", "limit_s"),
    [
        (77, 77),
        (None, JobSpec("Hello.", id="a-job").timeout_s),
        (-1, JobSpec("Hello.", id="a-job").timeout_s),
        (10**12, MAX_LIMIT_S),
    ],
)
def test_the_time_limit_is_the_jobs_own_or_that_of_its_kind_and_at_most_a_week(timeout: int, limit_s: float) -> None:
    job = job_of(spec())
    job.timeout = timeout
    assert decode_job(job, RUN).limit_s == limit_s


def test_the_spec_of_a_refused_job_is_its_error() -> None:
    claimed = decode_job(job_of("text"), RUN)
    assert isinstance(claimed.spec, InvalidJobError)
    assert not claimed.is_chapter
    assert claimed.limit_s == MAX_LIMIT_S


def test_is_chapter_is_true_for_a_chapter() -> None:
    assert decode_job(job_with(JSONSerializer.dumps((narration.TASK, None, [a_chapter()], {}))), RUN).is_chapter
