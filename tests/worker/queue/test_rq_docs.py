"""docs/rq.md says as many tests as the table lists."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import expectations

DOCS = (Path(__file__).parents[3] / "docs/rq.md").read_text()


def test_the_summary_counts_what_the_table_lists() -> None:
    listed = expectations.load()
    assert f"**{len(listed.passes)} pass**" in DOCS
    assert f"**{len(listed.reasons)} do not apply**" in DOCS
    assert f"Of {len(listed.passes) + len(listed.reasons)} tests" in DOCS
    counted = [int(number) for number in re.findall(r"^\| (\d+) \|", DOCS, flags=re.MULTILINE)]
    assert sum(counted) == len(listed.reasons)
    groups = Counter(listed.reasons.values())
    assert counted[:3] == [groups["no-worker"], groups["rate-limits"], groups["retries"]]
    assert all(f"`{module}`" in DOCS for module in listed.not_run)
