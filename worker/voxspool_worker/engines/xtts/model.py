"""A checkpoint -> XTTS's weights and upstream's modules around them, in a second and without a copy.

    model.pth ─ mmap ─► weights by upstream's names ─► the vocoder, upstream's module      at once
                                                   └─► upstream's whole Xtts              when a voice must be computed

Upstream builds every module with random values, reads the file into memory and copies: 15 s. Here the modules are built
without values and take the file's own pages as theirs. Upstream's Xtts draws in transformers,
librosa and more, 3 s of imports: only computing a voice from clips needs it, so it waits until then.

Knows upstream's classes and the history of its files. Does not know devices: everything is on the CPU, in fp32, and the
parts of the engine bring it where they compute. The file must not be written to while it is in use; replace it instead.
"""

from __future__ import annotations

import logging
import pickle
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.overrides import TorchFunctionMode

from voxspool.errors import CheckpointError, MissingExtraError
from voxspool.hints import install_command
from voxspool_worker.engines.xtts.checkpoint import FETCH_AGAIN
from voxspool_worker.engines.xtts.latents import Conditioning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from voxspool_worker.engines.xtts.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

TRAINED_PREFIX: Final = "xtts."
"""Before each name in what Coqui's trainer saves."""
UNUSED: Final = ("torch_mel_spectrogram_style_encoder.", "torch_mel_spectrogram_dvae.", "dvae.")
"""What Coqui's trainer saves beside the model."""
TWICE: Final = ("gpt.gpt_inference.", "gpt.gpt.wte.")
"""What is in old checkpoints a second time, under the names that it has while upstream decodes."""
LAYERS: Final = "gpt.gpt.h."
VOCODER: Final = "hifigan_decoder."
DRAWS: Final = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}
"""What gives a parameter its first, random values; tensors' own, PyTorch's and transformers', under one name each."""
MOVED: Final = "TTS.tts.models.xtts"
"""Where classes once were that old checkpoints hold objects of; they are in TTS.tts.configs.xtts_config now."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """XTTS, loaded."""

    checkpoint: Checkpoint
    config: Any
    """Upstream's XttsConfig."""
    state: Mapping[str, Tensor]
    """All weights by upstream's names; pages of the file."""
    vocoder: nn.Module
    """Upstream's HifiDecoder, its speaker encoder included; shares `state`."""
    speakers: Mapping[str, Conditioning]
    """The studio speakers, by name; empty where the checkpoint has none."""
    _listener: list[Any] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def listener(self) -> Any:  # noqa: ANN401 - upstream is untyped
        """Return upstream's Xtts, which computes a voice from clips; the first time takes seconds. From any thread.

        It is the whole model, ready for upstream's own inference too; shares `state`.
        """
        with self._lock:
            if not self._listener:
                self._listener.append(_upstream(self.config, self.checkpoint, self.state, self.vocoder))
            return self._listener[0]


def load(checkpoint: Checkpoint) -> LoadedModel:
    """Load a checkpoint. Raises CheckpointError where its files are not what they should be."""
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
    arguments = config.model_args
    _check_gpt(state, arguments, checkpoint)
    with _Unfilled():
        vocoder = HifiDecoder(
            input_sample_rate=arguments.input_sample_rate,
            output_sample_rate=arguments.output_sample_rate,
            output_hop_length=arguments.output_hop_length,
            ar_mel_length_compression=arguments.gpt_code_stride_len,
            decoder_input_dim=arguments.decoder_input_dim,
            d_vector_dim=arguments.d_vector_dim,
            cond_d_vector_in_each_upsampling_layer=arguments.cond_d_vector_in_each_upsampling_layer,
        )
    of_vocoder = {name.removeprefix(VOCODER): value for name, value in state.items() if name.startswith(VOCODER)}
    _assign(vocoder, of_vocoder, checkpoint)
    return LoadedModel(checkpoint, config, state, vocoder, speakers(checkpoint))


def _read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Map the weights' file: nothing is read until it is used."""
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig

    held = [
        XttsConfig, BaseDatasetConfig, XttsArgs, XttsAudioConfig,
        (XttsArgs, f"{MOVED}.XttsArgs"), (XttsAudioConfig, f"{MOVED}.XttsAudioConfig"),
    ]  # fmt: skip
    try:
        with torch.serialization.safe_globals(held):
            saved = torch.load(checkpoint.weights, map_location="cpu", mmap=True, weights_only=True)
        return dict(saved["model"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{checkpoint.weights} cannot be read ({_first_line(error)}); {FETCH_AGAIN}") from error


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights to the names and the type that they have today, as upstream does, and drop unused ones."""
    names = ((name.removeprefix(TRAINED_PREFIX), value) for name, value in state.items())
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in names
        if not name.startswith(UNUSED + TWICE)
    }


class _Unfilled(TorchFunctionMode):
    """While it is on, modules are built without random values; their memory is never touched, and so never taken.

    Not by `torch.device("meta")`: that takes the tables too which upstream computes while it builds and then reads
    (filter banks), and weight normalisation on it imports the compiler, a second.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - PyTorch's own signature
        """Call a function of PyTorch, unless it gives a tensor its first values."""
        named = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _check_gpt(state: Mapping[str, Tensor], arguments: Any, checkpoint: Checkpoint) -> None:  # noqa: ANN401
    """Compare names and shapes of the GPT: nothing else does, as its modules are not built here."""
    wanted = _gpt_shapes(arguments, checkpoint.text_tokens)
    found = {name: tuple(value.shape) for name, value in state.items() if name in wanted or name.startswith(LAYERS)}
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{checkpoint.weights} does not fit {checkpoint.config.name}: {name} is "
                f"{found.get(name, 'missing')}, not {wanted.get(name, 'expected')}; {FETCH_AGAIN}"
            )


def _gpt_shapes(arguments: Any, text: int) -> dict[str, tuple[int, ...]]:  # noqa: ANN401
    """Return the GPT's weights by name, with their shapes; linear layers are (inputs, outputs), as GPT-2 keeps them."""
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
    norms = [f"{LAYERS}{layer}.ln_{number}" for layer in range(arguments.gpt_layers) for number in (1, 2)]
    for name in (*norms, "gpt.gpt.ln_f", "gpt.final_norm"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    linears = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
    for layer in range(arguments.gpt_layers):
        for name, (inputs, outputs) in linears.items():
            shapes[f"{LAYERS}{layer}.{name}.weight"] = (inputs * width, outputs * width)
            shapes[f"{LAYERS}{layer}.{name}.bias"] = (outputs * width,)
    return shapes


def _assign(module: nn.Module, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Make the weights a module's own. Raises CheckpointError where names or shapes differ."""
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        first = str(error).partition(":\n")[2].strip().partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{checkpoint.weights} does not fit {checkpoint.config.name}: {first or error}; {FETCH_AGAIN}"
        ) from error
    module.requires_grad_(requires_grad=False)
    module.eval()


def speakers(checkpoint: Checkpoint) -> dict[str, Conditioning]:
    """Read the studio speakers."""
    if checkpoint.speakers is None:
        logger.warning("speakers missing %s has no speakers_xtts.pth: cloned voices only", checkpoint.folder)
        return {}
    try:
        saved = torch.load(checkpoint.speakers, map_location="cpu", weights_only=True)
        return {
            name: Conditioning(speaker["gpt_cond_latent"][0].float(), speaker["speaker_embedding"].float())
            for name, speaker in saved.items()
        }
    except (pickle.UnpicklingError, RuntimeError, AttributeError, IndexError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{checkpoint.speakers} cannot be read ({_first_line(error)}); {FETCH_AGAIN}") from error


def _upstream(config: Any, checkpoint: Checkpoint, state: Mapping[str, Tensor], vocoder: nn.Module) -> Any:  # noqa: ANN401
    """Build upstream's Xtts around the same weights."""
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.models.xtts import Xtts

    with _Unfilled():
        model = Xtts(config)
        model.tokenizer = VoiceBpeTokenizer(vocab_file=checkpoint.vocab)
        model.init_models()
    _assign(model, state, checkpoint)
    model.hifigan_decoder = vocoder
    return model


def _first_line(error: Exception) -> str:
    """Return what an error says before it explains."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
