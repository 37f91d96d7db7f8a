import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.agents import agent_of
from helpers.datasets import episodic_dataset

import offline_rl as orl
from offline_rl.agent import SequenceAgent, algorithms, export, find_algorithm
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.kernels import native
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan

PREPROCESSING = Preprocessing(
    observation_mean=np.array([1, 2, 3], np.float32),
    observation_std=np.array([0.5, 1, 2], np.float32),
    action_low=np.array([-1, 0], np.float32),
    action_high=np.array([1, 1.5], np.float32),
)
SMALL = {"hidden_dims": [32, 32]}
WINDOWS = {**SMALL, "width": 16, "layers": 1, "heads": 2}
SETTINGS = {
    "dt": {**WINDOWS, "length": 4, "target_returns": [50.0, 20.0]},
    "doc": {**WINDOWS, "past": 4, "future": 3, "candidates": 20, "latent_size": 5},
}
VARIANTS = [
    ("iql", {"deterministic": True}),
    ("famo2o", {"base": "cql"}),
    ("parl", {"lower": "td3_bc"}),
    ("dt", {"encoder": "mlp"}),
    ("doc", {"encoder": "mlp", "discrete": True}),
]


def make(name, **changes):
    """Make an agent with random weights that are large enough for every input to matter."""
    settings = {**SETTINGS.get(name, SMALL), **changes}
    agent = agent_of(name, settings, 3, 2, seed=5, preprocessing=PREPROCESSING)
    agent.provenance = {"task": "hopper-medium-v2", "fingerprint": "abc123", "versions": {"torch": torch.__version__}}
    if isinstance(agent, SequenceAgent):
        agent.groups["model"].flat.mul_(4)
    return agent


def observations(count, seed=1):
    return np.random.default_rng(seed).normal(2, 3, (count, 3)).astype(np.float32)


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    return lambda **inputs: session.run(None, inputs)


def program_of(path):
    module = torch.export.load(path).module()

    def run(**inputs):
        outputs = module(**{name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()})
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


class Player:
    """Keeps a window as somebody would who has nothing but the file."""

    def __init__(self, run, names, length, target):
        self.run, self.names, self.length, self.target = run, names, length, target
        self.steps, self.memory = [], None

    def act(self, observation, reward):
        """Return the actions of a batch, whose episodes all began at the same time."""
        batch = len(observation)
        rewards = [step["reward"] for step in self.steps] + [reward]
        self.steps.append({"observation": observation, "reward": reward, "action": np.zeros((batch, 2), np.float32)})
        shape = batch, self.length
        inputs = {
            "observations": np.full((*shape, 3), 7, np.float32),
            "actions": np.full((*shape, 2), 0.5, np.float32),
            "times": np.zeros(shape, np.int64),
            "mask": np.zeros(shape, bool),
            "previous_rewards": np.full(shape, 9, np.float32),
            "returns_to_go": np.full(shape, -3, np.float32),
            "memory": np.zeros((batch, 5), np.float32) if self.memory is None else self.memory,
        }
        for time in range(max(len(self.steps) - self.length, 0), len(self.steps)):
            place = self.length - len(self.steps) + time
            inputs["observations"][:, place] = self.steps[time]["observation"]
            inputs["actions"][:, place] = self.steps[time]["action"]
            inputs["times"][:, place] = time
            inputs["mask"][:, place] = True
            inputs["previous_rewards"][:, place] = rewards[time]
            inputs["returns_to_go"][:, place] = self.target - sum(rewards[: time + 1])
        action, *memory = self.run(**{name: inputs[name] for name in self.names})
        self.memory = memory[0] if memory else None
        self.steps[-1]["action"] = action
        return action


def largest_difference(agent, path, run, rows=1000):
    """Return the largest difference of actions on random observations, along histories where there are some."""
    if not isinstance(agent, SequenceAgent):
        return np.abs(run(observation=observations(rows))[0] - agent.act(observations(rows))).max()
    names = json.loads(metadata(path)["inputs"])
    target = float(agent.target_return() or 0)
    player, steps = Player(run, names, agent.history.length, target), agent.history.length * 2 + 2
    generator = np.random.default_rng(3)
    agent.reset()
    worst, reward = 0.0, None
    for step in range(steps):
        seen = observations(rows // steps + 1, seed=step)
        expected = agent.act(seen, reward)
        found = player.act(seen, np.zeros(len(seen), np.float32) if reward is None else reward)
        worst = max(worst, np.abs(found - expected).max())
        reward = generator.normal(size=len(seen)).astype(np.float32)
    return worst


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def td3_bc(tmp_path_factory):
    agent, path = make("td3_bc"), tmp_path_factory.mktemp("onnx") / "policy.onnx"
    agent.export_onnx(path)
    return agent, path


def test_an_onnx_file_acts_as_the_agent_and_says_where_it_comes_from(td3_bc):
    agent, path = td3_bc
    run = session_of(path)
    assert largest_difference(agent, path, run) < 1e-5
    assert run(observation=observations(1))[0].shape == (1, 2)
    told = metadata(path)
    assert (told["algorithm"], told["task"], told["fingerprint"]) == ("td3_bc", "hopper-medium-v2", "abc123")
    assert json.loads(told["versions"]) == {"torch": torch.__version__}
    assert json.loads(told["inputs"]) == {"observation": export.INPUTS["observation"]}
    assert [file.name for file in path.parent.iterdir()] == ["policy.onnx"]


def test_files_say_what_their_entries_are_called(tmp_path):
    """Broken by names that end with the agent."""
    names = dataclasses.replace(
        PREPROCESSING, observation_names=("temp", "flow", "level"), action_names=("valve", "pump")
    )
    agent = find_algorithm("bc")(find_algorithm("bc").config_class(hidden_dims=[8]), 3, 2, preprocessing=names)
    agent.export_onnx(tmp_path / "policy.onnx")
    told = metadata(tmp_path / "policy.onnx")
    assert json.loads(told["observation_names"]) == ["temp", "flow", "level"]
    assert json.loads(told["action_names"]) == ["valve", "pump"]
    agent.export_program(tmp_path / "policy.pt2")
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "policy.pt2", extra_files=extra)
    told = json.loads(extra["metadata.json"])
    assert json.loads(told["observation_names"]) == ["temp", "flow", "level"]


def test_a_file_of_an_agent_without_a_task_names_no_dynamics():
    """Also one of an older version, which kept "d4rl" where there was no task."""
    kind = find_algorithm("bc")
    agent = kind(kind.config_class(hidden_dims=[8]), 3, 2, preprocessing=PREPROCESSING)
    for task, dynamics, expected in ((None, "d4rl", "null"), (None, None, "null"), ("hopper", "plain", "plain")):
        agent.provenance = {"task": task, "dynamics": dynamics}
        assert export._metadata(agent, True)["dynamics"] == expected


def test_a_plan_without_a_task_names_no_dynamics():
    data = episodic_dataset([5, 5])
    plan = Plan.make("bc", data, TrainOptions(eval_every=0, final_episodes=0), {})
    assert plan.provenance()["task"] is None
    assert plan.provenance()["dynamics"] is None


def test_a_file_without_names_says_nothing_of_them(td3_bc):
    assert not [key for key in metadata(td3_bc[1]) if "names" in key]


def test_a_name_of_the_other_format_is_refused(tmp_path):
    with pytest.raises(orl.AgentError, match=r"policy\.pt2 is no name for ONNX; .* by export_program"):
        make("bc").export_onnx(tmp_path / "policy.pt2")
    with pytest.raises(orl.AgentError, match=r"policy\.onnx is no name for a program; .* by export_onnx"):
        make("bc").export_program(tmp_path / "policy.onnx")


def test_a_file_says_nothing_of_the_machine_that_wrote_it(td3_bc, tmp_path):
    make("bc").export_program(tmp_path / "policy.pt2")
    for path in (td3_bc[1], tmp_path / "policy.pt2"):
        assert b".py" not in path.read_bytes()


def test_a_program_reloads_with_torch_alone(tmp_path):
    agent, path = make("bc"), tmp_path / "policy.pt2"
    agent.export_program(path)
    code = (
        "import sys, torch\n"
        f"extra = {{'metadata.json': ''}}\nmodule = torch.export.load({str(path)!r}, extra_files=extra).module()\n"
        f"action = module(observation=torch.tensor({observations(7).tolist()}))\n"
        "print(action.tolist(), 'offline_rl' in sys.modules, 'abc123' in str(extra))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    actions, rest = printed.rsplit("]", 1)
    assert np.allclose(json.loads(actions + "]"), agent.act(observations(7)), atol=1e-5)
    assert rest == " False True\n"


def test_a_file_that_would_act_otherwise_is_not_written(td3_bc, tmp_path, monkeypatch):
    """Broken by not looking, or by looking at the traced policy instead of the agent."""
    right = export.Policy.to_environment
    monkeypatch.setattr(export.Policy, "to_environment", lambda self, action: right(self, 1.001 * action))
    for write, name in ((td3_bc[0].export_onnx, "policy.onnx"), (td3_bc[0].export_program, "policy.pt2")):
        with pytest.raises(orl.AgentError, match=r"differ from the agent's by .*, so nothing was written"):
            write(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(orl.AgentError, match="bc has no way to explore"):
        make("bc").export_program(tmp_path / "x.pt2", deterministic=False)
    with pytest.raises(orl.AgentError, match="doc does not explore; leave out deterministic=False"):
        make("doc").export_program(tmp_path / "x.pt2", deterministic=False)
    with pytest.raises(orl.AgentError, match=r"/dev/null/x\.pt2 cannot be written .*; choose another place"):
        make("bc").export_program("/dev/null/x.pt2")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(orl.AgentError, match=r'onnxruntime is not installed; pip install "offline-rl-suite\[export\]"'):
        make("bc").export_onnx(tmp_path / "x.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), [*((name, {}) for name in algorithms()), *VARIANTS], ids=str)
def test_every_algorithm_acts_the_same_from_onnx(name, changes, tmp_path):
    """The whole sweep: random weights, 1,000 random observations, along played histories where there are some."""
    agent, path = make(name, **changes), tmp_path / "policy.onnx"
    agent.export_onnx(path)
    assert largest_difference(agent, path, session_of(path)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["td3_bc", "cql", "famo2o", "doc"])
def test_programs_and_exploring_files_act_the_same(name, tmp_path):
    agent, path, program = make(name), tmp_path / "policy.onnx", tmp_path / "policy.pt2"
    if agent.explores():
        noise = np.random.default_rng(0).standard_normal((1000, 2), np.float32)
        expected = agent.act_with_noise(observations(1000), noise)
        agent.export_onnx(path, deterministic=False)
        agent.export_program(program, deterministic=False)
        for run in (session_of(path), program_of(program)):
            assert np.abs(run(observation=observations(1000), noise=noise)[0] - expected).max() < 1e-5
        assert np.abs(expected - agent.act(observations(1000))).max() > 0.1
        return
    agent.export_onnx(path)
    agent.export_program(program)
    assert largest_difference(agent, path, program_of(program)) < 1e-5
    # The noise of doc's candidates may be given in place of the agent's own.
    run, given = session_of(path), {"candidate_noise": np.zeros((20, 5), np.float32)}
    assert largest_difference(agent, path, lambda **inputs: run(**inputs, **given)) > 1e-3


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_policy_runs_in_a_fresh_environment_with_numpy_and_onnxruntime_only(td3_bc, tmp_path):
    agent, path = td3_bc
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    pins = [f"{package.__name__}=={package.__version__}" for package in (np, onnxruntime)]
    installed = subprocess.run([*install, *pins], capture_output=True, text=True, check=False, timeout=240)
    if installed.returncode:
        pytest.skip(f"pip finds no {' and '.join(pins)} for a fresh environment: {installed.stderr.strip()[-200:]}")
    np.save(tmp_path / "observations.npy", observations(100))
    code = (
        "import numpy, onnxruntime, importlib.util\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        "action, = session.run(None, {'observation': numpy.load('observations.npy')})\n"
        "numpy.save('actions.npy', action)\n"
        "print([name for name in ('torch', 'offline_rl', 'onnx') if importlib.util.find_spec(name)])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert np.allclose(np.load(tmp_path / "actions.npy"), agent.act(observations(100)), atol=1e-5)


def test_a_process_that_uses_the_native_kernel_exports_as_others_do(tmp_path):
    """Broken by a kernel of our own in a traced program: its sizes are no symbols."""
    if not native.available():
        pytest.skip("the native kernel cannot be built here")
    agent = agent_of("td3_bc", {"hidden_dims": [8]}, 3, 2)
    native.activate(active=True)
    try:
        agent.export_program(tmp_path / "policy.pt2")
        assert native._active is not None
    finally:
        native.activate(active=False)
    assert (tmp_path / "policy.pt2").exists()
