"""Loading a checkpoint: the same weights and the same audio as upstream's `load_checkpoint`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from voxspool.errors import CheckpointError
from voxspool_worker.engines.xtts import checkpoint, model

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def loaded(small_checkpoint: Path) -> model.LoadedModel:
    return model.load(checkpoint.inspect(small_checkpoint))


@pytest.fixture
def copy(small_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_checkpoint, tmp_path / "copy")


def tensors(module: Any) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers, including those that are not saved."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


def test_the_vocoder_has_the_parameters_and_buffers_of_upstreams(loaded: model.LoadedModel, upstream: Any) -> None:
    assert_same(tensors(loaded.vocoder), tensors(upstream.hifigan_decoder))


def test_the_weights_equal_upstreams_under_the_same_names(loaded: model.LoadedModel, upstream: Any) -> None:
    theirs = upstream.state_dict()
    assert {name for name in theirs if not name.startswith(model.DUPLICATES)} == set(loaded.state)
    assert_same(dict(loaded.state), {name: theirs[name] for name in loaded.state})


def test_upstreams_xtts_has_the_same_parameters_and_buffers(loaded: model.LoadedModel, upstream: Any) -> None:
    assert_same(tensors(loaded.upstream_xtts()), tensors(upstream))


def test_the_modules_share_the_memory_of_the_weights(loaded: model.LoadedModel) -> None:
    weights = {value.data_ptr() for value in loaded.state.values()}
    for module in (loaded.vocoder, loaded.upstream_xtts()):
        assert {value.data_ptr() for value in module.state_dict().values()} <= weights
    assert loaded.upstream_xtts() is loaded.upstream_xtts()


def test_the_modules_are_in_inference_mode(loaded: model.LoadedModel) -> None:
    for module in (loaded.vocoder, loaded.upstream_xtts()):
        assert not any(value.requires_grad for value in module.parameters())
        assert not any(part.training for part in module.modules())


@torch.inference_mode()
def test_the_vocoder_gives_the_samples_of_upstreams(loaded: model.LoadedModel, upstream: Any) -> None:
    latents = torch.randn(1, 12, loaded.config.model_args.decoder_input_dim)
    speaker = next(iter(loaded.speakers.values())).speaker
    assert torch.equal(loaded.vocoder(latents, g=speaker), upstream.hifigan_decoder(latents, g=speaker))


@torch.inference_mode()
def test_upstreams_xtts_computes_the_same_conditioning(loaded: model.LoadedModel, upstream: Any) -> None:
    clip = 0.1 * torch.randn(1, 22050 * 5)
    ours = loaded.upstream_xtts()
    assert torch.equal(
        ours.get_gpt_cond_latents(clip, 22050, length=5, chunk_length=2),
        upstream.get_gpt_cond_latents(clip, 22050, length=5, chunk_length=2),
    )
    assert torch.equal(
        ours.get_speaker_embedding(clip.clone(), 22050), upstream.get_speaker_embedding(clip.clone(), 22050)
    )


def test_upstreams_xtts_gives_the_same_speech(loaded: model.LoadedModel, upstream: Any) -> None:
    speaker = next(iter(loaded.speakers.values()))
    waves = [
        one.inference(
            "two words", "en", speaker.latents[None], speaker.speaker, do_sample=False, max_new_tokens=12, top_k=None,
            top_p=None, temperature=None,
        )["wav"]
        for one in (loaded.upstream_xtts(), upstream)
    ]  # fmt: skip
    assert len(waves[0]) > 5000
    assert (waves[0] == waves[1]).all()


def test_the_speakers_are_those_in_the_file(loaded: model.LoadedModel, small_checkpoint: Path) -> None:
    saved = torch.load(small_checkpoint / "speakers_xtts.pth", weights_only=True)
    assert list(loaded.speakers) == list(saved)
    for name, speaker in loaded.speakers.items():
        assert torch.equal(speaker.latents[None], saved[name]["gpt_cond_latent"])
        assert torch.equal(speaker.speaker, saved[name]["speaker_embedding"])


def test_without_speakers_a_warning_is_logged(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "speakers_xtts.pth").unlink()
    assert model.load(checkpoint.inspect(copy)).speakers == {}
    assert "has no speakers_xtts.pth: cloned voices only" in caplog.text


def rewritten(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> model.LoadedModel:
    """Change a checkpoint's model.pth and load it."""
    torch.save(change(torch.load(folder / "model.pth", weights_only=True)), folder / "model.pth")
    return model.load(checkpoint.inspect(folder))


def test_a_file_saved_by_coquis_trainer_is_loaded(loaded: model.LoadedModel, copy: Path, upstream: Any) -> None:
    def as_trained(saved: dict[str, Any]) -> dict[str, Any]:
        unused = {"xtts.dvae.codebook": torch.ones(1), "xtts.torch_mel_spectrogram_dvae.mel_norms": torch.ones(1)}
        return {"model": {f"xtts.{name}": value for name, value in saved["model"].items()} | unused}

    assert_same(dict(rewritten(copy, as_trained).state), dict(loaded.state))
    assert_same(upstream.get_compatible_checkpoint_state_dict(copy / "model.pth"), dict(loaded.state))


def test_duplicate_weights_of_old_checkpoints_are_dropped(loaded: model.LoadedModel, copy: Path) -> None:
    def as_of_old(saved: dict[str, Any]) -> dict[str, Any]:
        weights = saved["model"]
        twice = {f"gpt.gpt_inference.transformer.{name}": weights[f"gpt.gpt.{name}"] for name in ("ln_f.weight",)}
        return {"model": weights | twice | {"gpt.gpt.wte.weight": weights["gpt.mel_embedding.weight"]}}

    assert_same(dict(rewritten(copy, as_of_old).state), dict(loaded.state))


def test_weights_in_half_precision_are_converted_to_fp32(copy: Path) -> None:
    def halved(saved: dict[str, Any]) -> dict[str, Any]:
        return {"model": {name: v.half() if v.is_floating_point() else v for name, v in saved["model"].items()}}

    state = rewritten(copy, halved).state
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def test_a_checkpoint_with_pickled_upstream_objects_is_loaded_and_not_rewritten(
    loaded: model.LoadedModel, copy: Path
) -> None:
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig

    weights = torch.load(copy / "model.pth", weights_only=True)["model"]
    now = XttsArgs.__module__
    import TTS.tts.models.xtts  # noqa: F401 - pickle looks up the old names

    try:
        XttsArgs.__module__ = XttsAudioConfig.__module__ = model.OLD_CONFIG_MODULE
        torch.save({"model": weights, "config": XttsConfig(speakers=["x"])}, copy / "model.pth")
    finally:
        XttsArgs.__module__ = XttsAudioConfig.__module__ = now
    before = (copy / "model.pth").stat()
    assert_same(dict(model.load(checkpoint.inspect(copy)).state), dict(loaded.state))
    assert (copy / "model.pth").stat().st_mtime_ns == before.st_mtime_ns


def test_a_checkpoint_with_other_pickled_objects_is_refused(copy: Path) -> None:
    torch.save({"model": {}, "config": Path("x")}, copy / "model.pth")
    with pytest.raises(CheckpointError, match=r"model.pth cannot be read \(Weights only load failed"):
        model.load(checkpoint.inspect(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("hifigan_decoder.waveform_decoder.conv_pre.weight"), "Missing key.*conv_pre.weight"),
        (lambda state: state.update({"hifigan_decoder.x": torch.ones(1)}), 'Unexpected key.*"x"'),
        (lambda state: state.update({"hifigan_decoder.speaker_encoder.fc.bias": torch.ones(3)}), "size mismatch"),
        (lambda state: state.pop("gpt.mel_head.weight"), "gpt.mel_head.weight is missing"),
        (lambda state: state.pop("gpt.gpt.h.1.mlp.c_fc.bias"), "gpt.gpt.h.1.mlp.c_fc.bias is missing"),
        (
            lambda state: state.update({"gpt.mel_head.bias": torch.ones(3)}),
            r"gpt.mel_head.bias is \(3,\), not \(1026,\)",
        ),
        (lambda state: state.pop("mel_stats"), "mel_stats is missing"),
    ],
)
def test_the_error_names_a_weight_that_does_not_fit(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    def changed(saved: dict[str, Any]) -> dict[str, Any]:
        change(saved["model"])
        return saved

    with pytest.raises(CheckpointError, match=rf"model.pth does not fit config.json: {message}") as raised:
        rewritten(copy, changed)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("layers", "message"), [(3, "gpt.gpt.h.2.* is missing"), (1, r"gpt.gpt.h.1.* is \(\d+,.*\), not expected")]
)
def test_weights_do_not_fit_another_number_of_layers(copy: Path, layers: int, message: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["model_args"]["gpt_layers"] = layers
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"does not fit config.json: {message}"):
        model.load(checkpoint.inspect(copy))


def test_the_error_names_a_broken_file_of_speakers(copy: Path) -> None:
    (copy / "speakers_xtts.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"speakers_xtts\.pth cannot be read"):
        model.load(checkpoint.inspect(copy))
    torch.save({"Ada": {}}, copy / "speakers_xtts.pth")
    with pytest.raises(CheckpointError, match=r"speakers_xtts\.pth cannot be read"):
        model.load(checkpoint.inspect(copy))


@pytest.mark.parametrize(
    ("speaker", "fault"),
    [
        ({"gpt_cond_latent": torch.zeros(1, 32, 7)}, r"latents is float32 \(32, 7\)"),
        ({"speaker_embedding": torch.zeros(1, 5, 1)}, "speaker is float32"),
        ({"speaker_embedding": torch.full((1, 512, 1), torch.nan)}, "speaker has values that are not finite"),
    ],
)
def test_speakers_that_do_not_fit_the_model_are_refused(copy: Path, speaker: dict[str, Any], fault: str) -> None:
    saved = torch.load(copy / "speakers_xtts.pth", weights_only=True)
    torch.save(saved | {"Eve": next(iter(saved.values())) | speaker}, copy / "speakers_xtts.pth")
    with pytest.raises(CheckpointError, match=rf"speakers_xtts\.pth does not fit the model: {fault}"):
        model.load(checkpoint.inspect(copy))


def test_load_does_not_import_libraries_that_take_seconds(small_checkpoint: Path) -> None:
    program = (
        "import sys, pathlib; from voxspool_worker.engines.xtts import checkpoint, model;"
        f"model.load(checkpoint.inspect(pathlib.Path({str(small_checkpoint)!r})));"
        "print(*(name for name in ('transformers', 'numba', 'torch._dynamo') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
