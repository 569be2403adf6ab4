"""Idle teams of threads: as many as make OpenMP's waiting threads sleep, and none afterwards."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from runtime.openmp import IdleTeams


def holders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "idle-team"]


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 96])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_there_are_more_threads_than_cores_and_no_more_teams_than_that_takes(
    threads: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(IdleTeams, "_hold", lambda self: self._end.wait())
    with IdleTeams():
        teams = len(holders())
    if threads == 1:  # no thread waits for another
        assert teams == 0
        return
    managed = threads + teams * (threads - 1)
    assert managed > cores
    assert teams == 1 or managed - (threads - 1) <= cores


def test_they_end_with_the_context_also_by_an_error() -> None:
    before = len(holders())
    with pytest.raises(KeyError, match="of the caller's"), IdleTeams():
        raise KeyError("of the caller's")
    assert len(holders()) == before


def test_operations_are_computed_as_before_meanwhile() -> None:
    x = torch.arange(1 << 19, dtype=torch.float32)
    expected = x * 2 + 1
    with IdleTeams(), IdleTeams():
        assert torch.equal(x * 2 + 1, expected)
