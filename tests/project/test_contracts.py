"""The import contracts in pyproject.toml are kept, and each of them detects a forbidden import."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"voxspool": "producer", "voxspool_worker": "worker"}
CONTRACTS: list[str] = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
]

BREACHES = {
    "A producer is light: no worker and no engine's library": [
        ("voxspool/client.py", "import torch"),
        ("voxspool/protocol/jobs.py", "from voxspool_worker import tasks"),
    ],
    "The worker uses only what both sides share: protocol, errors, list of workers, segment store, connection": [
        ("voxspool_worker/speech/pipeline.py", "from voxspool.client import Client"),
    ],
    "Imports of the producer go one way": [("voxspool/reading/reader.py", "from voxspool import client")],
    "Imports of a narration go one way": [
        ("voxspool/narration/track.py", "from voxspool.narration.mastering import levels"),
    ],
    "Imports of the worker go one way": [
        ("voxspool_worker/speech/scheduler.py", "from voxspool_worker.queue import worker"),
    ],
    "Imports inside the worker's packages go one way": [
        ("voxspool_worker/queue/rq_records.py", "from voxspool_worker.queue import recovery"),
        ("voxspool_worker/narration/segment_queue.py", "from voxspool_worker.narration import segment_workers"),
        ("voxspool_worker/speech/scheduler.py", "from voxspool_worker.speech import pipeline"),
    ],
    "Imports inside the producer's packages go one way": [
        ("voxspool/reading/acknowledge.py", "from voxspool.reading import reader"),
    ],
    "Metrics are injected: the worker makes them": [
        ("voxspool_worker/queue/recovery.py", "from voxspool_worker.monitoring import metrics"),
    ],
    "The library of metrics is an extra, imported by one module": [
        ("voxspool_worker/monitoring/metrics.py", "def late():\n    import prometheus_client"),
    ],
    "The protocol is values and bytes": [("voxspool/protocol/keys.py", "import redis")],
    "PyTorch is imported under engines.xtts alone": [
        ("voxspool_worker/speech/scheduler.py", "def late():\n    import torch"),
    ],
}
"""Contract -> forbidden imports: the module that each is appended to, and the import statement."""


def verdicts(folder: Path) -> dict[str, str]:
    """Check the packages under a folder, and return KEPT or BROKEN for each contract."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    paths = os.pathsep.join(str(folder / parent) for parent in PACKAGES.values())
    done = subprocess.run(
        [sys.executable, "-c", command, "--config", str(folder / "pyproject.toml"), "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = {
        name: said[1]
        for name in CONTRACTS
        if (said := re.search(rf"^{re.escape(name)}\s*(KEPT|BROKEN)", done.stdout, flags=re.MULTILINE))
    }
    assert len(found) == len(CONTRACTS), done.stdout + done.stderr
    assert done.returncode == int("BROKEN" in found.values())
    return found


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Copy both packages and the contracts into a folder, and return it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package, parent in PACKAGES.items():
        shutil.copytree(
            ROOT / parent / package, tmp_path / parent / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def test_all_contracts_are_kept() -> None:
    assert verdicts(ROOT) == dict.fromkeys(CONTRACTS, "KEPT")


def test_every_contract_is_tested_with_a_forbidden_import() -> None:
    assert list(BREACHES) == CONTRACTS


@pytest.mark.parametrize(
    ("contract", "module", "breach"),
    [(contract, *breach) for contract, breaches in BREACHES.items() for breach in breaches],
)
def test_a_forbidden_import_breaks_its_contract(copied: Path, contract: str, module: str, breach: str) -> None:
    path = copied / PACKAGES[module.partition("/")[0]] / module
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{breach}\n", encoding="utf-8")
    assert verdicts(copied)[contract] == "BROKEN"


def test_all_modules_in_the_contracts_exist() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    named = {
        module.strip()
        for contract in settings["contracts"]
        for key in ("layers", "source_modules", "forbidden_modules")
        for line in contract.get(key, [])
        for module in line.split("|")
        if module.strip().startswith("voxspool")
    }
    for module in named:
        package, *rest = module.split(".")
        path = Path(ROOT, PACKAGES[package], package, *rest)
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


HEAVY = ("torch", "torchaudio", "TTS", "piper", "onnxruntime", "prometheus_client")


@pytest.mark.parametrize(
    ("module", "excluded"),
    [
        ("voxspool_worker.tasks", (*HEAVY, "numpy", "rq", "redis", "sentencex")),
        ("voxspool_worker.engines", (*HEAVY, "numpy")),
        ("voxspool_worker.speech.scheduler", (*HEAVY, "numpy", "redis")),
        ("voxspool_worker.queue.worker", HEAVY),
        ("voxspool_worker.monitoring.prometheus", (*HEAVY, "numpy", "redis")),
        ("voxspool_worker.cli", HEAVY),
    ],
)
def test_importing_a_module_does_not_import_heavy_libraries(module: str, excluded: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "voxspool_worker" in loaded
    assert loaded.isdisjoint(excluded), loaded & set(excluded)
