"""The decoder in C: compilation, and its results against those of the decoder in PyTorch, on random weights."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import tempfile
from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.gpt_weights import WIDTH, random_weights
from voxspool_worker.engines.xtts import cpu_decoder
from voxspool_worker.engines.xtts.cpu_decoder import CALL_TOKENS, CompilationError, CpuDecoder
from voxspool_worker.engines.xtts.gpt import DecoderError
from voxspool_worker.engines.xtts.torch_decoder import TorchDecoder
from voxspool_worker.engines.xtts.weights import LinearWeights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

ROWS, POSITIONS = 3, 304
WEIGHTS = random_weights()
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
TOLERANCES = [("fp32", 1e-4), ("bf16", 0.1), ("int8", 0.1)]


@pytest.fixture
def decoder(library: Path, request: pytest.FixtureRequest) -> Iterator[CpuDecoder]:
    """A decoder of the precision that the test is parametrised with, else of fp32."""
    made = CpuDecoder(
        library, WEIGHTS, rows=ROWS, positions=POSITIONS, precision=getattr(request, "param", "fp32"), threads=2
    )
    yield made
    made.close()


def reference(precision: str) -> TorchDecoder:
    return TorchDecoder(WEIGHTS, rows=ROWS, positions=POSITIONS, precision=precision, device=torch.device("cpu"))


def embeddings(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.5


@pytest.mark.parametrize(
    ("decoder", "precision", "most"), [(p, p, most) for p, most in TOLERANCES], indirect=["decoder"]
)
def test_prompts_longer_than_a_call_and_steps_give_what_pytorch_gives(
    decoder: CpuDecoder, precision: str, most: float
) -> None:
    x = embeddings(2 * CALL_TOKENS + 20)
    found = []
    for one in (decoder, reference(precision)):
        latents = [one.prefill(1, x[:-2], 0)[None], one.step([1], x[-2:-1], [len(x) - 2])]
        found.append(torch.cat([*latents, one.step([1], x[-1:], [len(x) - 1])]))
    assert (found[0] - found[1]).abs().max() < most
    assert found[0].std() > 0.5


@pytest.mark.parametrize("decoder", ["fp32", "bf16", "int8"], indirect=True)
def test_the_latent_of_a_token_does_not_depend_on_the_rows_beside_it(decoder: CpuDecoder) -> None:
    x = embeddings(30)
    decoder.prefill(0, x[:-1], 0)
    alone = decoder.step([0], x[-1:], [29])[0]
    decoder.prefill(1, embeddings(90, seed=1), 0)
    decoder.prefill(0, x[:-1], 0)
    beside = decoder.step([1, 0], torch.stack((embeddings(1, seed=2)[0], x[-1])), [90, 29])[1]
    assert torch.equal(beside, alone)


def test_without_a_compiler_the_error_names_those_that_were_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilationError, match=r"no C compiler \(cc, gcc, clang\)"):
        cpu_decoder.compile_decoder(tmp_path / "kernels")


def test_a_failing_compiler_leaves_no_files_and_its_error_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cpu_decoder.c: error: no such luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilationError, match="no such luck"):
        cpu_decoder.compile_decoder(tmp_path / "kernels")
    assert list((tmp_path / "kernels").iterdir()) == []


def test_a_library_in_the_folder_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = cpu_decoder.compile_decoder(tmp_path)
    monkeypatch.setattr(cpu_decoder, "_compile", lambda *_: pytest.fail("compiled again"))
    assert cpu_decoder.compile_decoder(tmp_path) == made


def foreign(path: Path) -> None:
    os.chown(path, 12_345, -1, follow_symlinks=False)


@pytest.mark.parametrize("change", ["group", "others", "link", pytest.param("owner", marks=AS_ROOT)])
def test_a_library_that_others_could_have_changed_is_compiled_again_in_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    made = cpu_decoder.compile_decoder(tmp_path)
    if change == "link":
        made.rename(tmp_path / "elsewhere.so")
        made.symlink_to(tmp_path / "elsewhere.so")
    elif change == "owner":
        foreign(made)
    else:
        made.chmod(0o620 if change == "group" else 0o602)
    assert cpu_decoder.compile_decoder(tmp_path) == made
    (line,) = caplog.messages
    assert line.startswith("kernel.unsafe fault='")
    assert str(made) in line
    assert not made.is_symlink()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert made.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("change", ["group", "others", "link", "above", pytest.param("owner", marks=AS_ROOT)])
def test_in_a_folder_that_others_can_change_nothing_is_loaded_or_compiled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    folder = tmp_path / "cache" / "kernels"
    planted = cpu_decoder.compile_decoder(folder)
    before = planted.stat()
    if change == "link":
        folder.rename(tmp_path / "theirs")
        folder.symlink_to(tmp_path / "theirs")
    elif change == "owner":
        foreign(folder)
    else:
        (folder.parent if change == "above" else folder).chmod(
            {"group": 0o770, "others": 0o707, "above": 0o777}[change]
        )
    made = cpu_decoder.compile_decoder(folder)
    assert made.name == planted.name
    assert made.parent != folder
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert (planted.stat().st_ino, planted.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (line,) = caplog.messages
    assert line.startswith("kernel.unsafe fault='")
    assert line.endswith("'; it is compiled into a temporary folder at each start")
    CpuDecoder(made, WEIGHTS, rows=1, positions=16, precision="fp32", threads=1).close()


def test_without_any_safe_folder_the_refusal_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(
        CompilationError, match=rf"there is no safe folder for compiled code: {tmp_path} can be written"
    ):
        cpu_decoder.compile_decoder(tmp_path / "kernels")


def test_a_library_that_cannot_be_loaded_is_a_compilation_error(tmp_path: Path) -> None:
    (tmp_path / "decoder.so").write_bytes(b"no library")
    with pytest.raises(CompilationError, match=r"cannot load .*decoder\.so"):
        CpuDecoder(tmp_path / "decoder.so", WEIGHTS, rows=1, positions=16, precision="fp32", threads=1)


def test_the_folder_and_the_library_are_for_their_user_alone_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = cpu_decoder.compile_decoder(tmp_path / "cache" / "kernels")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (made, made.parent, made.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_other_flags_lead_to_another_library(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(library, tmp_path)
    monkeypatch.setattr(cpu_decoder, "FLAGS", (*cpu_decoder.FLAGS, "-g"))
    assert cpu_decoder.compile_decoder(tmp_path) != tmp_path / library.name
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("shape", "row", "first", "reason"),
    [
        ((4, WIDTH // 8), 0, 0, "the width is not the model's"),
        ((4, 32 * WIDTH), 0, 0, "the width is not the model's"),
        ((4, WIDTH), ROWS, 0, "there is no such row"),
        ((4, WIDTH), -1, 0, "there is no such row"),
        ((4, WIDTH), 2**40, 0, "there is no such row"),
        ((4, WIDTH), 0, POSITIONS - 3, "a position is outside the row"),
        ((4, WIDTH), 0, -1, "a position is outside the row"),
        ((4, WIDTH), 0, 2**31, "a position is outside the row"),
        ((POSITIONS + 1, WIDTH), 0, 0, "a position is outside the row"),
        ((0, WIDTH), 0, 0, "the number of values is wrong"),
        ((4,), 0, 0, "the numbers of embeddings, rows and positions differ"),
    ],
)
def test_a_wrong_prompt_is_refused_in_one_line_and_the_decoder_goes_on(
    decoder: CpuDecoder, shape: tuple[int, ...], row: int, first: int, reason: str
) -> None:
    x = embeddings(30)
    before = decoder.prefill(1, x, 0)
    with pytest.raises(DecoderError, match=f"refused a call.*: {reason}") as refused:
        decoder.prefill(row, torch.zeros(shape), first)
    assert "\n" not in str(refused.value)
    assert torch.equal(decoder.prefill(1, x, 0), before)


def test_a_wrong_step_is_refused(decoder: CpuDecoder) -> None:
    x = embeddings(2)
    with pytest.raises(DecoderError, match="numbers of embeddings, rows and positions differ"):
        decoder.step([0, 1, 2], x, [0, 0, 0])
    with pytest.raises(DecoderError, match="not after those before it"):
        decoder.step([0, 0], x, [5, 5])


def test_a_wrong_prefix_is_refused(decoder: CpuDecoder) -> None:
    decoder.prefill(0, embeddings(40), 0)
    saved = decoder.save_prefix(0, 32)
    for act, reason in [
        (lambda: decoder.save_prefix(0, 0), "a position is outside"),
        (lambda: decoder.save_prefix(0, POSITIONS + 1), "a position is outside"),
        (lambda: decoder.save_prefix(ROWS, 32), "there is no such row"),
        (lambda: decoder.restore_prefix(ROWS, 32, saved), "there is no such row"),
        (lambda: decoder.restore_prefix(1, 48, saved), "the number of values is wrong"),
        (lambda: decoder.restore_prefix(1, 32, saved[:-1]), "the number of values is wrong"),
    ]:
        with pytest.raises(DecoderError, match=reason):
            act()


def test_a_closed_decoder_refuses_calls(library: Path) -> None:
    closed = CpuDecoder(library, WEIGHTS, rows=1, positions=16, precision="fp32", threads=1)
    closed.close()
    closed.close()
    with pytest.raises(DecoderError, match="it is closed"):
        closed.prefill(0, embeddings(1), 0)
    with pytest.raises(DecoderError, match="it is closed"):
        closed.save_prefix(0, 1)


@pytest.mark.parametrize("size", [{"rows": 0}, {"positions": 0}, {"positions": 2**31 - 1}, {"threads": 100_000}])
def test_sizes_outside_their_limits_are_refused(library: Path, size: dict[str, int]) -> None:
    with pytest.raises(DecoderError, match=r"2 layers of width 128, .*: a size is outside its limits"):
        CpuDecoder(library, WEIGHTS, precision="fp32", **({"rows": 1, "positions": 16, "threads": 1} | size))


def test_weights_of_another_shape_are_refused(library: Path) -> None:
    weights = random_weights()
    first, *others = weights.blocks
    wrong = dataclasses.replace(first, qkv=LinearWeights(first.qkv.weight[:-4], first.qkv.bias))
    with pytest.raises(DecoderError, match=r"linear layer 0 of layer 0, 124 to 384 values.*the width is not"):
        CpuDecoder(library, dataclasses.replace(weights, blocks=(wrong, *others)), rows=1, positions=16,
                   precision="int8", threads=1)  # fmt: skip
