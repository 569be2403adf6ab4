"""A worker that ends when its parent ends: ``python -m runtime.child PARENT FOLDER WORKER-ARGUMENTS``.

Only the standard library until the watch stands: importing torch takes seconds, and a parent may be killed
in any of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from pathlib import Path


def end_with(parent: int, folder: Path | None) -> None:
    """End this process when ``parent`` ends, and remove ``folder``, where the two were to meet."""

    def leave() -> None:
        if folder is not None:
            # Not with all that may lie in it: only the one socket, then the empty folder.
            with contextlib.suppress(OSError):
                (folder / "worker").unlink()
            with contextlib.suppress(OSError):
                folder.rmdir()
        os._exit(1)

    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        leave()
    # The number may have gone to another process before it was opened.
    if os.getppid() != parent:
        leave()

    def wait() -> None:
        select.select([descriptor], [], [])
        leave()

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    end_with(int(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None)
    from runtime.worker import main

    sys.exit(main(sys.argv[3:]))
