"""The comparison of the native kernel with PyTorch's products: that it runs, and what its tables say."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.needs import needs_kernel

from benchmarks.layers import KERNELS, table
from offline_rl.files import read_sealed

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@needs_kernel
def test_it_measures_each_set_of_instructions_and_shows_the_same_tables_again(tmp_path):
    """Broken by a process that is not kept to its instructions, in PyTorch or in our kernel."""
    out = tmp_path / "layers.json"

    def run(*arguments):
        command = [sys.executable, "-m", "benchmarks.layers", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=300).stdout

    sizes = ["--rounds", 1, "--seconds", 0.0001, "--batches", 8, "--algorithms", "bc", "--modes", "eager"]
    printed = run(*sizes, "--out", out)
    assert printed.endswith(run("--show", out))
    result = read_sealed(out)
    assert result["processes"]["AVX2"]["pytorch"] == result["processes"]["AVX2"]["native"] == "AVX2"
    assert all(own["native"] == name for name, own in result["processes"].items())
    assert len(result["measurements"]) == (7 * 3 + 1) * len(result["processes"])
    assert all(line["milliseconds"][kernel] > 0 for line in result["measurements"] for kernel in KERNELS)


def test_a_cell_is_a_ratio_of_measurements():
    """Broken by the kernels exchanged, a pass in another's column, or instructions mixed up."""

    def line(name, default, own, **about):
        return {"instructions": name, "milliseconds": {"default": default, "native": own}, **about}

    passes = {"network": {"name": "pair", "sizes": [3, 4], "count": 2}, "rows": 1024}
    result = {
        "hardware": "a processor",
        "versions": {"torch": "9"},
        "date": "2031-01-01",
        "rounds": 3,
        "note": "Quiet.",
        "processes": {"AVX2": {"products_gflops": 70.4}, "AVX-512": {"products_gflops": 140.2}},
        "measurements": [
            line("AVX2", 3.0, 2.0, **passes, **{"pass": "forward"}),
            line("AVX-512", 1.0, 0.5, **passes, **{"pass": "forward"}),
            line("AVX2", 8.0, 4.0, algorithm="bc", mode="eager"),
            line("AVX-512", 2.0, 4.0, algorithm="bc", mode="eager"),
        ],
    }
    shown = table(result).splitlines()
    assert "ran at 70 GFLOP/s with AVX2 and 140 GFLOP/s with AVX-512. Quiet." in shown[0]
    assert "| pair, 3-4 | 1,024 | 3.00 / 2.00 = 1.50 | 1.00 / 0.50 = 2.00 |" in shown
    assert shown[-1] == "| bc | eager | 125 | 250 | 2.00 | 500 | 250 | 0.50 |"
