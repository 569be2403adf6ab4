"""The program that answers for llama.cpp, with a library of ours in its place: what it feeds, and what it tells."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import perfsuite.llama

PROGRAM = Path(perfsuite.llama.__file__).with_name("llama_cpp_worker.py")
LIBRARY = """
class Llama:
    def __init__(self, model, **settings):
        assert (model, settings["n_threads"], settings["n_ctx"]) == ("model.gguf", 2, 64)
    def reset(self):
        self.fed = []
    def eval(self, ids):
        self.fed += ids
    def sample(self, temp):
        assert temp == 0.0
        return sum(self.fed)
"""


def test_each_new_token_is_fed_and_each_is_timed(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text(LIBRARY)
    ours, theirs = socket.socketpair()
    command = [sys.executable, str(PROGRAM), "model.gguf", "2", "64", str(theirs.fileno())]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        with ours, ours.makefile("rw") as lines:
            assert json.loads(lines.readline()) == {"ready": True}
            for _ in range(2):  # from the start again
                lines.write(json.dumps({"ids": [1, 2], "new_tokens": 3}) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
                assert answer["tokens"] == [3, 6, 12]
                assert len(answer["token_s"]) == 2
                assert answer["ttft_s"] > 0
        assert process.wait(20) == 0
