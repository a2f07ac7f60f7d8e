"""compose.yaml and the images are valid, store data, are reached only from this machine, and match the packages."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from voxspool.protocol.environment import check_names
from voxspool_worker.cli import main
from voxspool_worker.monitoring.health_file import STALE_S
from voxspool_worker.queue.worker import ENGINE_STOP_S, HAND_BACK_S

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BUILT = sorted(name for name, service in SERVICES.items() if "build" in service)
DOCKERFILES = ["producer/Dockerfile", "worker/Dockerfile"]


def validate(file: Path) -> tuple[int, str]:
    """Check a file against the compose specification's schema, which check-jsonschema contains, without the network."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "-o", "json"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def resolved(value: str) -> str:
    """Return a value as compose reads it if only the password is set: `${NAME:-default}` becomes the default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{REDIS_PASSWORD:\?[^}]+\}", "secret", value))


def instructions(dockerfile: str, name: str) -> list[str]:
    """Return the arguments of every instruction with this name, in order."""
    found: list[str] = re.findall(rf"^{name}\s+(.+)$", dockerfile, flags=re.MULTILINE)
    return found


def dockerfile_of(service: str) -> str:
    build = SERVICES[service]["build"]
    if "dockerfile_inline" in build:
        return str(build["dockerfile_inline"])
    return Path(ROOT, build["context"], build["dockerfile"]).read_text()


def test_the_compose_file_is_valid() -> None:
    code, output = validate(COMPOSE_FILE)
    assert code == 0, output


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("worker", {"imagee": "voxspool-worker"}),
        ("worker", {"profiles": "cpu"}),
        ("redis", {"healthcheck": {"test": "redis-cli ping", "every": "5s"}}),
        ("redis", {"ports": {"6379": 6379}}),
        ("worker-cuda", {"deploy": {"resources": {"reservations": {"devices": {"driver": "nvidia"}}}}}),
        ("worker", {"depends_on": {"redis": {"condition": "service_awake"}}}),
    ],
)
def test_an_invalid_compose_file_is_refused(tmp_path: Path, service: str, change: dict[str, Any]) -> None:
    broken = copy.deepcopy(COMPOSE)
    broken["services"][service].update(change)
    file = tmp_path / "compose.yaml"
    file.write_text(yaml.safe_dump(broken))
    code, output = validate(file)
    assert code == 1, output
    report = json.loads(output)
    assert report["status"] == "fail"
    assert report["errors"], "the file was refused, but not for its contents"
    paths = [error["path"] for error in report["errors"]]
    assert all(path.startswith("$.services") for path in paths), paths
    assert next(iter(change)) in output


def test_redis_stores_all_data_and_evicts_nothing() -> None:
    command = SERVICES["redis"]["command"]
    assert command[0] == "redis-server"
    # YAML reads an unquoted yes as true, which redis-server does not accept.
    assert all(isinstance(word, str) for word in command), command
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"
    assert re.fullmatch(r"\d+[kmg]b", resolved(options["--maxmemory"]))


def test_the_data_of_redis_is_in_a_volume() -> None:
    volume, _, target = SERVICES["redis"]["volumes"][0].partition(":")
    assert target == "/data"
    assert volume in COMPOSE["volumes"]


def test_other_services_wait_until_redis_answers() -> None:
    assert "redis-cli ping" in " ".join(SERVICES["redis"]["healthcheck"]["test"])
    waiting = [name for name in SERVICES if name != "redis"]
    assert waiting
    for name in waiting:
        assert SERVICES[name]["depends_on"]["redis"]["condition"] == "service_healthy", name


def test_the_redis_image_is_pinned_to_a_minor_version() -> None:
    assert re.fullmatch(r"redis:\d+\.\d+\S*", SERVICES["redis"]["image"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_image_is_pinned_by_its_digest(name: str) -> None:
    service = SERVICES[name]
    images = instructions(dockerfile_of(name), "FROM") if "build" in service else [service["image"]]
    assert images
    for image in images:
        assert re.fullmatch(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}( AS build)?", image), image


def test_all_images_of_python_are_the_same() -> None:
    found = [image.split()[0] for name in BUILT for image in instructions(dockerfile_of(name), "FROM")]
    found += [image.split()[0] for path in DOCKERFILES for image in instructions((ROOT / path).read_text(), "FROM")]
    assert len(set(found)) == 1


def test_redis_wants_a_password_and_every_service_has_it() -> None:
    redis = SERVICES["redis"]
    assert resolved(redis["command"][redis["command"].index("--requirepass") + 1]) == "secret"
    assert resolved(redis["environment"]["REDISCLI_AUTH"]) == "secret", "redis-cli of the health check reads it"
    for name in ("worker", "worker-cuda"):
        assert resolved(SERVICES[name]["environment"]["VOXSPOOL_REDIS_URL"]) == "redis://:secret@redis:6379/0"
    assert resolved(SERVICES["dashboard"]["command"][1]) == "redis://:secret@redis:6379/0"


def test_without_a_password_compose_starts_nothing_and_names_the_command_that_creates_one() -> None:
    text = COMPOSE_FILE.read_text()
    assert set(re.findall(r"\$\{REDIS_PASSWORD(.*?)\}", text)) == {
        ":?create it once, as the first lines of compose.yaml say"
    }
    command = '(umask 077; echo "REDIS_PASSWORD=$(openssl rand -hex 24)" >> .env)'
    assert f"#   {command}\n" in text.partition("\nname:")[0]
    assert command in (ROOT / "docs" / "docker.md").read_text()


def test_the_documented_commands_create_a_password_and_a_url(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "docker.md").read_text()
    lines = [line for line in guide.splitlines() if line.startswith(("(umask", "export VOXSPOOL_REDIS_URL"))]
    assert len(lines) == 2
    script = "\n".join([*lines, 'echo "$VOXSPOOL_REDIS_URL"'])
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"redis://:[0-9a-f]{48}@127\.0\.0\.1:6379/0\n", done.stdout)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines(), "the password must not be committed"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_limits_of_memory_and_processes(name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", resolved(SERVICES[name]["mem_limit"]))
    assert 16 <= SERVICES[name]["pids_limit"] <= 4096


def test_the_container_of_redis_has_room_for_its_fork() -> None:
    options = dict(zip(SERVICES["redis"]["command"][1::2], SERVICES["redis"]["command"][2::2], strict=True))
    most, limit = resolved(options["--maxmemory"]), resolved(SERVICES["redis"]["mem_limit"])
    assert int(limit.removesuffix("g")) > 2 * int(most.removesuffix("gb"))


def test_redis_and_the_workers_are_in_a_network_without_a_way_out() -> None:
    assert COMPOSE["networks"]["queue"] == {"internal": True}
    options = COMPOSE["networks"]["published"]["driver_opts"]
    assert options == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert {name: service["networks"] for name, service in SERVICES.items()} == {
        "redis": ["queue", "published"],
        "worker": ["queue"],
        "worker-cuda": ["queue"],
        "dashboard": ["queue", "published"],
    }
    published = {name for name, service in SERVICES.items() if "published" in service["networks"]}
    assert published == {name for name, service in SERVICES.items() if "ports" in service}


def test_every_published_port_is_bound_to_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", resolved(port)), port


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_restarted_and_has_no_extra_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged", False)


def test_redis_starts_by_default_and_other_services_by_profile() -> None:
    assert {name: service.get("profiles") for name, service in SERVICES.items()} == {
        "redis": None,
        "worker": ["cpu"],
        "worker-cuda": ["cuda"],
        "dashboard": ["dashboard"],
    }


@pytest.mark.parametrize("name", ["worker", "worker-cuda"])
def test_a_worker_has_time_to_finish_its_jobs(name: str) -> None:
    command, *arguments = SERVICES[name]["command"]
    assert command == "run"
    options = main.commands[command].make_context(command, arguments).params
    kill_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert kill_s >= 30
    assert options["grace_s"] + HAND_BACK_S + ENGINE_STOP_S + 1 < kill_s


@pytest.mark.parametrize("name", ["worker", "worker-cuda"])
def test_the_health_check_of_a_worker_is_a_command_that_exists(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    kind, program, command = check["test"]
    assert (kind, [program]) == ("CMD", json.loads(instructions(dockerfile_of(name), "ENTRYPOINT")[0]))
    main.commands[command].make_context(command, [])  # the parser accepts it
    assert int(check["interval"].removesuffix("s")) < STALE_S
    assert int(check["start_period"].removesuffix("s")) >= 60, "loading a model takes time"
    # The health files are in the default folder, which must be writable although the container is read-only.
    assert "/tmp" in SERVICES[name]["tmpfs"]
    assert "VOXSPOOL_HEALTH_DIR" not in SERVICES[name]["environment"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_set_only_variables_that_voxspool_reads(name: str) -> None:
    check_names(SERVICES[name].get("environment", {}))


def test_no_variable_of_compose_looks_like_a_setting() -> None:
    assert "${VOXSPOOL_" not in COMPOSE_FILE.read_text()


def test_every_variable_of_compose_has_a_default_and_is_described_in_the_header() -> None:
    text = COMPOSE_FILE.read_text()
    header = text.partition("\nname:")[0]
    assert re.findall(r"\$\{\w+\}|\$\w+", text) == []
    named = set(re.findall(r"\$\{(\w+):-", text)) - {"WORKER_CUDA_EXTRAS"}
    assert named == set(re.findall(r"^#   ([A-Z_]+)  ", header, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["worker", "worker-cuda"])
def test_the_extras_of_an_image_exist(name: str) -> None:
    project = tomllib.loads((ROOT / "worker/pyproject.toml").read_text())["project"]
    known = set(project["optional-dependencies"])
    assert set(resolved(SERVICES[name]["build"]["args"]["EXTRAS"]).split(",")) <= known


def test_the_worker_with_xtts_has_its_checkpoint_and_a_volume_for_its_cache() -> None:
    worker = SERVICES["worker-cuda"]
    [mount] = [mount for mount in worker["volumes"] if isinstance(mount, dict) and mount["target"] == "/xtts"]
    assert mount["read_only"] is True
    assert worker["environment"]["VOXSPOOL_XTTS_DIR"] == "/xtts"
    assert f"worker-cache:{worker['environment']['VOXSPOOL_CACHE_DIR']}" in worker["volumes"]
    assert "worker-cache" in COMPOSE["volumes"]
    assert "--owner voxspool --group voxspool /cache" in (ROOT / "worker/Dockerfile").read_text()


def test_the_worker_with_piper_has_its_voices_in_a_mounted_folder() -> None:
    worker = SERVICES["worker"]
    assert resolved(worker["build"]["args"]["EXTRAS"]) == "piper"
    assert worker["environment"]["VOXSPOOL_WORKER_ENGINE"] == "piper"
    [mount] = [
        mount for mount in worker["volumes"] if mount["target"] == worker["environment"]["VOXSPOOL_PIPER_VOICES"]
    ]
    assert mount["read_only"] is True


@pytest.mark.parametrize("name", ["worker", "worker-cuda"])
def test_the_segments_of_books_are_stored_in_a_folder_of_the_host(name: str) -> None:
    worker = SERVICES[name]
    [mount] = [mount for mount in worker["volumes"] if isinstance(mount, dict) and mount["target"] == "/segments"]
    assert worker["environment"]["VOXSPOOL_STORE"] == mount["target"]
    assert "read_only" not in mount


@pytest.mark.parametrize("name", BUILT)
def test_no_image_runs_as_root(name: str) -> None:
    user = instructions(dockerfile_of(name), "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), user


@pytest.mark.parametrize("path", DOCKERFILES)
def test_our_images_are_built_in_stages_and_contain_no_build_tools(path: str) -> None:
    dockerfile = (ROOT / path).read_text()
    stages = instructions(dockerfile, "FROM")
    assert len(stages) == 2
    assert all(stage.startswith("python:3.11-slim") for stage in stages)
    last = dockerfile[dockerfile.rindex("\nFROM ") :]
    assert "pip" not in last
    assert "apt-get" not in last
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions(last, "USER")[-1])
    assert instructions(last, "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_our_images_install_the_tested_versions_and_start_a_command_that_exists(path: str) -> None:
    dockerfile = (ROOT / path).read_text()
    assert "--constraint requirements.lock" in dockerfile
    project = tomllib.loads((ROOT / Path(path).parent / "pyproject.toml").read_text())["project"]
    [entrypoint] = instructions(dockerfile, "ENTRYPOINT")
    assert json.loads(entrypoint) == list(project["scripts"])


def test_the_worker_image_has_no_gpl_code_by_default() -> None:
    assert instructions((ROOT / "worker/Dockerfile").read_text(), "ARG") == ['EXTRAS=""']


@pytest.mark.parametrize("path", DOCKERFILES)
def test_dockerignore_lets_through_all_files_that_an_image_copies(path: str) -> None:
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    copies = [line.split() for line in instructions((ROOT / path).read_text(), "COPY") if "--from=" not in line]
    assert copies
    for *sources, _target in copies:
        assert set(sources) <= set(let_through)


def test_every_dockerfile_in_compose_is_tested() -> None:
    used = {SERVICES[name]["build"]["dockerfile"] for name in BUILT if "dockerfile" in SERVICES[name]["build"]}
    assert used <= set(DOCKERFILES)


@pytest.mark.parametrize(
    ("extras", "refused"),
    [("", ""), ("piper", ""), ("demo", ""), ("piper,embedded", ""), ("pipper", "pipper"), ("demo,nope", "nope")],
)
def test_an_unknown_extra_stops_the_build_and_is_named(extras: str, refused: str) -> None:
    # The builder joins continued lines before it calls the shell.
    dockerfile = (ROOT / "worker/Dockerfile").read_text().replace("\\\n", "")
    [check] = [line for line in instructions(dockerfile, "RUN") if line.startswith("python -c")]
    done = subprocess.run(
        ["sh", "-c", check.replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)],
        env={"EXTRAS": extras},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (1 if refused else 0), done.stderr
    if refused:
        assert f"EXTRAS names ['{refused}']" in done.stderr
        assert "choose from" in done.stderr
