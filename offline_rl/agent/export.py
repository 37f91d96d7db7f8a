"""Policies as files for other programs: ONNX, and PyTorch's exported programs.

A file holds what acting needs, normalisation and action scale included: raw observations in, environment actions out.
Where the environment's observations are nested, each part is an input of its own, by its name, such as ``desired_goal``
(in ONNX), or an item of the dictionary ``observation`` (in a program). Agents that remember take the history as inputs
instead, as vectors in the order of the agent's ``observation_names``, so whoever runs the file keeps it.
"""

import contextlib
import importlib.metadata
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.agent.sequence import SequenceAgent
from offline_rl.data.windows import Steps
from offline_rl.errors import AgentError
from offline_rl.files import write_bytes
from offline_rl.kernels import native

OPSET = 18
"""Version of ONNX's operators; ONNX Runtime has known it since 1.14 (February 2023)."""
TOLERANCE = 1e-4
"""Share of an action's range by which a file may differ from the agent: rounding, ten times over."""
CHECKED_ROWS = 256
"""Observations, or episodes' steps, on which a file is compared with the agent."""

INPUTS = {
    "observation": "as the environment gives it, (batch, O)",
    "noise": "from N(0, 1), drawn for each action, (batch, A)",
    "observations": "of the last K steps as the environment gave them, the newest last, (batch, K, O)",
    "actions": "done in these steps, in the environment's units; the newest, not yet known, counts as 0, (batch, K, A)",
    "previous_rewards": "of the step before each of these, 0 at an episode's first, (batch, K)",
    "returns_to_go": "what is asked for at each of these steps: the target less all rewards before it, (batch, K)",
    "times": "steps since the episode began, (batch, K), int64",
    "mask": "True for steps, False for the padding on the left while an episode is younger than K; what stands in"
    " padded places is any finite number, (batch, K), bool",
    "memory": "next_memory of the step before, anything finite at an episode's first, (batch, M)",
}
"""What a file's inputs are; float32 where no type is given."""

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]


class Policy(nn.Module):
    """What a file does: a function of tensors, without a state.

    Args:
        agent: Whose networks and preprocessing.
    """

    def __init__(self, agent: Any) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: getattr(agent, name) for name in agent.acting_networks})
        for name, values in agent.preprocessing.vectors().items():
            self.register_buffer(name, torch.tensor(values))
        low, high = self.get_buffer("action_low"), self.get_buffer("action_high")
        self.register_buffer("action_center", (high + low) * 0.5)
        self.register_buffer("action_scale", (high - low) * 0.5)

    def normalized(self, observation: Tensor) -> Tensor:
        """Normalise raw observations ``(..., O)``."""
        return (observation - self.get_buffer("observation_mean")) / self.get_buffer("observation_std")

    def to_network(self, action: Tensor) -> Tensor:
        """Map environment actions ``(..., A)`` to [-1, 1]."""
        return (action - self.get_buffer("action_center")) / self.get_buffer("action_scale")

    def to_environment(self, action: Tensor) -> Tensor:
        """Map a network's actions ``(..., A)`` to the environment's range, cut to it."""
        scaled = action * self.get_buffer("action_scale") + self.get_buffer("action_center")
        return torch.minimum(torch.maximum(scaled, self.get_buffer("action_low")), self.get_buffer("action_high"))


class RowPolicy(Policy):
    """Acts on single observations ``(B, O)``, with ``noise`` ``(B, A)`` where it explores."""

    def __init__(self, agent: Any) -> None:
        super().__init__(agent)
        self._policy, self._explore = agent.policy, agent.explore

    def forward(self, observation: Tensor | dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Return the actions ``(B, A)``; parts of the observation are joined in the order in which they come."""
        joined = torch.cat([*observation.values()], -1) if isinstance(observation, dict) else observation
        rows = self.normalized(joined)
        return self.to_environment(self._policy(rows) if noise is None else self._explore(rows, noise))


class WindowPolicy(Policy):
    """Acts on the last K steps, see :data:`INPUTS`."""

    def __init__(self, agent: Any) -> None:
        super().__init__(agent)
        self._on_window = agent.on_window

    def forward(
        self,
        *,
        observations: Tensor,
        actions: Tensor,
        times: Tensor,
        mask: Tensor,
        previous_rewards: Tensor | None = None,
        returns_to_go: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the newest actions ``(B, A)``, and the next memory ``(B, M)`` if there is one."""
        unknown = torch.zeros_like(observations[:, :, 0])
        before = self.to_network(actions[:, :-1])
        steps = Steps(
            observation=self.normalized(observations),
            action=torch.cat((before, torch.zeros_like(actions[:, -1:])), 1),
            previous_reward=unknown if previous_rewards is None else previous_rewards,
            return_to_go=unknown if returns_to_go is None else returns_to_go,
            time=times,
            mask=mask,
        )
        action, following = self._on_window(steps, unknown[:, :0] if memory is None else memory)
        return (self.to_environment(action),) if memory is None else (self.to_environment(action), following)


def write_onnx(agent: Any, path: Path, *, deterministic: bool) -> float:
    """Write an agent's policy as one ONNX file, see :meth:`offline_rl.agent.Agent.export_onnx`."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (the exporter needs it)
    except ModuleNotFoundError as error:
        raise AgentError(f'{error.name} is not installed; pip install "offline-rl-suite[export]"') from None
    if path.suffix != ".onnx":
        raise AgentError(f"{path} is no name for ONNX; end it with .onnx, or write a .pt2 file by export_program")
    program, outputs = _traced(agent, deterministic)
    with _quietly():
        exported = torch.onnx.export(
            program,
            (),
            input_names=list(_example(agent, deterministic, 1)) if _is_nested(agent) else None,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    model: Any = exported.model_proto
    _tidy(onnx, model, _inputs(agent, deterministic))
    for name, value in _metadata(agent, deterministic).items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    difference = _difference(agent, lambda arrays: session.run(outputs, arrays), deterministic, "ONNX Runtime")
    _write(path, content)
    return difference


def write_program(agent: Any, path: Path, *, deterministic: bool) -> float:
    """Write an agent's policy as a program of PyTorch's, see :meth:`offline_rl.agent.Agent.export_program`."""
    if path.suffix != ".pt2":
        raise AgentError(f"{path} is no name for a program; end it with .pt2, or write an .onnx file by export_onnx")
    program, _ = _traced(agent, deterministic)
    file = io.BytesIO()
    with _quietly():
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(_metadata(agent, deterministic))})
        module = torch.export.load(io.BytesIO(file.getvalue())).module()

    def run(arrays: Arrays) -> list[np.ndarray]:
        output = module(**_arguments(agent, arrays, torch.from_numpy))
        return [tensor.numpy() for tensor in (output if isinstance(output, tuple) else (output,))]

    difference = _difference(agent, run, deterministic, "the program read back")
    _write(path, file.getvalue())
    return difference


@native.paused()
@torch.no_grad()
def _traced(agent: Any, deterministic: bool) -> tuple[torch.export.ExportedProgram, list[str]]:
    """Return the policy as a graph for batches of any size, and what its outputs are called."""
    policy = (WindowPolicy(agent) if isinstance(agent, SequenceAgent) else RowPolicy(agent)).requires_grad_(False)
    outputs = ["action", "next_memory"] if getattr(agent, "memory_size", 0) else ["action"]
    # Three rows: sizes 0 and 1 would be taken for constants.
    arrays = _example(agent, deterministic, 3)
    batch = {0: torch.export.Dim("batch")}
    with _quietly():
        program = torch.export.export(
            policy,
            (),
            _arguments(agent, arrays, torch.from_numpy),
            dynamic_shapes=_arguments(agent, arrays, lambda _: batch),
        )
    # Where the code lay on this machine is nobody's business.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program, outputs


def _example(agent: Any, deterministic: bool, batch: int) -> Arrays:
    """Return inputs of the file as they are at an episode's first step, but for the observation."""
    if not isinstance(agent, SequenceAgent):
        arrays = _pieces(agent, np.zeros((batch, agent.observation_size), np.float32))
        return arrays if deterministic else arrays | {"noise": np.zeros((batch, agent.action_size), np.float32)}
    if not deterministic:
        raise AgentError(f"{agent.name} does not explore; leave out deterministic=False")
    shape = batch, agent.history.length
    arrays = {
        "observations": np.zeros((*shape, agent.observation_size), np.float32),
        "actions": np.zeros((*shape, agent.action_size), np.float32),
        "times": np.zeros(shape, np.int64),
        "mask": np.zeros(shape, bool),
    }
    for field, name in (("previous_reward", "previous_rewards"), ("return_to_go", "returns_to_go")):
        if field in agent.window_fields:
            arrays[name] = np.zeros(shape, np.float32)
    if agent.memory_size:
        arrays["memory"] = np.zeros((batch, agent.memory_size), np.float32)
    return arrays


def _pieces(agent: Any, observations: np.ndarray) -> Arrays:
    """Return the inputs of a file that are an observation ``(B, O)``."""
    return agent.layout.pieces(observations) if agent.layout else {"observation": observations}


def _is_nested(agent: Any) -> bool:
    """Say whether a file has an input for each part of an observation."""
    return agent.layout is not None and not isinstance(agent, SequenceAgent)


def _arguments(agent: Any, arrays: Arrays, made: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """Return the arguments of a policy's ``forward``, each made of an array; parts of an observation are one."""
    if not _is_nested(agent):
        return {name: made(array) for name, array in arrays.items()}
    parts = {part.name: made(arrays[part.name]) for part in agent.layout.parts}
    return {"observation": parts} | {name: made(array) for name, array in arrays.items() if name not in parts}


def _inputs(agent: Any, deterministic: bool) -> dict[str, str]:
    """Say of each input of a file what it is."""
    names = _example(agent, deterministic, 1)
    nested = agent.layout.parts if _is_nested(agent) else ()
    parts = {part.name: f"part of the observation, (batch, {part.size})" for part in nested}
    return {name: parts.get(name) or INPUTS[name] for name in names}


def _metadata(agent: Any, deterministic: bool) -> dict[str, str]:
    """Return what a file says of itself."""
    facts = {
        "algorithm": agent.name,
        "deterministic": deterministic,
        **agent.provenance,
        # Agents of older versions name dynamics without a task, too.
        **({"dynamics": None} if agent.provenance.get("task") is None else {}),
        **agent.preprocessing.names(),
        "offline-rl-suite": importlib.metadata.version("offline-rl-suite"),
        "inputs": _inputs(agent, deterministic),
    }
    if isinstance(agent, SequenceAgent) and "return_to_go" in agent.window_fields:
        facts["target_returns"] = []
        for index in range(len(agent.target_labels(agent.config))):
            agent.reset(target=index)
            facts["target_returns"].append(_target(agent))
        agent.reset()
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def _tidy(onnx: Any, model: Any, inputs: Mapping[str, str]) -> None:
    """Name the batch, say what inputs are, offer fixed noise as an input, and drop what the exporter notes of code."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        value.doc_string = inputs.get(value.name, "")
    del graph.value_info[:], graph.metadata_props[:]
    for node in (*graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]
        node.doc_string = ""
    for weight in graph.initializer:
        if weight.name.endswith(".candidate_noise"):
            name = "candidate_noise"
            for node in graph.node:
                node.input[:] = [name if read == weight.name else read for read in node.input]
            weight.name = name
            # An input with an initializer may be left out: then it is the agent's own noise.
            graph.input.append(onnx.helper.make_tensor_value_info(name, weight.data_type, list(weight.dims)))


def _difference(agent: Any, run: Run, deterministic: bool, reader: str) -> float:
    """Return the largest difference between a file's actions and the agent's; refuse a file that acts otherwise."""
    played = _play_windows if isinstance(agent, SequenceAgent) else _play_rows
    found, wanted = (np.concatenate(actions) for actions in zip(*played(agent, run, deterministic), strict=True))
    worst = float(np.abs(found - wanted).max(initial=0 if len(found) > CHECKED_ROWS // 2 else np.inf))
    preprocessing = agent.preprocessing
    if not worst <= TOLERANCE * float((preprocessing.action_high - preprocessing.action_low).max()):
        raise AgentError(f"{reader} gives actions that differ from the agent's by {worst:.2g}, so nothing was written")
    return worst


def _observations(agent: Any, generator: np.random.Generator, batch: int) -> np.ndarray:
    p = agent.preprocessing
    noise = generator.standard_normal((batch, agent.observation_size), np.float32)
    observations: np.ndarray = p.observation_mean + p.observation_std * noise
    return observations


def _play_rows(agent: Any, run: Run, deterministic: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    observations = _observations(agent, generator, CHECKED_ROWS)
    arrays = _pieces(agent, observations)
    if deterministic:
        wanted = agent.act(observations)
    else:
        arrays["noise"] = generator.standard_normal((CHECKED_ROWS, agent.action_size), np.float32)
        wanted = agent.act_with_noise(observations, arrays["noise"])
    yield run(arrays)[0], wanted


def _play_windows(agent: SequenceAgent, run: Run, deterministic: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Play episodes of random observations and rewards until histories are full, with the file beside the agent."""
    generator = np.random.default_rng(0)
    length = agent.history.length
    batch = CHECKED_ROWS // (length + 2) + 1
    window = _example(agent, deterministic, batch)
    agent.reset()
    reward, received = np.zeros(batch, np.float32), np.zeros(batch)
    for time in range(length + 2):
        observation = _observations(agent, generator, batch)
        wanted = agent.act(observation, reward if time else None)
        newest = {
            "observations": observation,
            "actions": 0,
            "times": time,
            "mask": True,
            "previous_rewards": reward,
            "returns_to_go": _target(agent) - received,
        }
        for name in window.keys() & newest.keys():
            window[name] = np.concatenate((window[name][:, 1:], window[name][:, :1]), 1)
            window[name][:, -1] = newest[name]
        found, *memory = run(window)
        if memory:
            window["memory"] = agent.memory().numpy()
            # A choice between two that are as good may fall either way by rounding; actions follow from it.
            same = np.abs(memory[0] - window["memory"]).max(1) <= TOLERANCE
            yield found[same], wanted[same]
        else:
            yield found, wanted
        window["actions"][:, -1] = wanted
        reward = generator.standard_normal(batch).astype(np.float32)
        received += reward


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what PyTorch's exporter says of its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise AgentError(f"{path} cannot be written ({os.strerror(error.errno or 0)}); choose another place") from None


def _target(agent: SequenceAgent) -> float:
    """Return what an agent asks for; 0 for one that asks for nothing."""
    asked = agent.target_return()
    return 0.0 if asked is None else float(asked)
