"""d3rlpy's updates beside ours: what is committed, how it is compared, and, where d3rlpy is installed, a run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peer import PYTHON
from benchmarks.peer_parity import (
    ALGORITHMS,
    PAGE,
    RESULT,
    Arguments,
    by_kind,
    differences,
    measure,
    networks,
    show,
    tables,
)
from offline_rl.agent import find_algorithm
from offline_rl.files import read_sealed

PEERS = Path(os.environ.get("OFFLINE_RL_PEERS", PYTHON))


@pytest.fixture(scope="module")
def result():
    return read_sealed(RESULT)


def test_with_all_bridges_nothing_but_rounding_is_left(result):
    assert set(result["algorithms"]) | set(result["missing"]) == set(ALGORITHMS)
    assert result["updates"] >= 20
    for name, found in result["algorithms"].items():
        losses = {f"{group}_loss" for group in agent_of(name).groups}
        assert losses | set(networks(agent_of(name))) == set(found["bridged"]), "something was not compared"
        assert max(found["bridged"].values()) < 1e-12, name


def test_each_difference_that_is_named_makes_one(result):
    """Broken by a bridge that changes nothing, of which nothing can be learned."""
    for name, found in result["algorithms"].items():
        assert set(found["without"]) == set(found["differences"])
        for bridge, gaps in found["without"].items():
            assert by_kind(gaps)["weights"] > 1e-10, (name, bridge)


def test_the_page_shows_what_is_committed(result, tmp_path):
    page = tmp_path / "parity.md"
    page.write_text(PAGE.read_text())
    show(RESULT, page)
    assert page.read_text() == PAGE.read_text()
    assert all(" ".join(sentence.split()) in tables(result) for sentence in sentences(result))


def sentences(result):
    return [sentence for found in result["algorithms"].values() for sentence in found["differences"].values()]


def agent_of(name, **settings):
    found = find_algorithm(name)
    settings = {"hidden_dims": [8, 6], **ALGORITHMS[name], **settings}
    return found(found.config_class.of(settings), 5, 2, steps=9, dtype=torch.float64)


def test_the_largest_difference_is_found_in_any_update_and_entry():
    states = [{"q_loss": 1.0, "critic": [np.zeros(3), np.zeros(2)], "extra": [np.ones(1)]}] * 2
    written = {
        "0/q_loss": np.array(1.25),
        **{f"{update}/critic/{place}": np.zeros(3 - place) for update in (0, 1) for place in (0, 1)},
    }
    assert differences(states, written) == {"q_loss": 0.25, "critic": 0.0}
    written["1/critic/1"] = np.array([0.0, -2.0])
    assert differences(states, written) == {"q_loss": 0.25, "critic": 2.0}
    written["1/critic/0"] = np.full(3, np.nan)
    assert differences(states, written)["critic"] == np.inf


def forward(layers, x):
    """Apply linear layers with ReLU between them."""
    for place in range(0, len(layers), 2):
        x = x @ layers[place].T + layers[place + 1]
        x = np.maximum(x, 0) if place < len(layers) - 2 else x
    return x


def test_weights_are_handed_over_in_an_order_that_gives_the_same_network():
    """Broken by critics that are swapped, or by heads of mean and log-std that are."""
    agent, x = agent_of("cql"), np.random.default_rng(0).standard_normal((4, 5))
    for group in agent.groups.values():
        group.flat.add_(torch.linspace(-1, 1, len(group.flat), dtype=torch.float64))
    found, tensor = networks(agent), torch.from_numpy(x)
    pair = np.concatenate([x, x[:, :2]], axis=1)
    for place, values in enumerate(agent.critic(tensor, tensor[:, :2])):
        assert np.allclose(forward(found[f"critic_{place}"], pair)[:, 0], values.detach())
    policy, layers = agent.actor(tensor), found["actor"]
    hidden = np.maximum(forward(layers[:4], x), 0)
    scale, shift = found["spread"]
    assert np.allclose(forward(layers[4:6], hidden), policy.mean.detach())
    assert np.allclose(np.clip(scale * forward(layers[6:8], hidden) + shift, -20, 2), policy.log_std.detach())


def test_without_d3rlpy_it_says_how_to_get_it(tmp_path):
    with pytest.raises(SystemExit, match=r"pip install -r benchmarks/peers\.txt"):
        measure(Arguments(peers=tmp_path / "python"))


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="d3rlpy is not installed; OFFLINE_RL_PEERS names a Python that has it")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_d3rlpy_agrees_now(name):
    """Broken by whatever changes our update, or d3rlpy's."""
    found = measure(Arguments(peers=PEERS, algorithms=[name], steps=3))["algorithms"][name]
    assert max(found["bridged"].values()) < 1e-12
    assert max(found["untouched"].values()) > 1e-10
