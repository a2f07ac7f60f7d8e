"""The fast road to upstream's modules: the same weights and the same sound as upstream's own `load_checkpoint`."""

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
    return model.load(checkpoint.look(small_checkpoint))


@pytest.fixture
def copy(small_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_checkpoint, tmp_path / "copy")


def tensors(module: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those that are not saved among them."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


def test_the_vocoder_has_upstreams_parameters_and_buffers(loaded: model.LoadedModel, upstream: Any) -> None:
    assert_same(tensors(loaded.vocoder), tensors(upstream.hifigan_decoder))


def test_the_weights_are_upstreams_by_name(loaded: model.LoadedModel, upstream: Any) -> None:
    theirs = upstream.state_dict()
    assert {name for name in theirs if not name.startswith(model.TWICE)} == set(loaded.state)
    assert_same(dict(loaded.state), {name: theirs[name] for name in loaded.state})


def test_the_listener_has_upstreams_parameters_and_buffers(loaded: model.LoadedModel, upstream: Any) -> None:
    assert_same(tensors(loaded.listener()), tensors(upstream))


def test_nothing_is_copied(loaded: model.LoadedModel) -> None:
    weights = {value.data_ptr() for value in loaded.state.values()}
    for module in (loaded.vocoder, loaded.listener()):
        assert {value.data_ptr() for value in module.state_dict().values()} <= weights
    assert loaded.listener() is loaded.listener()


def test_nothing_learns_or_drops_out(loaded: model.LoadedModel) -> None:
    for module in (loaded.vocoder, loaded.listener()):
        assert not any(value.requires_grad for value in module.parameters())
        assert not any(part.training for part in module.modules())


@torch.inference_mode()
def test_the_vocoder_sounds_as_upstreams(loaded: model.LoadedModel, upstream: Any) -> None:
    latents = torch.randn(1, 12, loaded.config.model_args.decoder_input_dim)
    speaker = next(iter(loaded.speakers.values())).speaker
    assert torch.equal(loaded.vocoder(latents, g=speaker), upstream.hifigan_decoder(latents, g=speaker))


@torch.inference_mode()
def test_the_listener_hears_as_upstream(loaded: model.LoadedModel, upstream: Any) -> None:
    clip = 0.1 * torch.randn(1, 22050 * 5)
    ours = loaded.listener()
    assert torch.equal(
        ours.get_gpt_cond_latents(clip, 22050, length=5, chunk_length=2),
        upstream.get_gpt_cond_latents(clip, 22050, length=5, chunk_length=2),
    )
    assert torch.equal(
        ours.get_speaker_embedding(clip.clone(), 22050), upstream.get_speaker_embedding(clip.clone(), 22050)
    )


def test_the_listener_speaks_as_upstream(loaded: model.LoadedModel, upstream: Any) -> None:
    speaker = next(iter(loaded.speakers.values()))
    said = [
        one.inference(
            "two words", "en", speaker.latents[None], speaker.speaker, do_sample=False, max_new_tokens=12, top_k=None,
            top_p=None, temperature=None,
        )["wav"]
        for one in (loaded.listener(), upstream)
    ]  # fmt: skip
    assert len(said[0]) > 5000
    assert (said[0] == said[1]).all()


def test_the_studio_speakers_are_the_files(loaded: model.LoadedModel, small_checkpoint: Path) -> None:
    saved = torch.load(small_checkpoint / "speakers_xtts.pth", weights_only=True)
    assert list(loaded.speakers) == list(saved)
    for name, speaker in loaded.speakers.items():
        assert torch.equal(speaker.latents[None], saved[name]["gpt_cond_latent"])
        assert torch.equal(speaker.speaker, saved[name]["speaker_embedding"])


def test_a_checkpoint_without_speakers_is_loaded_with_a_warning(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "speakers_xtts.pth").unlink()
    assert model.load(checkpoint.look(copy)).speakers == {}
    assert "has no speakers_xtts.pth: cloned voices only" in caplog.text


def rewritten(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> model.LoadedModel:
    """Load a checkpoint whose model.pth was changed."""
    torch.save(change(torch.load(folder / "model.pth", weights_only=True)), folder / "model.pth")
    return model.load(checkpoint.look(folder))


def test_what_coquis_trainer_saved_is_read(loaded: model.LoadedModel, copy: Path, upstream: Any) -> None:
    def as_trained(saved: dict[str, Any]) -> dict[str, Any]:
        unused = {"xtts.dvae.codebook": torch.ones(1), "xtts.torch_mel_spectrogram_dvae.mel_norms": torch.ones(1)}
        return {"model": {f"xtts.{name}": value for name, value in saved["model"].items()} | unused}

    assert_same(dict(rewritten(copy, as_trained).state), dict(loaded.state))
    assert_same(upstream.get_compatible_checkpoint_state_dict(copy / "model.pth"), dict(loaded.state))


def test_what_is_saved_twice_in_old_checkpoints_is_read_once(loaded: model.LoadedModel, copy: Path) -> None:
    def as_of_old(saved: dict[str, Any]) -> dict[str, Any]:
        weights = saved["model"]
        twice = {f"gpt.gpt_inference.transformer.{name}": weights[f"gpt.gpt.{name}"] for name in ("ln_f.weight",)}
        return {"model": weights | twice | {"gpt.gpt.wte.weight": weights["gpt.mel_embedding.weight"]}}

    assert_same(dict(rewritten(copy, as_of_old).state), dict(loaded.state))


def test_weights_in_half_precision_become_fp32(copy: Path) -> None:
    def halved(saved: dict[str, Any]) -> dict[str, Any]:
        return {"model": {name: v.half() if v.is_floating_point() else v for name, v in saved["model"].items()}}

    state = rewritten(copy, halved).state
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def test_a_checkpoint_with_upstreams_objects_in_it_is_read_and_left_as_it_is(
    loaded: model.LoadedModel, copy: Path
) -> None:
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig

    weights = torch.load(copy / "model.pth", weights_only=True)["model"]
    now = XttsArgs.__module__
    import TTS.tts.models.xtts  # noqa: F401 - pickle looks the old names up

    try:
        XttsArgs.__module__ = XttsAudioConfig.__module__ = model.MOVED
        torch.save({"model": weights, "config": XttsConfig(speakers=["x"])}, copy / "model.pth")
    finally:
        XttsArgs.__module__ = XttsAudioConfig.__module__ = now
    before = (copy / "model.pth").stat()
    assert_same(dict(model.load(checkpoint.look(copy)).state), dict(loaded.state))
    assert (copy / "model.pth").stat().st_mtime_ns == before.st_mtime_ns


def test_a_checkpoint_with_foreign_objects_in_it_is_refused(copy: Path) -> None:
    torch.save({"model": {}, "config": Path("x")}, copy / "model.pth")
    with pytest.raises(CheckpointError, match=r"model.pth cannot be read \(Weights only load failed"):
        model.load(checkpoint.look(copy))


@pytest.mark.parametrize(
    ("change", "said"),
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
def test_weights_that_do_not_fit_are_named(copy: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    def changed(saved: dict[str, Any]) -> dict[str, Any]:
        change(saved["model"])
        return saved

    with pytest.raises(CheckpointError, match=rf"model.pth does not fit config.json: {said}") as raised:
        rewritten(copy, changed)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("layers", "said"), [(3, "gpt.gpt.h.2.* is missing"), (1, r"gpt.gpt.h.1.* is \(\d+,.*\), not expected")]
)
def test_a_configuration_of_other_sizes_does_not_fit(copy: Path, layers: int, said: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["model_args"]["gpt_layers"] = layers
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"does not fit config.json: {said}"):
        model.load(checkpoint.look(copy))


def test_broken_speakers_are_named(copy: Path) -> None:
    (copy / "speakers_xtts.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"speakers_xtts\.pth cannot be read"):
        model.load(checkpoint.look(copy))
    torch.save({"Ada": {}}, copy / "speakers_xtts.pth")
    with pytest.raises(CheckpointError, match=r"speakers_xtts\.pth cannot be read"):
        model.load(checkpoint.look(copy))


def test_loading_leaves_out_what_takes_seconds_to_import(small_checkpoint: Path) -> None:
    program = (
        "import sys, pathlib; from voxspool_worker.engines.xtts import checkpoint, model;"
        f"model.load(checkpoint.look(pathlib.Path({str(small_checkpoint)!r})));"
        "print(*(name for name in ('transformers', 'numba', 'torch._dynamo') if name in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout.split() == []
