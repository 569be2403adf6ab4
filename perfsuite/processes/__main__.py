"""A server's entry: ``python -P .../perfsuite/processes/__main__.py DESCRIPTOR``; see ``child``.

Run as a file, because the interpreter may be another one, in whose environment this package is not.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path


def main(descriptor: int) -> int:
    """Serve over the socket with this descriptor."""
    # This very package, whatever the tree that is measured calls perfsuite; and then no more of its folder.
    home = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, home)
    from perfsuite.processes import child
    from perfsuite.processes.protocol import Lines

    sys.path.remove(home)
    child.end_with_parent()
    return child.serve(Lines(socket.socket(fileno=descriptor)))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
