"""Steps d3rlpy's implementation of an algorithm beside ours: equal initial weights, batches and noise, in float64.

``python -m benchmarks.peer_parity`` (or ``make parity``) measures and writes ``results/peer_parity/float64.json``;
``python -m benchmarks.peer_parity show`` writes the tables in ``docs/parity.md`` from that file. d3rlpy lives in an
environment of its own, because its pins exclude ours::

    python3 -m venv .venv-peers
    .venv-peers/bin/pip install -r benchmarks/peers.txt

Two programs of different authors that agree to rounding are unlikely to share an error. Where they differ on purpose,
each difference has a bridge (``benchmarks/peer_updates.py``): a few lines that make d3rlpy do as ours does in this one
respect. With all bridges nothing but rounding must be left, so the list of differences is complete for what the updates
at hand can show. With all bridges but one, what is left is the size of that difference.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import today, versions
from benchmarks.peer import PYTHON, ROOT, Peer
from benchmarks.text import between
from offline_rl.agent import Agent, find_algorithm
from offline_rl.analysis.tables import markdown
from offline_rl.data import load_dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.files import read_sealed, sealed, write_bytes, write_json
from offline_rl.networks import GaussianActor, SquashedGaussianActor
from offline_rl.networks.mlp import MLP
from offline_rl.training.updates.sampler import Sampler

RESULT = ROOT / "results" / "peer_parity" / "float64.json"
PAGE = ROOT / "docs" / "parity.md"
SMALL = {"hidden_dims": [64, 64], "batch_size": 64}
"""Sizes at which all weights after each update can be kept."""
ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "td3_bc": {},
    "iql": {"scale_rewards": False},
    "cql": {},
    "awac": {"normalize_weights": True},
    "rebrac": {},
}
"""What is compared, and the settings that are not our default; d3rlpy gets all of ours, in its own words."""
Arrays = dict[str, list[np.ndarray]]


def networks(agent: Agent) -> Arrays:
    """Return copies of an agent's weights by network, in the order in which d3rlpy keeps them.

    Several critics are ``critic_0``, ``critic_1``; targets are ``target_critic_0`` and so on.
    """
    own = {name: group.network for name, group in agent.groups.items()}
    targets = {f"target_{name}": target.network for name, target in agent.targets.items()}
    found: Arrays = {}
    for name, network in {**own, **targets}.items():
        parts = list(_parts(name, network).items())
        found |= {part: [tensor.detach().numpy().copy() for tensor in tensors] for part, tensors in parts}
    return found


def _parts(name: str, network: nn.Module) -> dict[str, list[Tensor]]:
    mlp = getattr(network, "mlp", None)
    if not isinstance(mlp, MLP):  # a single number
        return {name: [parameter.reshape(1, 1) for parameter in network.parameters()]}
    members = [layers_of(mlp, member) for member in range(len(mlp.layers[0]))]
    if isinstance(network, GaussianActor):
        return {name: [network.free_log_std[None], *members[0]]}
    if isinstance(network, SquashedGaussianActor):  # one layer of ours makes both mean and log-std
        heads = [part for pair in zip(*(last.chunk(2) for last in members[0][-2:]), strict=True) for part in pair]
        return {name: [*members[0][:-2], *heads], "spread": list(network.spread)}
    return {name: members[0]} if len(members) == 1 else {f"{name}_{place}": m for place, m in enumerate(members)}


def layers_of(mlp: MLP, member: int) -> list[Tensor]:
    """Return weight and bias of each layer, with the scale and shift that follow a hidden one."""
    layers = []
    for place in range(0, len(mlp.layers), 2):
        layers += [*mlp.layers[place : place + 2], *mlp.norms[place : place + 2]]
    return [layer[member] for layer in layers]


def ours(algorithm: str, settings: Mapping[str, Any], steps: int, dataset: str, given: Path) -> list[dict[str, Any]]:
    """Make updates with our agent; write what d3rlpy is to make them from to ``given``.

    Returns:
        After each update, all losses and weights; names as in :func:`networks`.
    """
    found, data = find_algorithm(algorithm), load_dataset(dataset)
    config = found.config_class.of(settings)
    preprocessing = Preprocessing.fit(data, normalize=config.normalize)
    agent = found(config, *preprocessing.sizes, steps=steps, preprocessing=preprocessing, dtype=torch.float64)
    rows = PackedRows.of(data, preprocessing)
    agent.prepare(rows)
    sampler, start = Sampler(agent, rows), networks(agent)
    batches = [sampler.batch(step) for step in range(1, steps + 1)]
    states = []
    for step, batch in enumerate(batches, start=1):
        metrics = agent.update(batch, step)
        losses = {name: float(value) for name, value in metrics.items() if name.endswith("_loss")}
        states.append({**losses, **networks(agent)})
    columns = {name: value for name, value in vars(batches[0]).items() if isinstance(value, Tensor) and name != "index"}
    arrays = {f"rows/{name}": torch.stack([getattr(batch, name) for batch in batches]) for name in columns}
    arrays |= {f"draws/{name}": torch.stack([b.draws[name] for b in batches]) for name in batches[0].draws}
    weights = {f"start/{name}/{place}": array for name, own in start.items() for place, array in enumerate(own)}
    np.savez(given, **{name: array.numpy() for name, array in arrays.items()}, **weights)
    return states


def differences(states: Sequence[Mapping[str, Any]], written: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the largest absolute difference of each loss and network over all updates and entries.

    What only one side has is left out, such as an actor's loss in an update in which only one side moves it.

    Args:
        states: What :func:`ours` returned.
        written: What d3rlpy came to, ``update/loss`` or ``update/network/place``.
    """
    largest: dict[str, float] = {}
    for update, state in enumerate(states):
        for name, value in state.items():
            pairs = (
                [(value, written.get(f"{update}/{name}"))]
                if isinstance(value, float)
                else [(array, written.get(f"{update}/{name}/{place}")) for place, array in enumerate(value)]
            )
            for mine, theirs in pairs:
                if theirs is not None:
                    gap = float(np.abs(mine - theirs).max())
                    largest[name] = max(largest.get(name, 0.0), gap if np.isfinite(gap) else np.inf)
    return largest


def compare(peer: Peer, algorithm: str, steps: int, dataset: str, known: Sequence[str]) -> dict[str, Any]:
    """Return the largest differences with all bridges, without any, and without each one.

    Args:
        peer: d3rlpy.
        algorithm: Our name.
        steps: Updates.
        dataset: Whose rows are used.
        known: Names of the bridges.
    """
    settings = {**SMALL, **ALGORITHMS[algorithm]}
    config = find_algorithm(algorithm).config_class.of(settings).settings()
    with tempfile.TemporaryDirectory() as folder:
        states = ours(algorithm, settings, steps, dataset, Path(folder) / "given.npz")

        def left(bridges: Sequence[str]) -> dict[str, float]:
            asked = {"algorithm": algorithm, "settings": config, "folder": folder, "bridges": bridges}
            peer.ask({**asked, "out": "theirs.npz"})
            with np.load(Path(folder) / "theirs.npz") as theirs:
                return differences(states, dict(theirs))

        alone = {name: left([other for other in known if other != name]) for name in known}
        return {"settings": config, "bridged": left(known), "untouched": left([]), "without": alone}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare d3rlpy's updates with ours. For d3rlpy: make .venv-peers/peers.stamp, or see the module's docstring."""

    peers: Path = PYTHON
    """Python of the environment that has d3rlpy."""
    out: Path = RESULT
    """Result file to write."""
    algorithms: Sequence[str] = tuple(ALGORITHMS)
    """What to compare."""
    steps: int = 50
    """Updates."""
    dataset: str = "hopper-demo"
    """Whose rows are used: a name or a file."""


def measure(arguments: Arguments) -> dict[str, Any]:
    """Compare the algorithms and return the result."""
    if unknown := [name for name in arguments.algorithms if name not in ALGORITHMS]:
        raise RunError(f"{unknown[0]} is not compared; choose from {', '.join(ALGORITHMS)}")
    peer, compared = Peer("peer_updates.py", arguments.peers), {}
    try:
        about = peer.ask("describe")
        for name in arguments.algorithms:
            known = about["differences"][name]
            found = compare(peer, name, arguments.steps, arguments.dataset, list(known))
            compared[name] = {**found, "differences": known}
    finally:
        peer.close()
    made = {"date": today(), "d3rlpy": about["version"], "peer_torch": about["torch"], "versions": versions()}
    options = {"dataset": Path(arguments.dataset).stem, "updates": arguments.steps, "dtype": "float64"}
    return sealed({**made, **options, "algorithms": compared})


KINDS = ("losses", "weights", "targets")


def by_kind(gaps: Mapping[str, float]) -> dict[str, float]:
    """Return the largest difference of losses, of weights and of targets' weights."""
    kinds: dict[str, float] = {}
    for name, gap in gaps.items():
        kind = "losses" if name.endswith("_loss") else "targets" if name.startswith("target_") else "weights"
        kinds[kind] = max(kinds.get(kind, 0.0), gap)
    return kinds


def tables(result: Mapping[str, Any]) -> str:
    """Return a result as Markdown: what is left with all bridges and without any, then each difference in words."""
    rows, differing = [], []
    for name, found in result["algorithms"].items():
        bridged, untouched = by_kind(found["bridged"]), by_kind(found["untouched"])
        rows.append([name, *(_shown(kinds, kind) for kinds in (bridged, untouched) for kind in KINDS)])
        for bridge, sentence in found["differences"].items():
            differing.append([name, " ".join(sentence.split()), _shown(by_kind(found["without"][bridge]), "weights")])
    head = ["algorithm", *KINDS, *(f"{kind}, as it comes" for kind in KINDS)]
    made = f"""Made {result["date"]} with d3rlpy {result["d3rlpy"]}, PyTorch {result["versions"]["torch"]}, in
{result["dtype"]}: {result["updates"]} updates on rows of {result["dataset"]}."""
    text = " ".join(made.split())
    return "\n\n".join(
        [markdown(head, rows), text, markdown(["algorithm", "difference", "weights, without its bridge"], differing)]
    )


def _shown(kinds: Mapping[str, float], kind: str) -> str:
    return f"{kinds[kind]:.0e}" if kind in kinds else "–"


def show(result: Path = RESULT, page: Path = PAGE) -> None:
    """Write the tables of a result between the marks of a page."""
    text = between(page.read_text(encoding="utf-8"), "parity", f"{tables(read_sealed(result))}\n")
    write_bytes(page, text.encode())


def main() -> int:
    """Measure, or show what was measured; return the exit status."""
    import tyro

    try:
        if sys.argv[1:] == ["show"]:
            show()
            return 0
        arguments = tyro.cli(Arguments)
        result = measure(arguments)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, result)
        print(tables(result))
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
