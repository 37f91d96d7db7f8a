"""Findings on the command line, on one page, and in one line at the start of a run."""

import dataclasses
import json
import re

import numpy as np
import pandas
import pytest
from checks.worlds import dataset, kept, roll

import offline_rl as orl
from offline_rl.checks.page import write_page
from offline_rl.cli.main import main
from offline_rl.training import faults
from offline_rl.training.faults import Faults
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan

BAD = dataset({**(log := roll(37, episodes=30)), "rewards": log["rewards"] * 1e5}, name="bad <b>&$x$")
OPTIONS = TrainOptions(eval_every=0, final_episodes=0, device="cpu")


@pytest.fixture
def table(tmp_path):
    """Give a CSV file with rewards in a unit that is too small."""
    names = {f"observation_{place}": values for place, values in enumerate(log["observations"].T)}
    names |= {f"action_{place}": values for place, values in enumerate(log["actions"].T)}
    frame = pandas.DataFrame({**names, "reward": 1e5 * log["rewards"], "episode": log["episode"]})
    frame.to_csv(tmp_path / "plant.csv", index=False)
    return tmp_path / "plant.csv"


def test_the_command_prints_each_finding_and_its_remedy(table, capsys):
    assert main(["datasets", str(table), "--check"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for finding in orl.check(table):
        for text in (finding.check, finding.evidence, finding.consequence, finding.remedy):
            assert " ".join(text.split()) in said
    assert "1 warning" in said


def test_the_command_needs_a_dataset_and_a_page_that_is_one(capsys):
    assert main(["datasets", "--check"]) == 2
    assert main(["datasets", "hopper-demo", "--page", "x.pdf"]) == 2
    assert "must end with .html" in capsys.readouterr().err


def test_a_page_is_whole_escaped_and_the_same_each_time(tmp_path):
    findings = orl.check(BAD)
    for name in ("a.html", "b.html"):
        write_page(BAD, findings, tmp_path / name)
    text = (tmp_path / "a.html").read_text()
    assert text == (tmp_path / "b.html").read_text()
    assert "bad &lt;b&gt;&amp;" in text and "<b>" not in text
    assert text.count("<img") == 4 and text.count("<section") == len(findings) > 0
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "{{" not in text


def test_names_that_look_like_formulas_and_markup_are_drawn_as_they_are(tmp_path):
    names = ["$\\frac{$", "<script>", "{{findings}}", "a" * 80]
    odd = dataclasses.replace(BAD, metadata={**BAD.metadata, "observation_names": names})
    write_page(odd, (), tmp_path / "odd.html")
    assert "<script>" not in (tmp_path / "odd.html").read_text()


def test_a_page_that_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(orl.DatasetError, match="another --page"):
        write_page(BAD, (), tmp_path / "none" / "x.html")


def told(plan, caplog, **how):
    caplog.clear()
    faults = Faults(plan, **how)
    while not faults.tell(0.1):
        pass
    assert faults.tell()
    return " ".join(" ".join(caplog.messages).split())


@pytest.mark.parametrize("aside", [True, False])
def test_a_run_counts_the_faults_of_its_data_once(table, caplog, monkeypatch, aside):
    """In a thread or not; and once for each dataset, however many runs there are."""
    caplog.set_level("INFO", "offline_rl")
    monkeypatch.setattr(faults, "_known", {})
    plan = Plan.make("bc", str(table), OPTIONS, {})
    expected = f"check 1 likely fault of the data; to read of them: offline-rl datasets {table} --check"
    assert told(plan, caplog, aside=aside) == expected
    assert told(Plan.make("bc", BAD, OPTIONS, {}), caplog, aside=aside).endswith("offline_rl.check(dataset)")
    assert told(Plan.make("bc", dataset(roll(60)), OPTIONS, {}), caplog, aside=aside) == ""
    monkeypatch.setattr(faults, "check", lambda data: pytest.fail("checked twice"))
    assert told(plan, caplog, aside=aside) == expected


def test_an_error_of_the_check_ends_the_run_that_it_is_made_for(monkeypatch):
    """Broken by an error that is lost with the thread."""

    def broken(data):
        raise RuntimeError("broken")

    monkeypatch.setattr(faults, "_known", {})
    monkeypatch.setattr(faults, "check", broken)
    under_way = Faults(Plan.make("bc", BAD, OPTIONS, {}), aside=True)
    with pytest.raises(RuntimeError, match="broken"):
        while not under_way.tell(0.1):
            pass


def test_a_short_run_still_tells_of_the_faults(tmp_path, caplog, monkeypatch):
    """Although the check takes longer than all its updates."""
    caplog.set_level("INFO", "offline_rl")
    monkeypatch.setattr(faults, "_known", {})
    settings = {"steps": 2, "eval_every": 0, "final_episodes": 0, "workers": 0, "hidden_dims": [4], "batch_size": 4}
    orl.train("bc", BAD, out=str(tmp_path / "run"), **settings)
    assert [message for message in caplog.messages if message.startswith("check ")]


def test_drift_is_told_in_words_numbers_and_the_exit_status(table, tmp_path, capsys):
    agent = tmp_path / "agent"
    plan = Plan.make("bc", str(table), OPTIONS, {"hidden_dims": [4]})
    orl.agent.new_agent(plan.description(0)).save(agent)
    assert main(["drift", str(agent), str(table)]) == 0
    assert "Nothing shows" in capsys.readouterr().out
    moved = pandas.read_csv(table)
    moved["observation_2"] *= 100
    moved.to_csv(tmp_path / "today.csv", index=False)
    assert main(["drift", str(agent), str(tmp_path / "today.csv"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == "drifted" and found["columns"][0]["name"] == "observation_2"
    assert np.isclose(found["columns"][0]["ratio"], 100, rtol=0.3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_of_a_part_of_the_log_is_checked_without_error(tmp_path):
    for rows in (3, 500):
        part = dataset(kept(log, np.arange(rows)))
        write_page(part, orl.check(part), tmp_path / f"{rows}.html")
