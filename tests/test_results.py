"""The command that makes result files and their table, and that the committed table is the one it makes."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers.records import made
from helpers.settings import TINY

import offline_rl as orl
from benchmarks.algorithms import ours
from benchmarks.cells import cells
from benchmarks.results import check, pages, seal, show
from offline_rl.analysis.groups import grouped
from offline_rl.analysis.results import read_results
from offline_rl.analysis.tables import table
from offline_rl.benchmark import collect, file_name, read_suite, suite_table
from offline_rl.cli.main import main
from offline_rl.data.minari import is_id
from offline_rl.files import sealed, write_json

ROOT = Path(__file__).parent.parent
OTHERS = ("estimates", "stochastic")
"""Results that are none of runs, with tables of their own."""
COMMITTED = [path.parent for path in sorted(ROOT.glob("results/*/table.md")) if path.parent.name not in OTHERS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("collect") / "run"
    settings = {"seeds": [0, 1], "steps": 20, "log_every": 10, "eval_every": 0, "final_episodes": 2}
    return orl.train("bc", "hopper-demo", out=str(out), **settings, **TINY)


@pytest.fixture
def unfinished(run, tmp_path):
    """Give a copy of the run whose record ends before the final evaluation."""
    folder = Path(shutil.copytree(run.path, tmp_path / "unfinished"))
    shutil.rmtree(folder / "checkpoint")  # which knows how the record must begin
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if '"final"' not in line))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_the_committed_table_is_made_from_the_committed_results(folder):
    results, suite = read_results(folder), ROOT / "benchmarks" / f"{folder.name}.yaml"
    text = suite_table(read_suite(suite), results) if suite.exists() else table(results)
    assert (folder / "table.md").read_text() == f"{text}\n"


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_results_bear_their_names_and_no_places(folder):
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        assert path.name == file_name(result)
        name = result["dataset"]["name"]
        text = path.read_text().replace(name, "an id of Minari's, no place" if is_id(name) else name)
        assert not re.search(r'": "[^"]*/', text), f"{path.name} names a folder"


SHOWN = {
    "README.md": ("scores",),
    "docs/scores.md": ("scores",),
    "docs/speed.md": ("compiling", "speed", "layers", "references", "kernels"),
    "docs/minari.md": ("scores",),
    "docs/estimate.md": ("estimates",),
    **{f"docs/{name}.md": ("scores",) for name in ours() if name not in ("sac", "parl", "parl_online")},
    "docs/edac.md": ("ensembles", "scores"),
}


def test_the_pages_scores_and_speed_are_the_committed_ones(tmp_path):
    (tmp_path / "results").symlink_to(ROOT / "results")
    (tmp_path / "docs").mkdir()
    for page in SHOWN:
        shutil.copy(ROOT / page, tmp_path / page)
    pages(tmp_path)
    for page in SHOWN:
        assert (tmp_path / page).read_text() == (ROOT / page).read_text()


def test_the_pages_say_when_and_how_their_scores_were_made_and_what_is_missing(tmp_path):
    """Broken by a date or a protocol that stands there by hand, or by a cell that hides what it lacks."""
    (tmp_path / "docs").mkdir()
    for page, names in SHOWN.items():
        marks = "".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in names)
        (tmp_path / page).write_text(f"before\n{marks}after\n")
    whole = made([10.0, 12.0, 14.0], name="hopper", algorithm="bc", final_episodes=7, steps=60)
    partial = made([5.0, 6.0, 7.0], name="walker", algorithm="prdc", final_episodes=7, steps=60)[:2]
    folder = tmp_path / "results" / "locomotion-small"
    folder.mkdir(parents=True)
    (tmp_path / "results" / "throughput").symlink_to(ROOT / "results" / "throughput")
    for number, result in enumerate(whole + partial):
        write_json(folder / f"{number}.json", sealed({**result, "date": f"2031-01-0{number + 1}"}))
    pages(tmp_path)
    for page in ("README.md", "docs/scores.md"):
        text = (tmp_path / page).read_text()
        assert "60 updates" in text.split("| last score | hopper | walker |\n")[0]
        assert text.endswith("\n<!-- scores: end -->\nafter\n")
        assert "| bc | 12.0 ± 5.0 | – |" in text
        assert "| prdc | – | 5.5 ± 6.4 (2 of 3 seeds) |" in text
        assert "old" not in text
    assert "After 60 updates, 3 seeds:\n" in (tmp_path / "README.md").read_text()
    caption = " ".join((tmp_path / "docs" / "scores.md").read_text().split())
    assert "Made 2031-01-01 to 2031-01-05 by `offline-rl benchmark benchmarks/locomotion-small.yaml`" in caption
    assert "with 60 updates (papers: a million), 3 seeds and dynamics d4rl." in caption
    assert "mean of the last agents' scores over 7 episodes" in caption
    assert "interval. A dash stands where there is no result yet." in caption
    mean = whole[0]["dataset"]["mean_score"]
    assert f"{(mean > 12.0) + (mean > 5.5)} of 2 means are below the mean of the data" in caption
    for number in (3, 4):
        (folder / f"{number}.json").unlink()
    pages(tmp_path)
    assert "dash" not in (tmp_path / "docs" / "scores.md").read_text()
    write_json(folder / "0.json", whole[0])
    with pytest.raises(orl.RunError, match=r"bc-hopper-seed-0\.json has no date"):
        pages(tmp_path)
    write_json(folder / "0.json", made([10.0], name="hopper", algorithm="bc")[0])
    with pytest.raises(orl.RunError, match="differ in final_episodes, steps; the pages show one protocol"):
        pages(tmp_path)


def test_an_algorithms_page_shows_its_control_and_says_whether_it_is_better():
    """Broken by a page that shows gains without the control, or calls noise a gain."""
    plain = made([10.0, 12.0, 14.0], name="hopper", algorithm="td3_bc", steps=60)
    tuned = made([20.0, 21.0, 22.0], name="hopper", algorithm="td3_bc", steps=60, alpha=40.0)
    tuned = [{**result, "method": "tuned"} for result in tuned]
    other = made([9.0, 8.0, 7.0], name="hopper", algorithm="bc", steps=60)
    far = made([50.0, 51.0, 52.0], name="hopper", algorithm="prdc", steps=60)
    near = made([20.0, 22.0, 24.0], name="walker", algorithm="prdc", steps=60)
    alone = made([20.0, 22.0, 24.0], name="hopper", algorithm="a2pr", steps=60)

    def page(name, *results):
        return cells(name, {"short": (grouped([result for part in results for result in part]), [])})

    text = page("prdc", plain, tuned, other, far, near)
    assert "| 60 | *mean of the data* | 3.0 | 3.0 |" in text
    assert "| 60 | prdc | 51.0 ± 2.5 | 22.0 ± 5.0 |" in text
    assert "| 60 | td3_bc | 12.0 ± 5.0 | – |" in text
    assert "| 60 | tuned | 21.0 ± 2.5 | – |" in text
    assert "bc |" not in text.replace("td3_bc |", "")
    # The better of two controls counts: √(1/3 + 1/3) · t(0.975, 4) is 2.27.
    assert "* prdc on hopper, 60 updates: above tuned (+30.0 ± 2.3, Welch's 95 % interval)." in text
    assert "* prdc on walker, 60 updates: there is no run of td3_bc to compare it with yet." in text
    assert "no difference from tuned shows (+1.0 ± " in page("a2pr", plain, tuned, alone)
    assert "a2pr" not in page("td3_bc", plain, alone)
    assert page("awac", plain).startswith("No run of the suites")


def test_collecting_writes_one_file_for_each_seed_and_again_the_same(run, tmp_path):
    out = tmp_path / "results"
    collect((run.path,), out=out, note="The room was warm.")
    first = contents(out)
    assert set(first) == {"bc-hopper-demo-seed-0.json", "bc-hopper-demo-seed-1.json"}
    scores = {json.loads(text)["seed"]: json.loads(text)["score_last"] for text in first.values()}
    assert scores == run.scores
    assert {json.loads(text)["note"] for text in first.values()} == {"The room was warm."}
    written = datetime.fromtimestamp((run.path / "metrics.jsonl").stat().st_mtime, UTC)
    assert {json.loads(text)["date"] for text in first.values()} == {written.date().isoformat()}
    collect((run.path,), out=out, note="The room was warm.")
    assert contents(out) == first


def test_an_unfinished_run_is_named_and_nothing_is_written(run, unfinished, tmp_path, capsys):
    """Fails if the first run is written before the second is looked at."""
    out = tmp_path / "results"
    assert main(["results", "collect", str(run.path), str(unfinished), "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {unfinished} is not finished: seed 0 has no final evaluation")
    assert not out.exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(orl.RunError, match=r"config\.json cannot be read"):
        collect((tmp_path,), out=tmp_path / "results")
    with pytest.raises(orl.RunError, match="no run is named"):
        collect((), out=tmp_path / "results")


@pytest.fixture
def other(run, tmp_path):
    """Give a copy of the run with another setting."""
    folder = Path(shutil.copytree(run.path, tmp_path / "other, of a kind"))
    config = json.loads((folder / "config.json").read_text())
    config["config"]["learning_rate"] = 1.0
    write_json(folder / "config.json", sealed(config))
    return folder


def test_a_result_of_other_settings_is_not_replaced(run, other, tmp_path):
    """Fails if files are written over without a look."""
    out = tmp_path / "results"
    collect((run.path,), out=out)
    before = contents(out)
    with pytest.raises(orl.RunError, match=r"seed-0\.json is a result made with a different learning_rate; remove it"):
        collect((other,), out=out)
    assert contents(out) == before


def test_a_result_that_came_to_another_score_is_not_replaced(run, tmp_path):
    """As one of the same settings may on another machine."""
    again = Path(shutil.copytree(run.path, tmp_path / "again"))
    rows = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    changed = [row | ({"score": row["score"] + 1} if row["kind"] == "final" else {}) for row in rows]
    shutil.rmtree(again / "checkpoint")  # which knows the record's checksum
    (again / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    out = tmp_path / "results"
    collect((run.path,), out=out)
    before = contents(out)
    with pytest.raises(orl.RunError, match=r"of the same settings that came to another score .*; remove it"):
        collect((again,), out=out)
    assert contents(out) == before


def test_two_runs_that_want_one_name_are_told_before_anything_is_written(run, other, tmp_path, capsys):
    """Broken by a sentence on a file that does not exist, or by the second run in the place of the first."""
    out = tmp_path / "new"
    assert main(["results", "collect", str(run.path), str(other), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{run.path} and {other} would both be written to bc-hopper-demo-seed-0.json" in said
    assert "differ in learning_rate" in said
    assert "--method NAME" in said
    same = shutil.copytree(run.path, tmp_path / "same")
    assert main(["results", "collect", str(run.path), str(same), "--out", str(out)]) == 2
    assert "and have the same settings; take one of them" in capsys.readouterr().err
    assert not out.exists()
    assert main(["results", "collect", str(run.path), str(run.path), "--out", str(out)]) == 0
    assert main(["results", "collect", str(other), "--out", str(out), "--method", "bc fast"]) == 0
    assert capsys.readouterr().out.endswith(f"2 results of 1 run written to {out}\n")
    assert {name[:8] for name in contents(out)} == {"bc-hoppe", "bc-fast-"}


def test_results_collect_says_how_it_is_used(capsys):
    for arguments in (["results"], ["results", "make"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err == "error: usage: offline-rl results collect RUN [RUN ...] --out FOLDER\n"


def test_a_report_takes_runs_and_folders_of_results(run, other, tmp_path, capsys):
    """Runs of other settings stand side by side, though their results want one name."""
    results = tmp_path / "results"
    collect((run.path,), out=results, method="kept")
    before = sorted(run.path.rglob("*"))
    assert main(["report", str(run.path), str(other), str(results)]) == 2
    assert "name it with --out" in capsys.readouterr().err
    assert main(["report", str(run.path), str(other), str(results), "--out", str(tmp_path / "page")]) == 0
    table = (tmp_path / "page" / "table.md").read_text()
    for label in ("bc, learning_rate 0.0003", "bc, learning_rate 1.0", "kept"):
        assert f"| hopper-demo | {label} |" in table
    assert (tmp_path / "page" / "report.md").read_text().startswith("# Results: page\n")
    assert sorted(run.path.rglob("*")) == before


def test_what_holds_no_results_names_the_command(run, tmp_path, capsys):
    """Broken by advice to remove a run's settings, or by none."""
    (tmp_path / "empty").mkdir()
    empty, runs = tmp_path / "empty", run.path.parent
    for place, said, command in (
        (empty, "holds no results; make", f"offline-rl results collect RUN... --out {empty}"),
        (runs, "holds runs, not result files; name", f"offline-rl report {runs}/* --out FOLDER"),
    ):
        assert main(["report", str(place)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert command in error
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    with pytest.raises(orl.RunError, match=r"is a run, .* offline-rl results collect \S+ --out FOLDER makes results"):
        read_results(run.path)


def test_the_table_is_printed_and_written(run, tmp_path, capsys):
    out = tmp_path / "results"
    collect((run.path,), out=out)
    capsys.readouterr()
    show(out, out=out / "table.md", figure=out / "curves.png")
    text = table(read_results(out))
    assert capsys.readouterr().out == f"{text}\n"
    assert (out / "table.md").read_text() == f"{text}\n"
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_or_missing_result_is_named(run, tmp_path):
    with pytest.raises(orl.RunError, match="holds no results"):
        show(tmp_path)
    other = json.dumps(sealed({"format": 1, "score_last": 1.0}))
    for text in ("{", "[]", '{"format": 2, "score_last": 1.0}', other):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(orl.RunError, match=r"x\.json cannot be read"):
            show(tmp_path)


def test_a_score_edited_by_hand_is_found(run, tmp_path):
    """Fails if the checksum covers the scores only, or is not looked at."""
    out = tmp_path / "results"
    collect((run.path,), out=out)
    path = out / "bc-hopper-demo-seed-1.json"
    result = json.loads(path.read_text())
    for changed in ({"score_last": 99.0}, {"hardware": {**result["hardware"], "cores": 4096}}):
        path.write_text(json.dumps(result | changed))
        with pytest.raises(orl.RunError, match=r"seed-1\.json cannot be read \(its content does not fit its checksum"):
            show(out)


def test_older_results_get_a_checksum_and_keep_their_numbers(tmp_path):
    old = {**made()[0], "format": 1, "score_last": 12.345678901234567}
    del old["checksum"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    seal((tmp_path,))
    new = read_results(tmp_path)
    assert new == [sealed(old | {"format": 2})]
    before = path.read_bytes()
    seal((tmp_path,))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        *("coverage.json", "neighbors-walker2d-medium-replay.json", "round-cost.json"),
        *(
            "throughput/cpu.json",
            "throughput/gpu.json",
            "throughput/ensembles.json",
            "throughput/kernels.json",
            "throughput/layers.json",
            "throughput/references.json",
            "throughput/compiling.json",
            "comparison/bc-hopper_medium_replay-seed-0.json",
            "stochastic/lucky-arm-dt-seed-0.json",
        ),
        *(f"runs/prdc-walker2d-medium-replay/{name}" for name in ("config.json", "metrics.jsonl", "checksums.json")),
    ],
)
def test_one_number_changed_in_any_committed_result_stops_the_report(name, tmp_path):
    """Broken by a kind of result without a checksum, or one that nobody looks at."""
    results = shutil.copytree(
        ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.png", "report.*")
    )
    check(results)
    text = (results / name).read_text()
    digit = list(re.finditer(r"\d", text))[-1]
    (results / name).write_text(f"{text[: digit.start()]}{(int(digit[0]) + 1) % 10}{text[digit.end() :]}")
    with pytest.raises(orl.RunError, match=f"{re.escape(str(results / name))} .*was changed after it was made"):
        check(results)


def test_every_committed_result_is_as_it_was_made_and_the_report_looks_first():
    check(ROOT / "results")
    recipe = subprocess.run(["make", "-n", "report"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert recipe.index("benchmarks.results check results") < recipe.index("benchmarks.throughput --show")


def test_a_runs_record_gets_its_checksums_beside_it(run, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(run.path / name, tmp_path)
    with pytest.raises(orl.RunError, match=r"checksums\.json cannot be read"):
        check(tmp_path)
    seal((tmp_path,))
    check(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    seal((tmp_path,))
    with pytest.raises(orl.RunError, match=r"metrics\.jsonl was changed after it was made"):
        check(tmp_path)
