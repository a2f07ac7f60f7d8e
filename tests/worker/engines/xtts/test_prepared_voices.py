"""Preparing voices: where their conditioning comes from, what stays in memory, and mixes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from voxspool_worker.engines.xtts import prepared_voices
from voxspool_worker.engines.xtts.latents import Conditioning, ConditioningParameters
from voxspool_worker.engines.xtts.prepared_voices import ConditioningMethod, PreparedVoices
from voxspool_worker.voices.catalog import Voice, VoiceBook, VoicePart
from voxspool_worker.voices.cloned import VoiceLibrary
from voxspool_worker.voices.conditioning_cache import ConditioningCache
from voxspool_worker.voices.conditioning_format import encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIDTH = 8


def conditioning(value: float) -> Conditioning:
    return Conditioning(torch.full((32, WIDTH), value), torch.full((1, 512, 1), value))


class ClipLibrary(VoiceLibrary):
    """A library whose clips are their own names."""

    def __init__(self) -> None:
        super().__init__(None)

    def clips(self, name: str, wanted: Sequence[str]) -> list[bytes]:
        del name
        return [clip.encode() for clip in wanted]


class FakeModel:
    """The GPT and the vocoder: each returns its input and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def prefix(self, latents: torch.Tensor) -> Any:
        self.calls += 1
        return latents

    def condition(self, speaker: torch.Tensor) -> Any:
        return speaker


class Voices:
    """PreparedVoices with two speakers, and a method that counts how often it computes."""

    def __init__(self, folder: Path, *, parameters: ConditioningParameters | None = None, model: str = "model") -> None:
        self.computed: list[list[bytes]] = []
        speakers = {"Ada": conditioning(1.0), "Grace": conditioning(5.0)}
        method = ConditioningMethod(self._compute, parameters or ConditioningParameters(), model, "coqui-tts 0")
        cache = ConditioningCache(partial(Conditioning.from_arrays, width=WIDTH), folder=folder, redis=None)
        library = ClipLibrary()
        self.prepared = PreparedVoices(speakers, VoiceBook(speakers, ("en",), library), library, cache, method)

    def _compute(self, clips: Sequence[bytes]) -> Conditioning:
        self.computed.append(list(clips))
        return conditioning(9.0)


def clone(name: str = "me", *clips: str) -> Voice:
    return Voice(name, ("en",), (VoicePart(name, 1.0, clips or ("a", "b")),))


def speaker(name: str) -> Voice:
    return Voice(name, ("en",), (VoicePart(name, 1.0),))


def ready(voices: Voices, voice: Voice, model: FakeModel) -> Any:
    return voices.prepared.ready(voice, model, model)  # type: ignore[arg-type] # a stand-in for the GPT and the vocoder


def test_a_speaker_of_the_checkpoint_is_built_in(tmp_path: Path) -> None:
    voices = Voices(tmp_path)
    assert voices.prepared.prepare(speaker("Grace")).source == "built-in"
    found = ready(voices, speaker("Grace"), FakeModel())
    assert float(found.prefix[0, 0]) == float(found.condition[0, 0, 0]) == 5.0


def test_a_clone_is_computed_from_its_clips_once_then_read_from_memory_or_disk(tmp_path: Path) -> None:
    voices = Voices(tmp_path)
    assert [voices.prepared.prepare(clone()).source for _ in range(2)] == ["computed", "memory"]
    assert voices.computed == [[b"a", b"b"]]
    other_process = Voices(tmp_path)
    assert other_process.prepared.prepare(clone()).source == "disk"
    assert other_process.computed == []
    assert float(ready(other_process, clone(), FakeModel()).prefix[0, 0]) == 9.0


@pytest.mark.parametrize("change", [{"parameters": ConditioningParameters(gpt_cond_len=6)}, {"model": "another"}])
def test_other_parameters_or_another_checkpoint_do_not_share_the_cache(tmp_path: Path, change: dict[str, Any]) -> None:
    Voices(tmp_path).prepared.prepare(clone())
    assert Voices(tmp_path, **change).prepared.prepare(clone()).source == "computed"


@pytest.mark.parametrize("shape", [(32, 1), (32, 4096), (500, WIDTH), (32,)])
def test_latents_of_another_shape_on_the_disk_are_computed_again_and_replaced(
    tmp_path: Path, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    Voices(tmp_path).prepared.prepare(clone())
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(encode({"latents": np.zeros(shape, np.float32), "speaker": np.zeros((1, 512, 1), np.float32)}))
    assert Voices(tmp_path).prepared.prepare(clone()).source == "computed"
    assert path.read_bytes() == whole
    (line,) = [line for line in caplog.messages if "conditioning.damaged" in line]
    assert f"file={path} fault='latents is float32 {shape}, not float32 (32, {WIDTH})'; it is computed again" in line


def test_a_mix_reports_its_slowest_source_and_sums_its_parts(tmp_path: Path) -> None:
    voices = Voices(tmp_path)
    mixed = Voice("mix", ("en",), (VoicePart("Ada", 0.5), VoicePart("me", 0.5, ("a",))))
    assert voices.prepared.prepare(mixed).source == "computed"
    assert float(ready(voices, mixed, FakeModel()).prefix[0, 0]) == 5.0


def test_a_voice_is_prepared_once_until_too_many_others_were_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_voices, "MAX_PREPARED", 2)
    voices, model = Voices(tmp_path), FakeModel()
    for voice in (speaker("Ada"), clone(), speaker("Ada")):
        ready(voices, voice, model)
    assert model.calls == 2
    ready(voices, speaker("Grace"), model)
    ready(voices, speaker("Ada"), model)
    assert model.calls == 3, "the clone was the least recently used one"
    ready(voices, clone(), model)
    assert model.calls == 4


def test_a_voice_that_was_not_prepared_is_prepared_by_ready(tmp_path: Path) -> None:
    voices = Voices(tmp_path)
    assert float(ready(voices, clone(), FakeModel()).prefix[0, 0]) == 9.0
    assert voices.computed == [[b"a", b"b"]]
