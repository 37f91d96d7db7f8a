"""Whether an agent stays within the data: its actions against those recorded in like states.

Episodes are parted into two halves. Some rows of each half are compared with the other one: of the k recorded states
nearest to a row's state, the nearest action gives the distance, once for the agent's action in that state and once for
the recorded one. Both go through the same comparison, so recorded actions say what is usual, with no threshold of ours:
an agent that acted as the data's own policy would be beyond their 95 % quantile in 5 % of the states. Rows of one
episode are never compared with each other, because they follow one another so closely that everything else seems far.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from offline_rl.data.names import Names, numbered
from offline_rl.draws import Stream
from offline_rl.estimation.log import FloatArray, Log, Policy
from offline_rl.estimation.result import Support
from offline_rl.neighbors.states import nearest_states

ROWS = 4000
"""Recorded states that are asked about, at most."""
NEIGHBOURS = 10
"""Recorded states that each is compared with."""
QUANTILE = 0.95
"""Share of the recorded actions that keep the threshold."""
LISTED = 10
"""Rows that are named."""
LIMIT = 0.25
"""Share of states beyond the threshold from which on the agent is said to leave the data: five times what recorded
actions do."""
FloatRows = NDArray[np.float32]
IntArray = NDArray[np.int64]


def support(log: Log, policy: Policy, seed: int) -> Support:
    """Compare an agent's actions with recorded ones in like states.

    Args:
        log: The recorded episodes.
        policy: The policy.
        seed: Decides the halves, the rows, and a random policy's noise.
    """
    rows, others = _pairs(log, seed)
    observation, recorded = (log.columns[place].cpu().numpy() for place in (0, 1))
    index = torch.from_numpy(rows).to(log.rows.device)
    states = log.columns.observation.index_select(0, index)
    acted = policy.act_on_all(states, Stream(seed, "estimate/support/noise")).cpu().numpy()
    agent, data, nearest = _distances(_standardised(observation, log), recorded, rows, others, acted)
    threshold = float(np.quantile(data, QUANTILE))
    # Of distances that are all but equal, as where one action was recorded, rounding is no difference.
    left = agent > threshold + 1e-6
    farthest = np.argsort(-agent, kind="stable")[: min(LISTED, int(left.sum()))]
    names = policy.agent.observation_names or numbered("observation", observation.shape[1])
    action_names = policy.agent.action_names or numbered("action", recorded.shape[1])
    return Support(
        states=len(rows),
        neighbours=min(NEIGHBOURS, *(len(pool) for pool in others)),
        threshold=threshold,
        share=float(left.mean()),
        agent_distance=float(np.median(agent)),
        data_distance=float(np.median(data)),
        rows=tuple(map(int, rows[farthest])),
        distances=tuple(map(float, agent[farthest])),
        action_columns=_by_name(action_names, np.abs(acted - nearest), left),
        observation_columns=_by_name(names, _standing_out(observation[rows], left), left),
    )


def _pairs(log: Log, seed: int) -> tuple[IntArray, list[IntArray]]:
    """Return the rows asked about, those of the first half of the episodes first, and for each half the other's rows.

    Of a single episode, the halves are its beginning and its end.
    """
    generator = Stream(seed, "estimate/support").at(0)
    count = len(log.lengths)
    if count == 1:
        first = np.arange(len(log.rows)) < len(log.rows) / 2
    else:
        chosen = np.zeros(count, bool)
        chosen[generator.permutation(count)[: count // 2]] = True
        first = chosen[log.episode]
    halves = np.flatnonzero(first), np.flatnonzero(~first)
    asked = [np.sort(generator.permutation(half)[: ROWS // 2]) for half in halves]
    return np.concatenate(asked), [halves[1]] * (len(asked[0]) > 0) + [halves[0]] * (len(asked[1]) > 0)


def _distances(
    observation: FloatRows, recorded: FloatRows, rows: IntArray, others: list[IntArray], acted: FloatRows
) -> tuple[FloatArray, FloatArray, FloatRows]:
    """Return the distances of the agent's actions and of the recorded ones ``(R,)``; what was nearest to the former."""
    count = min(NEIGHBOURS, *map(len, others))  # the same for both halves, of which one may be smaller
    near = np.concatenate(
        [pool[_nearest_states(observation[pool], observation[own], count)] for pool, own in _parts(rows, others)]
    )
    actions = recorded[near]
    to_agent, to_data = (np.linalg.norm(actions - own[:, None], axis=2) for own in (acted, recorded[rows]))
    best = to_agent.argmin(1)
    return to_agent.min(1).astype(float), to_data.min(1).astype(float), actions[np.arange(len(rows)), best]


def _parts(rows: IntArray, others: list[IntArray]) -> list[tuple[IntArray, IntArray]]:
    """Pair the rows of each half with the other half's rows."""
    if len(others) < 2:
        return [(others[0], rows)]
    # Halves hold different rows: a row of the first half is not among the second's.
    of_second = np.isin(rows, others[1])
    return [(others[0], rows[of_second]), (others[1], rows[~of_second])]


def _nearest_states(pool: FloatRows, states: FloatRows, count: int) -> IntArray:
    """Return the places ``(R, k)`` in ``pool`` of the states nearest to each of ``states``."""
    return nearest_states(torch.from_numpy(pool), torch.from_numpy(states), count).numpy()


def _standardised(observation: FloatRows, log: Log) -> FloatRows:
    """Return observations ``(N, O)`` in deviations of their own: an agent may have learned from raw units."""
    mean, spread = log.moments
    found: FloatRows = ((observation - mean) / spread).astype(np.float32)
    return found


def _standing_out(observation: FloatRows, left: NDArray[np.bool_]) -> FloatArray:
    """Return by how many standard deviations the states' mean differs where the agent leaves the data, ``(1, O)``."""
    spread = observation.std(0).astype(float)
    shift = np.abs(observation[left].mean(0) - observation.mean(0)) if left.any() else np.zeros(len(spread))
    share: FloatArray = np.divide(shift, spread, out=np.zeros(len(spread)), where=spread > 0)
    return share[None]


def _by_name(names: Names, values: NDArray[np.floating], left: NDArray[np.bool_]) -> dict[str, float]:
    """Return the mean of each column by its name, largest first; nothing where the agent never leaves the data."""
    if not left.any():
        return {}
    means = (values[left] if len(values) == len(left) else values).mean(0)
    return {names[place]: float(means[place]) for place in np.argsort(-means, kind="stable")}
