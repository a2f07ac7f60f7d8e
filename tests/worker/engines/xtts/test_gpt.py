"""The loop of the GPT: the same tokens and latents as upstream, in rows that do not affect each other."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support.checkpoints import DECODER_ROWS
from voxspool_worker.engines.xtts.gpt import DecoderError, GeneratedToken, Gpt, SpecialTokens, VoicePrefix
from voxspool_worker.engines.xtts.sampling import SamplingOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from voxspool_worker.engines.xtts.gpt import Decoder
    from voxspool_worker.engines.xtts.weights import GptWeights

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings

TEXTS = ("hello there, this is a test.", "and another one, rather longer than the first, is here.", "no.")
SPEAKER = "Ada Random"


@pytest.fixture(scope="module")
def tokens(upstream: Any) -> SpecialTokens:
    gpt = upstream.gpt
    return SpecialTokens(gpt.start_text_token, gpt.stop_text_token, 1024, 1025, gpt.max_gen_mel_tokens)


@pytest.fixture(scope="module")
def voice(upstream: Any) -> Tensor:
    latents: Tensor = upstream.speaker_manager.speakers[SPEAKER]["gpt_cond_latent"]
    return latents


def generate(gpt: Gpt, row: int) -> tuple[list[int], Tensor]:
    """Step until a row ends, and return its tokens and latents (n, width)."""
    generated: list[GeneratedToken] = []
    while not generated or not generated[-1].last:
        generated += [token for token in gpt.step() if token.row == row]
    gpt.release(row)
    return [one.token for one in generated], torch.stack([one.latent for one in generated])


def upstream_generates(
    upstream: Any, text: str, voice: Tensor, seed: int, top_k: int
) -> tuple[list[int], list[int], Tensor]:
    """Return text ids, audio tokens and latents of upstream's generator, called as `inference_stream` calls it."""
    ids = upstream.tokenizer.encode(text, lang="en")
    torch.manual_seed(seed)
    with torch.inference_mode():
        generator = upstream.gpt.get_generator(
            fake_inputs=upstream.gpt.compute_embeddings(voice, torch.IntTensor(ids)[None]),
            top_k=top_k, top_p=0.85, temperature=0.75, do_sample=True, num_beams=1, num_return_sequences=1,
            length_penalty=1.0, repetition_penalty=10.0, output_attentions=False, output_hidden_states=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        generated = list(generator)
    return ids, [int(token) for token, _ in generated], torch.cat([latent for _, latent in generated])


@pytest.mark.parametrize("kind", ["c", "torch"])
@pytest.mark.parametrize("options", [SamplingOptions(top_k=1), SamplingOptions()], ids=["greedy", "sampled"])
def test_tokens_and_latents_equal_upstreams(
    upstream: Any, decoder: Callable[..., Decoder], weights: GptWeights, tokens: SpecialTokens, voice: Tensor,
    kind: str, options: SamplingOptions,
) -> None:  # fmt: skip
    gpt = Gpt(weights, decoder(kind), tokens, rows=DECODER_ROWS, options=options)
    prefix = gpt.prefix(voice[0])
    for seed, text in enumerate(TEXTS):
        ids, wanted, latents = upstream_generates(upstream, text, voice, seed, options.top_k)
        generated, heard = generate(gpt, gpt.start(prefix, ids, seed))
        assert generated == wanted
        assert len(set(generated)) > 20, "repeated tokens would prove nothing"
        assert (heard - latents).abs().max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_tokens_and_latents_of_a_row_do_not_change_when_other_rows_start_and_end(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: SpecialTokens, voice: Tensor, precision: str
) -> None:
    gpt = Gpt(weights, decoder("c", precision), tokens, rows=DECODER_ROWS, options=SamplingOptions())
    prefix, text = gpt.prefix(voice[0]), [7, 99, 30, 31, 250, 6]
    alone, latents = generate(gpt, gpt.start(prefix, text, 5, max_tokens=90))
    chance = random.Random(1)
    others: dict[int, int] = {}
    for _ in range(3):
        gpt.start(prefix, [chance.randrange(200) for _ in range(chance.randrange(1, 80))], 1)
    row, generated = gpt.start(prefix, text, 5, max_tokens=90), list[GeneratedToken]()
    while not generated or not generated[-1].last:
        generated += [token for token in gpt.step() if token.row == row]
        if gpt.free and chance.random() < 0.2:
            new = gpt.start(prefix, [chance.randrange(200) for _ in range(chance.randrange(1, 100))], len(generated))
            others[new] = chance.randrange(1, 20)
        others = {other: steps - 1 for other, steps in others.items()}
        for other in [other for other, steps in others.items() if steps <= 0]:
            gpt.release(other)
            del others[other]
    assert [one.token for one in generated] == alone
    assert torch.equal(torch.stack([one.latent for one in generated]), latents)


def test_a_row_ends_at_its_maximum_number_of_tokens(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: SpecialTokens, voice: Tensor
) -> None:
    gpt = Gpt(weights, decoder("c"), tokens, rows=DECODER_ROWS, options=SamplingOptions())
    prefix = gpt.prefix(voice[0])
    generated, latents = generate(gpt, gpt.start(prefix, [5, 6, 7], 0, max_tokens=9))
    assert len(generated) == len(latents) == 9
    assert gpt.free == DECODER_ROWS


def test_a_row_that_has_ended_returns_no_tokens_until_it_is_released(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: SpecialTokens, voice: Tensor
) -> None:
    gpt = Gpt(weights, decoder("c"), tokens, rows=DECODER_ROWS, options=SamplingOptions())
    row = gpt.start(gpt.prefix(voice[0]), [5], 0, max_tokens=1)
    assert [token.last for token in gpt.step()] == [True]
    assert gpt.step() == []
    gpt.release(row)
    assert gpt.free == DECODER_ROWS


def test_the_latents_of_forced_tokens_are_those_of_the_generated_ones(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: SpecialTokens, voice: Tensor
) -> None:
    gpt = Gpt(weights, decoder("c"), tokens, rows=DECODER_ROWS, options=SamplingOptions())
    prefix = gpt.prefix(voice[0])
    generated, latents = generate(gpt, gpt.start(prefix, [5, 6, 7], 1, max_tokens=12))
    assert torch.equal(gpt.forced_latents(prefix, [5, 6, 7], generated), latents)
    assert gpt.free == DECODER_ROWS


@pytest.mark.parametrize("kind", ["c", "torch"])
@pytest.mark.parametrize("shape", [(32, 7), (32,), (1, 32, 128)])
def test_latents_that_are_not_the_models_are_refused_and_all_rows_stay_free(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: SpecialTokens, kind: str, shape: tuple[int, ...]
) -> None:
    gpt = Gpt(weights, decoder(kind), tokens, rows=DECODER_ROWS, options=SamplingOptions())
    with pytest.raises(DecoderError, match=r"the conditioning latents of a voice have the shape"):
        gpt.prefix(torch.zeros(shape))
    with pytest.raises(DecoderError, match=r"not finite"):
        gpt.prefix(torch.full((32, weights.width), torch.nan))
    assert gpt.free == DECODER_ROWS


def test_a_prefix_that_the_decoder_refuses_leaves_its_row_free(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: SpecialTokens, voice: Tensor
) -> None:
    gpt = Gpt(weights, decoder("c"), tokens, rows=DECODER_ROWS, options=SamplingOptions())
    prefix = gpt.prefix(voice[0])
    with pytest.raises(DecoderError, match="refused a call"):
        gpt.start(VoicePrefix(prefix.positions, prefix.saved[:-1]), [5], 0)
    assert gpt.free == DECODER_ROWS
    assert gpt.start(prefix, [5], 0) == 0
