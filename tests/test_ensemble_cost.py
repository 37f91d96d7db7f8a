"""The benchmark of ensembles: that it runs, and that its table and picture are of the committed file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ensemble_cost import draw, table
from offline_rl.files import read_sealed

ROOT = Path(__file__).parent.parent
FILE = ROOT / "results" / "throughput" / "ensembles.json"


@pytest.mark.slow
def test_it_measures_and_shows_the_same_table_again(tmp_path):
    out = tmp_path / "ensembles.json"

    def run(*arguments):
        command = [sys.executable, "-m", "benchmarks.ensemble_cost", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=300).stdout

    printed = run("--critics", 2, 3, "--updates", 1, "--out", out)
    assert run("--show", out) == printed[printed.index("CPU milliseconds") :]
    result = read_sealed(out)
    assert [(line["algorithm"], line["critics"]) for line in result["measurements"]] == [
        *(("sac_n", 2), ("edac", 2)),
        *(("sac_n", 3), ("edac", 3)),
    ]
    assert all(line["cpu_milliseconds"] > 0 for line in result["measurements"])


def test_a_cell_is_a_ratio_of_measurements():
    """Broken by a ratio to another line, or the algorithms exchanged."""
    result = json.loads(FILE.read_text())
    result["measurements"] = [
        {"algorithm": name, "critics": n, "cpu_milliseconds": ms, "told_megabytes": n, "taken_megabytes": 2 * n}
        for name, n, ms in (("sac_n", 2, 4.0), ("edac", 2, 6.0), ("sac_n", 10, 20.0), ("edac", 10, 40.0))
    ]
    assert table(result).splitlines()[-2:] == [
        "| 2 | 4 | 1.0 | 6 | 1.5 | 2 | 4 | 4 |",
        "| 10 | 20 | 5.0 | 40 | 2.0 | 10 | 20 | 20 |",
    ]


def test_the_committed_picture_is_drawn_from_the_committed_file(tmp_path):
    for name in ("one", "two"):
        draw(read_sealed(FILE), tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert FILE.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_told_is_less_than_what_is_taken_where_critics_are_many():
    """Memory is told as "at least": what is told must be no more than what was needed, and not much less."""
    lines = [line for line in read_sealed(FILE)["measurements"] if line["critics"] >= 50]
    assert len(lines) == 8
    for line in lines:
        assert line["told_megabytes"] <= 1.05 * line["taken_megabytes"] <= 2 * line["told_megabytes"], line
