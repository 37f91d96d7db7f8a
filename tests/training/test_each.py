"""Runs whose agents differ in more than their seeds."""

import json

import pytest
from helpers.settings import TINY, without_timings
from matplotlib.figure import Figure

import offline_rl as orl
from offline_rl.analysis.comparison import compare
from offline_rl.analysis.curves import draw_curve
from offline_rl.analysis.groups import grouped
from offline_rl.analysis.results import results_of
from offline_rl.arguments import UsageError, train_settings
from offline_rl.benchmark import Suite, check
from offline_rl.errors import OfflineRLError
from offline_rl.sweep.file import read_sweep

SCHEDULE = {"steps": 200, "eval_every": 100, "log_every": 50, "final_episodes": 4}
ONLINE = {"steps": 20, "eval_every": 0, "final_episodes": 1, "quiet": True, "workers": 0}
EACH = {"alpha": [1.0, 7.5], "critic_learning_rate": [1e-3, 1e-4]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("each") / "run"
    return orl.train("td3_bc", "hopper-demo", seeds=[3, 4], each=EACH, out=str(out), **SCHEDULE, **TINY)


def test_an_agent_is_the_one_that_is_trained_alone_with_its_settings(run, tmp_path):
    alone = orl.train(
        "td3_bc", "hopper-demo", seeds=[4], alpha=7.5, critic_learning_rate=1e-4, out=str(tmp_path / "alone"),
        **SCHEDULE, **TINY,
    )  # fmt: skip
    for file in ("agent.json", "weights.safetensors"):
        assert (run.path / "agents/seed-4" / file).read_bytes() == (alone.path / "agents/seed-4" / file).read_bytes()
    own = [row for row in run.rows if row["seed"] == 4]
    assert without_timings(own) == without_timings(alone.rows)
    assert run.agents[3].config.alpha == 1.0


def test_results_of_different_settings_are_never_averaged(run):
    results = results_of("run", run.config, run.rows)
    assert [(result["seed"], result["config"]["alpha"]) for result in results] == [(3, 1.0), (4, 7.5)]
    assert not any("each" in result["options"] for result in results)
    assert [result["options"]["seeds"] for result in results] == [[3], [4]]
    assert [len(group.results) for group in grouped(results)] == [1, 1]


def test_the_picture_names_the_settings_and_has_no_mean(run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_curve(run.rows, run.config, tmp_path / "curve.png")
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels[:2] == [
        "seed 3, alpha 1, critic_learning_rate 0.001",
        "seed 4, alpha 7.5, critic_learning_rate 0.0001",
    ]
    assert not any("mean of seeds" in label or "interval" in label for label in labels)


def test_a_run_can_be_repeated_from_its_config(run):
    _, options, settings = train_settings(["td3_bc", "--config", str(run.path / "config.json")])
    assert options.each == EACH
    assert not set(settings) & set(EACH)


def test_going_on_online_keeps_the_settings(run, tmp_path):
    online = orl.finetune(run, out=str(tmp_path / "online"), **ONLINE)
    assert [agent.config.critic_learning_rate for agent in online.agents.values()] == [1e-3, 1e-4]
    assert results_of("online", online.config, online.rows)[1]["offline_run"]["config"]["alpha"] == 7.5


def test_going_on_online_may_give_all_the_same(run, tmp_path):
    online = orl.finetune(run, alpha=3.0, out=str(tmp_path / "online"), **ONLINE)
    assert [agent.config.alpha for agent in online.agents.values()] == [3.0, 3.0]
    assert online.config["options"]["each"] == {"critic_learning_rate": [1e-3, 1e-4]}


def test_runs_are_compared_setting_by_setting(run):
    results = results_of("run", run.config, run.rows)
    text = compare(results, results)
    for alpha in ("1.0", "7.5"):
        assert f"alpha {alpha}" in text
    assert "several settings" not in text


def test_sweeps_and_suites_have_methods_and_parameters_instead(tmp_path):
    methods = {"a": {"algorithm": "bc", "each": {"learning_rate": [1, 2]}}}
    suite = Suite("x", ["hopper-demo"], {"seeds": [0, 1]}, methods, [])
    with pytest.raises(OfflineRLError, match="a suite has no each"):
        check(suite, tmp_path)
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "method: grid\nmetric: {name: score}\nparameters: {each: {values: [{alpha: [1]}]}}\n"
        "command: [offline-rl, train, td3_bc, --dataset=hopper-demo, '${args}']\n"
    )
    with pytest.raises(OfflineRLError, match="each is decided by the sweep itself"):
        read_sweep(file)


def test_a_run_is_not_resumed_with_other_settings(run):
    other = {**EACH, "alpha": [1.0, 8.0]}
    with pytest.raises(OfflineRLError, match="each was"):
        orl.train("td3_bc", "hopper-demo", seeds=[3, 4], each=other, resume=True, out=str(run.path), **SCHEDULE, **TINY)


@pytest.mark.parametrize(
    ("each", "more", "message"),
    [
        ({"alpha": [1.0]}, {}, "each has 1 values of alpha for 2 seeds; give one for each"),
        ({"alhpa": [1.0, 2.0]}, {}, "unknown setting 'alhpa' for td3_bc; did you mean alpha"),
        ({"batch_size": [8, 16]}, {}, "agents of one run cannot differ in batch_size; they can in alpha, "),
        ({"alpha": [1.0, -1.0]}, {}, "alpha is -1.0; it must be at least 0"),
        ({"alpha": [1.0, 2.0]}, {"alpha": 3.0}, "alpha is given for all agents and for each"),
        ({"alpha": 3.0}, {}, "each is {'alpha': 3.0}; it must be a list"),
        ([1.0], {}, "each is .*; it must be names with values"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(each, more, message, tmp_path):
    with pytest.raises(OfflineRLError, match=message):
        orl.train("td3_bc", "hopper-demo", seeds=[0, 1], each=each, out=str(tmp_path / "run"), **more)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", ['{"alpha": [1, 2.5]}', "{'alpha': [1, 2.5]}", "alpha: [1, 2.5]"])
def test_they_can_be_written_in_three_ways(text):
    _, options, _ = train_settings(["td3_bc", "--seeds", "0", "1", "--each", text])
    assert options.each == {"alpha": [1.0, 2.5]}


@pytest.mark.parametrize("text", ["alpha", "[1, 2]", "{alpha: [", '{"alpha": 3}'])
def test_what_is_written_otherwise_is_explained(text):
    with pytest.raises(UsageError, match="each"):
        train_settings(["td3_bc", "--seeds", "0", "1", "--each", text])


def test_the_command_line_takes_them_and_prints_them(tmp_path, capsys):
    from offline_rl.cli.main import main

    flags = [f"--{name}={value}" for name, value in {**SCHEDULE, **TINY, "eval_every": 0, "steps": 20}.items()]
    main(["train", "bc", "--dataset", "hopper-demo", "--seeds", "0", "1", *flags, "--out", str(tmp_path / "run"),
          "--each", json.dumps({"learning_rate": [1e-3, 1e-4]})])  # fmt: skip
    printed = capsys.readouterr().out
    assert "seed 0, learning_rate 0.001" in printed
    assert "seed 1, learning_rate 0.0001" in printed
    assert "mean of seeds" not in printed
