"""``python -m runtime "prompt"``: see ``runtime.command``."""

import sys

from runtime.command import main

if __name__ == "__main__":
    sys.exit(main())
