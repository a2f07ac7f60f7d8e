"""The device plan, and what can be tested of Apple's MPS without a Mac: operators, dtypes, shapes, no fork."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from voxspool.errors import SettingsError
from voxspool_worker.engines.xtts import device
from voxspool_worker.engines.xtts.device import plan
from voxspool_worker.engines.xtts.gpt import Gpt, SpecialTokens
from voxspool_worker.engines.xtts.sampling import SamplingOptions
from voxspool_worker.engines.xtts.torch_decoder import CONTEXT_SIZES, TorchDecoder
from voxspool_worker.engines.xtts.vocoder import Vocoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool_worker.engines.xtts.weights import GptWeights

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings

MAX_CHANNELS = 65_536
"""Maximum number of channels of a convolution on MPS."""
MPS_EQUIVALENTS = {
    # The operator that PyTorch runs on a CPU -> the one that it runs on MPS for the same call.
    "_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_attention_math_for_mps",
    "mkldnn_convolution": "_mps_convolution",
}
CPU_ONLY = {"exponential_"}
"""Random numbers are drawn on the CPU on every device."""


@dataclass
class Recorder(TorchDispatchMode):
    """Records every ATen operator that runs, with the dtypes and shapes of its tensors."""

    calls: list[tuple[str, tuple[tuple[int, ...], ...]]] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)
    channels: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # an operator that consists of others is decomposed: only those run
            out = func.decompose(*args, **(kwargs or {}))
        if out is not NotImplemented:
            return out
        tensors = [one for one in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        out = func(*args, **(kwargs or {}))
        tensors += [one for one in torch.utils._pytree.tree_leaves(out) if isinstance(one, torch.Tensor)]
        self.dtypes |= {one.dtype for one in tensors}
        name = func._schema.name.removeprefix("aten::")
        self.calls.append((name, tuple(tuple(one.shape) for one in tensors)))
        if "convolution" in name:
            self.channels = max(self.channels, *(one.shape[1] for one in tensors if one.ndim > 1))
        return out

    @property
    def operators(self) -> set[str]:
        return {name for name, _ in self.calls}


@pytest.fixture(scope="module")
def kernels() -> dict[str, set[str]]:
    """Operator -> the backends that have a kernel for it, from the table that PyTorch is generated from."""
    package = importlib.util.find_spec("torchgen")
    assert package is not None
    assert package.submodule_search_locations is not None
    table = Path(package.submodule_search_locations[0]) / "packaged/ATen/native/native_functions.yaml"
    functions = yaml.load(table.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    backends: dict[str, set[str]] = {}
    for function in functions:
        name = function["func"].split("(")[0].split(".")[0]
        named = {key.strip() for keys in function.get("dispatch", {}) for key in keys.split(",")}
        if not function.get("dispatch") and "structured_delegate" not in function:
            named.add("CompositeImplicitAutograd")  # consists of other operators
        backends.setdefault(name, set()).update(named)
    return backends


def on_mps(operator: str, kernels: dict[str, set[str]]) -> bool:
    """Return whether an operator runs on MPS without falling back to the CPU."""
    name = MPS_EQUIVALENTS.get(operator, operator)
    backends = kernels.get(name, set()) | kernels.get(
        name.removesuffix("_"), set()
    )  # in-place operators use the same kernel
    return bool(backends & {"MPS", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"})  # fmt: skip


@pytest.fixture
def gpt(weights: GptWeights) -> Gpt:
    """The GPT as it runs on MPS, but on the CPU: fixed shapes, PyTorch only."""
    decoder = TorchDecoder(weights, rows=4, positions=1072, precision="fp32", device=torch.device("cpu"))
    return Gpt(weights, decoder, SpecialTokens(261, 0, 1024, 1025, 602), rows=4, options=SamplingOptions())


@pytest.fixture(scope="module")
def vocoder(upstream: Any) -> Vocoder:
    return Vocoder(upstream.hifigan_decoder, torch.device("cpu"), torch.float32)


def speak(gpt: Gpt, vocoder: Vocoder, upstream: Any, record: Recorder) -> None:
    """Run the whole hot path: a voice's prefix, two rows, a few steps, one chunk of audio."""
    speaker = upstream.speaker_manager.speakers["Ada Random"]
    with record:
        prefix = gpt.prefix(speaker["gpt_cond_latent"][0])
        gpt.start(prefix, [5, 6, 7, 8], 1)
        gpt.start(prefix, [9, 10], 2)
        generated = [token for _ in range(12) for token in gpt.step()]
        stream = vocoder.stream(vocoder.condition(speaker["speaker_embedding"]))
        vocoder.push_many([(stream, torch.stack([token.latent for token in generated if token.row == 0]))])
        stream.finish()


def test_every_operator_of_the_hot_path_has_a_kernel_on_mps(
    gpt: Gpt, vocoder: Vocoder, upstream: Any, kernels: dict[str, set[str]]
) -> None:
    record = Recorder()
    speak(gpt, vocoder, upstream, record)
    assert len(record.operators) > 20
    missing = {name for name in record.operators - CPU_ONLY if not on_mps(name, kernels)}
    assert missing == set()


@pytest.mark.parametrize("operator", ["linalg_eig", "_int_mm", "an operator that does not exist"])
def test_operators_that_mps_lacks_are_recognised(operator: str, kernels: dict[str, set[str]]) -> None:
    assert not on_mps(operator, kernels)


def test_the_hot_path_has_no_float64_and_no_convolution_with_too_many_channels(
    gpt: Gpt, vocoder: Vocoder, upstream: Any
) -> None:
    record = Recorder()
    speak(gpt, vocoder, upstream, record)
    assert torch.float64 not in record.dtypes
    assert 0 < record.channels <= MAX_CHANNELS


def shapes_of(gpt: Gpt) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
    record = Recorder()
    with record:
        gpt.step()
    return record.calls


def test_shapes_are_the_same_in_every_step(gpt: Gpt, upstream: Any) -> None:
    prefix = gpt.prefix(upstream.speaker_manager.speakers["Ada Random"]["gpt_cond_latent"][0])
    gpt.start(prefix, [5, 6, 7, 8], 1)
    first = shapes_of(gpt)
    assert len(first) > 30
    for _ in range(40):
        assert shapes_of(gpt) == first


def test_a_long_row_needs_only_one_set_of_shapes_per_context_size(gpt: Gpt, upstream: Any) -> None:
    prefix = gpt.prefix(upstream.speaker_manager.speakers["Ada Random"]["gpt_cond_latent"][0])
    gpt.start(prefix, [5] * 60, 1)
    seen = {tuple(shapes_of(gpt)) for _ in range(500)}
    assert 1 < len(seen) <= len(CONTEXT_SIZES) + 1  # the last step differs, too: it does not run the decoder


def test_the_hot_path_does_not_fork(gpt: Gpt, vocoder: Vocoder, upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    speak(gpt, vocoder, upstream, Recorder())


# The plan


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes PyTorch find the given accelerators only."""

    def found(*, cuda: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return found


@pytest.mark.parametrize(
    ("accelerators", "wanted"),
    [({}, ("cpu", "int8")), ({"mps": True}, ("mps", "fp32")), ({"cuda": True, "mps": True}, ("cuda", "bf16"))],
)
def test_auto_chooses_the_fastest_device_and_its_default_precision(
    available: Callable[..., None], accelerators: dict[str, bool], wanted: tuple[str, str]
) -> None:
    available(**accelerators)
    found = plan()
    assert (found.device, found.precision) == wanted
    assert found.reason == f"device {wanted[0]} (auto), precision {wanted[1]} (auto)"


def test_the_named_device_and_precision_are_chosen(available: Callable[..., None]) -> None:
    available(cuda=True)
    found = plan("cpu", "fp32")
    assert (found.device, found.precision, found.vocoder) == ("cpu", "fp32", torch.float32)
    assert found.reason == "device cpu, precision fp32"


@pytest.mark.parametrize("wanted", ["cuda", "mps"])
def test_a_missing_device_raises_an_error_that_lists_the_available_ones(
    available: Callable[..., None], wanted: str
) -> None:
    available()
    with pytest.raises(SettingsError, match=rf"VOXSPOOL_DEVICE is {wanted}.*available: cpu"):
        plan(wanted)


def test_int8_on_an_accelerator_raises_an_error_that_lists_its_precisions(available: Callable[..., None]) -> None:
    available(mps=True)
    with pytest.raises(SettingsError, match=r"int8, which only the CPU supports; on mps set it to bf16, fp32 or auto"):
        plan("mps", "int8")


def test_the_vocoder_is_fp32_with_an_fp32_gpt_and_on_mps(available: Callable[..., None]) -> None:
    available(mps=True, cuda=True)
    assert plan("mps", "bf16").vocoder == plan("cuda", "fp32").vocoder == torch.float32
    assert plan("cuda").vocoder == torch.bfloat16


def test_the_docstring_names_every_device() -> None:
    assert all(f"| {name} |" in (device.__doc__ or "") for name in device.ROWS)
