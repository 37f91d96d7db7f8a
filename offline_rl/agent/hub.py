"""Agents on the Hugging Face Hub: two files and a model card. Needs the extra ``hub``."""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_rl.agent.folder import HUB_NAME
from offline_rl.data.names import FIELDS, key_of
from offline_rl.envs.registry import D4RL, SCORE_NAMES
from offline_rl.errors import AgentError, brief

FILES = "agent.json", "weights.safetensors"
"""All that is read of a repository."""
REMEDIES = {
    "RepositoryNotFoundError": "there is none of that name; for a private one run hf auth login first",
    "RevisionNotFoundError": "it has no such revision",
    "LocalEntryNotFoundError": "it cannot be reached, or HF_HUB_OFFLINE is set, and the cache does not hold the agent",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set; unset it to upload",
}
"""What the errors of the Hub's library mean here; of others, what they say is quoted."""


def hub_name(path: object) -> str | None:
    """Return the ``user/name`` of ``hf://user/name``; None for what does not ask for the Hub.

    Raises:
        AgentError: It begins with ``hf://`` and goes on otherwise.
    """
    text = str(path) if isinstance(path, (str, os.PathLike)) else ""
    if not text.startswith("hf:/"):  # a Path keeps one slash of the two
        return None
    name = text.removeprefix("hf:/").lstrip("/")
    if not re.fullmatch(HUB_NAME, name):
        raise AgentError(f"{brief(text)} names no agent on the Hugging Face Hub; give hf://user/name")
    return name


@contextlib.contextmanager
def downloaded(name: str, revision: str | None) -> Iterator[Path]:
    """Give a folder with the two files of an agent on the Hub; the Hub's own cache keeps them for the next time.

    Args:
        name: ``user/name``, without ``hf://``.
        revision: A branch, tag or commit; None for the newest.

    Raises:
        AgentError: There is no such agent, the Hub cannot be reached, or the extra ``hub`` is missing.
    """
    hub = _library(f"hf://{name} cannot be looked up: ")
    with tempfile.TemporaryDirectory() as place:
        with _one_sentence(f"hf://{name} is not to be had from the Hugging Face Hub"):
            snapshot = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
        for file in FILES:
            if not (snapshot / file).is_file():
                raise AgentError(f"hf://{name} has no {file}, so it is no agent")
            # The cache holds links, and an agent folder none.
            shutil.copyfile(snapshot / file, Path(place) / file)
        yield Path(place)


def upload(folder: Path, name: str, card: str, *, private: bool, message: str) -> str:
    """Put a saved agent on the Hub, with a model card, in one commit; make the repository if it is not there.

    Returns:
        The address of the commit.

    Raises:
        AgentError: The Hub refuses or cannot be reached, the name is none, or the extra ``hub`` is missing.
    """
    hub = _library("")
    name = name.removeprefix("hf://")
    if not re.fullmatch(HUB_NAME, name):
        raise AgentError(f"{brief(repr(name))} is no name on the Hugging Face Hub; give hf://user/name")
    with _one_sentence(f"the Hugging Face Hub did not take {name}"):
        api = hub.HfApi(library_name="offline-rl-suite")
        api.create_repo(name, private=private, exist_ok=True)
        add = hub.CommitOperationAdd
        operations = [add(file, folder / file) for file in FILES] + [add("README.md", card.encode())]
        return str(api.create_commit(name, operations, commit_message=message).commit_url)


def model_card(description: Mapping[str, Any], name: str, evaluation: Any = None) -> str:
    """Return the README of an agent's repository.

    Args:
        description: What ``agent.json`` holds.
        name: ``user/name``.
        evaluation: What :func:`offline_rl.evaluate` returned for this agent; None for no score.
    """
    origin = description["provenance"]
    task = f" for {_cell(origin['task'])}" if origin.get("task") else ""
    score = _score(evaluation) if evaluation is not None else "Not evaluated when it was uploaded."
    header = {
        "library_name": "offline-rl-suite",
        "tags": ["reinforcement-learning", "offline-reinforcement-learning", str(description["algorithm"])],
    }
    rows = "\n".join(f"| {what} | {_cell(value)} |" for what, value in _facts(description).items())
    settings = json.dumps(description["config"], indent=2)
    return f"""---
{chr(10).join(f"{key}: {json.dumps(value)}" for key, value in header.items())}
---

# {name}

An agent of `{description["algorithm"]}`, trained with
`offline-rl-suite`{task}.

## Use

```python
import offline_rl as orl  # pip install "offline-rl-suite[hub]"

agent = orl.load_agent("hf://{name}")
action = agent.act(observation)  # raw observations in, environment actions out
```

Weights are safetensors and settings JSON: loading runs no code from this repository.

## Score

{score}

## Origin

| | |
|---|---|
{rows}

## Settings

```json
{settings}
```
"""


def _facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return where an agent comes from: the rows of the card's table."""
    origin = description["provenance"]
    return {
        "algorithm": description["algorithm"],
        "task": origin.get("task"),
        "dynamics": origin.get("dynamics"),
        "dataset": origin.get("dataset"),
        "dataset's fingerprint": origin.get("fingerprint"),
        "updates": f"{description['steps']:,} offline, {description['online_steps']:,} online",
        "seed": description["seed"],
        **{field: ", ".join(names) for field in FIELDS if (names := description["preprocessing"].get(key_of(field)))},
        "offline-rl-suite": importlib.metadata.version("offline-rl-suite"),
        **origin.get("versions", {}),
    }


def _score(evaluation: Any) -> str:
    """Return what an agent is worth, in words."""
    scatter = f"{evaluation.returns.std():.1f}" if len(evaluation.returns) > 1 else "–"
    returns = (
        f"return {evaluation.returns.mean():.1f} ± {scatter}, over {len(evaluation.returns)}"
        f" episodes of mean length {evaluation.lengths.mean():.0f}"
    )
    spread = "± is the standard deviation over episodes of this one agent"
    if evaluation.scores is None:
        return f"{returns.capitalize()}; {evaluation.score_name}. {spread.capitalize()}."
    name = evaluation.score_name
    d4rl = "The score is 100 · (return − random) / (expert − random) with D4RL's reference returns"
    meaning = d4rl if name == SCORE_NAMES[D4RL] else "The score is not D4RL's"
    return f"{name.capitalize()} **{evaluation.scores.mean():.1f}**, {returns}. {meaning}; {spread}."


def _cell(value: Any) -> str:
    return "unknown" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _library(before: str) -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise AgentError(f'{before}huggingface_hub is not installed; pip install "offline-rl-suite[hub]"') from None
    return huggingface_hub


@contextlib.contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Turn whatever the Hub's library raises, which has no common base, into one sentence."""
    try:
        yield
    except Exception as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        said = next((REMEDIES[name] for name in names if name in REMEDIES), " ".join(str(error).split())[:300])
        raise AgentError(f"{what}: {said}") from None
