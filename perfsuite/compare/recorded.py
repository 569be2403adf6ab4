"""The revision whose code a stored recording measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from perfsuite.compare import revisions
from perfsuite.errors import UsageError
from perfsuite.provenance import CHANGED


def revision_of(recorded: Mapping[str, str], folder: Path, baselines: Path) -> revisions.Revision:
    """Return the commit that ``recorded``, a recording's provenance in the file ``baselines``, says.

    Where files differed from it, or it is not in the repository of ``folder`` (a squashed branch's), it is the
    commit that brought the recording there, with the code that was measured.

    Raises:
        UsageError: if neither is there.
    """
    root = revisions.find_root(folder)
    if recorded.get("commit") and CHANGED not in recorded:
        try:
            return revisions.resolve(root, recorded["commit"])
        except UsageError:
            pass  # perhaps it was squashed
    brought = None
    if recorded.get("date") and baselines.resolve().is_relative_to(root):
        text = f'"date": {json.dumps(recorded["date"])}'
        brought = revisions.first_with(root, text, baselines)
    if brought is None:
        raise UsageError(
            f"the commit that was recorded ({recorded.get('commit') or 'none'}) is not here: commit the "
            "baselines, and fetch the whole history (a shallow clone lacks older commits)"
        )
    return brought
