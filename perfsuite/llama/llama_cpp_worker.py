"""llama.cpp as a program that answers, in an environment of its own: only ``llama_cpp`` is imported here.

Started by ``beside_llama_cpp`` with the interpreter of that environment. Lines of JSON on a socket:

    -> {"ids": [1, 2, 3], "new_tokens": 2}    <- {"ttft_s": 0.01, "token_s": [0.01], "tokens": [4, 5]}
"""

import json
import socket
import sys
import time

from llama_cpp import Llama  # type: ignore[import-not-found]


def main() -> None:
    """Serve until the other end is closed."""
    model, threads, context, descriptor = sys.argv[1:]
    lines = socket.socket(fileno=int(descriptor)).makefile("rw")
    llama = Llama(
        model, n_ctx=int(context), n_threads=int(threads), n_threads_batch=int(threads), n_batch=2048,
        n_ubatch=2048, verbose=False,
    )  # fmt: skip
    _say(lines, {"ready": True})
    for line in lines:
        request = json.loads(line)
        _say(lines, _answer(llama, request["ids"], request["new_tokens"]))


def _answer(llama: "Llama", fed: "list[int]", new_tokens: int) -> "dict[str, object]":
    llama.reset()
    tokens, seconds = [], []
    for _ in range(new_tokens):
        started = time.perf_counter()
        llama.eval(fed)
        tokens.append(llama.sample(temp=0.0))
        seconds.append(time.perf_counter() - started)
        fed = tokens[-1:]
    return {"ttft_s": seconds[0], "token_s": seconds[1:], "tokens": tokens}


def _say(lines: object, answer: "dict[str, object]") -> None:
    lines.write(json.dumps(answer) + "\n")  # type: ignore[attr-defined]
    lines.flush()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
