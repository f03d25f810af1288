import asyncio
import os
import signal
import threading

import pytest

from nbkit.lab.live.stop_button import StopButton


@pytest.fixture(autouse=True)
def idle_kernel():
    """Ignore SIGINT, as a kernel does between two cells."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_within_a_slice_raises_there():
    with pytest.raises(KeyboardInterrupt), StopButton().interrupt_inside():
        press()
        pytest.fail("went on")


def test_a_stop_between_two_slices_is_raised_when_the_loop_has_done_its_work():
    done = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(press)
        loop.call_later(0.001, done.append, "a message")
        with pytest.raises(KeyboardInterrupt):
            await StopButton().sleep_between(0.02)

    asyncio.run(main())
    assert done == ["a message"]


def test_without_a_stop_nothing_is_raised():
    stop = StopButton()
    with stop.interrupt_inside():
        pass
    asyncio.run(stop.sleep_between(0))


def test_a_running_cells_own_handler_is_left_alone():
    """An async cell waits while a slider's training goes on beside it."""
    pressed = []

    def cells_handler(*_):
        pressed.append("cell")

    async def main():
        stop = StopButton()
        signal.signal(signal.SIGINT, cells_handler)
        with stop.interrupt_inside():
            pass
        asyncio.get_running_loop().call_soon(press)
        await stop.sleep_between(0.01)
        assert signal.signal(signal.SIGINT, signal.SIG_IGN) is cells_handler

    asyncio.run(main())
    assert pressed == ["cell"]


def test_another_thread_has_no_signals_and_no_error():
    stop, seen = StopButton(), []

    def work():
        with stop.interrupt_inside():
            asyncio.run(stop.sleep_between(0))
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
