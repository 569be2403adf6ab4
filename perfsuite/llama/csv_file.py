"""The ladder as a table for other programs: a line for each stage and for the unsplit models, seconds and bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from perfsuite.llama.results import PHASES, Generated, Ladder, Latency
from perfsuite.llama.rows import BUDGETS, unsplit_name
from perfsuite.schema import Interval


def as_csv(ladder: Ladder) -> str:
    """Return ``ladder`` as comma-separated values with a header.

    What a row does not have is empty; so are the ends of intervals where one round was run.
    """
    rows: list[Mapping[str, Any]] = [
        {
            "name": row.name,
            "dtype": row.dtype,
            **_latency(row.latency_s),
            **_ratio("vs_baseline", row.vs_baseline, row.vs_baseline_interval),
            **_ratio("vs_unsplit", row.vs_unsplit, row.vs_unsplit_interval),
            **{name: getattr(row, name) for name in BUDGETS},
            **{f"{phase}_s": row.phases_s[phase] for phase in PHASES},
            **_generated(row.generated),
        }
        for row in ladder.stages
    ]
    rows += [
        {
            "name": unsplit_name(dtype),
            "dtype": dtype,
            **_latency(row.latency_s),
            **_generated(row.generated),
        }
        for dtype, row in ladder.unsplit.items()
    ]
    of_run = {name: getattr(ladder, name) for name in ("model", "tokens", "device", "rounds")}
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, [*names, *of_run], lineterminator="\n")
    writer.writeheader()
    ends = [name for name in names if "_low" in name or "_high" in name]
    unknown = dict.fromkeys(ends) if ladder.rounds == 1 else {}
    writer.writerows({**row, **unknown, **of_run} for row in rows)
    return text.getvalue()


def _latency(latency: Latency) -> dict[str, float]:
    return {f"latency_{key}_s": getattr(latency, key) for key in ("median", "low", "high")}


def _ratio(name: str, value: float | None, interval: Interval | None) -> dict[str, float | None]:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _generated(made: Generated | None) -> dict[str, float | None]:
    if made is None:
        return {}
    return {
        "new_tokens": made.new_tokens,
        "ttft_s": made.ttft_s.median,
        "tpot_s": made.tpot_s.median,
        "tpot_p95_s": made.tpot_p95_s,
        **_ratio("tpot_vs_unsplit", made.vs_unsplit, made.vs_unsplit_interval),
        **{f"{name}_per_token": getattr(made, f"{name}_per_token") for name in BUDGETS},
    }
