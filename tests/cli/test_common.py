"""What commands print on a terminal, and elsewhere."""

import os
import re
import subprocess
import sys

import pytest

from offline_rl.analysis.tables import markdown
from offline_rl.cli.common import show

HEAD = ["dataset", "method", "score", "return", "verdict"]
ROWS = [["hopper", "td3_bc", "11.0 ± 2.5", "360.0 ± 30.7", "more than noise"], ["[red]", "b|c", "–", "–", "unknown"]]
TEXT = f"{markdown(HEAD, ROWS)}\n\nMeans over {'seeds ' * 12}here.\n\n  offline-rl train td3_bc {'--option ' * 12}"


def on_terminal(width):
    """Return what a terminal of this width is sent."""
    ours, theirs = os.openpty()
    code = f"from offline_rl.cli.common import show; show({TEXT!r})"
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=environment) as process:
        os.close(theirs)
        sent = b""
        try:
            while part := os.read(ours, 4096):
                sent += part
        except OSError:  # what reading says when the other side has gone
            pass
    os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[\d;]*m", "", sent.decode()).replace("\r\n", "\n").splitlines()


def test_without_a_terminal_a_table_is_markdown(capsys):
    show(TEXT)
    assert capsys.readouterr().out == f"{TEXT}\n"


@pytest.mark.parametrize("width", [100, 40])
def test_on_a_terminal_a_table_is_drawn_within_its_width(width):
    *lines, command = on_terminal(width)
    assert not any(line.startswith("|") for line in lines)
    assert max(map(len, lines)) <= width
    assert command == f"  offline-rl train td3_bc {'--option ' * 12}"
    text = " ".join("\n".join(lines).split())
    # All columns of a wide one, else as many tables as it takes; each tells of which row it is.
    assert [line.split()[:2] for line in lines].count(["hopper", "td3_bc"]) == (1 if width == 100 else 2)
    for cell in ("11.0 ± 2.5", "360.0 ± 30.7", "more than noise", "[red]", "b|c", "Means over seeds"):
        assert cell in text
