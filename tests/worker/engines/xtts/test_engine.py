"""The engine on a random checkpoint: upstream's audio, chunks that grow, neighbours that change nothing, the guard."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from voxspool_worker.engines import xtts
from voxspool_worker.engines.base import AudioChunk, SegmentError, SpeechSegment, SpokenSegment
from voxspool_worker.engines.xtts import checkpoint, device, model, output_check
from voxspool_worker.engines.xtts.active_segment import TOKEN_S, again_seed
from voxspool_worker.engines.xtts.engine import XttsEngine
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

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries warn of one another

SENTENCE = "The keeper counted all lamps."
SHORT = "All lamps."
"""What most tests say: half as long, so half the work."""
NEVER, SELDOM, SOON = -1e4, 2.0, 6.0
"""What is added to the stop token's score: the random checkpoint ends never, after some 150 tokens, after a few."""


@pytest.fixture(scope="module")
def loaded(small_checkpoint: Path) -> LoadedModel:
    return model.load(checkpoint.look(small_checkpoint))


@pytest.fixture(scope="module")
def make(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make an engine of which each speech ends as said."""
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


def test_the_audio_is_upstreams_full_decode_of_upstreams_tokens(make: Make, upstream: Any, loaded: LoadedModel) -> None:
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


def test_the_first_chunk_is_small_and_they_grow(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine))
    sizes = [len(chunk.pcm) for chunk in to_end(engine)]
    assert 0.16 * 24_000 <= sizes[0] <= 0.25 * 24_000
    assert sizes[:4] == sorted(sizes[:4])
    assert max(sizes) <= 42 * TOKEN_S * 24_000


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_segment_sounds_the_same_to_the_last_bit_whoever_is_beside_it(make: Make, precision: str) -> None:
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


def test_later_segments_are_held_back_whole_until_their_turn(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine))
    engine.admit(segment(engine, "No.", index=1))
    engine.admit(segment(engine, "Yes.", job="b"))
    chunks = to_end(engine)
    of_job = [chunk for chunk in chunks if chunk.job == "a"]
    assert [chunk.segment for chunk in of_job if chunk.segment == 1] == [1], "in one piece, for it was done first"
    assert len([chunk for chunk in chunks if chunk.job == "b"]) > 1, "another job's first segment streams"


def test_a_segment_whose_turn_comes_streams_on(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine, "No."))
    engine.admit(segment(engine, index=1))
    chunks = to_end(engine)
    assert len([chunk for chunk in chunks if chunk.segment == 1]) > 2
    engine.admit(segment(engine, index=1))
    assert np.array_equal(audio(to_end(engine), index=1), audio(chunks, index=1)), "and sounds as if it were alone"


# The guard


def test_a_runaway_ends_at_what_is_plausible_and_the_mark_says_so(make: Make) -> None:
    engine = make(NEVER)
    engine.admit(segment(engine))
    chunks = to_end(engine)
    assert outcome(chunks) == SpokenSegment(7, 1, "rate"), "it was being heard, so it was not spoken again"
    assert len(audio(chunks)) / 24_000 <= output_check.band(SHORT, 250).longest_s + 2 * TOKEN_S


def test_what_nobody_heard_is_spoken_again_and_the_best_is_kept(make: Make) -> None:
    engine = make(NEVER)
    engine.admit(segment(engine, SENTENCE))  # long enough for three tries of the other
    engine.admit(segment(engine, "No.", index=1))
    spoken = outcome(to_end(engine), index=1)
    assert (spoken.tries, spoken.fault) == (3, "rate")
    assert spoken.seed in {7, again_seed(7, 2), again_seed(7, 3)}


def test_what_nobody_waits_for_comes_whole_and_is_spoken_again(make: Make) -> None:
    engine = make(NEVER)
    engine.admit(dataclasses.replace(segment(engine, "No."), live=False))
    (chunk,) = to_end(engine)
    assert chunk.last
    assert chunk.spoken is not None
    assert (chunk.spoken.tries, chunk.spoken.fault) == (3, "rate")


def test_another_seed_mends_what_it_can(make: Make) -> None:
    engine = make(SOON)
    fates = []
    for seed in range(6):
        engine.admit(segment(engine, SENTENCE, seed=seed))
        fates.append(outcome(to_end(engine)))
    assert any(fate.tries > 1 for fate in fates), "a few tokens for 29 characters: words are missing"
    assert any(fate.seed != seed for seed, fate in enumerate(fates))
    again = []
    for seed in range(6):
        engine.admit(segment(engine, SENTENCE, seed=seed))
        again.append(outcome(to_end(engine)))
    assert again == fates, "the same seeds have the same fate"


def test_without_second_tries_faults_are_still_marked(make: Make) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine))
    engine.admit(segment(engine, "No.", index=1))
    assert outcome(to_end(engine), index=1) == SpokenSegment(7, 1, "rate")


@pytest.mark.parametrize("together", [False, True], ids=["one segment a step", "all that are due"])
def test_audio_that_is_no_number_ends_its_segment_alone(make: Make, *, together: bool) -> None:
    engine = make(NEVER, tries=1)
    engine.admit(segment(engine, job="good"))
    alone = audio(to_end(engine), "good")
    engine._together = together  # as on an accelerator
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


# Voices


def test_studio_speakers_differ_and_a_mix_is_neither(make: Make) -> None:
    engine = make(NEVER, tries=1)
    heard = []
    for voice in ("Ada Random", "Grace Random", "Ada Random(2)+Grace Random(1)", "Grace Random+Ada Random(2)"):
        engine.admit(segment(engine, "No.", voice=voice))
        heard.append(audio(to_end(engine)))
    assert not any(np.array_equal(heard[one], heard[other]) for one, other in [(0, 1), (0, 2), (1, 2)])
    assert np.array_equal(heard[2], heard[3]), "the same mix, said in another order"


def test_a_voice_is_ready_again_in_no_time(make: Make) -> None:
    engine = make(NEVER)
    voice = find(None, engine.voices, engine.name)
    assert engine.prepare(voice).source == "built-in"
    assert min(engine.prepare(voice).seconds for _ in range(20)) < 0.001
