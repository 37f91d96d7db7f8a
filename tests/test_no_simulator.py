"""The tutorial without a simulator, run as it stands there, only smaller; and what it shows of the log, in full."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import offline_rl as orl
from offline_rl.cli.main import main

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "no_simulator.md").read_text()
BLOCKS = re.findall(r"^```(bash|python|text)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SMALLER = {
    "train": ["--steps", "30", "--hidden_dims", "8", "--batch_size", "8", "--workers", "0"],
    "estimate": ["--updates", "20", "--members", "2", "--hidden_dims", "8"],
}


def shortened(words):
    """Return a command with smaller values of the options that decide how long it takes."""
    added = SMALLER.get(words[0], [])
    names, kept, given = set(added[::2]), [], None
    for word in words:
        given = word if word.startswith("--") else given
        if given not in names:
            kept.append(word)
    return [*kept, *added]


@pytest.fixture
def carry_out(tmp_path, monkeypatch, capsys):
    """Give what carries out the next line of the page in an empty folder and returns its status and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    def carry_out(line):
        program, *words = shlex.split(line)
        if program == "offline-rl":
            status = main(shortened(words))
        else:
            assert program == "python", line
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
            status = 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return carry_out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_way_as_the_page_goes_it(tmp_path, carry_out):
    """Broken by an option or a file that a command does not know, and by a check or a drift that tells otherwise."""
    printed, served = {}, 0
    for language, block in BLOCKS:
        if language == "python":
            exec(block, {"orl": orl})
        elif language == "bash":
            for line in re.sub(r"\\\n *", "", block).splitlines():
                if not line or line.startswith("#"):
                    continue
                if "serve_onnx" in line or line.startswith("curl"):
                    served += 1  # tests/test_examples.py serves a policy
                    continue
                status, printed[line], error = carry_out(line)
                drifted = line.startswith("offline-rl drift") and "are not like" in printed[line]
                assert status == int(drifted), f"{line}: {error}"
    assert served == 2
    checks = [printed["offline-rl datasets log.csv --check"], printed["offline-rl datasets tank.csv --check"]]
    shown = [block for language, block in BLOCKS if language == "text"]
    assert [text for text in checks if text not in shown] == []
    assert "0 warnings, 0 notes" in checks[1]
    tables = [text for line, text in printed.items() if line.startswith("offline-rl drift")]
    before_the_agent = tables[:2]
    assert before_the_agent == [text for text in shown if text in before_the_agent]
    answers = [text.startswith("Nothing shows") for text in before_the_agent]
    assert answers == [True, False]
    assert len(orl.load_dataset(tmp_path / "tank.csv")) > 29_000
