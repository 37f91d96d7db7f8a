"""The benchmark of speed: what it counts, what it shows, and that it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.arithmetic import flops_of_update
from benchmarks.throughput_table import draw, own_lines, table
from offline_rl.files import read_sealed

ROOT = Path(__file__).parent.parent
FILES = {
    name: ROOT / "results" / "throughput" / f"{name}.json" for name in ("cpu", "gpu", "references", "references-avx2")
}


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.throughput", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)


def test_counted_operations_are_those_that_an_update_needs():
    """Fails if products go unseen, or if the delayed actor is counted in every update."""
    state, action, width, rows = 17, 6, 256, 256
    actor = state * width + width * width + width * action
    critic = (state + action) * width + width * width + width
    # A pass through; backward a product for each weight, and one for each layer's input but the first.
    critics = actor + 2 * critic + 2 * (critic + critic + critic - (state + action) * width)
    policy = actor + critic + critic + actor + actor - state * width
    assert flops_of_update("td3_bc") == 2 * rows * (critics + policy // 2)


@pytest.mark.parametrize("name", FILES)
def test_a_committed_file_is_shown_as_its_table(name, capsys, monkeypatch):
    from benchmarks.throughput import main

    monkeypatch.setattr(sys, "argv", ["throughput", "--show", str(FILES[name])])
    main()
    shown, result = capsys.readouterr().out, read_sealed(FILES[name])
    assert shown == f"{table(result)}\n"
    assert shown.startswith(result["device"] if name == "gpu" else "One agent")
    first = result["measurements"][0]
    assert first["share_of_roofline"] == pytest.approx(
        first["updates_per_second"] / first["roofline_updates_per_second"], rel=0.01
    )


def test_the_committed_picture_is_drawn_from_the_committed_file(tmp_path):
    result = read_sealed(FILES["cpu"])
    for name in ("one", "two"):
        draw(result, tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (FILES["cpu"].with_suffix(".png")).read_bytes().startswith(b"\x89PNG")


def test_a_way_that_fails_is_named_in_both_tables():
    result = json.loads(FILES["cpu"].read_text())
    ways = next(iter(own_lines(result).values()))
    for line in ways.values():
        line["error"] = "no"
    assert "| failed |" in table(result)


def test_other_programs_stand_beside_ours_with_how_many_times_as_fast_ours_is():
    """Broken by a ratio of eager updates, of another kernel, or the wrong way round."""
    rows = {
        ("td3_bc", "eager", "default"): 90,
        ("td3_bc", "eager", "native"): 100,
        ("td3_bc", "compile", "native"): 300,
    }
    own = {"members": 1, "cores": 1, "data": "synthetic"}
    lines = [
        {**own, "algorithm": name, "mode": mode, "kernel": kernel, "updates_per_second": rate}
        for (name, mode, kernel), rate in rows.items()
    ]
    others = [
        {"name": name, "measurements": [{"algorithm": "td3_bc", "updates_per_second": rate}]}
        for name, rate in (("plain PyTorch 2", 150.0), ("JAX 3", 200.0))
    ]
    about = {"hardware": "a", "kernel": "native", "versions": {"torch": "2"}, "date": "d", "rows": 9, "windows": 1}
    about |= {"products_gflops": {"1 float32": 1.0}, "note": "", "measurements": lines, "references": others}
    assert table(about).splitlines()[2:] == [
        "| algorithm | ours, eager | ours, compiled | plain PyTorch 2 | JAX 3 | times plain PyTorch | times JAX |",
        "|---|---|---|---|---|---|---|",
        "| td3_bc | 100 | 300 | 150 | 200 | 2.00 | 1.50 |",
    ]
    about["competitor"] = {"name": "d3rlpy 4", "measurements": []}
    assert table(about).splitlines()[4] == "| td3_bc | 100 | 300 | 150 | 200 | - | 2.00 | 1.50 | - |"


@pytest.mark.slow
def test_the_benchmark_runs_and_keeps_what_fails(tmp_path):
    """Fails if one setting's error ends the others', or if ways are measured under one name."""
    out, chart = tmp_path / "cpu.json", tmp_path / "cpu.png"
    sizes = ["--rows", 500, "--windows", 1, "--seconds", 0.05, "--members", "--warmup", 4, "--modes", "eager"]
    done = run("--algorithms", "nobody", "bc", "prdc", *sizes, "--out", out, "--chart", chart)
    assert done.returncode == 0, done.stderr
    result = read_sealed(out)
    assert done.stdout.endswith(f"{table(result)}\n")
    assert chart.read_bytes().startswith(b"\x89PNG")
    lines = own_lines(result)
    assert len(lines["bc"]) == len(lines["prdc"]) >= 1
    for line in lines["bc"].values():
        assert 0 < line["share_of_roofline"] < 3
        assert line["updates_per_second"] == pytest.approx(1e3 / line["window_milliseconds"][0], rel=0.01)
    assert all("error" in line for line in lines["nobody"].values())
    prdc = [line for line in result["measurements"] if line["algorithm"] == "prdc"]
    assert all(line["data"] == "hopper-demo" and 0 <= line["certified"] <= 1 for line in prdc)
