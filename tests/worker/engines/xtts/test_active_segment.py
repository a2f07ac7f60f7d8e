"""The state of a segment: chunk sizes, seeds, faults of the length, and the best of several attempts."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from voxspool_worker.engines.base import SpeechSegment, SpokenSegment
from voxspool_worker.engines.xtts.active_segment import (
    FIRST_CHUNK_TOKENS,
    MAX_CHUNK_TOKENS,
    NEXT_CHUNK_TOKENS,
    TOKEN_S,
    ActiveSegment,
    retry_seed,
    to_pcm,
)
from voxspool_worker.text.duration import PlausibleDuration
from voxspool_worker.voices.catalog import Voice

STREAM = cast("Any", object())
PLAUSIBLE = PlausibleDuration(min_s=1.0, expected_s=2.0, max_s=4.0)


def active(*, index: int = 0, tokens: int = 0, seed: int = 7) -> ActiveSegment:
    """Return a segment in its first attempt, in row 3, with a number of latents."""
    segment = SpeechSegment("a", index, "Hello.", 0, 6, 0.0, Voice("Ada", ("en",)), "en", 1.0, seed)
    made = ActiveSegment(segment, [1, 2], cast("Any", object()), PLAUSIBLE)
    made.next_seed()
    made.begin(3, STREAM)
    made.latents = [torch.full((4,), float(number)) for number in range(tokens)]
    return made


def tokens_for(seconds: float) -> int:
    return round(seconds / TOKEN_S)


def chunk_sizes(one: ActiveSegment) -> list[int]:
    sizes = []
    while one.waiting:
        sizes.append(len(one.next_latents()))
    return sizes


def test_chunks_grow_from_a_small_first_one_to_the_maximum() -> None:
    assert chunk_sizes(active(tokens=150)) == [FIRST_CHUNK_TOKENS, 12, 18, 27, MAX_CHUNK_TOKENS, MAX_CHUNK_TOKENS, 5]
    assert chunk_sizes(active(index=1, tokens=60)) == [NEXT_CHUNK_TOKENS, 24, 20]


def test_latents_are_returned_once_and_in_order() -> None:
    one = active(tokens=50)
    values = [float(latent[0]) for _ in range(3) for latent in one.next_latents()]
    assert values == [float(number) for number in range(len(values))]


def test_a_running_segment_is_due_only_if_it_is_streaming_and_has_enough_for_a_chunk() -> None:
    one = active(tokens=FIRST_CHUNK_TOKENS - 1)
    assert not one.is_due(streaming=True)
    one.latents.append(torch.zeros(4))
    assert one.is_due(streaming=True)
    assert not one.is_due(streaming=False)
    one.row = None
    assert one.is_due(streaming=False), "all tokens were generated"


def test_the_first_attempt_has_the_segments_seed_and_later_ones_derived_seeds() -> None:
    one = active(seed=7)
    seeds = [one.seed, one.next_seed(), one.next_seed()]
    assert seeds == [7, retry_seed(7, 2), retry_seed(7, 3)]
    assert seeds[1:] == [1039904815, 3760489949], "derived seeds never change: jobs are reproducible"


@pytest.mark.parametrize(
    ("seconds", "stopped", "fault"),
    [(2.0, True, ""), (0.5, True, "rate"), (5.0, True, "rate"), (2.0, False, "rate"), (28.0, False, "cap")],
)
def test_the_length_fault_depends_on_duration_and_stop_token(seconds: float, stopped: bool, fault: str) -> None:  # noqa: FBT001
    assert active(tokens=tokens_for(seconds)).length_fault(stopped=stopped, max_tokens=602) == fault


def test_the_best_attempt_is_kept_and_its_latents_are_vocoded_again() -> None:
    one = active(tokens=tokens_for(2.0))
    one.fault = "noise"
    one.record_attempt(np.zeros(10, np.float32))
    best_latents = one.latents
    one.next_seed()
    one.begin(0, STREAM)
    one.latents, one.fault = [torch.zeros(4)], "rate"
    one.record_attempt(None)
    assert one.best is not None
    assert one.best.spoken == SpokenSegment(7, 1, "noise"), "noise is less severe than rate"
    one.settle(one.best, STREAM)
    assert (one.settled, one.decoded, one.vocoded, one.held) == (True, True, 0, [])
    assert len(one.latents) == len(best_latents)
    assert one.outcome() == SpokenSegment(7, 2, "noise")


def test_samples_outside_the_range_are_clipped() -> None:
    samples = np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0], np.float32)
    assert to_pcm(samples).tolist() == [-32767, -32767, 0, 16384, 32767, 32767]
