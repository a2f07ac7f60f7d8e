"""The engine `xtts`: XTTS v2, which clones a voice from a clip and speaks 17 languages.

It uses the low-level classes of coqui-tts ("upstream" in this package) with its own decoding loop and its own streaming
vocoder:

    checkpoint, model                       find the weights on disk; load them into upstream's modules
    device                                  chooses device and precision
    tokenizer, punctuation                  text -> tokens
    latents, prepared_voices                clips -> conditioning latents -> KV cache of a voice
    gpt, sampling                           tokens -> latents, for many rows at once
    cpu_decoder (.py, .c), torch_decoder    the transformer blocks: in C for CPUs, in PyTorch for other devices
    vocoder                                 latents -> audio, as a stream
    output_check                            checks whether the length of the audio is plausible for the text
    active_segment, engine                  the state of one segment; the engine that runs them all
    precision_report                        compares precisions on the user's own weights

The libraries (PyTorch, coqui-tts) are imported by `load`, not before.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from voxspool.errors import CheckpointError, MissingExtraError
from voxspool.hints import install_command, missing
from voxspool_worker.settings import forbid_telemetry, let_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool_worker.engines.xtts.checkpoint import Checkpoint
    from voxspool_worker.engines.xtts.device import DevicePlan
    from voxspool_worker.engines.xtts.engine import XttsEngine
    from voxspool_worker.engines.xtts.gpt import Decoder, Gpt
    from voxspool_worker.engines.xtts.model import LoadedModel
    from voxspool_worker.engines.xtts.prepared_voices import ConditioningMethod, PreparedVoices
    from voxspool_worker.engines.xtts.sampling import SamplingOptions
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
    from voxspool_worker.engines.xtts.weights import GptWeights
    from voxspool_worker.settings import Settings

log = logging.getLogger(__name__)

LIBRARIES: Final = {"torch": "torch", "torchaudio": "torchaudio", "TTS": "coqui-tts", "safetensors": "safetensors"}
"""Module -> the package of the extra `xtts` that contains it."""


def load(settings: Settings, connect: Callable[..., Redis] | None = None) -> XttsEngine:
    """Load XTTS into memory.

    `connect` returns a client of the Redis that holds cloned voices; None: only the checkpoint's own speakers can be
    used. Raises MissingExtraError, CheckpointError, and SettingsError if this machine lacks the device or precision.
    """
    from voxspool_worker.engines.xtts import checkpoint

    check_installed()
    found = checkpoint.find(settings)
    let_threads_sleep()
    forbid_telemetry()
    try:
        return _load(found, settings, connect)
    except ImportError as error:  # the packages are installed but broken
        raise MissingExtraError(
            f"XTTS cannot be imported ({error}); install it with: {install_command('voxspool-worker', 'xtts')}"
        ) from error
    except (RuntimeError, MemoryError, OSError) as error:  # from a driver, the file system, or a lack of memory
        raise CheckpointError(
            f"XTTS cannot be loaded from {found.folder} ({type(error).__name__}: {error}); "
            "try VOXSPOOL_DEVICE=cpu, or look at `voxspool-worker check`"
        ) from error


def _load(found: Checkpoint, settings: Settings, connect: Callable[..., Redis] | None) -> XttsEngine:
    """Load the parts of the engine and connect them."""
    import torch

    from voxspool_worker.engines.xtts import device, model
    from voxspool_worker.engines.xtts.engine import XttsEngine
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
    from voxspool_worker.engines.xtts.vocoder import Vocoder

    plan = device.plan(settings.device, settings.precision)
    torch.backends.cudnn.allow_tf32 = plan.precision != "fp32"  # TF32 has 10 bits of mantissa
    loaded = model.load(found)
    tokenizer = XttsTokenizer(found.vocab)
    engine = XttsEngine(
        make_gpt(loaded, tokenizer, plan, settings), Vocoder(loaded.vocoder, plan.torch_device, plan.vocoder),
        tokenizer, make_voices(loaded, settings, connect, tokenizer),
        model=f"xtts {found.fingerprint[:12]} {plan.precision}", device=plan.device,
        sample_rate=loaded.config.model_args.output_sample_rate, rows=plan.rows,
    )  # fmt: skip
    log.info("xtts.loaded checkpoint=%s fingerprint=%s plan=%r", found.folder, found.fingerprint, plan.reason)
    return engine


def check_installed() -> None:
    """Raise MissingExtraError if a library of the extra `xtts` is not installed."""
    from importlib.util import find_spec

    absent = [package for module, package in LIBRARIES.items() if find_spec(module) is None]
    if absent:
        raise MissingExtraError(missing("engine xtts", ", ".join(absent), "voxspool-worker", "xtts"))


def make_gpt(
    loaded: LoadedModel, tokenizer: XttsTokenizer, plan: DevicePlan, settings: Settings,
    options: SamplingOptions | None = None,
) -> Gpt:  # fmt: skip
    """Return the GPT on the plan's device. Raises CheckpointError if the weights are not those of XTTS v2."""
    from voxspool_worker.engines.xtts.gpt import Gpt, SpecialTokens
    from voxspool_worker.engines.xtts.latents import LATENTS
    from voxspool_worker.engines.xtts.sampling import SamplingOptions

    sizes = loaded.config.model_args
    weights = _gpt_weights(loaded)
    tokens = SpecialTokens(
        tokenizer.start, tokenizer.stop, sizes.gpt_start_audio_token, sizes.gpt_stop_audio_token,
        max_audio_tokens=sizes.gpt_max_audio_tokens - 3,  # upstream reserves three for start, stop and conditioning
    )  # fmt: skip
    positions = LATENTS + sizes.gpt_max_text_tokens + 2 + sizes.gpt_max_audio_tokens
    positions = -(-positions // 16) * 16
    decoder = _decoder(weights, plan, settings, positions)
    return Gpt(weights, decoder, tokens, rows=plan.rows, options=options or SamplingOptions())


def _gpt_weights(loaded: LoadedModel) -> GptWeights:
    """Return the GPT's weights. Raises CheckpointError if one is missing or the attention heads have another width."""
    from voxspool_worker.engines.xtts.weights import HEAD_WIDTH, GptWeights

    heads = loaded.config.model_args.gpt_n_heads
    try:
        weights = GptWeights.from_state(loaded.state)
    except KeyError as error:
        raise CheckpointError(f"{loaded.checkpoint.weights} has no weight {error}; fetch it again") from error
    if weights.width != heads * HEAD_WIDTH:
        raise CheckpointError(
            f"{loaded.checkpoint.config} has {heads} attention heads for {weights.width} features; voxspool supports "
            f"only XTTS v2, which has {HEAD_WIDTH} features per head"
        )
    return weights


def _decoder(weights: GptWeights, plan: DevicePlan, settings: Settings, positions: int) -> Decoder:
    """Return the decoder in C on a CPU if it can be compiled, else the one in PyTorch."""
    from voxspool_worker.engines.xtts.cpu_decoder import CompilationError, CpuDecoder, compile_decoder
    from voxspool_worker.engines.xtts.torch_decoder import TorchDecoder

    if plan.device == "cpu":
        try:
            library = compile_decoder(settings.cache_dir.expanduser() / "kernels")
            return CpuDecoder(
                library, weights, rows=plan.rows, positions=positions, precision=plan.precision, threads=plan.threads
            )
        except CompilationError as error:
            log.warning("xtts.slow error=%r do=%r", str(error), "install a C compiler: apt install gcc, xcode-select")
    return TorchDecoder(
        weights, rows=plan.rows, positions=positions, precision=plan.precision, device=plan.torch_device
    )


def make_voices(
    loaded: LoadedModel, settings: Settings, connect: Callable[..., Redis] | None, tokenizer: XttsTokenizer
) -> PreparedVoices:
    """Return the voices of the engine: the checkpoint's speakers and, with `connect`, the cloned ones."""
    from voxspool_worker.engines.xtts.latents import Conditioning
    from voxspool_worker.engines.xtts.prepared_voices import PreparedVoices
    from voxspool_worker.voices.catalog import VoiceBook
    from voxspool_worker.voices.cloned import VoiceLibrary
    from voxspool_worker.voices.conditioning_cache import ConditioningCache

    redis = connect(retries=1) if connect else None
    library = VoiceLibrary(redis)
    folder = settings.cache_dir.expanduser() / "conditioning"
    fits = partial(Conditioning.from_arrays, width=loaded.config.model_args.gpt_n_model_channels)
    cache = ConditioningCache(fits, folder=folder, redis=redis)
    book = VoiceBook(loaded.speakers, tokenizer.languages, library, tokenizer.lacking)
    return PreparedVoices(loaded.speakers, book, library, cache, _conditioning_method(loaded))


def _conditioning_method(loaded: LoadedModel) -> ConditioningMethod:
    """Return how conditioning is computed from clips with this checkpoint."""
    from importlib.metadata import version

    from voxspool_worker.engines.xtts import latents
    from voxspool_worker.engines.xtts.prepared_voices import ConditioningMethod

    config = loaded.config
    parameters = latents.ConditioningParameters(
        config.max_ref_len, config.gpt_cond_len, config.gpt_cond_chunk_len, config.sound_norm_refs
    )
    return ConditioningMethod(
        lambda clips: latents.compute(loaded.upstream_xtts(), clips, parameters), parameters,
        loaded.checkpoint.fingerprint, f"coqui-tts {version('coqui-tts')}",
    )  # fmt: skip
