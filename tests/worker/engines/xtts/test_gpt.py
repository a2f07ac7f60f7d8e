"""The GPT's loop against upstream's, and each decoder against the other: the same tokens, the same latents."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from voxspool_worker.engines.xtts import cpu_decoder
from voxspool_worker.engines.xtts.cpu_decoder import NativeDecoder, NoCompilerError
from voxspool_worker.engines.xtts.gpt import Gpt, Step, Tokens
from voxspool_worker.engines.xtts.sampling import GREEDY, Choice, Sampler
from voxspool_worker.engines.xtts.torch_decoder import TorchDecoder
from voxspool_worker.engines.xtts.weights import GptWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from voxspool_worker.engines.xtts.gpt import Decoder

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries warn of one another

ROWS, POSITIONS = 6, 1072
TEXTS = ("hello there, this is a test.", "and another one, rather longer than the first, is here.", "no.")
SPEAKER = "Ada Random"


@pytest.fixture(scope="module")
def weights(upstream: Any) -> GptWeights:
    return GptWeights.from_state(upstream.state_dict())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cpu_decoder.compiled(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def tokens(upstream: Any) -> Tokens:
    gpt = upstream.gpt
    return Tokens(gpt.start_text_token, gpt.stop_text_token, 1024, 1025, gpt.max_gen_mel_tokens)


@pytest.fixture(scope="module")
def voice(upstream: Any) -> Tensor:
    latents: Tensor = upstream.speaker_manager.speakers[SPEAKER]["gpt_cond_latent"]
    return latents


@pytest.fixture
def decoder(library: Path, weights: GptWeights) -> Iterator[Callable[[str, str], Decoder]]:
    """Make decoders, of a kind and a precision; closed with the test."""
    made: list[Decoder] = []

    def make(kind: str, precision: str = "fp32") -> Decoder:
        size: dict[str, Any] = {"rows": ROWS, "positions": POSITIONS, "precision": precision}
        if kind == "native":
            made.append(NativeDecoder(library, weights, threads=2, **size))
        else:
            made.append(TorchDecoder(weights, device=torch.device("cpu"), **size))
        return made[-1]

    yield make
    for one in made:
        one.close()


def say(gpt: Gpt, row: int) -> tuple[list[int], Tensor]:
    """Speak one row to its end: tokens, latents (n, width)."""
    said: list[Step] = []
    while not said or not said[-1].last:
        said += [step for step in gpt.step() if step.row == row]
    gpt.leave(row)
    return [step.token for step in said], torch.stack([step.latent for step in said])


def upstream_says(
    upstream: Any, text: str, voice: Tensor, seed: int, top_k: int
) -> tuple[list[int], list[int], Tensor]:
    """What `inference_stream` hears from its generator, with its own defaults: text ids, tokens, latents."""
    ids = upstream.tokenizer.encode(text, lang="en")
    torch.manual_seed(seed)
    with torch.inference_mode():
        generator = upstream.gpt.get_generator(
            fake_inputs=upstream.gpt.compute_embeddings(voice, torch.IntTensor(ids)[None]),
            top_k=top_k, top_p=0.85, temperature=0.75, do_sample=True, num_beams=1, num_return_sequences=1,
            length_penalty=1.0, repetition_penalty=10.0, output_attentions=False, output_hidden_states=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        said = list(generator)
    return ids, [int(token) for token, _ in said], torch.cat([latent for _, latent in said])


@pytest.mark.parametrize("kind", ["native", "torch"])
@pytest.mark.parametrize("choice", [GREEDY, Choice()], ids=["greedy", "sampled"])
def test_tokens_and_latents_are_upstreams(
    upstream: Any, decoder: Callable[..., Decoder], weights: GptWeights, tokens: Tokens, voice: Tensor, kind: str,
    choice: Choice,
) -> None:  # fmt: skip
    gpt = Gpt(weights, decoder(kind), tokens, rows=ROWS, choice=choice)
    prefix = gpt.prefix(voice[0])
    for seed, text in enumerate(TEXTS):
        ids, wanted, latents = upstream_says(upstream, text, voice, seed, choice.top_k)
        said, heard = say(gpt, gpt.start(prefix, ids, seed))
        assert said == wanted
        assert len(set(said)) > 20, "a checkpoint that says one thing proves nothing"
        assert (heard - latents).abs().max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_row_says_the_same_to_the_last_bit_whoever_joins_and_leaves(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: Tokens, voice: Tensor, precision: str
) -> None:
    gpt = Gpt(weights, decoder("native", precision), tokens, rows=ROWS, choice=Choice())
    prefix, text = gpt.prefix(voice[0]), [7, 99, 30, 31, 250, 6]
    alone, latents = say(gpt, gpt.start(prefix, text, 5, most=90))
    chance = random.Random(1)
    others: dict[int, int] = {}
    for _ in range(3):
        gpt.start(prefix, [chance.randrange(200) for _ in range(chance.randrange(1, 80))], 1)
    row, said = gpt.start(prefix, text, 5, most=90), list[Step]()
    while not said or not said[-1].last:
        said += [step for step in gpt.step() if step.row == row]
        if gpt.free and chance.random() < 0.2:
            new = gpt.start(prefix, [chance.randrange(200) for _ in range(chance.randrange(1, 100))], len(said))
            others[new] = chance.randrange(1, 20)
        others = {other: steps - 1 for other, steps in others.items()}
        for other in [other for other, steps in others.items() if steps <= 0]:
            gpt.leave(other)
            del others[other]
    assert [step.token for step in said] == alone
    assert torch.equal(torch.stack([step.latent for step in said]), latents)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 0.06), ("int8", 0.15)])
def test_the_compiled_decoder_gives_what_pytorch_gives(
    decoder: Callable[..., Decoder], weights: GptWeights, precision: str, most: float
) -> None:
    chance = torch.Generator().manual_seed(0)
    embeddings = torch.randn(90, weights.width, generator=chance) * 0.5
    found = []
    for kind in ("native", "torch"):
        one = decoder(kind, precision)
        prompt = one.prompt(1, embeddings[:80], 0)
        one.prompt(4, embeddings[:17], 0)
        found.append(torch.cat((prompt[None], one.step([1, 4], embeddings[80:82], [80, 17]))))
    assert (found[0] - found[1]).abs().max() < most
    assert found[1].std() > 0.5, "latents of no size would agree with anything"


@pytest.mark.parametrize("kind", ["native", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_prefix_that_was_kept_is_as_good_as_one_that_was_read(
    decoder: Callable[..., Decoder], weights: GptWeights, kind: str, precision: str
) -> None:
    one = decoder(kind, precision)
    embeddings = torch.randn(60, weights.width, generator=torch.Generator().manual_seed(3))
    whole = one.prompt(0, embeddings, 0)
    kept = one.keep_prefix(0, 32)
    one.prompt(0, embeddings.flip(0), 0)
    one.take_prefix(3, 32, kept)
    assert (one.prompt(3, embeddings[32:], 32) - whole).abs().max() < (2e-5 if kind == "torch" else 1e-12)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 0.06), ("int8", 0.02)])
def test_lesser_processors_give_the_same(
    decoder: Callable[..., Decoder], weights: GptWeights, tmp_path: Path, target: str, precision: str, most: float
) -> None:
    compiler, made = shutil.which("cc"), tmp_path / "decoder.so"
    if compiler is None or torch.cpu.get_capabilities().get("architecture") != "x86_64":
        pytest.skip("for x86-64 with a compiler")
    cpu_decoder._compile([compiler, *cpu_decoder.FLAGS, f"-march={target}", str(cpu_decoder.SOURCE), "-lm"], made)
    lesser = NativeDecoder(made, weights, rows=ROWS, positions=POSITIONS, precision=precision, threads=1)
    embeddings = torch.randn(40, weights.width, generator=torch.Generator().manual_seed(4)) * 0.5
    found = [one.prompt(2, embeddings, 0) for one in (decoder("native", precision), lesser)]
    lesser.close()
    assert (found[0] - found[1]).abs().max() < most


def test_a_speech_ends_at_what_it_may_say_at_the_most(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: Tokens, voice: Tensor
) -> None:
    gpt = Gpt(weights, decoder("native"), tokens, rows=ROWS, choice=Choice())
    prefix = gpt.prefix(voice[0])
    said, latents = say(gpt, gpt.start(prefix, [5, 6, 7], 0, most=9))
    assert len(said) == len(latents) == 9
    assert gpt.free == ROWS


def test_rows_that_ended_wait_without_a_word_until_they_leave(
    decoder: Callable[..., Decoder], weights: GptWeights, tokens: Tokens, voice: Tensor
) -> None:
    gpt = Gpt(weights, decoder("native"), tokens, rows=ROWS, choice=Choice())
    row = gpt.start(gpt.prefix(voice[0]), [5], 0, most=1)
    assert [step.last for step in gpt.step()] == [True]
    assert gpt.step() == []
    gpt.leave(row)
    assert gpt.free == ROWS


def test_one_draw_is_torchs_multinomial() -> None:
    scores = torch.randn(1, 1026, generator=torch.Generator().manual_seed(1)) * 3
    plain = Choice(temperature=1.0, top_k=1026, top_p=1.0, repetition_penalty=1.0)
    for seed in range(50):
        sampler = Sampler(1, 1026, torch.device("cpu"), plain)
        sampler.start(0, seed, ())
        wanted = torch.multinomial(scores.softmax(1), 1, generator=torch.Generator().manual_seed(seed))
        assert sampler.choose([0], scores) == wanted[0].tolist()


def test_what_was_said_is_less_likely_to_be_said_again() -> None:
    sampler = Sampler(2, 50, torch.device("cpu"), Choice(top_k=1, repetition_penalty=10.0))
    for row in (0, 1):
        sampler.start(row, 0, ())
    scores = torch.zeros(1, 50)
    scores[0, 3], scores[0, 4] = 5.0, 1.0
    assert [sampler.choose([0], scores)[0] for _ in range(2)] == [3, 4]
    assert sampler.choose([1], scores) == [3], "each row remembers its own"


def test_without_a_compiler_it_is_said_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompilerError, match=r"no C compiler \(cc, gcc, clang\)"):
        cpu_decoder.compiled(tmp_path / "kernels")


def test_a_compiler_that_fails_leaves_nothing_behind_and_its_words_are_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cpu_decoder.c: error: no such luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompilerError, match="no such luck"):
        cpu_decoder.compiled(tmp_path / "kernels")
    assert list((tmp_path / "kernels").iterdir()) == []


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = cpu_decoder.compiled(tmp_path)
    monkeypatch.setattr(cpu_decoder, "_compile", lambda *_: pytest.fail("compiled again"))
    assert cpu_decoder.compiled(tmp_path) == made
