"""Sampling of audio tokens: top-k, top-p, the repetition penalty, and one random generator per row."""

from __future__ import annotations

import torch

from voxspool_worker.engines.xtts.sampling import Sampler, SamplingOptions

CPU = torch.device("cpu")
GREEDY = SamplingOptions(top_k=1)
"""Always the most probable token, after the repetition penalty."""
PLAIN = SamplingOptions(temperature=1.0, top_k=1026, top_p=1.0, repetition_penalty=1.0)


def random_logits(rows: int, tokens: int = 1026) -> torch.Tensor:
    return torch.randn(rows, tokens, generator=torch.Generator().manual_seed(1)) * 3


def sampler(rows: int, options: SamplingOptions, tokens: int = 1026) -> Sampler:
    """Return a sampler whose rows were started with their number as the seed."""
    made = Sampler(rows, tokens, CPU, options)
    for row in range(rows):
        made.start(row, row, ())
    return made


def test_one_draw_equals_torch_multinomial() -> None:
    logits = random_logits(1)
    for seed in range(50):
        one = Sampler(1, 1026, CPU, PLAIN)
        one.start(0, seed, ())
        wanted = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(seed))
        assert one.sample([0], logits) == wanted[0].tolist()


def test_a_token_that_was_sampled_is_less_probable_afterwards_in_its_row_only() -> None:
    one = sampler(2, SamplingOptions(top_k=1, repetition_penalty=10.0), tokens=50)
    logits = torch.zeros(1, 50)
    logits[0, 3], logits[0, 4] = 5.0, 1.0
    assert [one.sample([0], logits)[0] for _ in range(2)] == [3, 4]
    assert one.sample([1], logits) == [3]


def test_draw_does_not_mark_the_token_as_seen() -> None:
    one = sampler(1, GREEDY, tokens=50)
    logits = torch.zeros(1, 50)
    logits[0, 3], logits[0, 4] = 5.0, 1.0
    assert [one.draw([0], logits)[0] for _ in range(3)] == [3, 3, 3]
    one.mark_seen([0], [3])
    assert one.draw([0], logits) == [4]


def test_the_penalty_multiplies_negative_logits_and_divides_positive_ones() -> None:
    one = sampler(1, GREEDY, tokens=3)
    one.start(0, 0, (0, 1))
    assert one.draw([0], torch.tensor([[-0.3, 2.9, 0.28]])) == [1], "2.9 / 10 is above 0.28 and above -0.3 * 10"
    assert one.draw([0], torch.tensor([[-0.3, 2.7, 0.28]])) == [2]


def test_the_tokens_of_a_row_do_not_depend_on_the_other_rows() -> None:
    logits = random_logits(3)
    together = sampler(3, SamplingOptions())
    beside = [together.sample([0, 1, 2], logits) for _ in range(20)]
    alone = sampler(3, SamplingOptions())
    assert [alone.sample([1], logits[1:2])[0] for _ in range(20)] == [tokens[1] for tokens in beside]
    assert len({tokens[1] for tokens in beside}) > 5, "equal tokens would prove nothing"


def test_a_row_that_is_started_again_repeats_its_tokens() -> None:
    logits = random_logits(1)
    one = sampler(1, SamplingOptions())
    first = [one.sample([0], logits)[0] for _ in range(20)]
    one.start(0, 0, ())
    assert [one.sample([0], logits)[0] for _ in range(20)] == first


def test_only_the_top_k_tokens_and_only_the_top_p_set_are_sampled() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    few = sampler(1, SamplingOptions(temperature=1.0, top_k=2, top_p=1.0, repetition_penalty=1.0), tokens=4)
    assert {few.draw([0], logits)[0] for _ in range(300)} == {0, 1}
    likely = sampler(1, SamplingOptions(temperature=1.0, top_k=4, top_p=0.8, repetition_penalty=1.0), tokens=4)
    assert {likely.draw([0], logits)[0] for _ in range(300)} == {0, 1, 2}, (
        "0.5 + 0.25 is below 0.8, the next reaches it"
    )
