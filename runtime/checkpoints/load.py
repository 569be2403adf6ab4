"""``load_checkpoint``: from a name or a path to an open checkpoint."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from runtime.checkpoints.cache import Cache
from runtime.checkpoints.checkpoint import Checkpoint
from runtime.checkpoints.digest import remembered
from runtime.checkpoints.files import SteadyFile
from runtime.checkpoints.presets import PRESETS
from runtime.checkpoints.progress import Advance, progress_bar
from runtime.errors import CheckpointError

# Goes up when converting a GGUF file would write other bytes than before.
GGUF_VERSION = 3


def load_checkpoint(
    source: str | Path, *, cache_dir: Path | None = None, progress: bool = True
) -> Checkpoint:
    """Opens a preset, a directory in the Hugging Face layout, or a ``.gguf`` file.

    Presets and GGUF files are turned into safetensors once and kept in ``cache_dir``; where that is
    not given, in the folder that the environment variable ``SPLIT_LLAMA_CACHE`` names, or else in
    the user's cache folder. ``progress`` shows a bar meanwhile if standard error is a terminal.

    A name of a preset means the preset; give ``./tiny`` or a ``Path`` for a directory of that name.

    Raises CheckpointError, which names what is unknown, missing, damaged or unsupported.
    """
    cache = Cache(cache_dir)
    # Another process finds in the default cache what it is given by name; in any other, by path.
    findable = cache_dir is None
    if isinstance(source, str) and source in PRESETS:
        preset = PRESETS[source]
        name = preset.name if findable else None
        return _open_made(cache, preset.key, preset.build, name, f"Preparing {source}", progress)
    path = Path(os.path.expanduser(source)).absolute()  # noqa: PTH111 - never raises
    if path.is_dir() and os.fspath(source):
        return Checkpoint(str(path), path, cache)
    if path.is_file() and path.suffix.lower() == ".gguf":
        name = str(path) if findable else None
        key, build = _gguf_key(path, cache), _gguf_build(path)
        return _open_made(cache, key, build, name, f"Converting {path.name}", progress)
    raise _unknown(os.fspath(source), path)


def _open_made(
    cache: Cache,
    key: str,
    build: Callable[[Path, Advance], None],
    source: str | None,
    title: str,
    progress: bool,
) -> Checkpoint:
    """Opens the cache's folder ``key``; fills it first, and takes its digest, if it is new."""
    new = key not in cache
    with progress_bar(title, shown=progress and new) as advance:
        directory = cache.obtain(key, lambda folder: build(folder, advance))
        checkpoint = Checkpoint(source or str(directory), directory, cache)
        if new:
            checkpoint.digest  # noqa: B018 - hashed now, while a bar is shown, and remembered
    return checkpoint


def _gguf_key(path: Path, cache: Cache) -> str:
    file = SteadyFile(path)
    content = remembered(cache, "file", [file], file.sha256)
    return f"gguf-{content[:32]}-v{GGUF_VERSION}"


def _gguf_build(path: Path) -> Callable[[Path, Advance], None]:
    def build(directory: Path, advance: Advance) -> None:
        from runtime.checkpoints.conversion import convert_gguf

        convert_gguf(path, directory)

    return build


def _unknown(source: str, path: Path) -> CheckpointError:
    if source and path.exists():
        return CheckpointError(f"{path} is neither a directory nor a .gguf file")
    message = f"{source!r} is neither a preset ({', '.join(PRESETS)}) nor an existing path"
    close = difflib.get_close_matches(source, PRESETS, n=1)
    return CheckpointError(f"{message}; did you mean {close[0]!r}?" if close else message)
