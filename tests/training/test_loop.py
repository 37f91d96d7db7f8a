"""``--workers 0``: the loop in the calling process does what child processes do, and a debugger finds it there."""

import contextlib
import signal
import threading
import traceback

import pytest
import torch
from helpers.settings import WITH_WORKERS, Stopping, without_timings

import offline_rl as orl
from offline_rl.algos.td3_bc import TD3BC
from offline_rl.errors import Interrupted
from offline_rl.training.checkpoint import Checkpoint
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan, split_settings
from offline_rl.training.run import carry_out
from offline_rl.training.trainer import Stop
from offline_rl.training.workers import WorkerPool

SETTINGS = {**WITH_WORKERS, "seeds": [0, 1], "steps": 60, "eval_every": 25, "log_every": 20, "final_episodes": 2}
ONLINE = {"online_steps": 30, "checkpoint_seconds": 0.0}
NO_EPISODES = {"eval_every": 0, "final_episodes": 0}


def train(out, **more):
    return orl.train("td3_bc", "hopper-demo", out=str(out), **{**SETTINGS, **more})


def content(run):
    """Return all that a run leaves but for times."""
    agents = [(run.path / "agents" / f"seed-{seed}" / "weights.safetensors").read_bytes() for seed in (0, 1)]
    checkpoint = Checkpoint.load(run.path)
    tensors = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors.items()}
    replays = [path.read_bytes() for path in sorted((run.path / "checkpoint").glob("replay-*"))]
    rest = checkpoint.step, checkpoint.pending, checkpoint.lengths, checkpoint.total, checkpoint.finished
    config = {name: value for name, value in run.config.items() if name not in ("started", "command")}
    return agents, without_timings(run.rows), tensors, replays, rest, config


@pytest.fixture(scope="module")
def with_workers(tmp_path_factory):
    return content(train(tmp_path_factory.mktemp("workers") / "run", **ONLINE))


def test_a_run_in_this_process_leaves_the_same_bytes(with_workers, tmp_path):
    assert content(train(tmp_path / "run", workers=0, **ONLINE)) == with_workers


@pytest.mark.parametrize("workers", [(0, None), pytest.param((None, 0), marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_goes_on_with_or_without_workers(with_workers, tmp_path, workers):
    stop, out = Stop(), tmp_path / "run"
    options, own = split_settings("td3_bc", {**SETTINGS, **ONLINE, "workers": workers[0]})
    plan = Plan.make("td3_bc", "hopper-demo", TrainOptions(**options), own)
    with contextlib.closing(WorkerPool()) as pool, pytest.raises(Interrupted):
        carry_out(plan, out, pool, callbacks=[Stopping(stop)], stop=stop)
    assert 0 < Checkpoint.load(out).step < 90
    assert content(train(out, workers=workers[1], resume=True, **ONLINE)) == with_workers


def test_a_breakpoint_in_a_loss_stops_in_this_process(tmp_path, monkeypatch):
    """A loss that counts its calls stands for the breakpoint; with a worker none of them is here."""
    calls, own = [], TD3BC.actor_loss

    def actor_loss(self, *args, **kwargs):
        calls.append(self.seed)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(TD3BC, "actor_loss", actor_loss)
    train(tmp_path / "here", workers=0, **NO_EPISODES)
    assert sorted(calls) == [0] * 30 + [1] * 30, "one for each second update"
    train(tmp_path / "there", workers=1, **NO_EPISODES)
    assert len(calls) == 60


def test_evaluation_is_here_too_and_comes_before_the_next_update(tmp_path, monkeypatch):
    events = []
    update, act = TD3BC.update, TD3BC.policy
    monkeypatch.setattr(TD3BC, "update", lambda self, batch, step: events.append(step) or update(self, batch, step))
    monkeypatch.setattr(TD3BC, "policy", lambda self, *args: events.append("act") or act(self, *args))
    train(tmp_path / "run", workers=0, seeds=[0], steps=4, eval_every=2, final_episodes=1)
    kinds = [event for event, before in zip(events, [None, *events[:-1]], strict=True) if event != before]
    assert kinds == ["act", 1, 2, "act", 3, 4, "act"]


def test_an_error_in_a_loss_keeps_its_traceback(tmp_path, monkeypatch):
    def actor_loss(self, *args, **kwargs):
        raise ZeroDivisionError("a slip")

    monkeypatch.setattr(TD3BC, "actor_loss", actor_loss)
    with pytest.raises(ZeroDivisionError, match="a slip") as caught:
        train(tmp_path / "run", workers=0, **NO_EPISODES)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names.index("make_updates") < names.index("update") < names.index("actor_loss")


def test_afterwards_this_process_computes_as_before(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(tmp_path / "run", workers=0, steps=4, **NO_EPISODES)
        assert torch.get_num_threads() == 2
        assert float(torch.tensor(1e-39) * 1) > 0, "numbers that are all but zero count again"
    finally:
        torch.set_num_threads(threads)


def test_two_runs_at_once_are_refused_in_one_process(tmp_path, monkeypatch):
    """Each sets how the process computes."""
    inside, refused = threading.Event(), threading.Event()

    def first(row):
        if row["kind"] == "train":
            inside.set()
            assert refused.wait(60)

    options = {"workers": 0, **NO_EPISODES}
    thread = threading.Thread(target=train, args=(tmp_path / "one",), kwargs={**options, "callbacks": [first]})
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(orl.RunError, match="trains in this process already; give this one workers 1 or more"):
            train(tmp_path / "two", **options)
    finally:
        refused.set()
        thread.join()
    assert Checkpoint.load(tmp_path / "one").finished
    assert not (tmp_path / "two").exists()


def test_ctrl_c_stops_at_a_checkpoint(tmp_path):
    def stop(row):
        if row["kind"] == "train" and row["seed"] == 0 and row["step"] == 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped at step \d+"):
        train(tmp_path / "run", workers=0, steps=100_000, callbacks=[stop], **NO_EPISODES)
    assert Checkpoint.load(tmp_path / "run").step >= 20


@pytest.mark.gpu
def test_graphs_on_a_gpu_leave_the_same_bytes_here(tmp_path):
    settings = {"device": "cuda", "mode": "cudagraph", "steps": 200, **NO_EPISODES}
    here, there = (train(tmp_path / str(workers), workers=workers, **settings) for workers in (0, 1))
    assert content(here) == content(there)
