"""Where a figure comes from: the commit and the time of now."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

CHANGED = "changed"  # is there where files differed from the commit, with what this says


def provenance(
    folder: Path | None = None,
    versions: Mapping[str, str] | None = None,
    *,
    but: Path | None = None,
) -> dict[str, str]:
    """Return the commit that is checked out in ``folder``, empty where there is none, the time, and ``versions``.

    Where tracked files differ from the commit, ``but`` left aside, it says so.
    """
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    now = datetime.now(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
    found = {"commit": commit, "date": now, **(versions or {})}
    aside = [] if but is None else [f":(exclude){but.resolve()}"]
    if commit and _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", *aside):
        found[CHANGED] = "files differed from the commit"
    return found


def _git(folder: Path | None, *arguments: str) -> str:
    """Return what git prints; nothing where there is no git or no repository."""
    try:
        return subprocess.run(
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
