"""Rows of metrics: means over the updates since the last row, the same however a run comes to them."""

import functools

import pytest
import torch
from helpers.members import members
from helpers.settings import TINY, without_timings

import offline_rl as orl
from offline_rl.training.loop import make_updates
from offline_rl.training.means import Means
from offline_rl.training.updates.cuda_graph import CapturedUpdates


def singly(name, count, **options):
    """Return the metrics of each update."""
    (member,) = members(name, {}, seeds=(0,), **options)
    rows = []
    for step in range(1, count + 1):
        rows.append({key: float(value) for key, value in member.agent.update(member.sampler.batch(step), step).items()})
    return rows


def mean(rows, name):
    values = [row[name] for row in rows if name in row]
    return pytest.approx(sum(values) / len(values), rel=1e-12)


@pytest.mark.parametrize("replayed", [False, True])
def test_a_row_is_the_mean_of_its_interval(replayed):
    """TD3+BC's actor moves every third update only; its loss is the mean over these."""
    rows = singly("td3_bc", 20)
    (member,) = members("td3_bc", {}, seeds=(0,))
    run = CapturedUpdates([member]).run if replayed else functools.partial(make_updates, member)
    for first, last in ((1, 11), (12, 20)):
        run(first, last)
        interval, found = rows[first - 1 : last], member.metrics()
        assert {"actor_loss", "critic_loss"} <= set(found)
        assert found == {name: mean(interval, name) for name in found}


def test_stacked_members_have_means_of_their_own():
    options = {"dtype": torch.float64}
    trained = members("td3_bc", {}, seeds=(0, 1, 2), **options)
    CapturedUpdates(trained, stacked=True).run(1, 20)
    rows, found = singly("td3_bc", 20, **options), trained[0].metrics()
    for name in ("actor_loss", "critic_loss"):
        assert found[name] == pytest.approx(mean(rows, name).expected, rel=1e-6)
    assert trained[1].metrics()["critic_loss"] != found["critic_loss"]


def test_what_no_update_of_an_interval_has_keeps_its_last_mean():
    means = Means()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(5.0)})
    means.add({"a": torch.tensor(2.0)})
    assert means.so_far() == means.so_far() == {"a": 1.5, "b": 5.0}
    assert means.report() == {"a": 1.5, "b": 5.0}
    means.add({"a": torch.tensor(4.0)})
    assert means.report() == {"a": 4.0, "b": 5.0}


def test_one_number_that_is_not_finite_shows(tmp_path):
    means = Means()
    for value in (1.0, float("nan"), 2.0):
        means.add({"loss": torch.tensor(value)})
    assert means.report()["loss"] != means.report()["loss"]


def test_an_interval_goes_on_where_it_was_cut():
    whole, parts = Means(), Means()
    values = torch.rand(50, 2, dtype=torch.float32)
    for number, (a, b) in enumerate(values):
        metrics = {"a": a, "b": b} if number % 3 else {"a": a}
        whole.add(metrics)
        parts.add(metrics)
        if number % 7 == 0:
            state, parts = parts.state(), Means()
            parts.load_state(state)
    assert parts.report() == whole.report()


def test_rows_are_the_same_alone_and_beside_others(tmp_path):
    settings = {**TINY, "steps": 30, "log_every": 10, "eval_every": 0, "final_episodes": 0}
    both = orl.train("td3_bc", "hopper-demo", seeds=[0, 1], out=str(tmp_path / "both"), **settings)
    alone = orl.train("td3_bc", "hopper-demo", seeds=[1], out=str(tmp_path / "alone"), **settings)
    assert without_timings(alone.rows) == [row for row in without_timings(both.rows) if row["seed"] == 1]
