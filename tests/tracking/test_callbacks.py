"""Callbacks: which rows they are given, and what their failures do."""

import json
import traceback

import pytest
from helpers.settings import TINY

import offline_rl as orl
from offline_rl.tracking.callbacks import TolerantCallback
from offline_rl.tracking.record import Record, read_rows
from offline_rl.training.checkpoint import Checkpoint

SETTINGS = {**TINY, "steps": 20, "log_every": 10, "eval_every": 0, "final_episodes": 0}


def train(out, **more):
    return orl.train("bc", "hopper-demo", out=str(out), **{**SETTINGS, **more})


class Seen:
    """Keeps the rows it is given."""

    def __init__(self):
        self.rows, self.closed = [], 0

    def __call__(self, row):
        assert not self.closed
        self.rows.append(row)

    def close(self):
        self.closed += 1


def test_a_callback_sees_the_settings_and_then_the_record(tmp_path):
    seen, rows = Seen(), []
    run = train(tmp_path / "run", eval_every=10, final_episodes=1, seeds=[0, 1], callbacks=[seen, rows.append])
    config, *rest = seen.rows
    assert config == {"kind": "config", "step": 0, "path": str(run.path), "config": run.config}
    assert rest == run.rows
    assert {row["kind"] for row in rest} == {"train", "evaluation", "final"}
    assert rows == seen.rows
    assert seen.closed == 1


def test_what_a_callback_does_to_a_row_is_seen_by_nobody(tmp_path):
    seen = Seen()
    run = train(tmp_path / "run", callbacks=[dict.clear, seen])
    assert [row["step"] for row in run.rows] == [row["step"] for row in seen.rows[1:]] == [10, 20]


@pytest.mark.parametrize("workers", [0, None])
def test_a_callback_that_raises_ends_the_run_with_its_traceback(tmp_path, workers):
    seen, out = Seen(), tmp_path / "run"

    def early(row):
        if row["step"] == 20:
            raise ZeroDivisionError("a slip")

    with pytest.raises(ZeroDivisionError, match="a slip") as caught:
        train(out, callbacks=[early, seen], steps=30, workers=workers, checkpoint_seconds=0.0)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "early"
    assert seen.closed == 1
    assert [row["step"] for row in seen.rows] == [0, 10]
    assert 0 < Checkpoint.load(out).step < 20
    seen = Seen()
    resumed = train(out, callbacks=[seen], steps=30, resume=True)
    assert [row["step"] for row in resumed.rows] == [10, 20, 30]
    assert [row["step"] for row in seen.rows[1:]] == [20, 30]
    assert 0 < seen.rows[0]["step"] < 20, "where the run goes on"


def test_a_finished_run_calls_nothing(tmp_path):
    train(tmp_path / "run")
    seen = Seen()
    train(tmp_path / "run", resume=True, callbacks=[seen])
    assert seen.rows == []


def test_an_online_phase_has_callbacks_too(tmp_path):
    seen = Seen()
    old = orl.train("td3_bc", "hopper-demo", out=str(tmp_path / "run"), **SETTINGS)
    new = orl.finetune(old, callbacks=[seen], **{**SETTINGS, "hidden_dims": [16, 16]})
    assert [row["step"] for row in seen.rows] == [20, 30, 40]
    assert seen.rows[0]["config"] == new.config


@pytest.mark.parametrize("callback", [3, Seen, "print"])
def test_what_cannot_be_called_is_refused_before_anything_is_written(tmp_path, callback):
    with pytest.raises(orl.RunError, match=r"callbacks\[1\] is .*; give a function, or an object with __call__"):
        train(tmp_path / "run", callbacks=[print, callback])
    assert not list(tmp_path.iterdir())


class Service(TolerantCallback):
    """A service that is out of reach at some steps."""

    def __init__(self, *fails_at, fatal=()):
        self.steps, self.fails_at, self.ended, self.fatal = [], fails_at, False, fatal

    def log(self, row):
        if row["step"] in self.fails_at:
            raise OSError("out of reach")
        self.steps.append(row["step"])

    def finish(self):
        self.ended = True


def row(step):
    return {"kind": "train", "step": step, "seed": 0, "seconds": 1.0}


def recorded(path, *callbacks, steps=6):
    record = Record(path, callbacks)
    record.announce({"kind": "config", "step": 0})
    for step in range(1, steps + 1):
        record.add([row(step)])
    record.close()
    assert [entry["step"] for entry in read_rows(path)] == [*range(1, steps + 1)]


def test_a_service_that_fails_now_and_then_is_kept(tmp_path, recwarn):
    service = Service(1, 3)
    recorded(tmp_path / "m.jsonl", service)
    assert service.steps == [0, 2, 4, 5, 6]
    assert service.ended
    assert not recwarn.list


def test_at_its_third_failure_it_is_dropped_with_one_warning(tmp_path):
    bad, good = Service(1, 3, 4), Service()
    with pytest.warns(UserWarning) as warned:
        recorded(tmp_path / "m.jsonl", bad, good)
    (message,) = [str(entry.message) for entry in warned]
    assert message == "Service failed (out of reach); training goes on without it"
    assert bad.steps == [0, 2]
    assert not bad.ended
    assert good.steps == [0, 1, 2, 3, 4, 5, 6]
    bad.fails_at = ()
    recorded(tmp_path / "another run.jsonl", bad, steps=2)
    assert bad.steps == [0, 2, 0, 1, 2]


def test_what_is_fatal_is_not_tried_again(tmp_path):
    service = Service(2, fatal=(OSError,))
    with pytest.warns(UserWarning, match="training goes on without it"):
        recorded(tmp_path / "m.jsonl", service)
    assert service.steps == [0, 1]


def test_all_are_closed_even_if_one_fails(tmp_path):
    class Broken(Seen):
        def close(self):
            raise ValueError("cannot be closed")

    seen = [Seen(), Broken(), Seen()]
    record = Record(tmp_path / "m.jsonl", seen)
    record.add([row(1)])
    with pytest.raises(ValueError, match="cannot be closed"):
        record.close()
    assert [each.closed for each in seen] == [1, 0, 1]
    assert json.loads((tmp_path / "m.jsonl").read_text())["step"] == 1
