"""A voice of Piper in memory: one session of ONNX Runtime for a segment alone, one for two segments at once.

A segment alone has all cores. Two segments at once have the cores between them: each call computes in its own thread,
and the session has one thread less to help them. On two cores these are two calls with one thread each, which together
speak more than one call with two threads: a model waits for its slowest thread at every layer. The samples are the
same.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from voxspool_worker.settings import forbid_telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    from onnxruntime import InferenceSession, RunOptions
    from piper import PiperVoice

SHRINK_RUNS: Final = 8
"""ONNX Runtime gives memory back to the system after every so many runs."""
SHRINK_PHONEMES: Final = 320
"""And after each run of a longer sentence, in phonemes with the pads between them: about 160 characters, 180 MB."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class PiperModel:
    """The model of a voice, loaded from `path`. From any thread."""

    def __init__(self, path: Path) -> None:
        """Load the model. Raises ImportError, or what ONNX Runtime raises."""
        self._path = path
        self._lock = threading.Lock()
        self.alone = _load(path, self._lock)
        """Speaks one segment at a time, with all cores."""

    @functools.cached_property
    def beside(self) -> PiperVoice:
        """Speaks two segments at once. Loaded when it is first needed, which takes 0.4 s and 90 MB."""
        return _load(self._path, self._lock, threads=max(1, cores() - 1))


def _load(path: Path, lock: threading.Lock, threads: int = 0) -> PiperVoice:
    """Load a model as PiperVoice.load does, but make ONNX Runtime's idle threads sleep instead of spin.

    On an idle machine both are equally fast. Two workers on the same two cores, however, take the cores from each other
    by spinning: together they produced 4.4 s of audio per second with spinning, and at least 8.1 s without (measured).

    `threads` is the number of threads that compute a call; 0: one per core. `lock` is held while a text is turned into
    phonemes: some of Piper's phonemizers are loaded at their first call, and keep state.
    """
    forbid_telemetry()
    import onnxruntime
    from piper import PiperConfig, PiperVoice

    class LockedVoice(PiperVoice):
        def phonemize(self, text: str) -> list[list[str]]:
            with lock:
                return super().phonemize(text)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    config = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return LockedVoice(session=_FrugalSession(session, onnxruntime.RunOptions), config=PiperConfig.from_dict(config))


class _FrugalSession:
    """A session that gives memory back to the system now and then.

    ONNX Runtime keeps what its longest runs needed, 1.1 MB per character of a sentence, and since every sentence has
    another length, the pieces that it keeps do not fit: 96 sentences of 40 to 150 characters, many of them two at once,
    left 929 MB. To give back after every run would cost 13 % of the speed.
    """

    def __init__(self, session: InferenceSession, run_options: Callable[[], RunOptions]) -> None:
        self._session = session
        self._run_options = run_options
        self._runs = 0

    def run(self, outputs: list[str] | None, inputs: dict[str, npt.NDArray[np.generic]]) -> list[Any]:
        """Run the model as InferenceSession.run does."""
        options = self._run_options()
        self._runs += 1
        if self._runs % SHRINK_RUNS == 0 or inputs["input"].shape[1] > SHRINK_PHONEMES:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        found: list[Any] = self._session.run(outputs, inputs, options)
        return found
