import logging

import pytest

from offline_rl.tracking import progress


@pytest.fixture
def lines(caplog):
    """Give the lines that are logged."""
    caplog.set_level(logging.INFO, "offline_rl")
    return caplog


def test_a_slow_beginning_is_forgotten(monkeypatch, lines):
    """Compiling takes minutes in which a few updates are made; what is left goes by the speed after it."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = progress.Progress(10_000, 0)
    for seconds, step in ((200, 4), (210, 1004), (230, 3004), (260, 6004), (270, 7004)):
        clock[0] = seconds
        shown.at(step)
    assert lines.messages[0].startswith("step 4/10,000  0 updates/s")
    assert lines.messages[-1] == "step 7,004/10,000  100 updates/s  0:29 left"


def test_a_run_that_goes_on_counts_its_own_updates(monkeypatch, lines):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = progress.Progress(10_000, 9_000)
    clock[0] = 20.0
    shown.at(9_200)
    assert lines.messages == ["step 9,200/10,000  10 updates/s  1:20 left"]
