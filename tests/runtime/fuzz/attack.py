"""One target under libFuzzer: ``python -m tests.runtime.fuzz.attack TARGET FOLDER [LIBFUZZER-OPTIONS]``.

The process ends without any clean-up; ``FOLDER`` and its process group are the caller's to remove.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is missing: pip install -c constraints.txt -e '.[fuzz]'")

# Only what is imported here is instrumented, and of that only these packages: more would take minutes.
with atheris.instrument_imports(include=["runtime", "gguf"]):
    import runtime.checkpoints.gguf  # noqa: F401
    from tests.runtime.fuzz.mutations import WORDS
    from tests.runtime.fuzz.targets import CORPUS, TARGETS

_LIMITS = ("-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1")


def _literal(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def main(name: str, folder: Path, *options: str) -> None:
    """Attack until the options say that it is enough; does not return."""
    target = TARGETS[name]
    words, found, attacked = folder / "words", folder / "found", folder / "attacked"
    words.write_text("".join(map(_literal, WORDS)))
    found.mkdir()
    attacked.mkdir()
    with target.open(attacked) as run:

        def attack(data: bytes) -> None:
            run(data)

        corpora = (str(found), str(CORPUS / target.corpus))
        atheris.Setup([sys.argv[0], *_LIMITS, f"-dict={words}", *options, *corpora], attack)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
