"""What a policy that is chosen by playing comes to, against the episodes that the choice costs.

The protocol is Unifloral's (Jackson and others, A Clean Slate for Offline Reinforcement Learning, 2025, arXiv
2504.11453): a pool of policies is trained, settings by seeds, with ranges that were declared before. Who wants to use
one takes some of them at random, and plays them in turn as the UCB bandit says, an episode at a time. After each
episode the policy with the best mean so far is the choice. Its true mean, averaged over many such trials, is a curve
that starts at what a random policy of the pool is worth.

Here, different from the published program: a policy that has not been played is never the choice; and the interval
draws the policies of the pool anew, while theirs is over simulated trials and vanishes with their number.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offline_rl.analysis.figures import save, styles
from offline_rl.analysis.statistics import LEVEL
from offline_rl.analysis.tables import markdown
from offline_rl.draws import Stream
from offline_rl.errors import RunError
from offline_rl.files import replace_files, sealed, write_json

Episodes = Sequence[Sequence[float]]
"""Scores of the episodes of each policy, ``(P, E)``; policies may differ in the number of episodes."""
ARMS = 8
"""Policies that a trial takes from the pool, as in the published examples."""
PULLS = 200
"""Episodes that a trial plays."""
TRIALS = 1000
"""Trials that the curve is the mean of."""
REPLICATES = 200
"""Pools that are drawn anew for the interval."""
TRIALS_EACH = 50
"""Trials of each of them."""
EXPLORATION = 1.0
"""Factor on the bonus √(2 ln t / n) of a policy played n times in t episodes, in points of the score."""


def chosen(  # noqa: PLR0917
    episodes: Episodes,
    pools: NDArray[np.int64],
    arms: int = ARMS,
    pulls: int = PULLS,
    exploration: float = EXPLORATION,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the true mean score of the choice after each episode, one row for each trial, ``(T, pulls)``.

    Args:
        episodes: Scores ``(P, E)``; an episode of a policy is one of its scores, drawn with replacement.
        pools: Policies that each trial may take from, ``(T, Q)``, as numbers of rows of ``episodes``.
        arms: How many a trial takes, without replacement; all, if there are no more.
        pulls: Episodes of a trial.
        exploration: See :data:`EXPLORATION`.
        seed: Of the draws, which are a pure function of it.
    """
    stream = Stream(seed, "bandit")
    generator = stream.at(0)
    trials, size = pools.shape
    arms = min(arms, size)
    places = generator.random((trials, size)).argsort(axis=1)[:, :arms]
    taken = np.take_along_axis(pools, places, axis=1)
    counts, means = (np.array([measure(scores) for scores in episodes]) for measure in (len, np.mean))
    padded = np.zeros((len(episodes), counts.max()))
    for row, scores in zip(padded, episodes, strict=True):
        row[: len(scores)] = scores
    played, total, every = np.zeros((trials, arms)), np.zeros((trials, arms)), np.arange(trials)
    values = np.empty((trials, pulls))
    for pull in range(pulls):
        # Those that were never played come first, in an order that is random already.
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / played
            bonus = exploration * np.sqrt(2 * np.log(max(pull, 1)) / played)
        arm = np.where(played == 0, np.inf, mean + bonus).argmax(axis=1)
        policy = taken[every, arm]
        total[every, arm] += padded[policy, (stream.at(pull + 1).random(trials) * counts[policy]).astype(int)]
        played[every, arm] += 1
        with np.errstate(divide="ignore", invalid="ignore"):
            best = np.where(played == 0, -np.inf, total / played).argmax(axis=1)
        values[:, pull] = means[taken[every, best]]
    return values


@dataclass(frozen=True)
class BanditCurve:
    """The score of the choice against episodes played: the mean over trials, with a 95 % interval.

    Attributes:
        mean: ``(pulls,)``, after 1, 2, … episodes.
        low: Lower ends, ``(pulls,)``; None for a pool of one policy.
        high: Upper ends.
        policies: P, the size of the pool.
        arms: How many of them a trial takes.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    policies: int
    arms: int

    @classmethod
    def of(
        cls,
        episodes: Episodes,
        *,
        arms: int = ARMS,
        pulls: int = PULLS,
        exploration: float = EXPLORATION,
        seed: int = 0,
    ) -> "BanditCurve":
        """Simulate the protocol.

        The interval is the percentile bootstrap's over policies: pools of as many policies are drawn with replacement.
        It says how far the curve depends on which policies happened to be trained.

        Args:
            episodes: Scores of the episodes of each policy, ``(P, E)``.
            arms: Policies that a trial takes from the pool.
            pulls: Episodes that a trial plays.
            exploration: See :data:`EXPLORATION`.
            seed: Of the draws.
        """
        count = len(episodes)
        pool = np.broadcast_to(np.arange(count), (TRIALS, count))
        mean = chosen(episodes, pool, arms, pulls, exploration, seed).mean(0)
        if count < 2:
            return cls(mean, None, None, count, 1)
        drawn = Stream(seed, "pools").at(0).integers(count, size=(REPLICATES, count))
        values = chosen(episodes, drawn.repeat(TRIALS_EACH, axis=0), arms, pulls, exploration, seed + 1)
        means = values.reshape(REPLICATES, TRIALS_EACH, pulls).mean(1)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(means, [tail, 1 - tail], axis=0)
        return cls(mean, low, high, count, min(arms, count))


SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of episodes that the table has a column for."""
FILES = ("bandit.md", "bandit.json", "bandit.png", "bandit.svg")


@dataclass(frozen=True)
class Pool:
    """The policies of one method on one dataset, and what they have scored.

    Attributes:
        dataset: The dataset's name.
        method: The method's name.
        policies: What each is called, ``(P,)``.
        episodes: The scores of its episodes, ``(P, E)``.
        score_name: What these scores are.
    """

    dataset: str
    method: str
    policies: list[str]
    episodes: list[list[float]]
    score_name: str = "normalised score"


def write_bandit(
    pools: Sequence[Pool],
    out: Path,
    *,
    arms: int = ARMS,
    pulls: int = PULLS,
    exploration: float = EXPLORATION,
    remarks: Sequence[str] = (),
) -> Path:
    """Simulate the protocol for each pool; write a table, a picture, and the scores of all episodes.

    Args:
        pools: The pools, in the order of the table.
        out: Folder for ``bandit.md``, ``.png``, ``.svg`` and ``.json``.
        arms: Policies that a trial takes from a pool.
        pulls: Episodes that a trial plays.
        exploration: See :data:`EXPLORATION`.
        remarks: Lines to put below the table.

    Returns:
        The table's file.

    Raises:
        RunError: The files cannot be written.
    """
    curves = [BanditCurve.of(p.episodes, arms=arms, pulls=pulls, exploration=exploration) for p in pools]
    text = "\n\n".join([_table(pools, curves, pulls), _about(arms, exploration), *remarks])
    simulated = {"arms": arms, "pulls": pulls, "exploration": exploration}
    record = sealed({"format": 1, **simulated, "pools": [dataclasses.asdict(pool) for pool in pools]})
    try:
        with replace_files(out, FILES) as new:
            (new / "bandit.md").write_text(f"{text}\n", encoding="utf-8", newline="\n")
            write_json(new / "bandit.json", record)
            for ending in ("png", "svg"):
                draw_bandit(pools, curves, new / f"bandit.{ending}")
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}); choose another --out") from None
    return out / "bandit.md"


def _table(pools: Sequence[Pool], curves: Sequence[BanditCurve], pulls: int) -> str:
    shown = [count for count in SHOWN if count < pulls] + [pulls]
    rows = []
    for pool, curve in zip(pools, curves, strict=True):
        cells = [pool.dataset, pool.method, str(curve.policies), str(curve.arms)]
        rows.append([*cells, *(_cell(curve, count - 1) for count in shown)])
    head = ["dataset", "method", "policies", "taken", "1 episode", *(f"{count:,} episodes" for count in shown[1:])]
    return markdown(head, rows)


def _cell(curve: BanditCurve, place: int) -> str:
    if curve.low is None or curve.high is None:
        return f"{curve.mean[place]:.1f} [–]"
    return f"{curve.mean[place]:.1f} [{curve.low[place]:.1f}, {curve.high[place]:.1f}]"


def _about(arms: int, exploration: float) -> str:
    return (
        f"Mean score of the policy that a UCB bandit (bonus {exploration:g} √(2 ln t / n)) would choose after so many"
        f" episodes in the environment. It knows {arms} policies, taken from the pool at random, or all if there are"
        " fewer."
        f" Means over {TRIALS:,} trials; in brackets the 95 % percentile bootstrap over policies."
    )


def draw_bandit(pools: Sequence[Pool], curves: Sequence[BanditCurve], path: Path) -> None:
    """Draw the score of the choice over the episodes played, a panel for each dataset, a colour for each method.

    Args:
        pools: The pools.
        curves: Their curves.
        path: Where the PNG or SVG goes.
    """
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(pool.dataset for pool in pools))
    style = styles(list(dict.fromkeys(pool.method for pool in pools)))
    figure = Figure(figsize=(max(5.5, 4.3 * len(datasets)), 4.2), layout="constrained")
    panels = dict(zip(datasets, figure.subplots(1, len(datasets), squeeze=False).flat, strict=True))
    for pool, curve in zip(pools, curves, strict=True):
        axes, look, places = panels[pool.dataset], style[pool.method], np.arange(1, len(curve.mean) + 1)
        axes.plot(places, curve.mean, color=look.color, ls=look.ls, lw=1.8, label=pool.method)
        if curve.low is not None:
            axes.fill_between(places, curve.low, curve.high, color=look.color, alpha=0.12, lw=0)
        axes.set_title(pool.dataset, fontsize=10)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("episodes played to choose a policy", fontsize=9)
        axes.set_ylabel(f"{pool.score_name} of the choice", fontsize=9)
        axes.grid(alpha=0.3)
    for axes in panels.values():
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)
