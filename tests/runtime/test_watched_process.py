"""Programs in processes of their own: what they are given."""

from __future__ import annotations

import os
import sys

import pytest

from runtime.watched_process import environment, import_paths


def test_of_an_environment_only_what_computing_needs_is_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {
        "PATH": "/bin",
        "HOME": "/home/a",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "7",
        "SPLIT_LLAMA_CACHE": "/c",
        "GITHUB_TOKEN": "secret",
        "SSH_AUTH_SOCK": "secret",
        "HF_TOKEN": "secret",
        "OMPX": "not OMP_",
        "PATHOLOGICAL": "not PATH",
    }
    monkeypatch.setattr(os, "environ", own)
    passed = environment(3)
    assert passed.pop("GOMP_SPINCOUNT").isdecimal()
    assert passed.pop("OMP_NUM_THREADS") == "3"
    assert passed == {
        name: own[name]
        for name in ("PATH", "HOME", "LC_ALL", "CUDA_VISIBLE_DEVICES", "SPLIT_LLAMA_CACHE")
    }


def test_a_worker_imports_from_nowhere_that_moves_with_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", ["", ".", "src", "/absolute", "/other"])
    assert import_paths() == ["/absolute", "/other"]
