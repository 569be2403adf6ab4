"""The revision whose code a stored recording measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from perfsuite.compare import revisions
from perfsuite.errors import UsageError
from perfsuite.provenance import CHANGED

_COMMIT = re.compile("[0-9a-f]{7,40}")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ")


def revision_of(recorded: Mapping[str, str], folder: Path, baselines: Path) -> revisions.Revision:
    """Return the commit that ``recorded``, a recording's provenance in the file ``baselines``, says.

    Where files differed from it, or it is not in the repository of ``folder`` (a squashed branch's), it is the
    commit that brought the recording there, with the code that was measured.

    Raises:
        UsageError: if neither is there.
    """
    root = revisions.find_root(folder)
    commit, date = recorded.get("commit", ""), recorded.get("date", "")
    # Of a file that anybody may have edited: a branch's name, or an option of git's, is no commit.
    known = _COMMIT.fullmatch(commit) is not None
    if known and CHANGED not in recorded:
        try:
            return revisions.resolve(root, commit)
        except UsageError:
            pass  # perhaps it was squashed
    brought = None
    if _DATE.fullmatch(date) and baselines.resolve().is_relative_to(root):
        brought = revisions.first_with(root, f'"date": {json.dumps(date)}', baselines)
    if brought is None:
        raise UsageError(
            f"the commit that was recorded ({commit if known else 'none'}) is not here: commit the "
            "baselines, and fetch the whole history (a shallow clone lacks older commits)"
        )
    return brought
