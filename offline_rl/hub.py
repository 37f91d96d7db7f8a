"""Agents on the Hugging Face Hub: two files and a model card. Needs the extra ``hub``."""

import contextlib
import importlib.metadata
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offline_rl.errors import AgentError

FILES = "agent.json", "weights.safetensors"
"""All that is read of a repository."""
REMEDIES = {
    "RepositoryNotFoundError": "there is none of that name; for a private one run hf auth login first",
    "RevisionNotFoundError": "it has no such revision",
    "LocalEntryNotFoundError": "it cannot be reached, or HF_HUB_OFFLINE is set, and the cache does not hold the agent",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set; unset it to upload",
}
"""What the errors of the Hub's library mean here; of others, what they say is quoted."""


def is_hub_id(name: object) -> bool:
    """Say whether a name could be one of the Hub's, ``user/name``."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


@contextlib.contextmanager
def downloaded(name: str, revision: str | None) -> Iterator[Path]:
    """Give a folder with the two files of an agent on the Hub; the Hub's own cache keeps them for the next time.

    Args:
        name: ``user/name``.
        revision: A branch, tag or commit; None for the newest.

    Raises:
        AgentError: There is no such agent, the Hub cannot be reached, or the extra ``hub`` is missing.
    """
    hub = _library(f"{name} is no folder here, and cannot be looked up on the Hugging Face Hub: ")
    with tempfile.TemporaryDirectory() as place:
        with _one_sentence(f"{name} is no folder here, and not to be had from the Hugging Face Hub"):
            snapshot = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
        for file in FILES:
            if not (snapshot / file).is_file():
                raise AgentError(f"{name} on the Hugging Face Hub has no {file}, so it is no agent")
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
    if not is_hub_id(name):
        raise AgentError(f"{name!r} is no name on the Hugging Face Hub; give user/name")
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
    facts = {
        "algorithm": description["algorithm"],
        "task": origin.get("task"),
        "dynamics": origin.get("dynamics"),
        "dataset": origin.get("dataset"),
        "dataset's fingerprint": origin.get("fingerprint"),
        "updates": f"{description['steps']:,} offline, {description['online_steps']:,} online",
        "seed": description["seed"],
        "offline-rl-suite": importlib.metadata.version("offline-rl-suite"),
        **origin.get("versions", {}),
    }
    task = f" for {_cell(origin['task'])}" if origin.get("task") else ""
    score = "Not evaluated when it was uploaded."
    if evaluation is not None:
        spread = f"{evaluation.returns.std():.1f}" if len(evaluation.returns) > 1 else "–"
        score = (
            f"Normalised score **{evaluation.scores.mean():.1f}**, return {evaluation.returns.mean():.1f} ±"
            f" {spread}, over {len(evaluation.returns)} episodes of mean length"
            f" {evaluation.lengths.mean():.0f}. The score is 100 · (return − random) / (expert − random) with D4RL's"
            " reference returns; ± is the standard deviation over episodes of this one agent."
        )
    header = {
        "library_name": "offline-rl-suite",
        "tags": ["reinforcement-learning", "offline-reinforcement-learning", str(description["algorithm"])],
    }
    rows = "\n".join(f"| {what} | {_cell(value)} |" for what, value in facts.items())
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

agent = orl.load_agent("{name}")
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
