"""The whole of an off-policy estimate: critics, importance weights, support, and what speaks against the result."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline_rl.agent import Agent, load_agent
from offline_rl.checks.ends import time_limit_as_end
from offline_rl.checks.view import View
from offline_rl.data import Dataset, load_dataset
from offline_rl.data.names import FIELDS, key_of
from offline_rl.data.packed import PackedRows
from offline_rl.errors import AgentError
from offline_rl.estimation import importance
from offline_rl.estimation.flags import flags_of
from offline_rl.estimation.fqe import FittedQ
from offline_rl.estimation.log import FloatArray, Log, Policy
from offline_rl.estimation.options import EstimateOptions
from offline_rl.estimation.result import (
    Comparison,
    CurvePoint,
    Importance,
    Interval,
    ValueEstimate,
    verdict_of,
    widened,
)
from offline_rl.estimation.saved import Saved, check_place
from offline_rl.estimation.support import support
from offline_rl.kernels.choice import Kernel, choose_kernel, use_defaults, use_kernel

logger = logging.getLogger(__name__)

PARTS = 20
"""Points of the curve; a stopped estimate goes on from the last one."""
TOLD = 5
"""Points of the curve between two lines of the log."""
REPLICATES = 100
"""Bootstrap samples of estimates by importance weights."""
NORMAL = 1.6448536269514722
"""Standard deviations that a 90 % interval of a normal distribution reaches to either side."""
DEFAULT_DISCOUNT = 0.99
NO_DENSITY = "importance weights need a stochastic policy whose density is known; the policy estimated here is"
"""What is said where there are no importance weights."""


def estimate(
    agent: Agent | str | os.PathLike[str],
    dataset: Dataset | str | Path,
    *,
    options: EstimateOptions | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> ValueEstimate:
    """Estimate what an agent is worth from recorded episodes alone, without a simulator.

    Args:
        agent: An agent, or what :func:`offline_rl.load_agent` takes.
        dataset: Recorded episodes: a :class:`Dataset`, or what :func:`offline_rl.load_dataset` takes.
        options: The options; instead, they may be given one by one as keywords.
        out: Folder for the result and for the state of an estimate that was stopped, which goes on from there; None
            keeps nothing.
        quiet: Log no progress.
        **settings: Fields of :class:`~offline_rl.estimation.options.EstimateOptions`, for instance ``discount=0.9``.

    Returns:
        The value with its interval, beside that of the policy that made the data, and what speaks against it.

    Raises:
        AgentError: The agent cannot be estimated, or does not fit the data.
        DatasetError: The data cannot be loaded.
        RunError: ``out`` is no folder, a file in it is damaged, or none can be written.
    """
    if out is not None:
        check_place(Path(out))
    if options is not None and settings:
        raise AgentError(f"give {sorted(settings)[0]} within options, or no options object")
    options = options or _options(settings)
    agent = agent if isinstance(agent, Agent) else load_agent(agent)
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset)
    _check_fit(agent, data)
    with _computing(agent.device) as kernel:
        saved = Saved.at(Path(out), agent, data, options, kernel) if out is not None else None
        if saved and (found := saved.result()):
            return found
        log = Log(PackedRows.of(data, agent.preprocessing, agent.device))
        under_way = Estimation(log, agent, options)
        if saved:
            under_way.load(*saved.state())
        while under_way.advance():
            if saved:
                saved.keep(under_way.critics, under_way.curve)
            if not quiet and len(under_way.curve) % TOLD == 0:
                point = under_way.curve[-1]
                logger.info("%s: %s of %s updates", agent, f"{point.update:,}", f"{options.updates:,}")
        result = under_way.result(data, kernel)
        if saved:
            saved.finish(result)
        return result


class Estimation:
    """An estimate under way; all of it is a function of the rows, the agent's weights and the options.

    Args:
        log: The recorded episodes.
        agent: The agent.
        options: The options.
        undiscounted: Estimate the undiscounted value, too, where every episode ends in a terminal state.

    Attributes:
        critics: The critics.
        curve: The value after each part so far.
    """

    def __init__(self, log: Log, agent: Agent, options: EstimateOptions, *, undiscounted: bool = True) -> None:
        self._log, self._options, self._agent = log, options, agent
        self._policy = Policy(agent, noise=options.noise)
        self.discount = discount_of(agent, options)
        self.discounts = [self.discount]
        if undiscounted and self.discount < 1 and bool(log.ended[log.used].all()):
            self.discounts.append(1.0)
        self.critics = FittedQ(log, self._policy, self.discounts, options)
        self.curve: list[CurvePoint] = []

    def load(self, update: int, state: dict[str, torch.Tensor], curve: list[CurvePoint]) -> None:
        """Go on from what was saved."""
        if update:
            self.critics.load_state(state, update)
            self.curve = curve

    def advance(self) -> bool:
        """Make the next part of the updates; return whether there was one left."""
        done, updates = self.critics.update, self._options.updates
        if done >= updates or (self.curve and not math.isfinite(self.curve[-1].mean)):
            return False
        part = next(end for number in range(1, PARTS + 1) if (end := round(number * updates / PARTS)) > done)
        self.critics.run(part)
        value = self._interval(self.critics.values()[0])
        self.curve.append(CurvePoint(part, value.mean, value.low, value.high))
        return True

    def comparisons(self) -> list[Comparison]:
        """Return agent against data for each discount."""
        found = []
        for discount, own in zip(self.discounts, self.critics.values(), strict=True):
            used = self._log.used
            returns = self._log.returns(discount) if discount < 1 else self._log.rows.episode_returns
            weights = self.critics.bootstrap[:, used]
            resampled = (weights * returns[used]).sum(1) / weights.sum(1)
            agent, difference = self._interval(own), self._interval(own - resampled)
            data = Interval.of_sample(returns[used])
            found.append(Comparison(discount, agent, data, difference, tuple(map(float, own))))
        return found

    def _interval(self, members: FloatArray) -> Interval:
        return Interval.of_members(members, len(self._log.lengths))

    def result(self, data: Dataset, kernel: Kernel) -> ValueEstimate:
        """Return all that an estimate says.

        Args:
            data: The recorded episodes as they were loaded.
            kernel: What computed.
        """
        found = self.comparisons()
        value, *more = found
        weights, why_not = self._importance()
        near = support(self._log, self._policy, self._options.seed)
        values = list(zip(found, self.critics.passes, strict=True))
        ends = next(time_limit_as_end(View(data)), None)
        flags = flags_of(self._log, values, self.curve, weights, near, ends=ends)
        options = {**vars(self._options), "discount": self.discount, "kernel": kernel}
        return ValueEstimate(
            agent=repr(self._agent),
            dataset=data.name,
            fingerprint=data.fingerprint,
            episodes=len(self._log.lengths),
            rows=len(self._log.rows),
            value=value,
            undiscounted=more[0] if more else None,
            importance=weights,
            no_importance=why_not,
            support=near,
            curve=tuple(self.curve),
            verdict=verdict_of(flags),
            flags=flags,
            options=options,
        )

    def _importance(self) -> tuple[Importance | None, str]:
        """Return the estimates by importance weights, or why there are none."""
        if not self._policy.random:
            return None, f"{NO_DENSITY} deterministic"
        if not self._agent.has_density():
            return None, f"{NO_DENSITY} {self._agent.name}'s, which has none"
        log, columns = self._log, self._log.columns
        behaviour = importance.Behaviour(log, self._options.seed, importance.UPDATES)
        own = importance.log_density(self._agent, columns.observation, columns.action)
        if not np.isfinite(own).all():
            return None, f"{NO_DENSITY} {self._agent.name}'s, whose density is not finite at some recorded actions"
        count = self._options.members
        last = torch.from_numpy(log.rows.episode_bounds[1:] - 1).to(log.rows.device)
        steps = importance.Steps(
            bounds=log.rows.episode_bounds,
            ended=log.ended,
            reward=log.reward,
            log_ratio=own - behaviour.log_density(columns.observation, columns.action),
            q=self.critics.q(columns.observation, columns.action)[:count].mean(0),
            v=self.critics.state_values(columns.observation)[:count].mean(0),
            v_cut=self.critics.state_values(columns.next_observation.index_select(0, last))[:count].mean(0),
        )
        samples = importance.bootstrap_weights(REPLICATES, len(log.lengths), self._options.seed)
        found = importance.weighted(steps, self.discount, samples)
        direct, robust = (
            Interval.around(float(values[0]), NORMAL * widened(float(values[1:].std(ddof=1)), len(log.lengths)))
            for values in (found.per_decision, found.doubly_robust)
        )
        return Importance(direct, robust, float(found.effective_episodes[0]), len(log.lengths)), ""


def discount_of(agent: Agent, options: EstimateOptions) -> float:
    """Return the γ that is asked for, else the agent's own setting, else 0.99."""
    if options.discount is not None:
        return options.discount
    settings = agent.config.settings()
    found = next((settings[name] for name in settings if name.split(".")[-1] == "discount"), DEFAULT_DISCOUNT)
    return float(found)


def _options(settings: dict[str, Any]) -> EstimateOptions:
    known = EstimateOptions.__dataclass_fields__
    if unknown := [name for name in settings if name not in known]:
        raise AgentError(f"unknown option {unknown[0]!r} of an estimate; there are {', '.join(known)}")
    return EstimateOptions(**settings)


def _check_fit(agent: Agent, data: Dataset) -> None:
    """Refuse data of other columns than the agent's, and a single row."""
    if len(data) < 2:
        raise AgentError(f"{data.name} has one row, which nothing can be compared with; give recorded episodes")
    sizes, own = (data.observation_size, data.action_size), (agent.observation_size, agent.action_size)
    if sizes != own:
        raise AgentError(
            f"{data.name} has {sizes[0]} observations and {sizes[1]} actions, the agent has {own[0]} and {own[1]}; give"
            " data of the agent's own columns"
        )
    for field in FIELDS:
        names = [getattr(each, key_of(field)) for each in (data, agent)]
        if None not in names and names[0] != names[1]:
            raise AgentError(
                f"{data.name} has the {field} columns {', '.join(names[0])}, the agent has {', '.join(names[1])}; give"
                " them in the agent's order"
            )


@contextlib.contextmanager
def _computing(device: torch.device) -> Iterator[Kernel]:
    """Compute with the fastest kernel that is exact to rounding, in one thread, and as before after that."""
    if device.type != "cpu":
        yield "default"
        return
    kernel, threads = choose_kernel(1), torch.get_num_threads()
    use_kernel(kernel, 1)
    try:
        yield kernel
    finally:
        use_defaults(threads)
