"""K25: a machine that has no thread left."""

import threading
from concurrent.futures import wait

import pytest

from tortie.lib.threads import SteadyExecutor


def test_work_waits_for_the_threads_that_there_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []
    with SteadyExecutor() as executor:
        release = threading.Event()
        with monkeypatch.context() as patch:

            def refuse(_: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", refuse)
            waiting = executor.submit(release.wait)
            others = [executor.submit(done.append, number) for number in range(3)]
            assert not any(one.done() for one in others)
            release.set()
            wait([waiting], timeout=10)
            wait(others, timeout=10)
        assert done == [0, 1, 2], "each once"
        held = threading.Event()
        first = executor.submit(held.wait, 10)
        executor.submit(held.set).result(10)
        assert first.result(10), "and then there is another thread"
    assert sum("can't start new thread" in one.message for one in caplog.records) == 1
