"""A suite: what is missing is trained, what is there is kept, what was killed goes on, and the table says it all."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.records import made
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.agent import find_algorithm
from offline_rl.benchmark import check, collect, missing, read_suite, result_paths, suite_table
from offline_rl.cli.benchmark import _Watch
from offline_rl.cli.main import main
from offline_rl.files import read_sealed, sealed, write_json
from offline_rl.training.checkpoint import Checkpoint

ROOT = Path(__file__).parent.parent
SMALL = """
datasets: [hopper-demo]
options: {seeds: [0, 1], steps: 30, log_every: 10, eval_every: 0, final_episodes: 2, workers: 0}
methods:
  wide: {algorithm: bc, hidden_dims: [16]}
  a narrow one: {algorithm: bc, hidden_dims: [8]}
metrics: [actor_loss]
note: a made-up remark
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def command(suite, *more):
    folders = ["--results", str(suite.parent / "results"), "--runs", str(suite.parent / "runs")]
    return [sys.executable, "-m", "offline_rl", "benchmark", str(suite), *folders, *more]


@pytest.fixture
def benchmark(capsys):
    def run(suite, *more):
        capsys.readouterr()
        code = main(command(suite, *more)[3:])
        return subprocess.CompletedProcess([], code, *capsys.readouterr())

    return run


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_suite_is_run_once_and_its_table_names_methods_in_their_order(small, benchmark):
    done = benchmark(small)
    assert done.returncode == 0, done.stderr
    results = small.parent / "results"
    table = (results / "table.md").read_text()
    assert done.stdout.endswith(table)
    assert "* Note: a made-up remark\n" in table
    assert [line.split(" | ")[1] for line in table.splitlines()[3:5]] == ["wide", "a narrow one"]
    assert table.splitlines()[0] == (
        "| dataset | method | score | return | actor loss | seeds | updates/s | hours | mean of last 10"
        " | best (oracle) | final episodes |"
    )
    paths = [
        path
        for method in ("wide", "a narrow one")
        for path in result_paths(read_suite(small), "hopper-demo", method, results)
    ]
    assert {path.name for path in results.glob("*.json")} == {path.name for path in paths}
    assert json.loads(paths[2].read_text())["config"]["hidden_dims"] == [8]
    # Once more: nothing is trained, and nothing but the table is written.
    before = contents(results)
    before.pop("table.md")
    again = benchmark(small)
    assert (again.returncode, again.stdout, again.stderr) == (0, table, "")
    after = contents(results)
    after.pop("table.md")
    assert after == before
    # One result is lost: its run is still there, so it is collected and not trained again.
    paths[0].unlink()
    assert "nothing to do" in benchmark(small).stderr
    assert paths[0].exists()
    # Another setting: the old result is neither taken for the new one nor replaced.
    small.write_text(SMALL.replace("hidden_dims: [8]", "hidden_dims: [4]"))
    refused = benchmark(small)
    assert refused.returncode == 2
    assert "a-narrow-one-hopper-demo-seed-0.json was made with a different hidden_dims; remove it" in refused.stderr


@pytest.mark.slow
def test_a_suite_that_was_killed_goes_on_from_the_checkpoint(small, benchmark):
    small.write_text(SMALL.replace("steps: 30", "steps: 4000").replace("log_every: 10", "log_every: 4000"))
    killed = subprocess.Popen(
        command(small), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    run = small.parent / "runs" / "small" / "hopper-demo-wide"
    limit = time.monotonic() + 120
    while not (run / "checkpoint" / "checkpoint.safetensors").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    step = Checkpoint.load(run).step
    assert 0 < step < 4000
    done = benchmark(small)
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}" in done.stderr
    assert len(list((small.parent / "results").glob("*.json"))) == 4


def test_a_files_folder_is_given_when_the_suite_is_run(small, tmp_path, benchmark):
    small.write_text(SMALL.replace("[hopper-demo]", "[nothing.hdf5]"))
    missing = benchmark(small, "--data_dir", str(tmp_path))
    assert missing.returncode == 2
    assert "nothing.hdf5" in missing.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metrics:", "metricks:", "unknown key 'metricks'; did you mean metrics?"),
        ("hidden_dims: [8]", "hiden_dims: [8]", "unknown setting 'hiden_dims' for bc; did you mean hidden_dims?"),
        ("algorithm: bc, hidden_dims: [8]", "hidden_dims: [8]", "methods.a narrow one has no algorithm"),
        ("datasets: [hopper-demo]", "", "is no suite; it needs datasets"),
        ("steps: 30", "steps: [", "cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_named_before_anything_is_trained(small, old, new, message):
    small.write_text(SMALL.replace(old, new))
    with pytest.raises(orl.OfflineRLError) as error:
        read_suite(small)
    assert message in str(error.value)


def test_a_metric_that_a_method_lacks_is_a_dash(small, benchmark):
    small.write_text(SMALL.replace("  a narrow one: {algorithm: bc, hidden_dims: [8]}\n", ""))
    benchmark(small)
    suite = read_suite(small)
    results = [json.loads(path.read_text()) for path in (small.parent / "results").glob("wide-*.json")]
    assert " | – | 2 | " in suite_table(suite, [{**result, "train": None} for result in results])


OWN_PROGRAMS = ("estimates", "stochastic")
"""Suites that are no comparisons of runs; benchmarks/estimates.py and benchmarks/stochastic.py carry them out."""
SUITES = [path for path in sorted((ROOT / "benchmarks").glob("*.yaml")) if path.stem not in OWN_PROGRAMS]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_committed_suite_can_be_run_and_agrees_with_its_committed_results(path):
    suite = read_suite(path)
    check(suite, ROOT / "results" / suite.name)
    assert len(suite.methods) >= 3


TUNED = """
datasets: [one.hdf5, hopper-demo]
options: {seeds: [0], steps: 30, final_episodes: 2}
methods:
  plain: {algorithm: a2pr, preset: none}
  tuned: {algorithm: a2pr, preset: {hopper-demo: hopper-medium-v2}, discount: 0.9}
"""


def test_a_suites_presets_may_differ_from_dataset_to_dataset(tmp_path):
    """Broken by one dataset's preset for all of them, or by a preset that goes over what the suite says."""
    path = tmp_path / "tuned.yaml"
    path.write_text(TUNED)
    suite = read_suite(path)
    config = dataclasses.asdict(find_algorithm("a2pr").config_class())
    asked = {"constraint_weight": 0.4, "discount": 0.9}
    wanted = {
        ("one.hdf5", "plain"): config,
        ("one.hdf5", "tuned"): {**config, "alpha": 7.0, "discount": 0.9},  # what fits the data is not known here
        ("hopper-demo", "plain"): config,
        ("hopper-demo", "tuned"): {**config, **asked},
    }
    for (dataset, method), settings in wanted.items():
        for good, found in ((True, settings), (False, {**settings, "discount": 0.8})):
            (result,) = made(algorithm="a2pr", name=Path(dataset).stem, steps=30, final_episodes=2, config=found)
            (place,) = result_paths(suite, dataset, method, tmp_path)
            write_json(place, sealed({**result, "preset": ["x"], "method": method}))
            if good:
                check(suite, tmp_path)
            else:
                with pytest.raises(orl.RunError, match=r"was made with a different discount; remove it"):
                    check(suite, tmp_path)
            place.unlink()
    (result,) = made(algorithm="a2pr", name="hopper-demo", steps=30, final_episodes=2, config={**config, "alpha": 40.0})
    (place,) = result_paths(suite, "hopper-demo", "plain", tmp_path)
    write_json(place, sealed({**result, "preset": ["halfcheetah-*"], "method": "plain"}))
    with pytest.raises(orl.RunError, match="was made with a different alpha; remove it"):
        check(suite, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hopper-medium-v2}", "hoper-medium-v2}", "unknown preset 'hoper-medium-v2'; did you mean hopper-medium-v2?"),
        ("{hopper-demo:", "{hopper-dem:", "preset: 'hopper-dem' is no dataset of the suite; did you mean hopper-demo?"),
        ("preset: none", "preset: [none]", "preset is .'none'.; it must be a text"),
        ("{algorithm: a2pr, preset: none}", "{algorithm: bc, preset: hopper-medium-v2}", "bc has one setting"),
    ],
)
def test_a_suites_wrong_presets_are_refused_before_anything_is_trained(tmp_path, old, new, message):
    path = tmp_path / "tuned.yaml"
    path.write_text(TUNED.replace(old, new))
    with pytest.raises(orl.RunError, match=message):
        read_suite(path)


def test_a_suite_knows_its_results_whatever_the_spelling_of_an_id(tmp_path):
    """Broken by looking for results under another name than they are written to: the suite would never end."""
    path = tmp_path / "tuned.yaml"
    path.write_text("datasets: [Hopper_Medium-V2]\nmethods: {bc: {algorithm: bc}}\n")
    (place,) = result_paths(read_suite(path), "Hopper_Medium-V2", "bc", tmp_path)
    assert place.name == "bc-hopper-medium-v2-seed-0.json"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("datasets: [hopper-demo]", "datasets: 5", "datasets is 5; it must be a list"),
        ("datasets: [hopper-demo]", "datasets: [1]", "datasets[0] is 1; it must be a text"),
        ("datasets: [hopper-demo]", "datasets: [null]", "datasets[0] is None"),
        ("  wide: {algorithm: bc, hidden_dims: [16]}", "  5: {algorithm: bc}", "names must be texts"),
        ("algorithm: bc, hidden_dims: [8]", "algorithm: [bc]", "methods.a narrow one.algorithm is ['bc']"),
        ("algorithm: bc, hidden_dims: [8]", "algorithm: null", "algorithm is None; it must be a text"),
        ("algorithm: bc, hidden_dims: [8]", "algorithm: bc, 5: 1", "names must be texts"),
        ("algorithm: bc, hidden_dims: [8]", "algorithm: bc, batch_size: x", "batch_size is 'x'; it must be"),
        ("steps: 30", f"steps: {'9' * 400}", "a number of over 64 digits"),
        ("steps: 30", f"steps: {'9' * 30}", "steps is 999999"),
        ("steps: 30", "steps: 30, alpha: 2", "options: unknown option 'alpha'"),
        ("a narrow one", "n" * 300, "too long for a file of results"),
        ("steps: 30", "steps: 30, steps: 40", "names 'steps' twice"),
    ],
)
def test_a_suite_of_another_shape_is_refused_with_file_and_field(small, old, new, message):
    text = SMALL.replace(old, new)
    assert text != SMALL
    small.write_text(text)
    with pytest.raises(orl.OfflineRLError) as error:
        read_suite(small)
    assert message in str(error.value)
    assert str(small) in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("text", ["datasets: [a]\nmethods: bc", "datasets: [a]\nmethods: [bc]", "[" * 50_000, "5"])
def test_a_file_that_is_no_suite_is_refused_in_one_sentence(small, text):
    small.write_text(text)
    with pytest.raises(orl.RunError) as error:
        read_suite(small)
    assert str(small) in str(error.value)


@pytest.mark.parametrize("options", ["null", "[1]", "abc"])
def test_options_of_another_shape_are_refused(small, options):
    small.write_text(f"datasets: [a]\nmethods: {{bc: {{algorithm: bc}}}}\noptions: {options}")
    with pytest.raises(orl.RunError, match=r"options is .*; it must be names with values"):
        read_suite(small)


def test_seeds_without_end_are_refused(small):
    small.write_text(f"datasets: [a]\nmethods: {{bc: {{algorithm: bc}}}}\noptions: {{seeds: {list(range(50_000))}}}")
    with pytest.raises(orl.RunError, match="seeds are 50,000 numbers; a run trains at most 1,000 agents"):
        read_suite(small)


def test_a_method_may_be_for_some_of_the_datasets_alone(small):
    """Broken by a control that is trained everywhere, or by a suite that waits for results it never makes."""
    small.write_text(
        "datasets: [hopper-demo, two.hdf5]\noptions: {seeds: [0]}\n"
        "methods: {all: {algorithm: bc}, one: {algorithm: bc, datasets: [two.hdf5]}}\n"
    )
    jobs = [("hopper-demo", "all"), ("two.hdf5", "all"), ("two.hdf5", "one")]
    assert missing(read_suite(small), small.parent) == jobs
    small.write_text(small.read_text().replace("[two.hdf5]}", "[tow.hdf5]}"))
    with pytest.raises(orl.RunError, match=r"datasets: 'tow.hdf5' is no dataset of the suite; did you mean two.hdf5"):
        read_suite(small)


def test_a_report_and_a_comparison_are_functions_too(tmp_path):
    """Broken by what the command alone can do."""
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, method, score in zip(folders, ("wide", "a narrow one"), (1.0, 9.0), strict=True):
        folder.mkdir()
        for result in made([score, score + 1]):
            write_json(folder / f"{result['seed']}.json", sealed({**result, "method": method}))
    suite = tmp_path / "suite.yaml"
    suite.write_text(SMALL)
    page = orl.report(*map(str, folders), out=str(tmp_path / "page"), suite=suite)
    assert page == tmp_path / "page" / "report.html"
    rows = [line.split(" | ") for line in (page.parent / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert [row[1] for row in rows] == ["method", "mean of the data", "wide", "a narrow one"]
    assert rows[0][4] == "actor loss"
    with pytest.raises(orl.RunError, match="name it with --out"):
        orl.report(*folders)
    text = orl.compare(str(folders[0]), folders[1])
    assert "| wide less a narrow one | 1.5 ± 6.4 | 9.5 ± 6.4 | -8.0 ± 3.0 | more than noise" in text


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Train two settings of bc with two seeds each."""
    folder = tmp_path_factory.mktemp("pool")
    settings = {"steps": 4, "eval_every": 0, "final_episodes": 2, **TINY}
    return [
        orl.train("bc", "hopper-demo", out=str(folder / name), seeds=[0, 1], learning_rate=rate, **settings).path
        for name, rate in (("slow", 1e-4), ("fast", 1e-2))
    ]


def test_a_bandit_plays_the_agents_of_runs_with_the_same_algorithm_as_one_pool(pool, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["report", *map(str, pool), "--protocol", "bandit", "--episodes", "3", "--out", str(out)]) == 0
    assert (out / "bandit.md").read_text().startswith("| dataset | method | policies | taken | 1 episode |")
    assert "| hopper-demo | bc | 4 | 4 | " in capsys.readouterr().out
    record = read_sealed(out / "bandit.json")
    (found,) = record["pools"]
    assert found["policies"] == ["slow, seed 0", "slow, seed 1", "fast, seed 0", "fast, seed 1"]
    played = [
        orl.evaluate(path / "agents" / f"seed-{seed}", episodes=3).scores.tolist() for path in pool for seed in (0, 1)
    ]
    assert found["episodes"] == played
    assert all((out / f"bandit.{ending}").stat().st_size > 1000 for ending in ("png", "svg"))
    again = orl.report(*pool, out=tmp_path / "again", protocol="bandit", episodes=3)
    assert again.read_bytes() == (out / "bandit.md").read_bytes()
    assert (tmp_path / "again" / "bandit.png").read_bytes() == (out / "bandit.png").read_bytes()


def test_what_a_bandit_cannot_play_is_refused(pool, tmp_path):
    results = tmp_path / "results"
    collect(pool[:1], out=results)
    with pytest.raises(orl.RunError, match=r"results is no run; the bandit plays agents"):
        orl.report(results, out=tmp_path / "page", protocol="bandit")
    with pytest.raises(orl.RunError, match=r"needs a folder of its own; name it with --out"):
        orl.report(*pool, protocol="bandit")
    longer = orl.train(
        "bc", "hopper-demo", out=str(tmp_path / "longer"), steps=5, eval_every=0, final_episodes=2, **TINY
    )
    with pytest.raises(orl.RunError, match=r"longer differs from other runs of bc in steps; report it apart"):
        orl.report(pool[0], longer, out=tmp_path / "page", protocol="bandit", episodes=1)


def test_the_end_of_each_run_elsewhere_is_told(capsys):
    left = [("hopper-demo", "bc"), ("hopper-demo", "iql")]
    watch = _Watch(lambda: list(left))
    assert not watch()
    left.pop()
    assert not watch()
    left.pop()
    assert watch()
    assert capsys.readouterr().err == (
        "2 runs to do\n[1/2] finished: hopper-demo, iql\n[2/2] finished: hopper-demo, bc\n"
    )
