"""Results, their table and their picture, from a real run on a small agent and from records written by hand."""

import copy
import json
import math

import pytest
from helpers.records import evaluation, made, record, train
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.analysis.comparison import compare
from offline_rl.analysis.figures import band, draw_comparison
from offline_rl.analysis.groups import conditions, grouped
from offline_rl.analysis.results import results_of, updates_per_second
from offline_rl.analysis.tables import MEAN_OF_DATA, table

MORE = ["hours", "mean of last 10", "best (oracle)", "final episodes"]
SETTINGS = {"seeds": [3, 1], "steps": 80, "log_every": 20, "eval_every": 20, "final_episodes": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "run"
    return orl.train("td3_bc", "hopper-demo", out=str(out), **SETTINGS, **TINY)


@pytest.fixture
def results(run):
    return results_of("run", run.config, run.rows)


def test_a_result_says_what_its_run_recorded(run, results):
    assert [result["seed"] for result in results] == [3, 1]
    config = json.loads((run.path / "config.json").read_text())
    for result in results:
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if row["seed"] == result["seed"]]
        final = rows[-1]
        assert final["kind"] == "final"
        assert result["final"] == {name: final[name] for name in final if name not in ("kind", "seed", "seconds")}
        assert result["score_last"] == final["score"]
        played = [(row["step"], row["return"], row["score"]) for row in rows if row["kind"] != "train"]
        assert [step for step, _, _ in played] == [0, 20, 40, 60, 80]
        assert [tuple(point) for point in result["curve"]] == played
        scores = [score for _, _, score in played]
        assert result["score_best"] == {"oracle": True, "step": 20 * scores.index(max(scores)), "score": max(scores)}
        assert result["score_mean_of_last"]["evaluations"] == 4
        assert result["score_mean_of_last"]["score"] == pytest.approx(sum(scores[1:]) / 4)
        last = [row for row in rows if row["kind"] == "train"][-1]
        assert result["train"]["critic_loss"] == last["critic_loss"]
        assert result["seconds"] == max(row["seconds"] for row in rows)
        assert "offline" not in result
        for name in ("algorithm", "config", "options", "task", "dynamics", "compute", "versions", "hardware"):
            assert result[name] == config[name]
        assert result["dataset"] == config["dataset"]


def test_a_result_is_strict_json(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_places_on_this_machine_are_left_out():
    """Fails if the source is copied as it is."""
    (result,) = made(source="/home/me/a.hdf5+b-medium-v2")
    assert result["dataset"]["source"] == "a.hdf5+b-medium-v2"
    assert "/home" not in json.dumps(result)
    assert made(source=None)[0]["dataset"]["source"] is None


def test_an_online_phase_has_a_final_evaluation_of_its_own():
    """Fails if the last evaluations of both phases are averaged, or if online seconds count as updates on the data."""
    (result,) = made([10.0], online_steps=20)
    assert (result["offline"]["step"], result["offline"]["score"]) == (40, 10.0)
    assert (result["final"]["step"], result["final"]["score"], result["score_last"]) == (60, 60.0, 60.0)
    assert result["score_mean_of_last"] == {"evaluations": 1, "score": 60.0}
    assert result["score_best"] == {"oracle": True, "step": 20, "score": 99.0}
    assert [step for step, _, _ in result["curve"]] == [0, 20, 40, 60]
    assert result["updates_per_second"] == 2.0
    assert result["train"] == {"step": 60, "loss": 6.0}


def test_ten_evaluations_are_averaged_where_there_are_more():
    config, rows = record([10.0])
    config["options"]["steps"] = 400
    rows += [evaluation("evaluation", 0, step, float(step)) for step in range(40, 400, 20)]
    (result,) = results_of("run", config, [*rows, evaluation("final", 0, 400, 400.0)])
    assert result["score_mean_of_last"] == {"evaluations": 10, "score": sum(range(220, 401, 20)) / 10}


def test_updates_per_second_need_two_moments():
    assert updates_per_second([], 40) is None
    assert updates_per_second([train(0, 10)], 40) is None
    assert updates_per_second([train(0, 10), train(0, 30)], 40) == 2.0


def test_an_unfinished_run_is_refused(run):
    """Fails if the final rows of one seed, or of one phase, are taken for all."""
    rows = [row for row in run.rows if (row["kind"], row["seed"]) != ("final", 1)]
    with pytest.raises(orl.RunError, match=r"^runs/x is not finished: seed 1 has no final evaluation at step 80; "):
        results_of("runs/x", run.config, rows)
    config, rows = record([10.0], online_steps=20)
    with pytest.raises(orl.RunError, match="seed 0 has no final evaluation at step 60"):
        results_of("runs/x", config, rows[:-1])
    with pytest.raises(orl.RunError, match="final_episodes 0 and lacks a final score"):
        made(final_episodes=0)


def rows_of(text):
    """Return the cells of the head and of each method, without the rows of the data's own means."""
    lines = [line for line in text.splitlines() if line[:2] == "| " and f"| {MEAN_OF_DATA} |" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_dataset_begins_with_its_own_mean():
    """Broken by a table in which nobody sees that a method is worse than the data it learns from."""
    pebbles = {"name": "pebbles", "fingerprint": "e" * 64, "mean_score": None}
    lines = table(made([10.0]) + made([5.0], algorithm="other") + made([1.0], **pebbles)).splitlines()[2:7]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| beads", "mean of the data", "3.0"],
        ["| beads", "made_up", "10.0 ± –"],
        ["| beads", "other", "5.0 ± –"],
        ["| pebbles", "mean of the data", "–"],
        ["| pebbles", "made_up", "1.0 ± –"],
    ]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_the_table_holds_means_and_intervals():
    """t of two degrees of freedom is 4.3027; the scores' standard error is 10/√3."""
    head, row = rows_of(table(made([10.0, 20.0, 30.0])))
    assert head == ["dataset", "algorithm", "score", "return", "seeds", "updates/s", *MORE]
    assert row[:6] == ["beads", "made_up", "20.0 ± 24.8", "200.0 ± 248.4", "3", "2.0"]
    assert row[6:] == ["0.01", "59.5 ± 12.4", "99.0 ± 0.0", "5"]
    assert rows_of(table(made([10.0])))[1][2:5] == ["10.0 ± –", "100.0 ± –", "1"]


def test_the_table_has_a_column_for_each_phase():
    results = made([10.0, 12.0], online_steps=20) + made([1.0, 1.0], name="pebbles")
    head, both, offline = rows_of(table(results))
    assert head[2:4] == ["score after offline", "score after online"]
    assert [cell.split(" ±")[0] for cell in both[2:5]] == ["11.0", "61.0", "610.0"]
    assert both[1] == "made_up, online_steps 20"
    assert offline[2:5] == ["1.0 ± 0.0", "–", "10.0 ± 0.0"]


def test_a_diverged_seed_is_not_left_out_of_the_mean():
    """Fails if the mean is that of the seeds which remain."""
    results = made([10.0, None, 30.0])
    assert results[1]["score_mean_of_last"] == {"evaluations": 2, "score": None}
    assert results[1]["score_best"]["score"] == 99.0
    assert rows_of(table(results))[1][2:5] == ["1 of 3 diverged", "1 of 3 diverged", "3"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 40.0}, "alpha 40.0"),
        ({"normalize": False}, "normalize False"),
        ({"fingerprint": "e" * 64}, "fingerprint eeeeeeeeeeee"),
        ({"mode": "d4rl"}, "data_mode d4rl"),
        ({"task": "hopper-medium-v2"}, "task hopper-medium-v2"),
        ({"steps": 60}, "steps 60"),
        ({"dynamics": "plain"}, "dynamics plain"),
        ({"versions": {"torch": "9.10", "numpy": "1.0"}}, "torch 9.10"),
        ({"final_episodes": 1000}, "final_episodes 1,000"),
        ({"eval_every": 10}, "eval_every 10"),
        ({"eval_episodes": 50}, "eval_episodes 50"),
    ],
)
def test_what_differs_never_shares_a_row(change, words):
    """Fails for each setting that is dropped from the key of a row, or said of all rows."""
    text = table(made([10.0, 20.0]) + made([30.0, 50.0], **change))
    first, second = sorted(rows_of(text)[1:], key=lambda row: row[2])
    assert [first[2].split(" ±")[0], second[2].split(" ±")[0]] == ["15.0", "40.0"]
    assert second[1] == f"made_up, {words}"
    assert first[1] != second[1]
    (shared,) = [line for line in text.splitlines() if line.startswith("* All rows: ")]
    assert "numpy 1.0" in shared
    assert words.rpartition(" ")[0] not in shared.replace("online_steps", "")


def test_a_run_that_went_on_online_says_what_it_began_with():
    """Fails if what the agents began with is left out, or if the first phase's episodes are taken for the last's."""
    config, rows = record([10.0, 20.0], online_steps=20)
    before = {**config, "config": {"alpha": 9.0, "normalize": True}}
    rows = [{**row, "episodes": 100} if (row["kind"], row["step"]) == ("final", 40) else row for row in rows]
    others = results_of("run", {**config, "offline": before}, rows)
    assert others[0]["offline_run"]["config"]["alpha"] == 9.0
    first, second = rows_of(table(others + results_of("run", config, rows)))[1:]
    assert {first[1], second[1]} == {"made_up", "made_up, offline alpha 9.0"}
    assert (first[-1], second[-1]) == ("100 then 5", "100 then 5")
    none = {**config["options"], "final_episodes": 0}
    for unplayed in (
        {**config, "offline": {**before, "options": none}},
        {**config, "options": none, "offline": before},
    ):
        with pytest.raises(orl.RunError, match="final_episodes 0"):
            results_of("run", unplayed, rows)


def test_settings_are_compared_within_an_algorithm_and_a_dataset():
    """Presets differ from task to task; that splits no row and needs no words."""
    results = made(alpha=1.0) + made(name="pebbles", fingerprint="e" * 64)
    assert [row[1] for row in rows_of(table(results))[1:]] == ["made_up", "made_up"]


def test_a_seed_counts_once():
    """A result that is there twice would narrow the interval."""
    with pytest.raises(orl.RunError, match="seed 0 of made_up on beads is there twice"):
        table(made() + made())


def test_seeds_of_several_runs_share_a_row():
    results = made([10.0, 20.0])
    later = copy.deepcopy(results)
    for seed, result in enumerate(later, start=5):
        result["seed"] = seed
        result["options"]["seeds"] = [5, 6, 7]
        result["hardware"]["machine"] = "slide rule"
    (group,) = grouped([*later, *results])
    assert [result["seed"] for result in group.results] == [0, 1, 5, 6]
    text = table([*later, *results])
    assert "abacus, 1 cores" in text
    assert "slide rule, 1 cores" in text
    assert "all seeds of the run (2 or 3)" in text


def test_every_return_that_was_asked_for_has_a_row():
    """Fails if the targets' columns are exchanged, or the first one's is repeated."""
    results = made([10.0, 20.0])
    for result in results:
        score = result["score_last"]
        result["final"] |= {"score/9": score, "score/5": score + 1, "return/9": 10 * score, "return/5": 7 * score}
    rows = [line.split(" | ")[1:4] for line in table(results).splitlines() if "asked for" in line]
    assert [(label, score.split(" ±")[0], value.split(" ±")[0]) for label, score, value in rows] == [
        ("made_up, asked for 9", "15.0", "150.0"),
        ("made_up, asked for 5", "16.0", "105.0"),
    ]


def test_the_table_says_under_which_conditions(results):
    text = table(results)
    for name, value in conditions(results[0]).items():
        assert f"{name} {value}" in text
    assert f"mean score {results[0]['dataset']['mean_score']:.1f}" in text
    assert results[0]["dataset"]["fingerprint"][:12] in text
    assert "Note" not in text
    noted = [{**result, "note": "The room was warm."} for result in results]
    assert table(noted).count("* Note: The room was warm.") == 1


def test_the_band_is_the_interval_at_every_step():
    results = made([10.0, 20.0, 30.0])
    steps, low, mean, high = band(results)
    assert steps == [0, 20, 40]
    assert mean == pytest.approx((1.0, 99.0, 20.0))
    half = 4.302652729911275 * 10 / math.sqrt(3)
    assert low == pytest.approx((1.0, 99.0, 20.0 - half))
    assert high == pytest.approx((1.0, 99.0, 20.0 + half))
    assert math.isnan(band(made([10.0, None]))[2][-1])
    del results[1]["curve"][1]
    assert band(results)[0] == [0, 40]


def test_the_picture_has_a_panel_for_each_dataset(results, tmp_path, monkeypatch):
    """Fails if the line at the switch of phases is drawn in the panel without one, or at the end of the run."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig

    def keep(figure, *arguments, **named):
        figures.append(figure)
        save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_comparison(results + made([1.0, 2.0], online_steps=20), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels] == ["beads", "hopper-demo"]
    upright = [[line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] for axes in panels]
    assert upright == [[40], []]
    assert [len(axes.collections) for axes in panels] == [1, 1]


def test_a_table_says_which_settings_came_from_a_preset():
    """Broken by a tuned row that reads like one at the defaults."""
    tuned = made(alpha=40.0, algorithm="tuned") + made(name="pebbles", fingerprint="e" * 64, algorithm="tuned")
    for result, entries, kept in zip(tuned, (["robot-*"], []), ({"alpha": 40.0}, {}), strict=True):
        result |= {"preset": entries, "preset_settings": kept, "preset_reason": "for all data of the robot"}
    plain = made(algorithm="plain") + made(name="pebbles", fingerprint="e" * 64, algorithm="plain")
    text = table(tuned + plain)
    assert "\n* tuned: settings from preset robot-* (alpha 40.0) on beads; no preset on pebbles.\n" in text
    assert "\n* plain: the same settings on every dataset.\n" in text
    assert "every dataset" not in table(made())


def test_a_table_says_what_differs_where_presets_were_not_recorded():
    """Broken by silence about older results."""
    older = made(alpha=40.0) + made(name="pebbles", fingerprint="e" * 64) + made(name="stones", fingerprint="d" * 64)
    assert "\n* made_up: alpha 40.0 on beads; alpha 2.5 on pebbles, stones.\n" in table(older)


def test_comparing_names_presets_where_both_are_known():
    ours, theirs = made(), made(alpha=40.0)
    ours[0]["preset"], theirs[0]["preset"] = [], ["robot-*", "robot-medium-v2"]
    text = compare(ours, theirs)
    assert "preset none → robot-* and robot-medium-v2" in text
    assert "alpha 2.5 → 40.0" in text
    del theirs[0]["preset"]
    assert "preset" not in compare(ours, theirs)
