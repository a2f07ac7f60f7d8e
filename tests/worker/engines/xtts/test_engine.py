"""The engine on a random checkpoint: upstream's audio, chunk sizes, independent segments, and the output check."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from voxspool.errors import VoiceError
from voxspool_worker.engines import xtts
from voxspool_worker.engines.base import AudioChunk, SegmentError, SpeechSegment, SpokenSegment
from voxspool_worker.engines.xtts import checkpoint, device, model, output_check
from voxspool_worker.engines.xtts.active_segment import TOKEN_S, retry_seed
from voxspool_worker.engines.xtts.engine import XttsEngine
from voxspool_worker.engines.xtts.gpt import VoicePrefix
from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
from voxspool_worker.engines.xtts.vocoder import Vocoder
from voxspool_worker.settings import Settings
from voxspool_worker.voices.catalog import find

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from voxspool_worker.engines.xtts.model import LoadedModel

    Make = Callable[..., XttsEngine]

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings

SENTENCE = "The keeper counted all lamps."
SHORT = "All lamps."
"""The text of most tests: half as long as SENTENCE, so twice as fast."""
NEVER, SELDOM, SOON = -1e4, 2.0, 6.0
"""Added to the logit of the stop token: the checkpoint never stops, stops after about 150 tokens, after a few."""


@pytest.fixture(scope="module")
def loaded(small_checkpoint: Path) -> LoadedModel:
    return model.load(checkpoint.inspect(small_checkpoint))


@pytest.fixture(scope="module")
def make(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes engines; its first argument is added to the logit of the stop token."""
    folder = tmp_path_factory.mktemp("cache")

    def made(stop_bias: float = SELDOM, *, precision: str = "fp32", tries: int = 3) -> XttsEngine:
        settings = Settings(cache_dir=folder, device="cpu", precision=precision)
        plan = device.plan("cpu", precision)
        state = dict(loaded.state)
        state["gpt.mel_head.bias"] = state["gpt.mel_head.bias"].clone()
        state["gpt.mel_head.bias"][1025] += stop_bias
        tokenizer = XttsTokenizer(loaded.checkpoint.vocab)
        return XttsEngine(
            xtts.make_gpt(dataclasses.replace(loaded, state=state), tokenizer, plan, settings),
            Vocoder(loaded.vocoder, plan.torch_device, plan.vocoder), tokenizer,
            xtts.make_voices(loaded, settings, None, tokenizer),
            model="small", device="cpu", sample_rate=24_000, rows=plan.rows, tries=tries,
        )  # fmt: skip

    return made


def segment(
    engine: XttsEngine, text: str = SHORT, *, job: str = "a", index: int = 0, seed: int = 7, speed: float = 1.0,
    voice: str | None = None,
) -> SpeechSegment:  # fmt: skip
    found = find(voice, engine.voices, engine.name)
    engine.prepare(found)
    return SpeechSegment(job, index, text, 0, len(text), 0.0, found, "en", speed, seed)


def to_end(engine: XttsEngine) -> list[AudioChunk]:
    chunks: list[AudioChunk] = []
    while engine.free < engine.rows:
        chunks += engine.step()
    return chunks


def audio(chunks: list[AudioChunk], job: str = "a", index: int = 0) -> npt.NDArray[np.int16]:
    return np.concatenate([chunk.pcm for chunk in chunks if (chunk.job, chunk.segment) == (job, index)])


def outcome(chunks: list[AudioChunk], job: str = "a", index: int = 0) -> SpokenSegment:
    (last,) = [chunk for chunk in chunks if (chunk.job, chunk.segment) == (job, index) and chunk.last]
    assert last.spoken is not None
    return last.spoken


def test_the_audio_equals_upstreams_for_the_same_seed(make: Make, upstream: Any, loaded: LoadedModel) -> None:
    engine = make(NEVER, tries=1)
    one = segment(engine, seed=3)
    engine.admit(one)
    heard = audio(to_end(engine))

    speaker = upstream.speaker_manager.speakers["Ada Random"]
    ids = XttsTokenizer(loaded.checkpoint.vocab).tokens(SHORT, "en")
    torch.manual_seed(3)
    with torch.inference_mode():
        head = upstream.gpt.mel_head.bias
        before = head[1025].item()
        head[1025] = NEVER
        generator = upstream.gpt.get_generator(
            fake_inputs=upstream.gpt.compute_embeddings(speaker["gpt_cond_latent"], torch.IntTensor(ids)[None]),
            top_k=50, top_p=0.85, temperature=0.75, do_sample=True, num_beams=1, num_return_sequences=1,
            length_penalty=1.0, repetition_penalty=10.0, output_attentions=False, output_hidden_states=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        count = round(len(heard) / 24_000 / TOKEN_S)
        latents = torch.cat([latent for _, (_, latent) in zip(range(count), generator, strict=False)])
        head[1025] = before
        wanted = upstream.hifigan_decoder(latents[None], g=speaker["speaker_embedding"]).flatten().numpy()
    assert len(heard) == len(wanted)
    assert np.abs(heard / 32767 - wanted).max() < 1e-4 + 1 / 32767
    assert wanted.std() > 0.03


def test_the_first_chunk_is_short_and_later_ones_are_longer(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine))
    sizes = [len(chunk.pcm) for chunk in to_end(engine)]
    assert 0.16 * 24_000 <= sizes[0] <= 0.25 * 24_000
    assert sizes[:4] == sorted(sizes[:4])
    assert max(sizes) <= 42 * TOKEN_S * 24_000


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_samples_of_a_segment_do_not_depend_on_the_segments_beside_it(make: Make, precision: str) -> None:
    engine = make(NEVER, precision=precision, tries=1)
    engine.admit(segment(engine))
    alone = audio(to_end(engine))
    for number in range(4):
        engine.admit(segment(engine, "No. " * (1 + number), job=f"b{number}", seed=number, speed=1 + number / 5))
    for _ in range(9):
        engine.step()
    engine.admit(segment(engine))
    engine.drop("b3")
    assert np.array_equal(audio(to_end(engine)), alone)


def test_a_later_segment_of_a_job_is_returned_as_one_chunk_when_it_is_complete(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine))
    engine.admit(segment(engine, "No.", index=1))
    engine.admit(segment(engine, "Yes.", job="b"))
    chunks = to_end(engine)
    of_job = [chunk for chunk in chunks if chunk.job == "a"]
    assert [chunk.segment for chunk in of_job if chunk.segment == 1] == [1], (
        "in one chunk: it was complete before its turn"
    )
    assert len([chunk for chunk in chunks if chunk.job == "b"]) > 1, "the first segment of another job is streaming"


def test_a_segment_streams_once_the_earlier_ones_are_complete(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine, "No."))
    engine.admit(segment(engine, index=1))
    chunks = to_end(engine)
    assert len([chunk for chunk in chunks if chunk.segment == 1]) > 2
    engine.admit(segment(engine, index=1))
    assert np.array_equal(audio(to_end(engine), index=1), audio(chunks, index=1)), (
        "the samples are those of the segment alone"
    )


# The output check


def test_a_segment_that_does_not_stop_ends_at_the_plausible_maximum_with_fault_rate(make: Make) -> None:
    engine = make(NEVER)
    engine.admit(segment(engine))
    chunks = to_end(engine)
    assert outcome(chunks) == SpokenSegment(7, 1, "rate"), "a streaming segment is not generated again"
    assert len(audio(chunks)) / 24_000 <= output_check.plausible_duration(SHORT, 250).max_s + 2 * TOKEN_S


def test_a_held_back_segment_with_a_fault_is_generated_again(make: Make) -> None:
    engine = make(NEVER)
    engine.admit(segment(engine, SENTENCE))  # long enough for three attempts at the other segment
    engine.admit(segment(engine, "No.", index=1))
    spoken = outcome(to_end(engine), index=1)
    assert (spoken.tries, spoken.fault) == (3, "rate")
    assert spoken.seed in {7, retry_seed(7, 2), retry_seed(7, 3)}


def test_a_segment_that_is_not_live_is_one_chunk_and_is_generated_again(make: Make) -> None:
    engine = make(NEVER)
    engine.admit(dataclasses.replace(segment(engine, "No."), live=False))
    (chunk,) = to_end(engine)
    assert chunk.last
    assert chunk.spoken is not None
    assert (chunk.spoken.tries, chunk.spoken.fault) == (3, "rate")


def test_another_seed_removes_some_faults_and_the_outcome_is_repeatable(make: Make) -> None:
    engine = make(SOON)
    outcomes = []
    for seed in range(6):
        engine.admit(segment(engine, SENTENCE, seed=seed))
        outcomes.append(outcome(to_end(engine)))
    assert any(each.tries > 1 for each in outcomes), "a few tokens are too short for 29 characters"
    assert any(each.seed != seed for seed, each in enumerate(outcomes))
    again = []
    for seed in range(6):
        engine.admit(segment(engine, SENTENCE, seed=seed))
        again.append(outcome(to_end(engine)))
    assert again == outcomes, "the same seeds have the same outcome"


def test_with_one_attempt_faults_are_still_reported(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine))
    engine.admit(segment(engine, "No.", index=1))
    assert outcome(to_end(engine), index=1) == SpokenSegment(7, 1, "rate")


@pytest.mark.parametrize("vocode_all", [False, True], ids=["one segment per step", "all segments"])
def test_invalid_audio_fails_its_own_segment_only(make: Make, *, vocode_all: bool) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine, job="good"))
    alone = audio(to_end(engine), "good")
    engine._vocode_all = vocode_all  # as on an accelerator
    bad, good = segment(engine, job="bad"), segment(engine, job="good")
    engine.admit(bad)
    engine.admit(good)
    engine._active[0].latents.append(torch.full((128,), torch.nan))
    failed = None
    chunks: list[AudioChunk] = []
    while engine.free < engine.rows:
        try:
            chunks += engine.step()
        except SegmentError as error:
            failed = error
    assert failed is not None
    assert failed.segment == bad
    assert np.array_equal(audio(chunks, "good"), alone)


def test_a_voice_that_cannot_be_used_fails_its_own_segments_only(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine, job="good"))
    alone = audio(to_end(engine), "good")
    bad, dropped, good = (segment(engine, job=job) for job in ("bad", "dropped", "good"))
    ready = engine._prepared.ready
    with monkeypatch.context() as patched:
        wrong = dataclasses.replace(
            ready(bad.voice, engine._gpt, engine._vocoder), prefix=VoicePrefix(32, torch.ones(3))
        )
        patched.setattr(engine._prepared, "ready", lambda *_: wrong)
        engine.admit(bad)
        patched.setattr(engine._prepared, "ready", lambda *_: _raise(VoiceError("voice me has other clips")))
        engine.admit(dropped)
    engine.admit(good)
    assert engine.free == engine.rows - 3
    engine.drop("dropped")
    with pytest.raises(SegmentError, match="segment 0 cannot be spoken: the decoder refused a call") as failed:
        engine.step()
    assert failed.value.segment == bad
    assert np.array_equal(audio(to_end(engine), "good"), alone)


def _raise(error: Exception) -> Any:
    raise error


# Voices


def test_two_speakers_and_their_mix_sound_different(make: Make) -> None:
    engine = make(NEVER, tries=1)
    heard = []
    for voice in ("Ada Random", "Grace Random", "Ada Random(2)+Grace Random(1)", "Grace Random+Ada Random(2)"):
        engine.admit(segment(engine, "No.", voice=voice))
        heard.append(audio(to_end(engine)))
    assert not any(np.array_equal(heard[one], heard[other]) for one, other in [(0, 1), (0, 2), (1, 2)])
    assert np.array_equal(heard[2], heard[3]), "the same mix, named in another order"


def test_preparing_a_built_in_voice_takes_no_time(make: Make) -> None:
    engine = make(NEVER)
    voice = find(None, engine.voices, engine.name)
    assert engine.prepare(voice).source == "built-in"
    assert min(engine.prepare(voice).seconds for _ in range(20)) < 0.001
