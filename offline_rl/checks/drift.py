"""Are today's observations those that an agent learned from?

Each column is compared by the largest difference D between the shares of rows below some values, as by Kolmogorov and
Smirnov. For large n and m, D of n and m independent rows of one distribution is above √(ln(2 / a) / 2) √(1 / n + 1 / m)
with a probability of at most a. The allowed probability of a false alarm is shared among the columns. Rows of one
recording are not independent: they count as n divided by their correlation time, measured by the method of batch means.

Not verified: the bound for rows that hang together is checked by simulation in the tests, not proven.
"""

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from offline_rl.agent import Agent, load_agent
from offline_rl.agent.folder import agent_folders
from offline_rl.checks.rows import correlation_time
from offline_rl.checks.summary import KEY, PARTS, Summary, shares_below
from offline_rl.checks.view import draw
from offline_rl.data import Dataset, kinds, load_dataset
from offline_rl.data.names import in_order, numbered
from offline_rl.data.tables import load_observations
from offline_rl.errors import AgentError, quoted
from offline_rl.neighbors.states import nearest_states

FloatArray = npt.NDArray[np.float64]

FALSE_ALARMS = 0.01
"""Probability that observations of the same distribution are called different, at most."""
MATTERS = 0.1
"""Difference of shares below which a column is called alike, however sure it is."""
MOVED = 0.25
"""The same for the mean, in standard deviations, and for the logarithm of the standard deviation."""
CAUTION = 3
"""Factor of the new rows' correlation time where nothing is known of the data's, nor of how much data it was."""
BLIND = 0.5, 1.0
"""Thresholds above which hardly any difference could be seen: of shares, and of mean and standard deviation."""
ENOUGH = 200
"""New rows below which their spread and mean alone tell nothing: a slow process has gone nowhere yet."""
RESOLVED = 30
"""Correlation times that the new rows must last before what they show of it is believed; else it may be longer."""
NEIGHBOURS = 1000
"""New rows, and rows of the data, whose nearest neighbours are looked for."""
USUAL = 0.99
"""Share of the data's own rows whose nearest neighbour in other episodes is nearer than what is called new."""
NEW = 0.05
"""Share of new rows that are far from all data from which on that is drift."""


@dataclass(frozen=True)
class ColumnDrift:
    """How one column differs from the data that the agent learned from.

    Attributes:
        name: The column.
        difference: Largest difference between the shares of rows below a value, 0 to 1; where the agent keeps mean and
            standard deviation alone, the size of `shift` or of the logarithm of `ratio`, the clearer of the two.
        threshold: What it must exceed to be called drift; infinite where the rows are too few to judge.
        shift: By how many standard deviations of the data the mean has moved.
        ratio: The new standard deviation divided by the data's; NaN where the data's is 0.
        drifted: Whether it has.
    """

    name: str
    difference: float
    threshold: float
    shift: float
    ratio: float
    drifted: bool


@dataclass(frozen=True)
class Drift:
    """The answer for all columns.

    Attributes:
        answer: "drifted"; "alike" if nothing was found; "unclear" if there are too few independent rows to tell.
        columns: The most different first.
        novelty: Share of the new rows that are farther from all data than 99 % of its own rows; None without a dataset.
        novelty_threshold: What it must exceed to be called drift; None without a dataset.
        rows: New rows.
        independent: How many independent rows they are worth, the median over columns.
        sentence: The answer in words.
    """

    answer: Literal["alike", "drifted", "unclear"]
    columns: tuple[ColumnDrift, ...]
    novelty: float | None
    novelty_threshold: float | None
    rows: int
    independent: float
    sentence: str

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The columns that have drifted, the most different first."""
        return tuple(column for column in self.columns if column.drifted)


def drift(
    agent: Agent | str | os.PathLike[str],
    new_rows: Any,
    *,
    dataset: Dataset | str | os.PathLike[str] | None = None,
) -> Drift:
    """Compare new observations with those that an agent learned from.

    Args:
        agent: The agent, or the folder of it or of its run.
        new_rows: A dataset, what :func:`offline_rl.load_dataset` takes, or observations `(N, O)` in the order of time,
            also by name, as :meth:`offline_rl.Agent.act` takes them.
        dataset: What to compare with: the data that the agent learned from, or rows of good days under the agent. With
            it also joint states are compared: the share of new rows without a near neighbour in the data. Without it
            goes what the agent keeps; agents of older versions keep mean and standard deviation alone, or nothing.

    Returns:
        The answer; of observations of the same distribution at most 1 % are called different.

    Raises:
        OfflineRLError: The agent or the data cannot be loaded, do not fit each other, or the agent keeps nothing.
    """
    known = agent if isinstance(agent, Agent) else load_agent(_first(agent))
    observations = _observations(known, new_rows)
    data = dataset if dataset is None or isinstance(dataset, Dataset) else load_dataset(dataset)
    if data is not None:
        _check_fit(known, data)
    names = known.observation_names or numbered("observation", known.observation_size)
    kept = known.provenance.get(KEY)
    if data is not None or kept is not None:
        summary = Summary.of(data) if data is not None else Summary.from_json(kept, known.observation_size)
        times = _times(observations, summary.times)
        columns = _by_shares(names, observations, summary, times)
    else:
        times = CAUTION * _times(observations, np.ones(known.observation_size))
        columns = _by_moments(names, observations, known, times)
    novelty = _novelty(data, observations, float(np.median(times))) if data is not None else (None, None)
    columns.sort(key=lambda column: (not column.drifted, -column.difference))
    only_moments = data is None and kept is None
    reference = "those that the agent learned from" if data is None else f"those of dataset {data.name}"
    independent = float(np.median(len(observations) / times))
    return _answer(columns, novelty, len(observations), independent, only_moments, reference=reference)


def _check_fit(agent: Agent, data: Dataset) -> None:
    """Refuse a dataset that the agent cannot have learned from."""
    if data.observation_size != agent.observation_size:
        raise AgentError(
            f"dataset {data.name} has {data.observation_size} observation entries, and the agent takes "
            f"{agent.observation_size}; give the one that it learned from"
        )
    if agent.observation_names and data.observation_names and agent.observation_names != data.observation_names:
        raise AgentError(
            f"dataset {data.name} has the observation columns {quoted(data.observation_names)}, and the agent takes "
            f"{quoted(agent.observation_names)}; give the one that it learned from"
        )


def _first(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the first agent of a run with several, which have all learned from the same data; else the path."""
    return next(iter(agent_folders(path).values()), path)


def _observations(agent: Agent, rows: Any) -> FloatArray:
    """Return raw observations `(N, O)`.

    Raises:
        OfflineRLError: They cannot be loaded, or are not those that the agent takes.
    """
    names = agent.observation_names or numbered("observation", agent.observation_size)
    if isinstance(rows, str | os.PathLike):
        rows = _loaded(rows)
    if isinstance(rows, Dataset):
        values: Any = rows.observations
        if agent.observation_names and rows.observation_names:
            own = dict(zip(rows.observation_names, rows.observations.T, strict=True))
            values = in_order(own, names, "observation", AgentError, f"dataset {rows.name}", "the agent")
    else:
        values = in_order(rows, names, "observation", AgentError, "new_rows", "the agent")
    try:
        found = np.asarray(values, np.float32).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise AgentError(f"new_rows is no array of numbers ({error}); give observations (N, O)") from None
    if found.ndim != 2 or found.shape[1] != agent.observation_size or not len(found):
        raise AgentError(
            f"new_rows has shape {found.shape}; this agent takes observations (N, {agent.observation_size}), N above 0"
        )
    if not np.isfinite(found).all():
        raise AgentError("new_rows holds NaN or infinity; remove or repair these rows")
    return found


def _loaded(source: str | os.PathLike[str]) -> Any:
    """Return the columns of a table of observations alone; else the dataset."""
    path = Path(source).expanduser()
    with contextlib.suppress(OSError):  # many names joined are too long for a file's
        if path.is_file() and kinds.kind_of(path) != "hdf5" and (columns := load_observations(path)) is not None:
            return columns
    return load_dataset(source)


def _times(observations: FloatArray, known: FloatArray) -> FloatArray:
    """Return how many new rows count as one independent row, `(O,)`: as they show, or as the data does, if more."""
    return np.array([max(correlation_time(column), time) for column, time in zip(observations.T, known, strict=True)])


def _by_shares(
    names: tuple[str, ...], observations: FloatArray, summary: Summary, times: FloatArray
) -> list[ColumnDrift]:
    """Compare the shares of rows below the quantiles of the data."""
    found = []
    reach = np.sqrt(np.log(2 * len(names) / FALSE_ALARMS) / 2)
    for entry, name in enumerate(names):
        column, edges = observations[:, entry], summary.quantiles[entry]
        shares = shares_below(np.sort(column), edges)
        difference = float(np.abs(shares - summary.shares[entry]).max())
        difference = max(difference, float((column < edges[0] - 1e-7 * abs(edges[0])).mean()))
        counts = len(column) / times[entry], summary.rows / summary.times[entry]
        threshold = float(reach * np.sqrt(sum(1 / max(1.0, count) for count in counts)))
        mean, spread = _moments(edges)
        shift = (float(column.mean()) - mean) / spread if spread > 0 else float(np.sign(column.mean() - mean))
        ratio = float(column.std()) / spread if spread > 0 else np.nan
        drifted = bool(difference > max(threshold, MATTERS))
        found.append(ColumnDrift(name, difference, threshold, shift, ratio, drifted))
    return found


def _moments(edges: FloatArray) -> tuple[float, float]:
    """Return about the mean and the standard deviation of a distribution of which quantiles are known."""
    middles, weights = (edges[1:] + edges[:-1]) / 2, np.diff(PARTS)
    mean = float(middles @ weights)
    within = float((np.diff(edges) ** 2 / 12) @ weights)
    return mean, float(np.sqrt(((middles - mean) ** 2) @ weights + within))


def _by_moments(names: tuple[str, ...], observations: FloatArray, agent: Agent, times: FloatArray) -> list[ColumnDrift]:
    """Compare mean and standard deviation, for an agent that keeps nothing else.

    How much data it was is not known, which :data:`CAUTION` has to cover. Nor is it known how slowly the data changed,
    and a short piece of a slow process has another mean and a smaller spread than the whole: a piece in which rows
    still hang together from its beginning to its end is not judged. The mean of n independent rows scatters by
    1 / √n standard deviations, the logarithm of the standard deviation by √((k - 1) / 4 n), with k the kurtosis.

    Raises:
        AgentError: It keeps nothing, because it was trained without normalisation.
    """
    mean, spread = (
        values.astype(np.float64)
        for values in (agent.preprocessing.observation_mean, agent.preprocessing.observation_std)
    )
    if not mean.any() and (spread == 1).all():
        raise AgentError(
            "this agent keeps nothing of its observations: an older version trained it without normalisation, or there "
            "are very many columns; give the dataset that it learned from"
        )
    reach = np.sqrt(2 * np.log(4 * len(names) / FALSE_ALARMS))  # what a normal variable hardly exceeds
    found = []
    for entry, name in enumerate(names):
        column = observations[:, entry]
        count, own = max(1.0, len(column) / times[entry]), float(column.std())
        judged = len(column) >= ENOUGH and CAUTION * count >= RESOLVED
        shift, ratio = (float(column.mean()) - mean[entry]) / spread[entry], own / spread[entry]
        kurtosis = float((((column - column.mean()) / own) ** 4).mean()) if own > 0 else 3.0
        error = reach / np.sqrt(count)
        wide = error * np.sqrt((max(kurtosis, 3.0) - 1) / 4)
        both: list[tuple[float, float]] = [
            (abs(shift), max(error, MOVED)),
            (abs(math.log(max(ratio, 1e-6))), max(wide, MOVED)),
        ]
        difference, threshold = max(both, key=lambda pair: float(pair[0] / pair[1]))
        threshold = threshold if judged else math.inf
        drifted = bool(difference > threshold)
        found.append(ColumnDrift(name, float(difference), float(threshold), float(shift), float(ratio), drifted))
    return found


def _novelty(data: Dataset, observations: FloatArray, time: float) -> tuple[float | None, float | None]:
    """Return the share of new rows that are far from all data, and what it must exceed to be drift.

    Half of the data's episodes is searched; the rows of the other half say what is usual. So new rows of the same
    distribution are far as often as those are.
    """
    spread = data.observations.std(0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    episode = np.repeat(np.arange(len(data.episode_returns)), np.diff(data.episode_bounds))
    half = episode % 2 == 0 if episode[-1] >= 9 else np.arange(len(data)) * 10 // len(data) % 2 == 0
    if half.all() or not half.any():
        return None, None
    searched = data.observations[half] / scale

    def distances(rows: npt.NDArray[Any]) -> FloatArray:
        states = rows / scale
        nearest = nearest_states(torch.from_numpy(searched), torch.from_numpy(states), 1).numpy()[:, 0]
        return np.asarray(np.linalg.norm(searched[nearest] - states, axis=1))

    rest = data.observations[~half]
    usual = distances(rest[draw(len(rest), NEIGHBOURS, "usual")])
    new = distances(observations[draw(len(observations), NEIGHBOURS, "new")])
    count = max(1.0, len(observations) / time)
    share = float((new > np.quantile(usual, USUAL)).mean())
    error = 3 * np.sqrt(USUAL * (1 - USUAL) / count) + 3 / count
    return share, float(max(NEW, 1 - USUAL + error))


def _answer(
    columns: list[ColumnDrift],
    novelty: tuple[float | None, float | None],
    rows: int,
    independent: float,
    moments: bool,
    *,
    reference: str,
) -> Drift:
    """Say what the numbers mean."""
    drifted = [column for column in columns if column.drifted]
    share, limit = novelty
    strange = share is not None and limit is not None and share > limit
    blind = sum(column.threshold > BLIND[moments] for column in columns) > len(columns) / 2
    worth = f"{rows:,} rows, worth about {independent:,.0f} independent ones"
    kept = "; the agent keeps mean and standard deviation alone, so other changes are not seen" if moments else ""
    answer: Literal["alike", "drifted", "unclear"] = "alike"
    if drifted or strange:
        answer = "drifted"
        worst = ", ".join(f"'{column.name}'" for column in drifted[:5]) + ", …" * (len(drifted) > 5)
        parts = [f"{len(drifted)} of {len(columns)} columns differ from the data ({worst})"] if drifted else []
        parts += [f"{share:.0%} of the rows are far from all data, where 1 % is usual"] if strange else []
        sentence = f"These observations are not like {reference}: {' and '.join(parts)}; {worth}{kept}."
    elif blind:
        answer = "unclear"
        sentence = f"There are too few rows to tell: {worth}{kept}."
    else:
        sentence = f"Nothing shows that these observations differ from {reference}; {worth}{kept}."
    return Drift(answer, tuple(columns), share, limit, rows, independent, sentence)
