"""Loading the engine: missing libraries, weights that do not fit, and the choice of the decoder."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.support.gpt_weights import AUDIO_TOKENS, WIDTH, random_state
from voxspool.errors import CheckpointError, MissingExtraError
from voxspool_worker.engines import xtts
from voxspool_worker.engines.xtts import cpu_decoder, device
from voxspool_worker.engines.xtts.cpu_decoder import CompilationError, CpuDecoder
from voxspool_worker.engines.xtts.torch_decoder import TorchDecoder
from voxspool_worker.settings import Settings

TOKENIZER = cast("Any", SimpleNamespace(start=0, stop=1))
PLAN = replace(device.plan("cpu", "fp32"), rows=2)


def loaded(state: dict[str, torch.Tensor], *, heads: int = WIDTH // 64) -> Any:
    """Return a stand-in of LoadedModel with these weights."""
    sizes = SimpleNamespace(
        gpt_n_heads=heads, gpt_max_audio_tokens=53, gpt_max_text_tokens=40, gpt_start_audio_token=AUDIO_TOKENS - 2,
        gpt_stop_audio_token=AUDIO_TOKENS - 1,
    )  # fmt: skip
    files = SimpleNamespace(weights=Path("model.pth"), config=Path("config.json"))
    return SimpleNamespace(state=state, config=SimpleNamespace(model_args=sizes), checkpoint=files)


def test_missing_libraries_are_named_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "TTS" else find_spec(name))
    with pytest.raises(MissingExtraError, match=r"coqui-tts.*worker\[xtts\]"):
        xtts.check_installed()


def test_the_gpt_has_the_models_special_tokens_and_the_plans_rows(tmp_path: Path) -> None:
    gpt = xtts.make_gpt(loaded(random_state()), TOKENIZER, PLAN, Settings(cache_dir=tmp_path))
    assert gpt.free == 2
    assert gpt.tokens.max_audio_tokens == 50, "53 less the three that upstream reserves"
    prefix = gpt.prefix(torch.zeros(32, WIDTH))
    row = gpt.start(prefix, [5, 6], 0, max_tokens=2)
    assert [token.row for token in gpt.step()] == [row]
    gpt.close()


def test_a_missing_weight_raises_a_checkpoint_error_with_its_name() -> None:
    state = random_state()
    del state["gpt.mel_head.bias"]
    with pytest.raises(CheckpointError, match=r"model.pth has no weight 'gpt.mel_head.bias'"):
        xtts.make_gpt(loaded(state), TOKENIZER, PLAN, Settings())


def test_attention_heads_of_another_width_raise_a_checkpoint_error() -> None:
    with pytest.raises(CheckpointError, match=r"config.json has 4 attention heads for 128 features; .* 64 features"):
        xtts.make_gpt(loaded(random_state(), heads=4), TOKENIZER, PLAN, Settings())


def test_without_a_compiler_pytorch_is_used_on_the_cpu_and_a_warning_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(cache_dir=tmp_path)
    compiled = xtts.make_gpt(loaded(random_state()), TOKENIZER, PLAN, settings)
    assert isinstance(compiled._decoder, CpuDecoder)
    compiled.close()

    def fail(folder: Path) -> Path:
        raise CompilationError(f"cannot compile into {folder}")

    monkeypatch.setattr(cpu_decoder, "compile_decoder", fail)
    assert isinstance(xtts.make_gpt(loaded(random_state()), TOKENIZER, PLAN, settings)._decoder, TorchDecoder)
    assert "xtts.slow error='cannot compile into" in caplog.text
