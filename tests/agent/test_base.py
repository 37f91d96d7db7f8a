import importlib.metadata
import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pandas
import pytest
import torch
from helpers.agents import as_format_1
from safetensors.torch import load_file, save_file

import offline_rl as orl
from offline_rl.agent import agent_from_description, algorithms, find_algorithm, merged, presets
from offline_rl.agent.sequence import SequenceConfig
from offline_rl.algos.bc import BC
from offline_rl.algos.bc import Config as BCConfig
from offline_rl.algos.iql import IQL
from offline_rl.algos.iql import Config as IQLConfig
from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import DivergedError
from offline_rl.files import remove_leftovers, sealed, write_json


@pytest.fixture
def agent():
    preprocessing = Preprocessing(
        observation_mean=np.array([1, 2, 3], np.float32),
        observation_std=np.array([0.5, 1, 2], np.float32),
        action_low=np.array([-2, 0], np.float32),
        action_high=np.array([2, 4], np.float32),
    )
    return TD3BC(Config(hidden_dims=[8]), 3, 2, seed=7, preprocessing=preprocessing)


@pytest.fixture
def saved(agent, tmp_path):
    agent.save(tmp_path / "agent")
    return tmp_path / "agent"


def test_acting_normalises_and_scales(agent):
    observation = np.array([1.5, 0.0, -1.0], np.float32)
    with torch.inference_mode():
        inner = agent.actor(torch.tensor([[1.0, -2.0, -2.0]]))[0].numpy()
    assert np.allclose(agent.act(observation), [2 * inner[0], 2 + 2 * inner[1]], atol=1e-6)


def test_shapes_of_one_and_many(agent):
    many = np.random.default_rng(0).standard_normal((5, 3))
    assert agent.act(many).shape == (5, 2)
    assert agent.act(many[0]).shape == (2,)
    assert agent.act(many).dtype == np.float32
    assert np.allclose(agent.act(many)[3], agent.act(many[3]), atol=1e-6)
    action, state = agent.predict(many, deterministic=True)
    assert np.array_equal(action, agent.act(many))
    assert state is None


def test_exploring_adds_noise_of_the_configured_size_and_stays_in_range(agent):
    observation = np.tile(agent.preprocessing.observation_mean, (4000, 1))
    best = agent.act(observation)
    tried = agent.act(observation, deterministic=False)
    low, high = agent.preprocessing.action_low, agent.preprocessing.action_high
    assert (np.abs(best - (low + high) / 2) < 0.5 * (high - low) / 2).all(), "far from the bounds"
    noise = (tried - best) / ((high - low) / 2)
    assert np.allclose(noise.std(0), agent.config.exploration_noise, rtol=0.1)
    assert np.allclose(noise.mean(0), 0, atol=0.01)
    far = TD3BC(Config(hidden_dims=[8], exploration_noise=50.0), 3, 2).act(observation, deterministic=False)
    assert (np.abs(far) <= 1).all()
    assert not np.array_equal(agent.predict(observation[0], deterministic=False)[0], best[0])
    assert np.array_equal(agent.predict(observation[0])[0], agent.act(observation[0]))


def test_given_noise_explores_the_same_way_each_time(agent):
    observation, noise = np.zeros(agent.observation_size), np.ones(agent.action_size, np.float32)
    first, second = (agent.act_with_noise(observation, noise) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, agent.act(observation))


def test_an_algorithm_without_exploration_says_so():
    cloned = BC(BCConfig(hidden_dims=[4]), 3, 2)
    assert not BC.explores()
    assert TD3BC.explores()
    with pytest.raises(orl.AgentError, match="bc has no way to explore"):
        cloned.act(np.zeros(3), deterministic=False)


def test_a_learning_rate_that_decays_ends_at_zero_unless_an_online_phase_follows():
    """Half a cosine over the offline steps; broken by decaying towards the end of both phases."""
    moves = {}
    for online_steps in (0, 10):
        settings = {"hidden_dims": [4], "scale_rewards": False}
        agent = IQL(IQLConfig(**settings), 3, 2, steps=20, online_steps=online_steps)
        group = agent.groups["actor"]
        sizes = []
        for _ in range(20):
            before = group.flat.clone()
            group.step(tuple(torch.ones_like(parameter) for parameter in group.parameters))
            sizes.append(float((group.flat - before).abs().mean()))
        moves[online_steps] = np.array(sizes) / sizes[0]
    assert np.allclose(moves[0], 0.5 * (1 + np.cos(np.pi * np.arange(20) / 20)), atol=1e-3)
    assert np.allclose(moves[10], 1, atol=1e-3)


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((2, 4)), np.zeros((1, 2, 3)), 0.0])
def test_a_wrong_shape_is_refused(agent, bad):
    with pytest.raises(orl.AgentError, match=r"this agent takes \(3,\) or \(B, 3\)"):
        agent.act(bad)


@pytest.mark.parametrize("bad", ["x", [[1, 2, 3], [1]], None])
def test_what_is_no_array_is_refused(agent, bad):
    with pytest.raises(orl.AgentError, match="observation"):
        agent.act(bad)


def test_nan_is_refused(agent):
    with pytest.raises(orl.AgentError, match="NaN or infinity"):
        agent.act(np.array([0, np.nan, 0]))


@pytest.mark.parametrize(
    "bad",
    [["1", "2", "3"], np.array(["1", "2", "3"]), np.zeros(3, complex), np.zeros(3, "M8[D]"), [10**400, 0, 0], [[]]],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_refused_even_where_it_could_be_read_as_one(agent, bad):
    with pytest.raises(orl.AgentError, match="observation"):
        agent.act(bad)


def test_too_large_for_single_precision_is_refused_with_the_entry(agent):
    with pytest.raises(orl.AgentError, match="observation holds NaN or infinity in observation_1; check"):
        agent.act([0.0, 1e300, 0.0])


@pytest.fixture
def named():
    """Give an agent whose data had names."""
    preprocessing = Preprocessing(
        observation_mean=np.array([1, 20, 3], np.float32),
        observation_std=np.array([0.5, 10, 2], np.float32),
        action_low=np.array([-2, 0], np.float32),
        action_high=np.array([2, 4], np.float32),
        observation_names=("observation_temp", "observation_flow", "level"),
        action_names=("action_valve", "action_pump"),
    )
    return TD3BC(Config(hidden_dims=[8]), 3, 2, seed=7, preprocessing=preprocessing)


def turned(rows):
    """Give rows with names, in another order than the agent's."""
    columns = ["level", "temp", "observation_flow"]
    return pandas.DataFrame(np.asarray(rows)[:, [2, 0, 1]], columns=columns)


def test_what_is_given_by_name_may_stand_in_any_order(named):
    rows = np.random.default_rng(0).normal([1, 20, 3], 5, (6, 3)).astype(np.float32)
    frame, expected = turned(rows), named.act(rows)
    assert np.array_equal(named.act(frame), expected)
    assert np.array_equal(named.act(frame.to_dict("list")), expected)
    assert np.array_equal(named.predict(frame)[0], expected)
    noise = np.ones((6, 2), np.float32)
    assert np.array_equal(named.act_with_noise(frame, noise), named.act_with_noise(rows, noise))
    one = named.act(rows[2])
    assert np.array_equal(named.act(frame.iloc[2]), one)
    assert np.array_equal(named.act(dict(frame.iloc[2])), one)
    assert np.array_equal(named.act(pandas.Series(rows[2])), one)
    assert named.act(frame.iloc[2], deterministic=False).shape == (2,)
    assert (named.observation_names[0], named.action_names) == ("observation_temp", ("action_valve", "action_pump"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temp": 1, "flow": 2}, "observation has no 'level'; give 'observation_temp', 'observation_flow', 'level'"),
        ({"temp": 1, "flow": 2, "level": 3, "reward": 0}, "observation has 'reward', which this agent does not have"),
        ({"temp": 1, "pressure": 2, "level": 3}, "has no 'observation_flow' and has 'pressure', which this agent"),
        ({"temp": 1, "observation_temp": 1, "flow": 2, "level": 3}, "observation has 'observation_temp' twice"),
        ({"temp": [1, 2], "flow": [2], "level": [3]}, "observation is not an array of numbers"),
        ({"temp": None, "flow": 2, "level": 3}, "NaN or infinity in observation_temp"),
        ({"temp": "hot", "flow": 2, "level": 3}, "observation is not an array of numbers"),
        ({}, "observation has no 'observation_temp'"),
        (pandas.Series([1.0, 2, 3], [5, 6, 7]), "which this agent does not have"),
        (pandas.Series([1.0, 2, 3], [2, 1, 0]), "which this agent does not have"),
    ],
)
def test_other_names_are_refused(named, given, message):
    with pytest.raises(orl.AgentError, match=message) as caught:
        named.act(given)
    assert "\n" not in str(caught.value)


def test_an_agent_without_names_knows_numbers_only(agent):
    rows = np.array([1.0, 2.0, 3.0])
    numbered = pandas.Series(rows[[2, 0, 1]], ["observation_2", "observation_0", "observation_1"])
    assert np.array_equal(agent.act(numbered), agent.act(rows))
    assert agent.observation_names is None
    with pytest.raises(orl.AgentError, match="which this agent, whose data had no names, does not have; give 'observ"):
        agent.act(pandas.Series(rows, ["a", "b", "c"]))


def test_names_are_saved_copied_and_loaded(named, tmp_path):
    named.save(tmp_path / "agent")
    for again in (orl.load_agent(tmp_path / "agent"), named.acting_copy(), named.fresh_copy()):
        assert again.observation_names == named.observation_names
        assert again.action_names == named.action_names
    description = json.loads((tmp_path / "agent" / "agent.json").read_text())
    assert description["preprocessing"]["observation_names"] == ["observation_temp", "observation_flow", "level"]


def test_agents_from_before_names_load_and_write_the_same_bytes(agent, saved, tmp_path):
    text = (saved / "agent.json").read_text()
    assert "names" not in text
    orl.load_agent(saved).save(tmp_path / "again")
    assert (tmp_path / "again" / "agent.json").read_text() == text


@pytest.mark.parametrize("names", [["a", "b"], ["a", "a", "b"], "abc", 5, [1, 2, 3], {"a": 1}])
def test_names_that_do_not_fit_an_agent_are_refused(saved, names):
    description = json.loads((saved / "agent.json").read_text())
    as_format_1(saved, preprocessing={**description["preprocessing"], "observation_names": names})
    with pytest.raises(orl.AgentError, match="observation_names"):
        orl.load_agent(saved)


def test_names_go_from_a_table_through_training_into_the_agent(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 2))
    columns = {"observation_flow": rows[:, 0], "observation_temp": rows[:, 1] * 9, "action_valve": rows[:, 0] ** 2}
    table = pandas.DataFrame({**columns, "reward": 0.0, "episode": 1})
    quick = {"hidden_dims": [8], "batch_size": 8, "eval_every": 0, "final_episodes": 0, "workers": 0}
    run = orl.train("bc", orl.Dataset.from_table(table), out=str(tmp_path / "run"), steps=3, **quick)
    agent = run.agents[0]
    assert agent.observation_names == ("observation_flow", "observation_temp")
    assert np.array_equal(agent.act({"temp": 9.0, "flow": 0.5}), agent.act([0.5, 9.0]))
    assert run.config["dataset"]["action_names"] == ["action_valve"]
    other = orl.Dataset.from_table(table.rename(columns={"observation_temp": "observation_heat"}))
    with pytest.raises(orl.RunError, match=r"observation_names was \[.*temp.*\], now \[.*heat"):
        orl.train("bc", other, out=str(tmp_path / "run"), steps=3, resume=True, **quick)
    record = json.loads((run.path / "config.json").read_text())
    del record["dataset"]["observation_names"], record["dataset"]["action_names"]  # as older versions wrote it
    write_json(run.path / "config.json", sealed(record))
    assert len(orl.train("bc", other, out=str(tmp_path / "run"), steps=3, resume=True, **quick).agents) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_agent_that_has_diverged_gives_no_action(agent, value, tmp_path):
    """Kind: a guard at some exits only."""
    agent.groups["actor"].flat[0] = value
    name = next(iter(agent.acting_weights()))
    message = f"td3_bc holds NaN or infinity in {name}, because its training has diverged"
    exits = (
        lambda: agent.act(np.ones(3)),
        lambda: agent.predict(np.ones((2, 3))),
        lambda: agent.act(np.ones(3), deterministic=False),
        lambda: agent.act_with_noise(np.ones(3), np.ones(2)),
        lambda: agent.export_onnx(tmp_path / "policy.onnx"),
        lambda: agent.export_program(tmp_path / "policy.pt2"),
    )
    for leave in exits:
        with pytest.raises(DivergedError, match=message):
            leave()
    agent.save(tmp_path / "agent")
    with pytest.raises(DivergedError, match=f"agent: {message}"):
        orl.load_agent(tmp_path / "agent")
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_finite_weights_that_are_too_large_are_refused_before_they_act(agent, tmp_path):
    agent.groups["actor"].flat.fill_(3e38)
    message = r"td3_bc holds numbers up to 3e\+38 in actor"
    with pytest.raises(DivergedError, match=message):
        agent.export_onnx(tmp_path / "policy.onnx")
    agent.save(tmp_path / "agent")
    with pytest.raises(DivergedError, match=f"agent: {message}"):
        orl.load_agent(tmp_path / "agent")


def test_an_observation_that_is_too_large_gives_no_action(agent):
    agent.groups["actor"].flat.mul_(1e3)
    with pytest.raises(DivergedError, match="td3_bc answers with NaN or infinity: its weights, or the numbers"):
        agent.act([3e38, 3e38, 3e38])


@pytest.mark.parametrize("noise", [np.zeros(3), np.zeros((2, 2)), np.array([0, np.nan]), np.array([np.inf, 0])])
def test_noise_that_does_not_fit_is_refused(agent, noise):
    with pytest.raises(orl.AgentError, match=r"noise is no array \(2,\) of finite numbers"):
        agent.act_with_noise(np.zeros(3), noise)


def test_an_agent_says_what_it_is(agent):
    agent.provenance = {"dataset": "hopper-demo"}
    assert repr(agent) == "Agent('td3_bc', 3 observations, 2 actions, seed 7, trained on hopper-demo)"


def test_saving_and_loading_gives_the_same_actions(agent, saved):
    observations = np.random.default_rng(0).standard_normal((20, 3))
    loaded = orl.load_agent(saved)
    assert np.array_equal(loaded.act(observations), agent.act(observations))
    assert loaded.config == agent.config
    assert loaded.seed == 7


def test_saving_writes_the_same_bytes_again_and_replaces_an_agent_only(agent, saved, tmp_path):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    agent.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(orl.AgentError, match="holds no agent"):
        agent.save(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent", "mine"]


def test_a_killed_process_leaves_nothing_in_the_way(agent, saved):
    for name in (f".{saved.name}.1.tmp", f".{saved.name}.old"):
        (saved.parent / name).mkdir()
    agent.save(saved)
    assert orl.load_agent(saved).seed == 7
    remove_leftovers(saved.parent)
    assert not list(saved.parent.glob(".*.tmp"))


def test_huge_sizes_are_refused(saved):
    description = json.loads((saved / "agent.json").read_text())
    as_format_1(saved, config={**description["config"], "hidden_dims": [10**9, 10**9]})
    with pytest.raises(orl.AgentError, match=r"larger networks than|does not describe an agent"):
        orl.load_agent(saved)


def test_loading_makes_what_acting_needs_and_nothing_else(saved, agent):
    loaded = orl.load_agent(saved)
    for acting in (loaded, loaded.acting_copy(), agent.acting_copy()):
        assert (acting.groups, acting.targets) == ({}, {})
        assert not hasattr(acting, "critic")
    assert set(loaded.fresh_copy().groups) == {"actor", "critic"}


def test_loading_draws_no_initial_weights(tmp_path):
    """Broken by layers of PyTorch's that begin with random weights of their own."""
    settings = find_algorithm("dt").config_class(width=8, layers=1)
    find_algorithm("dt")(settings, 3, 2).save(tmp_path / "agent")
    before = torch.get_rng_state()
    orl.load_agent(tmp_path / "agent")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", algorithms())
def test_no_acting_network_has_a_parameter_that_is_not_saved(name, monkeypatch):
    """Broken by a critic in ``build_policy``: the slack that hides small ones is taken away here."""
    monkeypatch.setattr("offline_rl.agent.folder.SLACK", (0, 0))
    algorithm = find_algorithm(name)
    small = {"width": 8, "layers": 1} if issubclass(algorithm.config_class, SequenceConfig) else {}
    agent = algorithm(algorithm.config_class(hidden_dims=[8], **small), 3, 2)
    agent_from_description(agent.description(), agent.acting_weights())


def test_a_method_build_is_refused_with_what_to_write_instead():
    class Old(BC):
        def build(self):
            pass

    with pytest.raises(orl.AgentError, match=r"bc has a method build; write build_policy .* and build_learner"):
        Old(BCConfig(), 3, 2)


def test_a_newer_format_is_refused(saved):
    as_format_1(saved, format=99)
    with pytest.raises(orl.AgentError, match="format 99, this version reads up to 2; upgrade"):
        orl.load_agent(saved)


def test_truncated_weights_are_refused(saved):
    file = saved / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(orl.AgentError, match=r"weights.safetensors is damaged"):
        orl.load_agent(saved)


def test_wrong_shapes_are_refused(saved):
    as_format_1(saved)
    file = saved / "weights.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({**weights, name: torch.zeros(2, 2)}, file)
    with pytest.raises(orl.AgentError, match=rf"{name} has shape \(2, 2\), expected"):
        orl.load_agent(saved)


def test_missing_weights_are_refused(saved):
    as_format_1(saved)
    file = saved / "weights.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, file)
    with pytest.raises(orl.AgentError, match=f"{name} is missing"):
        orl.load_agent(saved)


def test_a_huge_header_is_refused(saved):
    file = saved / "weights.safetensors"
    file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(orl.AgentError, match=r"weights.safetensors is damaged"):
        orl.load_agent(saved)


@pytest.mark.parametrize("name", ["agent.json", "weights.safetensors"])
def test_links_are_refused_wherever_they_lead(saved, tmp_path, name):
    """A folder that somebody sends may not make us read another file of this machine."""
    outside = (saved / name).rename(tmp_path / "elsewhere")
    (saved / name).symlink_to(outside)
    with pytest.raises(orl.AgentError, match=rf"{name} is a link; copy the folder with the files themselves"):
        orl.load_agent(saved)
    outside.unlink()
    with pytest.raises(orl.AgentError, match=rf"{name} is a link"):
        orl.load_agent(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"format": 1, "algorithm": "' + "x" * 1_000_000 + '"}', "cannot be read .it has over 1,000,000 bytes"),
        ("[]", "must be names with values"),
        ('{"format": 1}', "does not describe an agent"),
        ('{"format": 1, "algorithm": "td3bc"}', "did you mean 'td3_bc'"),
    ],
)
def test_a_damaged_description_is_refused(saved, text, message):
    (saved / "agent.json").write_text(text)
    with pytest.raises(orl.AgentError, match=message):
        orl.load_agent(saved)


def test_an_unknown_setting_is_refused(saved):
    description = json.loads((saved / "agent.json").read_text())
    as_format_1(saved, config={**description["config"], "beta": 1})
    with pytest.raises(orl.AgentError, match="td3_bc has no setting 'beta'"):
        orl.load_agent(saved)


def test_a_folder_without_an_agent_is_refused(tmp_path):
    with pytest.raises(orl.AgentError, match=r"holds no agent\.json"):
        orl.load_agent(tmp_path)
    (tmp_path / "agents").mkdir()
    with pytest.raises(orl.AgentError, match="give one of the folders in its agents/"):
        orl.load_agent(tmp_path)


def test_training_state_round_trip_continues_exactly():
    from parity.harness import make_batches

    first = TD3BC(Config(hidden_dims=[8], batch_size=16), 5, 2)
    batches = make_batches(first, 8)
    for step in range(1, 5):
        first.update(batches[step - 1], step)
    second = TD3BC(Config(hidden_dims=[8], batch_size=16), 5, 2, seed=99)
    second.load_training_state({name: tensor.clone() for name, tensor in first.training_state().items()})
    for step in range(5, 9):
        first.update(batches[step - 1], step)
        second.update(batches[step - 1], step)
    for name, tensor in first.training_state().items():
        assert torch.equal(tensor, second.training_state()[name]), name


def test_seeds_decide_the_initial_weights_whatever_torchs_generator_does():
    torch.manual_seed(1)
    one = TD3BC(Config(hidden_dims=[8]), 3, 2, seed=0)
    torch.manual_seed(2)
    same = TD3BC(Config(hidden_dims=[8]), 3, 2, seed=0)
    other = TD3BC(Config(hidden_dims=[8]), 3, 2, seed=1)
    assert torch.equal(one.groups["actor"].flat, same.groups["actor"].flat)
    assert not torch.equal(one.groups["actor"].flat, other.groups["actor"].flat)


@pytest.mark.parametrize("name", ["gpu-of-mars", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(saved, name):
    with pytest.raises(orl.AgentError, match=name):
        orl.load_agent(saved, device=name)


def test_equal_settings_are_equal_however_they_are_written():
    written = Config(hidden_dims=(8, np.int64(8)), batch_size=16.0, alpha=3, discount=np.float32(0.5))
    assert written == Config(hidden_dims=[8, 8], batch_size=16, alpha=3.0, discount=0.5)
    json.dumps(vars(written))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": "3"}, "alpha is '3'; it must be a finite number"),
        ({"hidden_dims": 64}, "hidden_dims is 64; it must be a list"),
        ({"normalize": "no"}, "normalize is 'no'; it must be True or False"),
        ({"batch_size": 2.5}, "batch_size is 2.5; it must be a whole number"),
        ({"discount": 1.5}, "discount is 1.5; it must be at most 1"),
    ],
)
def test_settings_of_another_type_are_refused(settings, message):
    with pytest.raises(orl.AgentError, match=message):
        Config(**settings)


def test_presets_go_from_robot_to_task():
    class Tuned(TD3BC):
        PRESETS: ClassVar = {"hopper-*": {"alpha": 1.0, "discount": 0.9}, "hopper-medium-v2": {"alpha": 2.0}}

    assert merged(presets(Tuned, "hopper", "hopper-medium-v2")) == {"alpha": 2.0, "discount": 0.9}
    assert merged(presets(Tuned, "hopper", "Hopper-v4")) == {"alpha": 1.0, "discount": 0.9}
    assert merged(presets(Tuned, "walker2d", "walker2d-medium-v2")) == {}


def test_unknown_algorithms_get_a_suggestion():
    assert find_algorithm("bc").name == "bc"
    with pytest.raises(orl.AgentError, match="did you mean 'td3_bc'"):
        find_algorithm("td3-bc")


HEAVY = ("pandas", "wandb", "matplotlib", "mujoco", "gymnasium", "minari", "numba", "h5py", "pooch", "tyro", "rich")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_nothing_heavy():
    loaded = run_python("import offline_rl, sys; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_loading_an_agent_needs_torch_numpy_and_safetensors_only(saved):
    act = "act({'observation_0': 0, 'observation_1': 0, 'observation_2': 0})"
    code = f"import offline_rl as orl, sys; orl.load_agent({str(saved)!r}).{act}; print(*sys.modules)"
    assert not set(HEAVY) & set(run_python(code).split())


def test_every_public_name_is_there():
    assert all(getattr(orl, name) is not None for name in orl.__all__)
    assert set(orl.__all__) <= set(dir(orl))
    assert orl.__version__ == importlib.metadata.version("offline-rl-suite")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        orl.trian  # noqa: B018
