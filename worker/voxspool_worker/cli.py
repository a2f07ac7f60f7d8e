"""The command `voxspool-worker`: run a worker, check this machine, manage its voices.

Only this module sets up logging: one line per event on stderr, which begins with a stable action word.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import os
import platform
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from voxspool import hints
from voxspool.amounts import counted, real_time
from voxspool.command import CommandGroup, EngineName
from voxspool.connections import connection
from voxspool.connections import urls as redis_urls
from voxspool.display import echo
from voxspool.errors import MissingExtraError, StoreError, VoxspoolError
from voxspool.store.backends import open_place
from voxspool_worker.monitoring import health_file as health_files
from voxspool_worker.settings import DEFAULT_GRACE_S, Settings
from voxspool_worker.voices.catalog import built_in
from voxspool_worker.voices_cli import voices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voxspool_worker.engines.base import Engine

log = logging.getLogger(__name__)

GOOD, NOTE, MISSING = "ok  ", "note", "MISS"
METRICS_HELP = "Serve metrics for Prometheus on this port of 127.0.0.1."
MAX_GRACE_S = 86_400
VOICES_LISTED = 4
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="voxspool-worker")
def main() -> None:
    """Run a worker that speaks the jobs in Redis.

    \b
    voxspool-worker check               show what is installed and what is missing
    voxspool-worker run                 speak with Piper until stopped
    voxspool-worker run --engine tone   a tone for each sentence; needs no model
    voxspool-worker voices              list, search, get and try voices
    voxspool-worker warm                download XTTS, once

    Exit codes: 0 success, 1 failure, 2 invalid value (nothing was started). `run` also exits with 70 and 75: start it
    again.
    """


main.add_command(voices)


def redis_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --redis URL."""
    return click.option("--redis", "redis_url", metavar="URL", help="URL of Redis [VOXSPOOL_REDIS_URL, REDIS_URL].")(
        command
    )


def _number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return a number of seconds; refuse `nan`, which click accepts in every range."""
    if math.isnan(value):
        raise click.BadParameter("'nan' is not a number of seconds", context, parameter)
    return value


@main.command()
@redis_option
@click.option("--engine", type=EngineName(), help="Engine to load [VOXSPOOL_WORKER_ENGINE, else piper].")
@click.option("--jobs", type=click.IntRange(1), help="Jobs that run at once [VOXSPOOL_WORKER_JOBS, else 32].")
@click.option("--burst", is_flag=True, help="Speak the queued jobs, then exit.")
@click.option("--metrics", "metrics_port", metavar="PORT", type=click.IntRange(1, 65535), help=METRICS_HELP)
@click.option("--grace", "grace_s", metavar="SECONDS", type=click.FloatRange(0, MAX_GRACE_S), callback=_number,
              default=DEFAULT_GRACE_S, help=f"Time for jobs to end after SIGTERM [{DEFAULT_GRACE_S:g}].")  # fmt: skip
def run(
    redis_url: str | None,
    engine: str | None,
    jobs: int | None,
    burst: bool,  # noqa: FBT001 - click's way
    metrics_port: int | None,
    grace_s: float,
) -> None:
    """Speak jobs until stopped.

    After the first Ctrl-C or SIGTERM, running jobs have the time of --grace to end. After that time, or after the
    second signal, they return to their queue, and another worker continues them. Let a supervisor wait 4 seconds longer
    than --grace before it kills the worker.

    Exit code 70 means that the engine broke or hung, 75 that the worker used too much memory. In both cases no job is
    lost: start the worker again.
    """
    settings = _settings(redis_url=redis_url, engine=engine, jobs=jobs)
    _check_store(settings.store)
    from voxspool_worker import engines

    engines.check_name(settings.engine)
    connection.check(settings.redis_url)

    from voxspool_worker.monitoring import prometheus
    from voxspool_worker.queue import forced_exit
    from voxspool_worker.queue.worker import SpeechWorker

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)  # at INFO, RQ logs five lines per job
    logging.getLogger("rq.job").setLevel(logging.ERROR)  # it warns with a traceback for each unreadable field
    # Two pools for all threads: commands that must not be sent twice have one without retries.
    connect = functools.cache(functools.partial(connection.connect, settings.redis_url, namespace=settings.namespace))
    if why := connection.check_eviction(settings.redis_url):
        log.warning("redis.evicts why=%s", why)
    show = prometheus.serve(metrics_port) if metrics_port else None  # first: a model may take long to load
    loaded = engines.load_or_stand_in(settings, connect)
    folder = settings.health_dir or health_files.default_folder()
    worker = SpeechWorker(
        loaded.engine,
        connect,
        jobs=settings.jobs,
        fallback_from=loaded.fallback_from,
        health=health_files.HealthFile(folder, settings.engine),
        store=settings.store,
        memory_limit_bytes=settings.memory_mb * 2**20 if settings.memory_mb else None,
        grace_s=grace_s,
        unserved_s=settings.unserved_s,
    )
    if show:
        show(prometheus.Collector(worker.metrics.counts, worker.gauges))
    forced_exit.end_after_second_signal()
    with connection.translated(settings.redis_url):
        exit_code = worker.work(burst=burst)
    for late in (signal.SIGINT, signal.SIGTERM):  # Python restores the default handlers before the process ends
        signal.signal(late, signal.SIG_IGN)
    logging.shutdown()
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(exit_code)  # Python would wait for threads of pools, and one may hang in a system call


@main.command()
def health() -> None:
    """Exit with 0 if all workers of this machine are healthy.

    \b
    voxspool-worker health      for systemd, Docker

    The exit code is 1 if no worker runs, if one hangs, or if Redis has accepted no heartbeat of one for 30 seconds.

    This command reads the files in VOXSPOOL_HEALTH_DIR. It contacts neither Redis nor a worker.
    """
    folder = _settings().health_dir or health_files.default_folder()
    found = health_files.signs(folder)
    for sign in found:
        mark = GOOD if sign.healthy else MISSING
        refused = f"; Redis has accepted no heartbeat for {sign.written_s:.0f} s" if sign.redis_refuses else ""
        echo(f"{mark}  {sign.name} (process {sign.pid}): {sign.said}, {sign.age_s:.0f} s ago{refused}")
    if not found:
        echo(f"{MISSING}  no worker runs: there is no health file in {folder}")
    if not found or not all(sign.healthy for sign in found):
        raise SystemExit(1)


@main.command()
@redis_option
@click.option("--engine", type=EngineName(), help="Engine to check [VOXSPOOL_WORKER_ENGINE, else piper].")
@click.option("--bench", is_flag=True, help="Measure the engine's speed on this machine; this takes a minute or more. "
              "`voxspool narrate --plan` uses the result.")  # fmt: skip
@click.option("--fidelity", is_flag=True, help="Measure how bf16 and int8 change XTTS's output, on your own weights.")
def check(redis_url: str | None, engine: str | None, bench: bool, fidelity: bool) -> None:  # noqa: FBT001 - click's way
    """Show what is installed on this machine and what is missing.

    \b
    voxspool-worker check
    voxspool-worker check --bench --engine xtts   measure the speed of XTTS
    voxspool-worker check --fidelity              compare bf16 and int8 with fp32

    The exit code is 0 if `voxspool-worker run` can run on this machine now.
    """
    settings = _settings(redis_url=redis_url, engine=engine)
    if bench:
        _bench(settings)
    if fidelity:
        _fidelity(settings)
    if bench or fidelity:
        return
    findings = list(_findings(settings))
    for mark, name, said in findings:
        echo(f"{mark}  {name:<8}  {said}")
    if any(mark == MISSING for mark, _, _ in findings):
        raise SystemExit(1)


@main.command()
def warm() -> None:
    """Download XTTS (2 GB) unless it is installed, and check its files.

    \b
    COQUI_TOS_AGREED=1 voxspool-worker warm

    With this variable you agree to the licence of XTTS's weights; without it nothing is downloaded. Coqui's library
    does the download and stores XTTS in the folder of its models.
    """
    from voxspool_worker.engines.xtts import checkpoint

    found = checkpoint.fetch(_settings())
    checkpoint.verify(found)
    echo(f"XTTS is complete in {found.folder}; its fingerprint is {found.fingerprint}")


def _bench(settings: Settings) -> None:
    """Measure the speed of the engine, print it, and store it for `voxspool narrate --plan`."""
    from voxspool import speeds
    from voxspool_worker import engines
    from voxspool_worker.engines.benchmark import measure

    engine = engines.load(settings.engine, settings)
    echo(f"measuring {engine.model} on {engine.device}, {counted(engine.rows, 'row')}", err=True)
    speed = measure(engine)
    if speed.many_rtf:
        speeds.remember(settings.cache_dir, engine.name, 1 / speed.many_rtf)
    for name, value in (
        ("voice prepared", f"{speed.voice_s:.3f} s"),
        ("first audio", f"{speed.first_chunk_s:.3f} s"),
        ("one sentence", _speed(speed.one_rtf)),
        ("one page", f"{speed.passage_s:.3f} s, {_speed(speed.passage_rtf)}"),
        (f"{2 * engine.rows} sentences at once", _speed(speed.many_rtf)),
    ):
        echo(f"{name:<24} {value}")


def _speed(real_time_factor: float) -> str:
    """Return a real-time factor as a speed for people; 0 stands for no audio."""
    return real_time(1 / real_time_factor) if real_time_factor else "no audio"


def _fidelity(settings: Settings) -> None:
    """Compare XTTS's precisions with fp32 and print the differences."""
    from voxspool_worker.engines import xtts

    xtts.check_installed()
    from voxspool_worker.engines.xtts import precision_report

    echo(f"{'against fp32':<14} {'greedy':>7} {'sampled':>8} {'gap':>7} {'largest':>8} {'audio':>8}")
    for one in precision_report.measure(settings):
        echo(
            f"{one.precision:<14} {one.greedy:7.1%} {one.sampled:8.1%} {one.gap:7.3f} {one.largest_gap:8.3f} "
            f"{one.audio_db:5.2f} dB"
        )
    echo("greedy, sampled: share of equal tokens")
    echo("gap: difference of the log-probabilities, in nats; audio: difference of the spectra")


def _check_store(place: str) -> None:
    """Raise the error of an invalid store name. Ignore a store that is unreachable now: the worker tries again."""
    try:
        open_place(place)
    except (StoreError, MissingExtraError) as error:
        if error.wrong_value:
            raise


def _settings(**flags: str | int | None) -> Settings:
    """Return the settings: the options of the command line, else the environment.

    Raises RedisUnavailableError for an invalid URL.
    """
    said: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    settings = replace(Settings.from_env(), **said)
    connection.connect(settings.redis_url).close()  # this checks the URL and sends nothing
    return settings


def _findings(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield what `check` finds on this machine: a mark, a name, and the state or what to do."""
    yield GOOD, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        name = f", name space {settings.namespace}" if settings.namespace else ""
        version = connection.check(settings.redis_url)
        yield GOOD, "redis", f"{version} at {redis_urls.shown(settings.redis_url)}{name}"
        if why := connection.check_eviction(settings.redis_url):
            yield NOTE, "redis", why
    except VoxspoolError as error:
        yield MISSING, "redis", str(error)
    yield from _engine_findings(settings)
    yield GOOD, "device", f"cpu ({counted(_cores(), 'core')}), used by piper and tone"
    yield (
        GOOD,
        "licence",
        "voxspool Apache-2.0; piper-tts (an extra) GPL-3; XTTS's weights CPML, non-commercial; each voice has its own",
    )
    if importlib.util.find_spec("sounddevice") is None:
        install = hints.install_command("voxspool", "play")
        yield NOTE, "play", f"`voxspool speak` cannot play sound, only write files; to play it, install: {install}"


def _engine_findings(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Load each engine and yield the result. The engine that `run` would load is required, or its stand-in."""
    from voxspool_worker import engines
    from voxspool_worker.engines import plugins

    found = {name: _tried(name, settings) for name in dict.fromkeys((settings.engine, *engines.names()))}
    stand_in = engines.STAND_INS.get(settings.engine)
    for name, engine in found.items():
        if not isinstance(engine, VoxspoolError):
            yield GOOD, name, _described(engine)
        elif name != settings.engine:
            yield NOTE, name, str(engine)
        elif stand_in is None or isinstance(found[stand_in], VoxspoolError):
            yield MISSING, name, str(engine)
        else:
            yield NOTE, name, f"{engine}; until then `voxspool-worker run` speaks with {stand_in} instead"
    for line in plugins.find().refused:
        yield NOTE, "engines", line


def _tried(name: str, settings: Settings) -> Engine | VoxspoolError:
    """Load and return an engine, or return the error."""
    from voxspool_worker import engines

    try:
        return engines.load(name, settings)
    except VoxspoolError as error:
        return error


def _described(engine: Engine) -> str:
    """Return a description of an engine, with its first voices."""
    voices = list(built_in(engine.voices).values())
    listed = ", ".join(f"{voice.name} ({'/'.join(voice.languages) or 'any'})" for voice in voices[:VOICES_LISTED])
    more = f" and {len(voices) - VOICES_LISTED} more" if len(voices) > VOICES_LISTED else ""
    return f"{engine.model} on {engine.device}, {engine.sample_rate} Hz, voices: {listed}{more}"


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
