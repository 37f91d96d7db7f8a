import logging
import math

import pytest

from offline_rl.tracking import progress
from offline_rl.tracking.progress import Progress, fitted, spread_of


@pytest.fixture
def lines(caplog):
    """Give the lines that are logged."""
    caplog.set_level(logging.INFO, "offline_rl")
    return caplog


@pytest.fixture
def clock(monkeypatch):
    """Give a clock that stands until it is moved."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run(shown, clock, start, steps, *, speed, every=0.25):
    """Make updates at an even speed and look at them as often as a trainer does."""
    made, chunk = start, max(1, int(speed * every))
    while made < steps:
        chunk = min(chunk, steps - made)
        made, clock[0] = made + chunk, clock[0] + chunk / speed
        shown.at(made)


def test_a_slow_beginning_is_forgotten_and_promises_nothing(clock, lines):
    """Compiling takes minutes in which a few updates are made."""
    shown = Progress(100_000, 0)
    said = []
    for seconds, step in ((200, 1), (390, 2), (580, 3), (580.3, 4)):
        clock[0] = seconds
        shown.at(step)
        said += shown._statuses()
    assert set(said) == {""}
    run(shown, clock, 4, 604, speed=100)
    assert shown._statuses()[0] == "100 updates/s  16:33 left"


def test_slow_updates_have_a_speed_all_the_same(clock):
    shown = Progress(1000, 0)
    run(shown, clock, 0, 12, speed=0.5)
    assert shown._statuses()[0] == "0.5 updates/s  32:56 left"


def test_a_run_that_goes_on_counts_its_own_updates(clock, lines):
    shown = Progress(10_000, 9_000)
    run(shown, clock, 9_000, 9_900, speed=10, every=0.5)
    assert lines.messages == ["step 9,600/10,000  10 updates/s  0:40 left"]


def test_without_a_terminal_a_run_has_a_hundred_lines_at_most(clock, lines):
    """Whatever it takes, and however often it is evaluated."""
    shown = Progress(1_000_000, 0)
    shown.score(0, [1.0])
    for step in range(5000, 1_000_001, 5000):
        run(shown, clock, step - 5000, step, speed=200, every=2.5)
        shown.score(step, [step / 1e5])
    assert 40 < len(lines.messages) <= 102
    assert lines.messages[0] == "evaluated: score 1.0 at 0"
    assert lines.messages[-2].startswith("step 1,000,000/1,000,000  200 updates/s")
    assert lines.messages[-1] == "evaluated: score 10.0 at 1,000,000"


def test_a_short_run_has_a_line_for_each_evaluation_and_one_at_its_end(clock, lines):
    shown = Progress(1000, 0)
    for step in (0, 250, 500, 750):
        run(shown, clock, step, step + 250, speed=100)
        shown.score(step, [1.0, 3.0])
    kinds = [message.split()[0] for message in lines.messages]
    assert kinds == ["evaluated:", "evaluated:", "evaluated:", "step", "evaluated:"]


SCORES = [6.3, 11.7, 7.6, 7.5, 4.6, 9.9]


@pytest.mark.parametrize(
    ("scores", "alike", "text"),
    [
        ([22.31], True, "22.3"),
        (SCORES, True, "7.9 (4.6 to 11.7)"),
        (SCORES, False, "4.6 to 11.7"),
        ([None], True, "diverged"),
        ([None, math.nan], True, "diverged"),
        ([None, 3.0], True, "3.0 (1 of 2 diverged)"),
        ([None, 3.0, 5.0], True, "4.0 (3.0 to 5.0, 1 of 3 diverged)"),
        ([None, 3.0, 5.0], False, "3.0 to 5.0, 1 of 3 diverged"),
    ],
)
def test_scores_of_several_agents_are_few_words(scores, alike, text):
    assert spread_of(scores, alike) == text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_line_of_the_bar_keeps_bar_step_and_time_left(clock, width):
    """Broken by losses, or the scores of six seeds, that push out what matters more."""
    shown = Progress(1_000_000, 0)
    shown.losses(1000, [{"actor_loss": 0.1912, "critic_loss": 2.0, "q": 3.0}] * 6)
    shown.score(1000, SCORES)
    run(shown, clock, 0, 2000, speed=111)
    bar, status = fitted(width, "2,000/1,000,000", shown._statuses())
    assert bar >= progress.SHORTEST_BAR
    assert bar + len("2,000/1,000,000") + 2 + len(status) <= width
    assert status.endswith("2:29:50 left")
    assert ("7.9 (4.6 to 11.7)" in status) == (width >= 80)
    assert ("actor_loss 0.191  critic_loss 2 (mean to 1,000)" in status) == (width >= 160)


def test_a_terminal_too_narrow_for_anything_gets_no_more_than_fits():
    bar, status = fitted(30, "1,000/10,000", ["0:29 left, and more"])
    assert bar + 12 + 2 + len(status) == 30
