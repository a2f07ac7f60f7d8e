"""XTTS v2: a voice from a clip, in 17 languages. On the low-level classes of coqui-tts, with a loop of our own.

    checkpoint, model                       where the weights are; upstream's modules around them
    device                                  what runs where, in which precision
    tokenizer, punctuation                  text -> tokens
    latents, prepared_voices                clips -> conditioning -> what a row needs of a voice
    gpt, sampling                           tokens -> latents, on many rows at once
    cpu_decoder (.py, .c), torch_decoder    the decoder under gpt: in C for CPUs, in PyTorch for everything else
    vocoder                                 latents -> audio, as they come
    output_check                            whether an output is longer than its text can explain
    active_segment, engine                  the state of one segment; the rows, and which segment streams
    precision_report                        what a precision changes, on the user's own weights

Nothing heavy is imported before `load`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from voxspool.errors import CheckpointError, MissingExtraError
from voxspool.hints import install_command, missing
from voxspool_worker.settings import forbid_telemetry, let_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool_worker.engines.xtts.checkpoint import Checkpoint
    from voxspool_worker.engines.xtts.device import Plan
    from voxspool_worker.engines.xtts.engine import XttsEngine
    from voxspool_worker.engines.xtts.gpt import Decoder, Gpt
    from voxspool_worker.engines.xtts.model import LoadedModel
    from voxspool_worker.engines.xtts.prepared_voices import PreparedVoices
    from voxspool_worker.engines.xtts.sampling import Choice
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
    from voxspool_worker.engines.xtts.weights import GptWeights
    from voxspool_worker.settings import Settings

log = logging.getLogger(__name__)

LIBRARIES: Final = {"torch": "torch", "torchaudio": "torchaudio", "TTS": "coqui-tts", "safetensors": "safetensors"}
"""Module -> the package that has it, of the extra."""
PREFIX_POSITIONS: Final = 32
"""Latents of a voice: the perceiver's, in every XTTS v2."""


def load(settings: Settings, connect: Callable[..., Redis] | None = None) -> XttsEngine:
    """Load XTTS, warm: voices of `connect`'s Redis can be cloned, without it only the checkpoint's speakers speak.

    Raises MissingExtraError, CheckpointError, and SettingsError for a device or precision that is not here.
    """
    from voxspool_worker.engines.xtts import checkpoint

    check_installed()
    found = checkpoint.find(settings)
    let_threads_sleep()
    forbid_telemetry()
    try:
        return _load(found, settings, connect)
    except ImportError as error:  # installed, and broken
        raise MissingExtraError(
            f"XTTS cannot be imported ({error}); install it with: {install_command('voxspool-worker', 'xtts')}"
        ) from error
    except (RuntimeError, MemoryError, OSError) as error:  # a driver, a file that went away, no memory
        raise CheckpointError(
            f"XTTS cannot be loaded from {found.folder} ({type(error).__name__}: {error}); "
            "try VOXSPOOL_DEVICE=cpu, or look at `voxspool-worker check`"
        ) from error


def _load(found: Checkpoint, settings: Settings, connect: Callable[..., Redis] | None) -> XttsEngine:
    """Load the parts and join them."""
    import torch

    from voxspool_worker.engines.xtts import device, model
    from voxspool_worker.engines.xtts.engine import XttsEngine
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
    from voxspool_worker.engines.xtts.vocoder import Vocoder

    plan = device.plan(settings.device, settings.precision)
    torch.backends.cudnn.allow_tf32 = plan.precision != "fp32"  # else its convolutions have 10 bits of precision
    loaded = model.load(found)
    tokenizer = XttsTokenizer(found.vocab)
    engine = XttsEngine(
        make_gpt(loaded, tokenizer, plan, settings), Vocoder(loaded.vocoder, plan.torch_device, plan.vocoder),
        tokenizer, make_voices(loaded, settings, connect, tokenizer),
        model=f"xtts {found.fingerprint[:12]} {plan.precision}", device=plan.device,
        sample_rate=loaded.config.model_args.output_sample_rate, rows=plan.rows,
    )  # fmt: skip
    log.info("xtts.loaded checkpoint=%s fingerprint=%s plan=%r", found.folder, found.fingerprint, plan.why)
    return engine


def check_installed() -> None:
    """Raise MissingExtraError where a library of the extra is not installed."""
    from importlib.util import find_spec

    absent = [package for module, package in LIBRARIES.items() if find_spec(module) is None]
    if absent:
        raise MissingExtraError(missing("engine xtts", ", ".join(absent), "voxspool-worker", "xtts"))


def make_gpt(
    loaded: LoadedModel, tokenizer: XttsTokenizer, plan: Plan, settings: Settings, choice: Choice | None = None
) -> Gpt:
    """Make the GPT of a plan."""
    from voxspool_worker.engines.xtts.gpt import Gpt, Tokens
    from voxspool_worker.engines.xtts.sampling import Choice
    from voxspool_worker.engines.xtts.weights import HEAD, GptWeights

    sizes = loaded.config.model_args
    try:
        weights = GptWeights.from_state(loaded.state)
    except KeyError as error:
        raise CheckpointError(f"{loaded.checkpoint.weights} has no weight {error}; fetch it again") from error
    if weights.width != sizes.gpt_n_heads * HEAD:
        raise CheckpointError(
            f"{loaded.checkpoint.config} says {sizes.gpt_n_heads} heads for {weights.width} features; "
            f"XTTS v2 has {HEAD} for each head, and voxspool speaks no other"
        )
    most = sizes.gpt_max_audio_tokens - 3  # upstream keeps three for start, stop and conditioning
    tokens = Tokens(tokenizer.start, tokenizer.stop, sizes.gpt_start_audio_token, sizes.gpt_stop_audio_token, most)
    positions = PREFIX_POSITIONS + sizes.gpt_max_text_tokens + 2 + sizes.gpt_max_audio_tokens
    positions = -(-positions // 16) * 16
    return Gpt(weights, _decoder(weights, plan, settings, positions), tokens, rows=plan.rows, choice=choice or Choice())


def _decoder(weights: GptWeights, plan: Plan, settings: Settings, positions: int) -> Decoder:
    """Make the decoder: the compiled one on a CPU where it compiles, else PyTorch's."""
    from voxspool_worker.engines.xtts.cpu_decoder import NativeDecoder, NoCompilerError, compiled
    from voxspool_worker.engines.xtts.torch_decoder import TorchDecoder

    if plan.device == "cpu":
        try:
            library = compiled(settings.cache_dir.expanduser() / "kernels")
            return NativeDecoder(
                library, weights, rows=plan.rows, positions=positions, precision=plan.precision, threads=plan.threads
            )
        except NoCompilerError as error:
            log.warning("xtts.slow error=%r do=%r", str(error), "install a C compiler: apt install gcc, xcode-select")
    return TorchDecoder(
        weights, rows=plan.rows, positions=positions, precision=plan.precision, device=plan.torch_device
    )


def make_voices(
    loaded: LoadedModel, settings: Settings, connect: Callable[..., Redis] | None, tokenizer: XttsTokenizer
) -> PreparedVoices:
    """Bring together what knows of voices."""
    from importlib.metadata import version

    from voxspool_worker.engines.xtts import latents
    from voxspool_worker.engines.xtts.prepared_voices import PreparedVoices, Recipe
    from voxspool_worker.voices.catalog import VoiceBook
    from voxspool_worker.voices.cloned import VoiceLibrary
    from voxspool_worker.voices.conditioning_cache import ConditioningCache

    config = loaded.config
    listening = latents.Listening(
        config.max_ref_len, config.gpt_cond_len, config.gpt_cond_chunk_len, config.sound_norm_refs
    )
    redis = connect(retries=1) if connect else None
    library = VoiceLibrary(redis)
    cache = ConditioningCache(
        latents.Conditioning.from_arrays, folder=settings.cache_dir.expanduser() / "conditioning", redis=redis
    )
    recipe = Recipe(
        lambda clips: latents.compute(loaded.listener(), clips, listening), listening, loaded.checkpoint.fingerprint,
        f"coqui-tts {version('coqui-tts')}",
    )  # fmt: skip
    book = VoiceBook(loaded.speakers, tokenizer.languages, library, tokenizer.lacking)
    return PreparedVoices(loaded.speakers, book, library, cache, recipe)
