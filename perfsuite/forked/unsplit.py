"""Serves the unsplit model as ``driver`` serves the stages: ``python -m perfsuite.forked.unsplit``.

<- {"ready": true}                                                               once
-> {"open": {"model": "tiny", "dtype": "float32", "tokens": 64, "device": "cpu", "threads": 1, "cpu": 1}}
<- {"pids": [1]}                   then as there, without phases
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from perfsuite.conversation import claim_stdout, send_line
from perfsuite.forked.driver import pin, prompt, serve
from perfsuite.llama.unsplit import DTYPES, load_unsplit, timed_forward
from runtime import load_checkpoint


def main() -> int:
    """Serve until stdin ends."""
    answers = claim_stdout()
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: F401 - for what is forked

    send_line(answers, {"ready": True})
    serve(_unsplit, answers)
    return 0


@contextmanager
def _unsplit(
    options: Mapping[str, Any],
) -> Iterator[tuple[Sequence[int], Callable[[], Mapping[str, Any]]]]:
    import torch

    pin(options["cpu"])
    torch.set_num_threads(int(options["threads"]))
    device = options["device"]
    checkpoint = load_checkpoint(options["model"])
    model = load_unsplit(checkpoint, DTYPES[options["dtype"]], device)
    ids = prompt(checkpoint.config.vocab_size, int(options["tokens"])).to(device)

    def run() -> Mapping[str, Any]:
        seconds, _ = timed_forward(model, ids)
        return {"seconds": seconds, "phases": {}}

    yield (os.getpid(),), run


if __name__ == "__main__":
    sys.exit(main())
