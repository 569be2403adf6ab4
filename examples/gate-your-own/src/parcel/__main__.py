"""``python -m parcel FOLDER BLOCK``: packs the files of a folder, as small as it can."""

import sys
from pathlib import Path

from parcel import pack

folder, block = map(Path, sys.argv[1:])
files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
block.write_bytes(pack(files, small=True))
