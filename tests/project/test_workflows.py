"""The GitHub workflows, issue forms and commit hooks match their schemas, and their commands exist and run.

GitHub runs the workflows. The tests check their parts as far as this is possible without GitHub.
"""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PROGRAMS = Path(sys.executable).parent
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools/dependencies.py"))

NOT_RUN_HERE = {
    "make install": "it creates the environment that runs this test",
    "make check": "this test is part of it",
    "make test": "this test is part of it",
    "make platforms": "it sends about 70 requests to the package index",
    "make packages": "it downloads the build backend from the package index",
    '.venv/bin/python -m benchmarks.random_xtts "$VOXSPOOL_XTTS_DIR" --small': "a minute of PyTorch",
    '.venv/bin/voxspool-worker check --bench --engine xtts | tee "build/bench-$VOXSPOOL_DEVICE.txt"': "minutes of XTTS",
    '.venv/bin/voxspool-worker check --fidelity | tee "build/fidelity-$VOXSPOOL_DEVICE.txt"': "minutes of XTTS",
}
"""Steps that the tests do not run, and the reason. Each step is either in this table or in RUN_HERE."""
RUN_HERE = ("Compare the tag with the version of both packages and the changelog", "Name the image")


def load(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    return workflow


CI, RELEASE = load("ci"), load("release")


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each step of both workflows with the name of its job."""
    for workflow in (CI, RELEASE):
        for name, job in workflow["jobs"].items():
            for step in job["steps"]:
                yield name, step


def commands() -> list[str]:
    """Return the shell commands of all steps, each once, in order."""
    return list(dict.fromkeys(step["run"].strip() for _, step in steps() if "run" in step))


def validate(schema: str, *files: Path) -> tuple[int, str]:
    """Check files against a schema that check-jsonschema contains, without the network."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, "-o", "json"]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_match_their_schema_and_have_time_limits(schema: str) -> None:
    assert len(WORKFLOWS) == 2
    code, output = validate(schema, *WORKFLOWS)
    assert code == 0, output


def test_issue_forms_match_their_schema() -> None:
    assert FORMS
    code, output = validate("vendor.github-issue-forms", *FORMS)
    assert code == 0, output


@pytest.mark.parametrize(
    ("job", "change"),
    [("check", {"runs_on": "ubuntu-24.04"}), ("apple", {"permissions": "all"}), ("lock", {"timeout-minutes": "soon"})],
)
def test_an_invalid_workflow_is_refused(tmp_path: Path, job: str, change: dict[str, Any]) -> None:
    broken = copy.deepcopy(CI)
    broken["jobs"][job].update(change)
    file = tmp_path / "ci.yml"
    file.write_text(yaml.safe_dump(broken))
    code, output = validate("vendor.github-workflows", file)
    assert code == 1, output
    assert json.loads(output)["errors"], "the file was refused, but not for its contents"


def test_each_action_is_pinned_to_a_commit_with_its_release_in_a_comment() -> None:
    named = [line.strip() for file in WORKFLOWS for line in file.read_text().splitlines() if "uses:" in line]
    assert len(named) > 20
    for line in named:
        assert re.fullmatch(r"(- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    pins = {(line.split("@")[0].split()[-1], line.split("@")[1]) for line in named}
    assert len(pins) == len({name for name, _ in pins}), "an action is pinned to two different releases"


def test_workflows_have_read_permission_only_except_for_publishing() -> None:
    for workflow in (CI, RELEASE):
        assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in CI["jobs"].values())
    assert RELEASE["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert RELEASE["jobs"]["publish"]["environment"] == "pypi"
    checkouts = [step for _, step in steps() if "actions/checkout" in step.get("uses", "")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_the_published_packages_are_checked_and_built_once() -> None:
    jobs = RELEASE["jobs"]
    built = [step.get("run") for step in jobs["build"]["steps"]]
    assert built.index("make check") < built.index("make packages")
    assert jobs["publish"]["needs"] == jobs["images"]["needs"] == "build"
    assert not any("run" in step for step in jobs["publish"]["steps"])
    [upload] = [step["with"] for step in jobs["build"]["steps"] if "upload-artifact" in step.get("uses", "")]
    [download] = [step["with"] for step in jobs["publish"]["steps"] if "download-artifact" in step["uses"]]
    assert (upload["name"], upload["path"]) == (download["name"], download["path"]) == ("packages", "dist/")


def test_images_are_built_for_both_processors_from_our_dockerfiles() -> None:
    job = RELEASE["jobs"]["images"]
    [push] = [step["with"] for step in job["steps"] if "build-push-action" in step.get("uses", "")]
    assert push["platforms"] == "linux/amd64,linux/arm64"
    images = {image["image"]: image for image in job["strategy"]["matrix"]["include"]}
    assert set(images) == {"voxspool", "voxspool-worker"}
    assert all((ROOT / image["dockerfile"]).is_file() for image in images.values())
    # Piper is GPL-3, so the image that contains it has a suffix in its tag and a licence label.
    worker = images["voxspool-worker"]
    assert (worker["extras"], worker["suffix"]) == ("piper", "-piper")
    assert "GPL-3.0" in worker["licences"]


def test_each_python_version_is_one_that_the_lock_supports() -> None:
    assert CI["jobs"]["check"]["strategy"]["matrix"]["python"] == list(TOOL["PYTHONS"])
    for _, step in steps():
        version = step.get("with", {}).get("python-version", "")
        assert version in (*TOOL["PYTHONS"], "", "${{ matrix.python }}")
    assert set(CI["jobs"]["test"]["strategy"]["matrix"]["python"]) <= set(TOOL["PYTHONS"])


def test_unit_tests_run_on_linux_and_apple_silicon_and_xtts_on_mps() -> None:
    systems = CI["jobs"]["check"]["strategy"]["matrix"]["os"]
    assert {system.partition("-")[0] for system in systems} == {"ubuntu", "macos"}
    apple = CI["jobs"]["apple"]
    assert apple["runs-on"] in systems
    assert "mps" in apple["strategy"]["matrix"]["device"]
    assert apple["env"]["VOXSPOOL_DEVICE"] == "${{ matrix.device }}"


def test_each_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {target for command in commands() for target in re.findall(r"\bmake ([a-z-]+)", command)}
    assert {"check", "test", "platforms", "packages"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_each_step_is_tested_or_has_a_reason_why_not() -> None:
    run_here = {step["run"].strip() for _, step in steps() if step.get("name") in RUN_HERE}
    assert len(run_here) == len(RUN_HERE)
    assert set(commands()) == run_here | set(NOT_RUN_HERE)


@pytest.mark.parametrize("command", commands())
def test_each_step_is_valid_bash(command: str) -> None:
    assert "${{" not in command, "an expression would become part of the script: pass it in an environment variable"
    assert subprocess.run(["bash", "-n", "-c", command], timeout=30, check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(
            ["shellcheck", "--shell=bash", "-"], input=command, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout


def run_step(name: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the release workflow in a folder as GitHub does: bash with `-e` and `pipefail`."""
    [script] = [step["run"] for _, step in steps() if step.get("name") == name]
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder, env=os.environ | environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Copy the files that contain the version into a folder, with the state that they have at a release."""
    for name in ("producer/pyproject.toml", "worker/pyproject.toml", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    version = re.search(r'^version = "(.+)"$', (ROOT / "producer/pyproject.toml").read_text(), re.MULTILINE)
    assert version
    (tmp_path / "VERSION").write_text(version[1])
    log = tmp_path / "CHANGELOG.md"
    log.write_text(f"{log.read_text()}\n## [{version[1]}] - 2026-12-01\n")
    return tmp_path


def test_a_release_with_equal_versions_passes(release: Path) -> None:
    version = (release / "VERSION").read_text()
    done = run_step(RUN_HERE[0], release, GITHUB_REF_NAME=f"v{version}")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("file", ["producer/pyproject.toml", "worker/pyproject.toml", "CHANGELOG.md"])
def test_a_release_with_another_version_in_one_file_fails_and_names_the_file(release: Path, file: str) -> None:
    version = (release / "VERSION").read_text()
    (release / file).write_text((release / file).read_text().replace(version, "9.9.9"))
    done = run_step(RUN_HERE[0], release, GITHUB_REF_NAME=f"v{version}")
    assert done.returncode == 1
    assert f"::error file={file}::the tag is v{version}" in done.stdout


def test_an_image_is_named_in_lower_case_and_tagged_with_the_version(tmp_path: Path) -> None:
    output = tmp_path / "output"
    done = run_step(
        "Name the image",
        tmp_path,
        REGISTRY="registry.example",
        GITHUB_REPOSITORY_OWNER="Some-Body",
        GITHUB_REF_NAME="v1.2.3",
        GITHUB_OUTPUT=str(output),
        IMAGE="voxspool-worker",
        SUFFIX="-piper",
    )
    assert done.returncode == 0, done.stderr
    assert output.read_text().splitlines() == [
        "name=registry.example/some-body/voxspool-worker",
        "tag=registry.example/some-body/voxspool-worker:1.2.3-piper",
    ]


def test_the_commit_hooks_are_valid_and_their_programs_are_installed() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", str(config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [repository] = yaml.safe_load(config.read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        folder, _, program = hook["entry"].split()[0].rpartition("/")
        assert folder == ".venv/bin"
        assert (PROGRAMS / program).is_file(), program
