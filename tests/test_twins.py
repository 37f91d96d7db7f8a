"""Twins of d3rlpy's: that both programs get the same rows and policies, how they are compared, and a short run."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import offline_rl as orl
from benchmarks import twins
from benchmarks.peer import PYTHON
from benchmarks.peer_parity import networks
from offline_rl.agent import find_algorithm
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import RunError
from offline_rl.files import read_sealed, sealed, write_json

PEERS = Path(os.environ.get("OFFLINE_RL_PEERS", PYTHON))


def as_d3rlpy_reads(arrays):
    """Give the rows that d3rlpy makes of episodes, as its picker of transitions is documented."""
    for start, end, ended in zip(arrays["bounds"][:-1], arrays["bounds"][1:], arrays["terminated"], strict=True):
        for step in range(start, end if ended else end - 1):
            last = ended and step == end - 1
            following = np.zeros_like(arrays["observations"][step]) if last else arrays["observations"][step + 1]
            row = arrays["observations"][step], arrays["actions"][step], arrays["rewards"][step, 0], following
            yield (*row, bool(last))


@pytest.mark.parametrize("mode", ["exact", "d4rl"])
def test_d3rlpy_makes_our_rows_of_what_it_is_given(mode):
    """Broken by a row that is lost at a time limit, or by a next observation of another episode."""
    data = orl.load_dataset("hopper-demo", mode=mode)
    preprocessing = Preprocessing.fit(data, normalize=True)
    rows = list(as_d3rlpy_reads(twins.chained(data, preprocessing)))
    assert len(rows) == len(data.rewards)
    observation, action, reward, following, terminated = map(np.array, zip(*rows, strict=True))
    assert (observation == preprocessing.normalized(data.observations)).all()
    assert (action == preprocessing.to_network(data.actions)).all()
    assert (reward == data.rewards).all()
    assert (terminated == data.terminated).all()
    assert (following == preprocessing.normalized(data.next_observations))[~terminated].all()


@pytest.mark.parametrize("name", ["td3_bc", "iql"])
def test_a_policy_that_d3rlpy_has_written_acts_as_written(name, tmp_path):
    found = find_algorithm(name)
    first, second = (found(found.config_class(hidden_dims=[8, 8]), 4, 2, seed=seed) for seed in (0, 1))
    np.savez(tmp_path / "9.npz", *networks(first)["actor"])
    observation = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(first.policy(observation), second.policy(observation))
    assert torch.equal(first.policy(observation), twins.acting(second, tmp_path / "9.npz").policy(observation))


def result(program, seed, score, **changes):
    about = {"program": program, "algorithm": "iql", "dataset": "hopper-demo", "seed": seed, "steps": 40}
    return {**about, "final_episodes": 3, "seconds": 2.0, "curve": [[20, 1.0], [40, score]], **changes}


def test_the_difference_is_that_of_last_scores_with_welchs_interval(tmp_path):
    """Both sides scatter by 1, so the half width is t(4) √(1/3 + 1/3) = 2.776 · 0.816 = 2.27."""
    results = [result("ours", seed, 10.0 + seed) for seed in range(3)]
    results += [result("d3rlpy", seed, 7.0 + seed) for seed in range(3)]
    text = twins.tables([*results, result("ours", 0, 5.0, algorithm="td3_bc")])
    row = "| iql | hopper-demo | 3 and 3 | 11.0 ± 2.5 | 8.0 ± 2.5 | 3.0 ± 2.3 | more than noise | 2 | 2 |"
    assert row in text
    assert "td3_bc" not in text  # d3rlpy's half is missing
    for number, one in enumerate(results):
        write_json(tmp_path / f"{number}.json", sealed(one))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- twins: begin -->\nold\n<!-- twins: end -->\nb\n")
    twins.show(tmp_path, page)
    assert row in page.read_text()
    assert "old" not in page.read_text()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(RunError, match="there are no twins yet"):
        twins.tables([result("ours", 0, 1.0)])
    with pytest.raises(RunError, match="differ in steps"):
        twins.tables([result("ours", 0, 1.0), result("d3rlpy", 0, 1.0, steps=80)])
    with pytest.raises(RunError, match="does not divide 10 steps"):
        twins.run(twins.Arguments(steps=10, every=3, out=tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="d3rlpy is not installed; OFFLINE_RL_PEERS names a Python that has it")
def test_both_programs_are_trained_once_and_a_second_call_has_nothing_to_do(tmp_path, capsys):
    small = {"steps": 20, "every": 10, "episodes": 1, "final_episodes": 2, "seeds": [0], "algorithms": ["td3_bc"]}
    arguments = twins.Arguments(peers=PEERS, out=tmp_path, **small)
    twins.run(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{program}-td3_bc-hopper-demo-seed-0.json" for program in ("d3rlpy", "ours")
    ]
    for path in tmp_path.iterdir():
        found = read_sealed(path)
        assert [step for step, _ in found["curve"]] == [10, 20]
        assert all(np.isfinite(score) for _, score in found["curve"])
    capsys.readouterr()
    twins.run(arguments)
    assert capsys.readouterr().err == ""
    path = tmp_path / "ours-td3_bc-hopper-demo-seed-0.json"
    write_json(path, sealed({**json.loads(path.read_text()), "steps": 30}))
    with pytest.raises(RunError, match=r"seed-0\.json was made with another steps"):
        twins.run(arguments)
