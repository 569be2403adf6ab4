from __future__ import annotations

import os
import signal
import threading

import pytest

from perfsuite.compare.interrupts import Interrupts, interrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_first_signal_ends_the_block_and_the_next_ones_do_nothing(
    number: signal.Signals,
) -> None:
    handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, handler)  # whoever runs the tests may have one of their own
    found: list[Interrupts] = []

    def run() -> None:
        with interrupted() as interrupts:
            found.append(interrupts)
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)  # during the cleanup

    with pytest.raises(KeyboardInterrupt):
        run()
    assert found[0].number == number
    assert found[0].status == 128 + number
    assert signal.signal(number, before) is handler


def test_somebody_elses_handler_stays() -> None:
    taken: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
    try:
        with interrupted() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == [signal.SIGTERM]
    assert interrupts.number is None


def test_off_the_main_thread_nothing_is_changed() -> None:
    found: list[object] = []

    def enter() -> None:
        with interrupted():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
