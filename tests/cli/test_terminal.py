"""A command shows what the library logs, and leaves a program that has called it as it was."""

import contextlib
import logging
import warnings

import pytest

from offline_rl.cli import main as cli

logger = logging.getLogger("offline_rl")


@pytest.fixture
def talking(monkeypatch):
    """Give a command that says something in each way."""

    def says(_):
        logging.getLogger("offline_rl.training.run").info("resumed at step %d", 5)
        logging.getLogger("offline_rl.training.run").debug("a detail")
        warnings.warn("seed-0 has diverged", stacklevel=1)
        print("a result")

    monkeypatch.setitem(cli.COMMANDS, "algos", says)


def test_a_command_shows_the_log_and_warnings_plainly_on_standard_error(talking, capsys):
    assert cli.main(["algos"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "resumed at step 5\nwarning: seed-0 has diverged\n"
    assert printed.out == "a result\n"


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_all_is_as_it_was(talking, monkeypatch, capsys, fails):
    def raises(_):
        raise SystemExit(3)

    if fails:
        monkeypatch.setitem(cli.COMMANDS, "algos", raises)
    before = warnings.showwarning, logger.level, [*logger.handlers]
    with pytest.raises(SystemExit) if fails else contextlib.nullcontext():
        cli.main(["algos"])
    assert before == (warnings.showwarning, logger.level, [*logger.handlers])


def test_a_library_says_nothing_by_itself(capsys):
    logger.info("a remark")
    logger.error("an error")
    assert capsys.readouterr() == ("", "")
