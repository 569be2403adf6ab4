"""Where a figure comes from: the commit and the time of now."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path


def provenance(
    folder: Path | None = None, versions: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the commit that is checked out in ``folder``, empty where there is none, the time, and ``versions``."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607 - whichever git the user has
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    now = datetime.now(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
    return {"commit": commit, "date": now, **(versions or {})}
