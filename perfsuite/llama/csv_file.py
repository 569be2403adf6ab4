"""The ladder as a table for other programs: a line for each stage and for the unsplit models, seconds and bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from perfsuite.llama.results import PHASES, Interval, LadderResult
from perfsuite.llama.rows import BUDGETS, unsplit_name


def as_csv(result: LadderResult) -> str:
    """Return ``result`` as comma-separated values with a header; what a row does not have is empty."""
    rows: list[Mapping[str, Any]] = [
        {
            "name": row["name"],
            "dtype": row["dtype"],
            **{f"latency_{key}_s": row["latency_s"][key] for key in ("median", "low", "high")},
            **_ratio("vs_baseline", row["vs_baseline"], row["vs_baseline_interval"]),
            **_ratio("vs_unsplit", row["vs_unsplit"], row["vs_unsplit_interval"]),
            **{name: row[name] for name in BUDGETS},  # type: ignore[literal-required]
            **{f"{phase}_s": row["phases_s"][phase] for phase in PHASES},
        }
        for row in result["stages"]
    ]
    unsplit = [
        {
            "name": unsplit_name(dtype),
            "dtype": dtype,
            **{f"latency_{key}_s": row["latency_s"][key] for key in ("median", "low", "high")},
        }
        for dtype, row in result["unsplit"].items()
    ]
    of_run = {name: result[name] for name in ("model", "tokens", "device", "rounds")}
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in (*rows, *unsplit) for name in row))
    writer = csv.DictWriter(text, [*names, *of_run], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, **of_run} for row in (*rows, *unsplit))
    return text.getvalue()


def _ratio(name: str, value: float | None, interval: Interval | None) -> dict[str, float | None]:
    ends = interval or {"low": None, "high": None}
    return {name: value, f"{name}_low": ends["low"], f"{name}_high": ends["high"]}
