"""Checkpoints and agent folders: changed by hand, and damaged bit by bit."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import offline_rl as orl
from benchmarks.robustness.bases import agent_folder, agent_names, base, observation, write_record
from benchmarks.robustness.cases import Case
from benchmarks.robustness.damage import damaged, flipped
from benchmarks.robustness.structures import as_json, described, is_count, is_mapping, is_text, odd, paths, replaced
from offline_rl.errors import AgentError
from offline_rl.training.checkpoint import Checkpoint, ReplayFile

Load = Callable[[], Any]


# Checkpoints.


def _loaded(run: Path) -> Any:
    """Load all that resuming needs: the checkpoint, the record that it knows, the rows in files beside it."""
    checkpoint = Checkpoint.load(run)
    rows = orl.Run(run).rows
    replays = []
    for file in sorted((run / "checkpoint").glob("replay-*.f32")):
        member = file.stem.removeprefix("replay-")
        known = {"checkpoint": checkpoint} if "checkpoint" in ReplayFile.__init__.__code__.co_varnames else {}
        replays.append(ReplayFile(run, member, _width(), _collected(), **known).read())
    return checkpoint, rows, replays


def _width() -> int:
    return next((base() / "checkpoint").glob("replay-*.f32")).stat().st_size // (4 * _collected())


def _collected() -> int:
    from benchmarks.robustness.bases import SETTINGS

    return int(SETTINGS["online_steps"])


def _same_checkpoint(found: Any) -> str | None:
    wanted = _loaded(base())
    one, other = found[0], wanted[0]
    if one is None:
        return "there is none"
    if {**vars(one), "tensors": None} != {**vars(other), "tensors": None}:
        return "its values are others"
    if one.tensors.keys() != other.tensors.keys() or not all(
        torch.equal(one.tensors[n], t) for n, t in other.tensors.items()
    ):
        return "its tensors are others"
    if found[1] != wanted[1] or not all(torch.equal(a, b) for a, b in zip(found[2], wanted[2], strict=True)):
        return "rows are others"
    return None


def checkpoint_case(rng: random.Random, folder: Path) -> Case:
    """Make a run's checkpoint, changed or damaged."""
    run = folder / "run"
    shutil.copytree(base(), run, ignore=shutil.ignore_patterns("agents"))
    file = run / "checkpoint" / "checkpoint.safetensors"
    if rng.random() < 0.35:
        content, kind, must = _other_metadata(rng, file.read_bytes())
    else:
        before = file.read_bytes()
        content, kind = damaged(before, rng)
        must = "accept" if content == before else "refuse"
    file.write_bytes(content)
    return Case(kind, lambda: _loaded(run), len(content), must, (r"checkpoint\.safetensors",), _same_checkpoint, kind)


def _other_metadata(rng: random.Random, content: bytes) -> tuple[bytes, str, str]:
    """Change what the metadata of a checkpoint say, and leave its checksum, if it has one."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    way = rng.choice(["values", "values", "values", "metadata", "tensor", "header"])
    if way == "values":
        values = json.loads(header["__metadata__"]["checkpoint"])
        path = rng.choice([*list(paths(values)), ("new",)])
        new = rng.choice([None, 1, "x", [], {}]) if path == ("new",) else odd(rng, values[path[0]])
        kind = f"metadata {described(path, new)}"
        header["__metadata__"]["checkpoint"] = as_json(replaced(values, path, new)).decode()
    elif way == "metadata":
        kind, header["__metadata__"] = rng.choice(
            [("no metadata", {}), ("metadata of others", {"format": "pt"}), ("a list", {"checkpoint": "[]"})]
        )
    elif way == "tensor":
        name = rng.choice([name for name in header if name != "__metadata__"])
        key, value = rng.choice(
            [
                ("dtype", "F64"),
                ("dtype", "I32"),
                ("shape", [1 << 40]),
                ("shape", [-1]),
                ("data_offsets", [0, 1 << 50]),
                ("data_offsets", [8, 0]),
            ]
        )
        header[name][key], kind = value, f"a tensor's {key}"
    else:
        kind, header = rng.choice(
            [("no tensors", {"__metadata__": header["__metadata__"]}), ("another header", {"a": 1})]
        )
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    made = len(text).to_bytes(8, "little") + text + content[8 + length :]
    return made, kind, "refuse" if made != content else "accept"


# Agents.

AGENT = {
    "format": is_count,
    "algorithm": is_text,
    "config": is_mapping,
    "observation_size": lambda value: value == 3,
    "action_size": lambda value: value == 2,
    "seed": is_count,
    "steps": is_count,
    "preprocessing": is_mapping,
    "preprocessing.observation_mean": lambda value: _numbers(value, 3),
    "preprocessing.observation_std": lambda value: _numbers(value, 3) and min(value) > 0,
    "preprocessing.action_low": lambda value: _numbers(value, 2),
    "preprocessing.action_high": lambda value: _numbers(value, 2),
    "provenance": is_mapping,
}
"""What an agent's description must hold."""


def _numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(v) in (int, float) and abs(v) < 1e30 for v in value)
    )


def _acting(folder: Path) -> Any:
    agent = orl.load_agent(folder)
    try:
        return agent, [agent.act(observation()) for _ in range(3)]
    except AgentError as error:
        # A refusal to act need not know where the agent came from.
        raise AgentError(f"{folder}: agent.json, weights.safetensors: {error}") from error


def _same_agent(name: str, exactly: bool) -> Callable[[Any], str | None]:
    def judge(found: Any) -> str | None:
        agent, actions = found
        if not np.isfinite(actions).all():
            return "an action is not finite"
        if exactly and not np.array_equal(actions, _acting(agent_folder(name))[1]):
            return "it acts otherwise"
        low, high = agent.preprocessing.action_low, agent.preprocessing.action_high
        return None if ((low - 1e-5 <= actions) & (actions <= high + 1e-5)).all() else "an action is out of bounds"

    return judge


def agent_case(rng: random.Random, folder: Path) -> Case:
    """Make an agent folder, changed or damaged."""
    from benchmarks.robustness.records import changed

    name = rng.choice(agent_names())
    agent = folder / "agent"
    shutil.copytree(agent_folder(name), agent)
    description, weights = agent / "agent.json", agent / "weights.safetensors"
    size = description.stat().st_size + weights.stat().st_size
    way, exactly, names = rng.random(), True, r"agent\.json|agent:"
    if way < 0.5:
        content, kind, must = changed(rng, json.loads(description.read_text()), AGENT)
        description.write_bytes(content)
        size, exactly = size + len(content), False
    elif way < 0.8:
        file = rng.choice([description, weights])
        before = file.read_bytes()
        content, kind = damaged(before, rng)
        must = "accept" if content == before else "refuse"
        file.write_bytes(content)
        kind, names = f"{file.name}: {kind}", r"agent\.json|weights\.safetensors|agent:"
    elif way < 0.95:
        kind, must = _other_weights(rng, agent)
        exactly, names = False, r"weights\.safetensors|agent:|agent\.json"
    else:
        kind, must = "nothing", "accept"
    return Case(f"{kind}", lambda: _acting(agent), size, must, (names,), _same_agent(name, exactly), kind)


def _other_weights(rng: random.Random, agent: Path) -> tuple[str, str]:
    """Write other weights on purpose, with a checksum that fits, if there is one."""
    import hashlib

    from safetensors.torch import load, save

    file = agent / "weights.safetensors"
    tensors = load(file.read_bytes())
    name = rng.choice(list(tensors))
    kind, new, must = rng.choice(
        [
            ("weights of NaN", torch.full_like(tensors[name], float("nan")), "refuse"),
            ("an infinite weight", torch.full_like(tensors[name], float("inf")), "refuse"),
            ("huge weights", torch.full_like(tensors[name], 3e38), "either"),
            ("weights of another shape", torch.zeros(3, 7, 2), "refuse"),
            ("whole numbers as weights", tensors[name].long(), "refuse"),
            ("a tensor left out", None, "refuse"),
            ("weights of float64", tensors[name].double(), "either"),
            ("a tensor too many", tensors[name].clone(), "refuse"),
        ]
    )
    if new is None:
        del tensors[name]
    else:
        tensors[f"{name}.more" if kind == "a tensor too many" else name] = new
    content = save(tensors)
    file.write_bytes(content)
    description = json.loads((agent / "agent.json").read_text())
    if "weights_sha256" in description:
        write_record(agent / "agent.json", {**description, "weights_sha256": hashlib.sha256(content).hexdigest()})
    return kind, must


# Single bits.


def flip_case(rng: random.Random, folder: Path) -> Case:
    """Flip one bit of a checkpoint, of the rows beside it, or of an agent's files: each must be noticed."""
    if rng.random() < 0.5:
        run = folder / "run"
        shutil.copytree(base(), run, ignore=shutil.ignore_patterns("agents"))
        files = [run / "checkpoint" / "checkpoint.safetensors"] * 3 + sorted(run.rglob("*.f32"))
        load: Load = lambda: _loaded(run)  # noqa: E731
    else:
        agent = folder / "agent"
        shutil.copytree(agent_folder(rng.choice(agent_names())), agent)
        files = [agent / "agent.json", agent / "weights.safetensors"]
        load = lambda: _acting(agent)  # noqa: E731
    file = rng.choice(files)
    content = file.read_bytes()
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    file.write_bytes(flipped(content, place, bit))
    what = re.sub(r"-seed-\d+", "", file.name)
    return Case(
        what,
        load,
        len(content),
        "refuse",
        (r"\./(?:agent|run)\b",),
        why=f"bit {bit} of byte {place} of {file.name} is flipped",
    )
