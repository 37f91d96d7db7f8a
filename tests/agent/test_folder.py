"""Agent folders that somebody might send to do harm: each is refused in one sentence, and soon."""

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.agents import as_format_1
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file

import offline_rl as orl
from offline_rl.agent.folder import agent_folders
from offline_rl.algos.doc.agent import Config as DoCConfig
from offline_rl.algos.doc.agent import DoC
from offline_rl.algos.dt import DT
from offline_rl.algos.dt import Config as DTConfig
from offline_rl.algos.td3_bc import TD3BC, Config


@pytest.fixture
def saved(tmp_path):
    TD3BC(Config(hidden_dims=[8]), 3, 2).save(tmp_path / "agent")
    return tmp_path / "agent"


def description_of(folder):
    return json.loads((folder / "agent.json").read_text())


def refusal(folder):
    """Return why an agent is refused; it must be one short sentence within a second of computing."""
    began = time.process_time()
    with pytest.raises(orl.AgentError) as caught:
        orl.load_agent(folder)
    assert time.process_time() - began < 1
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def configure(folder, **settings):
    as_format_1(folder, config={**description_of(folder)["config"], **settings})


@pytest.mark.parametrize(
    "hidden_dims", [[10**9, 10**9], [10**5, 10**5], [10**18], [10**400], [1] * 1000, [1] * 200_000, [-5], [[[8]]], 8]
)
def test_settings_that_do_not_fit_the_weights_build_nothing_large(saved, hidden_dims):
    """Broken by building first and comparing then: the second takes 40 GB."""
    configure(saved, hidden_dims=hidden_dims)
    said = refusal(saved)
    known = "larger networks|at most 1,000|hidden_dims is|does not describe|over 100,000 values|64 digits"
    assert re.search(known, said)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("layers", 10**9), ("candidates", 10**9), ("latent_size", 10**7), ("value_heads", 10**9), ("width", 10**6)],
)
def test_other_sizes_of_networks_are_no_way_around(tmp_path, setting, value):
    folder = tmp_path / "agent"
    DoC(DoCConfig(hidden_dims=[8], width=8, layers=1, candidates=5, latent_size=2), 3, 2).save(folder)
    configure(folder, **{setting: value})
    assert re.search("larger networks|at most|does not describe", refusal(folder))


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("doc", {"hidden_dims": []}, "hidden_dims is \\[\\]; doc needs"),
        ("doc", {"heads": 3}, "heads is 3; it must divide width, which is 8"),
        ("doc", {"future": 2**63}, "future is 9223372036854775808; it must be"),
        ("doc", {"past": 10**12}, "past is 1000000000000; it must be at most"),
        ("doc", {"candidates": 5_000_000}, "candidates is 5000000; times the widest layer at most"),
        ("dt", {"heads": 3}, "heads is 3; it must divide width, which is 8"),
        ("dt", {"length": 2**63}, "length is 9223372036854775808; it must be"),
        ("dt", {"return_scale": 1e308}, "return_scale is 1e\\+308; it must be at most"),
        ("dt", {"return_scale": 1e30}, "return_scale is 1e\\+30; it must be at most"),
        ("dt", {"target_returns": [-1e308]}, "target_returns is .* it must be at least"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused_at_load_not_at_the_first_act(tmp_path, kind, settings, said):
    small = {"hidden_dims": [8], "width": 8, "layers": 1}
    folder = tmp_path / "agent"
    doc = DoC(DoCConfig(**small, candidates=5, latent_size=2), 3, 2)
    (doc if kind == "doc" else DT(DTConfig(**small), 3, 2)).save(folder)
    configure(folder, **settings)
    assert re.search(said, refusal(folder))


@pytest.mark.parametrize("problem", [IndexError, TypeError, OverflowError, RuntimeError, KeyError])
def test_an_agent_that_cannot_act_is_refused_at_load_whatever_it_raises(saved, problem, monkeypatch):
    def raising(self, observation):
        raise problem("x")

    monkeypatch.setattr(TD3BC, "policy", raising)
    assert f"does not describe an agent for cpu ({problem.__name__}" in refusal(saved)


def test_loading_leaves_no_trace_of_the_rehearsal(tmp_path):
    DT(DTConfig(hidden_dims=[8], width=8, layers=1, length=3), 3, 2).save(tmp_path / "agent")
    one, other = orl.load_agent(tmp_path / "agent"), orl.load_agent(tmp_path / "agent").acting_copy()
    rows = np.random.default_rng(0).normal(size=(4, 3))
    assert np.array_equal(one.act(rows), other.act(rows))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_weights_that_are_no_finite_numbers_are_refused(saved, value, kind):
    file = saved / "weights.safetensors"
    weights = {name: weight.numpy().astype(kind) for name, weight in load_file(file).items()}
    for weight in weights.values():
        weight[...] = value
    save_numpy(weights, file)
    as_format_1(saved)
    assert re.search("holds (NaN or infinity|numbers up to 3e.38) in actor", refusal(saved))


def test_doubles_that_single_precision_cannot_hold_are_refused(saved):
    file = saved / "weights.safetensors"
    weights = {name: weight.numpy().astype(np.float64) for name, weight in load_file(file).items()}
    name = sorted(weights)[0]
    weights[name].flat[0] = 1e300
    save_numpy(weights, file)
    as_format_1(saved)
    assert f"holds NaN or infinity in {name}" in refusal(saved)


LONG = ["a" * 5000, "/" + "a/" * 3000, "x" * 300 + "/agents/seed-0", "hf://" + "a" * 5000]


@pytest.mark.parametrize("path", [*LONG, "a\0b", "", "hf://", "hf://x"])
def test_a_path_that_is_none_is_one_short_sentence(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in (path, Path(path)):
        assert refusal(given)


def test_a_format_of_many_digits_is_cut(saved):
    as_format_1(saved, format=int("9" * 4000))
    assert "over 64 digits" in refusal(saved)


def test_folders_in_a_run_that_are_no_agents_are_no_obstacle(saved, tmp_path):
    (tmp_path / "run" / "agents" / "seed-x").mkdir(parents=True)
    saved.rename(tmp_path / "run" / "agents" / "seed-12")
    assert orl.load_agent(tmp_path / "run").seed == 0
    assert list(agent_folders(tmp_path / "run")) == [12]


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("observation_mean", [float("nan"), 0, 0], "it holds NaN"),
        ("observation_mean", [1e40, 0, 0], "observation_mean is no list of finite numbers"),
        ("observation_mean", [[0], [0], [0]], "observation_mean is no list of finite numbers"),
        ("observation_std", [float("inf"), 1, 1], "it holds Infinity"),
        ("observation_std", [0, 1, 1], "observation_std must be at least"),
        ("observation_std", [-1, 1, 1], "observation_std must be at least"),
        ("observation_std", [1e-40, 1, 1], "observation_std must be at least"),
        ("observation_std", [1, 1], "preprocessing is for sizes"),
        ("action_low", [2, -1], "action_low is above action_high"),
        ("action_low", ["a", -1], "action_low is no list"),
        ("action_low", {}, "action_low is no list"),
        ("action_low", None, "action_low is no list"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_preprocessing_that_would_ruin_actions_is_refused(saved, field, values, said):
    as_format_1(saved, preprocessing={**description_of(saved)["preprocessing"], field: values})
    assert said in refusal(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"observation_size": -3},
        {"action_size": 10**12},
        {"seed": -1},
        {"seed": [1]},
        {"steps": -1},
        {"online_steps": "x"},
        {"config": []},
        {"config": "x" * 10**5},
        {"preprocessing": {}},
        {"provenance": 3},
        {"algorithm": ["td3_bc"]},
    ],
)
def test_nonsense_in_a_description_is_refused(saved, changes):
    as_format_1(saved, **changes)
    assert refusal(saved)


def test_deeply_nested_json_is_refused(saved):
    as_format_1(saved)
    for depth in (900, 100_000):
        text = json.dumps(description_of(saved)).replace("[8]", "[" * depth + "8" + "]" * depth)
        (saved / "agent.json").write_text(text)
        refusal(saved)


@pytest.mark.parametrize("name", ["agent.json", "weights.safetensors"])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused_without_waiting(saved, name):
    """Broken by opening a pipe in the ordinary way, which waits for somebody to write."""
    (saved / name).unlink()
    os.mkfifo(saved / name)
    assert f"{name} is no file" in refusal(saved)
    (saved / name).unlink()
    (saved / name).mkdir()
    assert f"{name} is no file" in refusal(saved)


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 50_000_000])
def test_a_huge_header_of_the_weights_is_not_read(saved, length):
    file = saved / "weights.safetensors"
    with file.open("r+b") as opened:
        opened.write(length.to_bytes(8, "little"))
        opened.truncate(60_000_000)
    assert "its header has over 1,000,000 bytes" in refusal(saved)


def test_huge_weights_are_not_read(saved):
    with (saved / "weights.safetensors").open("r+b") as opened:
        opened.truncate(2**40)
    assert "it has over 1,073,741,824 bytes" in refusal(saved)


def test_weights_of_another_shape_or_kind_are_refused(saved):
    as_format_1(saved)
    file = saved / "weights.safetensors"
    right = load_file(file)
    name = next(name for name in right if right[name].ndim == 3)
    save_file({**right, name: right[name].transpose(1, 2).contiguous()}, file)
    assert f"{name} has shape" in refusal(saved)
    save_file({**right, name: right[name].long()}, file)
    assert f"{name} holds no numbers with a fraction" in refusal(saved)


def test_damaged_bytes_without_checksums_load_or_are_refused_but_never_anything_else(saved):
    as_format_1(saved)
    generator = np.random.default_rng(0)
    whole = {name: (saved / name).read_bytes() for name in ("agent.json", "weights.safetensors")}
    refused = 0
    for attempt in range(300):
        name = list(whole)[attempt % 2]
        content = bytearray(whole[name])
        for place in generator.integers(len(content), size=generator.integers(1, 4)):
            content[place] = generator.integers(256)
        if attempt % 5 == 0:
            del content[generator.integers(len(content)) :]
        (saved / name).write_bytes(content)
        try:
            orl.load_agent(saved)
        except orl.AgentError as error:
            assert len(str(error)) < 600
            refused += 1
        (saved / name).write_bytes(whole[name])
    assert 100 < refused < 300
