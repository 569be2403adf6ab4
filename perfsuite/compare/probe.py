"""A script: what a fresh interpreter imports from. ``python -P probe.py REQUEST`` prints JSON.

Run as a file by the interpreter that is asked about, in whose environment this package may not be; so it
imports nothing but the standard library, and of what it finds nothing at all.

{"survey": [names]} is answered by its path, its folders of installed packages, its editable installs' finders
and the distributions that were installed from a local file or bear one of the names; {"locate": [modules]} by
where each module would come from, null where from nowhere.
"""

from __future__ import annotations

import json
import re
import site
import sys
from importlib import metadata, util
from typing import Any


def survey(names: list[str]) -> dict[str, Any]:
    """Return what this interpreter imports from."""
    sites = site.getsitepackages()
    if site.ENABLE_USER_SITE and site.USER_SITE:
        sites.append(site.USER_SITE)
    return {
        "path": sys.path,
        "sites": [folder for folder in sites if folder in sys.path],
        "prefix": sys.prefix,
        "finders": [finder for one in sys.meta_path if (finder := _finder(one)) is not None],
        "distributions": [
            found for one in metadata.distributions() if (found := _distribution(one, names))
        ],
    }


def _finder(finder: object) -> dict[str, Any] | None:
    """Return what is known of a finder that somebody has installed."""
    name = str(getattr(finder, "__module__", ""))
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name.partition(".")[0] in sys.stdlib_module_names or not file:
        return None
    # As setuptools writes them, and the library "editables".
    mapping = getattr(module, "MAPPING", None) or getattr(finder, "_redirections", None)
    return {
        "module": name,
        "file": file,
        "mapping": mapping if isinstance(mapping, dict) else None,
        "placeholder": getattr(module, "PATH_PLACEHOLDER", None),
    }


def _distribution(one: metadata.Distribution, names: list[str]) -> dict[str, Any] | None:
    try:
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        direct = json.loads(one.read_text("direct_url.json") or "{}")
    except (TypeError, ValueError, KeyError):  # what is damaged is nobody's
        return None
    url = str(direct.get("url", ""))
    if name not in names and not url.startswith("file:"):
        return None
    return {
        "name": name,
        "url": url,
        "subdirectory": str(direct.get("subdirectory") or ""),
        "editable": bool(direct.get("dir_info", {}).get("editable")),
        "files": [str(one.locate_file(file)) for file in one.files or []],
    }


def locate(modules: list[str]) -> dict[str, str | None]:
    """Return the file or folder that each module would come from."""
    return {module: _place(module) for module in modules}


def _place(module: str) -> str | None:
    place = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        # What lies above is imported by this: namespaces alone, which have no code.
        try:
            spec = util.find_spec(".".join(parts[:count]))
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        if spec.origin and spec.has_location:
            return spec.origin
        place = next(iter(spec.submodule_search_locations or ()), None)
    return place


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    answer = locate(request["locate"]) if "locate" in request else survey(request["survey"])
    print(json.dumps(answer))
