"""Loads a checkpoint into upstream's modules, in one second and without copying the weights.

    model.pth ─ mmap ─► weights by upstream's names ─► upstream's vocoder module     when the checkpoint is loaded
                                                   └─► upstream's complete Xtts     when a voice is computed from clips

Upstream initialises every module with random values, reads the file into memory and copies the weights, which takes
15 s. Here modules are built without initial values, and their parameters are the memory-mapped pages of the file.
Upstream's Xtts imports transformers, librosa and more, which takes 3 s. Only computing a voice from clips needs it, so
it is built at that time.

All tensors are on the CPU, in fp32; the parts of the engine copy them to their device. While the file is in use it must
not be written to, but it may be replaced by another file.
"""

from __future__ import annotations

import logging
import pickle
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.overrides import TorchFunctionMode

from voxspool.errors import CheckpointError, MissingExtraError, first_line
from voxspool.hints import install_command
from voxspool_worker.engines.xtts.checkpoint import FETCH_AGAIN
from voxspool_worker.engines.xtts.latents import Conditioning
from voxspool_worker.voices.conditioning_format import UnfitConditioningError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from voxspool_worker.engines.xtts.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

TRAINED_PREFIX: Final = "xtts."
"""Prefix of the names in files that Coqui's trainer saved."""
UNUSED: Final = ("torch_mel_spectrogram_style_encoder.", "torch_mel_spectrogram_dvae.", "dvae.")
"""Prefixes of the weights that Coqui's trainer saves but that synthesis does not use."""
DUPLICATES: Final = ("gpt.gpt_inference.", "gpt.gpt.wte.")
"""Prefixes of the weights that old checkpoints contain a second time, under the names of upstream's inference model."""
BLOCKS: Final = "gpt.gpt.h."
VOCODER: Final = "hifigan_decoder."
RANDOM_INITIALISERS: Final = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}
"""Functions that give a parameter random initial values: methods of tensors, and those of torch.nn.init."""
OLD_CONFIG_MODULE: Final = "TTS.tts.models.xtts"
"""Former module of the configuration classes, objects of which old checkpoints contain. Now in xtts_config."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checkpoint in memory."""

    checkpoint: Checkpoint
    config: Any
    """Upstream's XttsConfig."""
    state: Mapping[str, Tensor]
    """All weights by upstream's names; the tensors are memory-mapped pages of the file."""
    vocoder: nn.Module
    """Upstream's HifiDecoder, including its speaker encoder; its parameters are the tensors in `state`."""
    speakers: Mapping[str, Conditioning]
    """Conditioning of the built-in speakers, by name; empty if the checkpoint has none."""
    _xtts: list[Any] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def upstream_xtts(self) -> Any:  # noqa: ANN401 - upstream is untyped
        """Return upstream's Xtts, which computes conditioning from clips. The first call takes seconds.

        Any thread may call it. It is the complete model and can also run upstream's inference; its parameters are the
        tensors in `state`.
        """
        with self._lock:
            if not self._xtts:
                self._xtts.append(_build_xtts(self.config, self.checkpoint, self.state, self.vocoder))
            return self._xtts[0]


def load(checkpoint: Checkpoint) -> LoadedModel:
    """Load a checkpoint. Raises CheckpointError if its files are broken or do not fit together.

    Raises MissingExtraError if coqui-tts cannot be imported.
    """
    try:
        from TTS.tts.configs.xtts_config import XttsConfig
        from TTS.tts.layers.xtts.hifigan_decoder import HifiDecoder
    except ImportError as error:
        raise MissingExtraError(
            f"XTTS cannot be imported ({error}); install it with: {install_command('voxspool-worker', 'xtts')}"
        ) from error
    config = XttsConfig()
    try:
        config.load_json(str(checkpoint.config))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{checkpoint.config} cannot be used ({error}); {FETCH_AGAIN}") from error
    state = _renamed(_read(checkpoint))
    _check_gpt(state, config.model_args, checkpoint)
    with _NoRandomInitialisation():
        vocoder = HifiDecoder(**_vocoder_sizes(config.model_args))
    vocoder_state = {name.removeprefix(VOCODER): value for name, value in state.items() if name.startswith(VOCODER)}
    _assign(vocoder, vocoder_state, checkpoint)
    return LoadedModel(checkpoint, config, state, vocoder, speakers(checkpoint, config.model_args.gpt_n_model_channels))


def _vocoder_sizes(arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - upstream is untyped
    """Return the arguments of upstream's HifiDecoder."""
    return {
        "input_sample_rate": arguments.input_sample_rate,
        "output_sample_rate": arguments.output_sample_rate,
        "output_hop_length": arguments.output_hop_length,
        "ar_mel_length_compression": arguments.gpt_code_stride_len,
        "decoder_input_dim": arguments.decoder_input_dim,
        "d_vector_dim": arguments.d_vector_dim,
        "cond_d_vector_in_each_upsampling_layer": arguments.cond_d_vector_in_each_upsampling_layer,
    }


def _read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights by the names in the file. The file is memory-mapped: pages are read when they are used."""
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig

    allowed_classes = [
        XttsConfig, BaseDatasetConfig, XttsArgs, XttsAudioConfig,
        (XttsArgs, f"{OLD_CONFIG_MODULE}.XttsArgs"), (XttsAudioConfig, f"{OLD_CONFIG_MODULE}.XttsAudioConfig"),
    ]  # fmt: skip
    try:
        with torch.serialization.safe_globals(allowed_classes):
            saved = torch.load(checkpoint.weights, map_location="cpu", mmap=True, weights_only=True)
        return dict(saved["model"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{checkpoint.weights} cannot be read ({first_line(error)}); {FETCH_AGAIN}") from error


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in fp32 under their current names, without unused ones, as upstream converts them."""
    names = ((name.removeprefix(TRAINED_PREFIX), value) for name, value in state.items())
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in names
        if not name.startswith(UNUSED + DUPLICATES)
    }


class _NoRandomInitialisation(TorchFunctionMode):
    """Context in which modules are built without random initial values, so that their memory is never allocated.

    `torch.device("meta")` would not do: it also removes the tables (filter banks) that upstream computes and reads
    while it builds a module, and weight normalisation on it imports PyTorch's compiler, which takes a second.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - PyTorch's own signature
        """Call a function of PyTorch; if it is a random initialiser, return its tensor unchanged."""
        keywords = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM_INITIALISERS:
            return args[0] if args else keywords["tensor"]
        return func(*args, **keywords)


def _check_gpt(state: Mapping[str, Tensor], arguments: Any, checkpoint: Checkpoint) -> None:  # noqa: ANN401
    """Raise CheckpointError if a weight of the GPT is missing or has the wrong shape.

    Nothing else would notice: upstream's module, which compares them, is not built here.
    """
    wanted = _gpt_shapes(arguments, checkpoint.text_tokens)
    found = {name: tuple(value.shape) for name, value in state.items() if name in wanted or name.startswith(BLOCKS)}
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{checkpoint.weights} does not fit {checkpoint.config.name}: {name} is "
                f"{found.get(name, 'missing')}, not {wanted.get(name, 'expected')}; {FETCH_AGAIN}"
            )


def _gpt_shapes(arguments: Any, text: int) -> dict[str, tuple[int, ...]]:  # noqa: ANN401
    """Return the shape of each weight of the GPT by its name; linear layers are (inputs, outputs) as in GPT-2.

    `text` is the number of text tokens.
    """
    width, audio = arguments.gpt_n_model_channels, arguments.gpt_num_audio_tokens
    shapes: dict[str, tuple[int, ...]] = {
        "mel_stats": (80,),
        "gpt.text_embedding.weight": (text, width),
        "gpt.mel_embedding.weight": (audio, width),
        "gpt.text_pos_embedding.emb.weight": (arguments.gpt_max_text_tokens + 2, width),
        "gpt.mel_pos_embedding.emb.weight": (arguments.gpt_max_audio_tokens + 3, width),
        "gpt.mel_head.weight": (audio, width),
        "gpt.mel_head.bias": (audio,),
    }
    norms = [f"{BLOCKS}{layer}.ln_{number}" for layer in range(arguments.gpt_layers) for number in (1, 2)]
    for name in (*norms, "gpt.gpt.ln_f", "gpt.final_norm"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    linears = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
    for layer in range(arguments.gpt_layers):
        for name, (inputs, outputs) in linears.items():
            shapes[f"{BLOCKS}{layer}.{name}.weight"] = (inputs * width, outputs * width)
            shapes[f"{BLOCKS}{layer}.{name}.bias"] = (outputs * width,)
    return shapes


def _assign(module: nn.Module, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Make tensors the parameters of a module, without a copy. Raises CheckpointError if names or shapes differ."""
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        first = str(error).partition(":\n")[2].strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{checkpoint.weights} does not fit {checkpoint.config.name}: {first or error}; {FETCH_AGAIN}"
        ) from error
    module.requires_grad_(requires_grad=False)
    module.eval()


def speakers(checkpoint: Checkpoint, width: int | None = None) -> dict[str, Conditioning]:
    """Return the conditioning of the built-in speakers, by name; log a warning if the checkpoint has none.

    Raises CheckpointError if the file cannot be read, or does not fit a model of this width (None: of any width).
    """
    if checkpoint.speakers is None:
        logger.warning("xtts.speakers_missing %s has no speakers_xtts.pth: cloned voices only", checkpoint.folder)
        return {}
    try:
        saved = torch.load(checkpoint.speakers, map_location="cpu", weights_only=True)
        return {
            name: Conditioning.from_arrays(
                {
                    "latents": speaker["gpt_cond_latent"][0].float().numpy(),
                    "speaker": speaker["speaker_embedding"].float().numpy(),
                },
                width,
            )
            for name, speaker in saved.items()
        }
    except UnfitConditioningError as error:
        raise CheckpointError(f"{checkpoint.speakers} does not fit the model: {error}; {FETCH_AGAIN}") from error
    except (pickle.UnpicklingError, RuntimeError, AttributeError, IndexError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{checkpoint.speakers} cannot be read ({first_line(error)}); {FETCH_AGAIN}") from error


def _build_xtts(config: Any, checkpoint: Checkpoint, state: Mapping[str, Tensor], vocoder: nn.Module) -> Any:  # noqa: ANN401
    """Return upstream's Xtts with the given tensors as its parameters."""
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.models.xtts import Xtts

    with _NoRandomInitialisation():
        model = Xtts(config)
        model.tokenizer = VoiceBpeTokenizer(vocab_file=checkpoint.vocab)
        model.init_models()
    _assign(model, state, checkpoint)
    model.hifigan_decoder = vocoder
    return model
