"""Write an XTTS checkpoint with random weights in upstream's format: names and sizes are right, the audio is noise.

    python -m benchmarks.random_xtts FOLDER           the sizes of XTTS v2: 1.9 GB, half a minute
    python -m benchmarks.random_xtts FOLDER --small   two layers of 128 channels: 95 MB, seconds

Upstream's `Xtts.load_checkpoint` loads the files without changes: config.json, model.pth, vocab.json and
speakers_xtts.pth. The speed of a model does not depend on the values of its weights, so it equals the real model's.

The weights are scaled so that values are similar to those of a trained model: every token and position affects the
output, the logits have a similar spread, and the vocoder's audio depends on its input and is neither silent nor
saturated. Only the end of a segment is random; `stop_bias` changes its probability.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
from TTS.tts.models.xtts import Xtts

from benchmarks.random_vocab import write_vocab

if TYPE_CHECKING:
    from collections.abc import Sequence

SPEAKERS: Final = ("Ada Random", "Grace Random", "Jean Random")
TEXT_TOKENS: Final = 6681
NEVER: Final = -1e4
"""A `stop_bias` with which no segment ends by itself: its length is the maximum that the caller sets."""

EMBEDDING_SPREAD: Final = 0.5
"""Standard deviation of token and position embeddings: similar to what the layers add, so that both matter."""
LOGIT_SPREAD: Final = 3.0
"""Standard deviation of the logits: the most probable of 1024 tokens has a few per cent, the top 50 have most."""
AUDIO_SPREAD: Final = 0.2
"""Standard deviation of the audio before the vocoder's tanh: far from both silence and saturation."""


def write_checkpoint(
    folder: Path,
    *,
    layers: int = 30,
    channels: int = 1024,
    heads: int = 16,
    seed: int = 0,
    stop_bias: float = 0.0,
    speakers: Sequence[str] = SPEAKERS,
) -> None:
    """Write the four files. `stop_bias` is added to the logit of the stop token; NEVER forbids it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vocab(folder / "vocab.json", TEXT_TOKENS)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        config = _config(layers, channels, heads)
        model = _model(config, folder / "vocab.json")
        _scale_gpt(model.gpt, stop_bias)
        _scale_vocoder(model.hifigan_decoder.waveform_decoder)
        voices = {name: _speaker(channels) for name in speakers}
    config.save_json(str(folder / "config.json"))
    torch.save({"model": model.state_dict(), "config": config.to_dict()}, folder / "model.pth")
    torch.save(voices, folder / "speakers_xtts.pth")


def _config(layers: int, channels: int, heads: int) -> XttsConfig:
    """Return the configuration of XTTS v2 with the given sizes."""
    args = XttsArgs(
        gpt_layers=layers, gpt_n_model_channels=channels, gpt_n_heads=heads, gpt_number_text_tokens=TEXT_TOKENS,
        gpt_num_audio_tokens=1026, gpt_start_audio_token=1024, gpt_stop_audio_token=1025,
        gpt_use_perceiver_resampler=True, decoder_input_dim=channels,
    )  # fmt: skip
    return XttsConfig(
        model_args=args, temperature=0.75, repetition_penalty=5.0, gpt_cond_len=30, gpt_cond_chunk_len=4,
        max_ref_len=30,
    )  # fmt: skip


def _model(config: XttsConfig, vocab: Path) -> Any:
    """Return upstream's model with PyTorch's initial values."""
    model = Xtts(config)
    model.tokenizer = VoiceBpeTokenizer(vocab_file=vocab)
    model.init_models()
    model.mel_stats.copy_(torch.linspace(1.0, 2.0, 80))  # initially all ones
    return model


def _scale_gpt(gpt: Any, stop_bias: float) -> None:
    """Set the weights of the GPT so that embeddings, layer outputs and logits have the intended spread."""
    for embedding in (gpt.text_embedding, gpt.mel_embedding, gpt.mel_pos_embedding.emb, gpt.text_pos_embedding.emb):
        embedding.weight.normal_(std=EMBEDDING_SPREAD)
    for block in gpt.gpt.h:
        _spread(block.attn.c_attn.weight, 1.5)  # attention is not uniform: its scores have a spread of about 2
        _spread(block.attn.c_proj.weight, 1 / math.sqrt(2 * gpt.layers))
        _spread(block.mlp.c_fc.weight, 1.0)
        _spread(block.mlp.c_proj.weight, 1.5 / math.sqrt(2 * gpt.layers))
    _spread(gpt.mel_head.weight.T, LOGIT_SPREAD)
    gpt.mel_head.bias.zero_()
    gpt.mel_head.bias[gpt.stop_audio_token] = stop_bias
    gpt.mel_head.bias[gpt.start_audio_token] = NEVER  # a trained model never generates it


def _spread(weight: torch.Tensor, gain: float) -> None:
    """Draw a weight [in, out] that maps inputs of standard deviation 1 to outputs of `gain`."""
    weight.normal_(std=gain / math.sqrt(weight.shape[0]))


def _scale_vocoder(vocoder: nn.Module) -> None:
    """Set the weights so that the signal keeps its level in all layers; with the initial values it would fade out."""
    for module in vocoder.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            _keep_level(module)
    vocoder.conv_post.weight.sub_(vocoder.conv_post.weight.mean(dim=2, keepdim=True))  # no offset in the audio
    latents = torch.randn(1, vocoder.conv_pre.in_channels, 32)
    outputs: list[torch.Tensor] = []
    hook = vocoder.conv_post.register_forward_hook(lambda _module, _inputs, out: outputs.append(out))
    vocoder(latents, g=_speaker_embedding())
    hook.remove()
    vocoder.conv_post.weight.mul_(AUDIO_SPREAD / outputs[0].std())


def _keep_level(convolution: nn.Conv1d | nn.ConvTranspose1d) -> None:
    """Draw the weights of a convolution so that its output has the level of its input."""
    transposed = isinstance(convolution, nn.ConvTranspose1d)
    shape = convolution.weight.shape  # [out, in, k]; transposed: [in, out, k], with k / stride taps per output
    terms = shape[0] * shape[2] // convolution.stride[0] if transposed else shape[1] * shape[2]
    weight = torch.randn(shape) / math.sqrt(terms)
    if nn.utils.parametrize.is_parametrized(convolution, "weight"):  # the assignment sets its norm and direction
        convolution.weight = weight
    else:
        convolution.weight.copy_(weight)
    if convolution.bias is not None:
        convolution.bias.mul_(0.1)


def _speaker(channels: int) -> dict[str, torch.Tensor]:
    """Return the random conditioning of a speaker, as in speakers_xtts.pth."""
    return {
        "gpt_cond_latent": EMBEDDING_SPREAD * torch.randn(1, 32, channels),
        "speaker_embedding": _speaker_embedding(),
    }


def _speaker_embedding() -> torch.Tensor:
    """Return a random speaker embedding [1, 512, 1] with norm 1."""
    return nn.functional.normalize(torch.randn(1, 512, 1), dim=1)


SMALL: Final = {"layers": 2, "channels": 128, "heads": 2}
"""Sizes of a small checkpoint."""


def main() -> None:
    """Write a checkpoint to the folder on the command line."""
    parser = argparse.ArgumentParser(description="Write a random checkpoint of XTTS in upstream's format.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="two layers of 128 channels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-bias", type=float, default=0.0, help="added to the logit of the stop token")
    arguments = parser.parse_args()
    sizes: dict[str, int] = SMALL if arguments.small else {}
    write_checkpoint(arguments.folder, seed=arguments.seed, stop_bias=arguments.stop_bias, **sizes)


if __name__ == "__main__":
    main()
