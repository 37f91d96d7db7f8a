"""One collection, from its options to the file.

What was collected so far lies in a folder beside the file until that is written; killed at any moment, a collection
that is resumed ends in the same bytes.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from offline_rl.agent import Agent, AgentConfig, SequenceAgent, find_algorithm, load_agent
from offline_rl.collection.behavior import Behavior, Learner, RandomPolicy, Recorder, SavedAgent
from offline_rl.collection.options import AgentOptions, CollectOptions, LearnerOptions, find_kind, learner_config
from offline_rl.data import hdf5
from offline_rl.data.writing import write_hdf5
from offline_rl.documents import parse_json, read_json
from offline_rl.envs.online import OnlineEnvironment
from offline_rl.envs.tasks import Task, check_fits, find_task, normalized_score
from offline_rl.errors import AgentError, Interrupted, RunError, TaskError, quoted, suggestion
from offline_rl.files import MAKE_ROOM, sealed, write_json, writing
from offline_rl.folders import owned_folder
from offline_rl.kernels.choice import Kernel, choose_kernel, use_defaults, use_kernel
from offline_rl.origin import versions
from offline_rl.tracking.progress import Progress
from offline_rl.training.checkpoint import PLACE, Checkpoint, ReplayFile, prefixed, select
from offline_rl.training.trainer import Stop, stopped_by_signals

logger = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
"""How often the loop looks up from collecting: a signal is answered after about so long."""


class CollectionInterrupted(Interrupted):
    """The same for a collection, which goes on by its own command."""

    remedy = "the same command with --out {out} --resume"


def collect(kind: str, *, options: CollectOptions | None = None, **settings: Any) -> Path:
    """Make a dataset in D4RL's layout by playing a task.

    Args:
        kind: ``"random"`` for uniform random actions, ``"agent"`` for a saved agent, ``"sac"`` for SAC that learns from
            nothing, of which every step is kept.
        options: The options; instead, they may be given one by one as keywords.
        **settings: Fields of the kind's options, :class:`CollectOptions`, :class:`AgentOptions` or
            :class:`LearnerOptions`, and of the learner's ``Config``, for instance
            ``task="hopper", steps=30_000, out="mine.hdf5", batch_size=128``.

    Returns:
        The file, which :func:`offline_rl.load_dataset` reads.

    Raises:
        OfflineRLError: Something is unknown or does not fit; nothing was overwritten.
        Interrupted: SIGINT or SIGTERM arrived; the collection can be resumed.
    """
    options_class, config_class = find_kind(kind), learner_config(kind)
    own = {entry.name for entry in dataclasses.fields(options_class)}
    learned = set(config_class.types()) if config_class else set()
    for name in settings:
        if name not in own | learned:
            raise RunError(f"unknown setting {name!r} for {kind}{suggestion(name, own | learned)}")
        if options is not None and name in own:
            raise RunError(f"give {name} within options, or no options object")
    options = options or options_class(**{name: value for name, value in settings.items() if name in own})
    config = config_class.of({n: value for n, value in settings.items() if n in learned}) if config_class else None
    return Collection(kind, options, config).run()


class Collection:
    """One collection: everything is decided, and checked, before it writes its first byte.

    Args:
        kind: A key of :data:`KINDS`.
        options: Its options.
        config: Settings of the algorithm, if it learns.
    """

    def __init__(self, kind: str, options: CollectOptions, config: AgentConfig | None = None) -> None:
        self._kind, self._options, self._config = kind, options, config
        self._out = Path(options.out)
        self._partial = self._out.with_name(f"{self._out.name}.partial")
        if config is not None and config.normalize:
            raise AgentError("normalize needs a dataset, and there is none yet; leave it out")
        self._agent = _load_agent(options) if isinstance(options, AgentOptions) else None
        self._task = self._find_task()
        if (agent := self._agent) is not None:
            check_fits(self._task, agent.observation_size, agent.action_size, f"the agent ({agent.name})")
        self._record = self._describe()

    def run(self) -> Path:
        """Collect, from the start or from where it was stopped; return the file.

        Raises:
            OfflineRLError: The file exists, or the collection cannot be resumed, or the learner diverged.
            Interrupted: A signal asked to stop.
        """
        if self._out.exists():
            self._check_finished()
        else:
            with self._opened() as checkpoint, _arithmetic(self._record.get("kernel", "default")):
                self._collect(checkpoint)
        shutil.rmtree(self._partial, ignore_errors=True)
        return self._out

    def _find_task(self) -> Task:
        name = self._options.task or (self._agent.provenance.get("task") if self._agent else None)
        if name is None:
            raise TaskError("no task to play; give --task, for instance --task hopper")
        return find_task(str(name))

    def _describe(self) -> dict[str, Any]:
        """Return what the file says of how it was made: all that decides its bytes."""
        apart = {field.name for field in dataclasses.fields(CollectOptions)} | {"agent", "snapshots"}
        settings = {name: value for name, value in vars(self._options).items() if name not in apart}
        record = {
            "collector": self._kind,
            "task": self._task.robot.name,
            "env_id": self._task.robot.env_id,
            "dynamics": self._options.dynamics,
            "seed": self._options.seed,
            "steps": self._options.steps,
            "settings": settings | (self._config.settings() if self._config else {}),
            **versions(),
        }
        if self._agent is not None:
            weights = {name: weight.numpy() for name, weight in self._agent.acting_weights().items()}
            digest = hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights)))
            record["agent"] = self._agent.description() | {"weights_sha256": digest.hexdigest()}
            record |= self._agent.preprocessing.names()
        # Data made twice on like machines is the same, whether or not they have a compiler.
        return record | ({"kernel": choose_kernel(built=False)} if self._kind != "random" else {})

    def _check_finished(self) -> None:
        if not self._options.resume:
            raise RunError(f"{self._out} exists; choose another --out")
        found = hdf5.read(self._out, ()).attributes
        self._check_same({name: _from_attribute(found.get(name), value) for name, value in self._record.items()})
        self._say(f"{self._out} is finished ({self._options.steps:,} steps); nothing to do")

    def _say(self, sentence: str) -> None:
        if not self._options.quiet:
            logger.info("%s", sentence)

    def _check_same(self, found: Mapping[str, Any]) -> None:
        """Refuse to go on with what was begun with other settings; which kernel is of no matter."""
        before, now = ({**record, **(record.get("settings") or {})} for record in (found, self._record))
        different = [
            f"{name} is another" if isinstance(value, dict) else f"{name} was {before.get(name)!r}, now {value!r}"
            for name, value in now.items()
            if name not in ("kernel", "settings") and before.get(name) != value
        ]
        if different:
            raise RunError(f"{self._out} was begun with other settings: {'; '.join(different)}")

    @contextmanager
    def _opened(self) -> Iterator[Checkpoint | None]:
        """Own the folder of what is not finished; give the checkpoint to continue from."""
        with owned_folder(self._partial, keep=PLACE, check=self._check_partial):
            if self._out.exists():  # another process has just finished it
                raise RunError(f"{self._out} exists; choose another --out")
            yield self._begin()

    def _check_partial(self, folder: Path) -> None:
        if not self._options.resume:
            raise RunError(f"{folder} is of a collection that was stopped; add --resume, or choose another --out")

    def _begin(self) -> Checkpoint | None:
        options, settings = self._options, self._partial / "settings.json"
        checkpoint = Checkpoint.load(self._partial)
        if checkpoint is None:
            if options.resume:
                self._say(f"no checkpoint of {self._out}; starting over")
            elif isinstance(options, LearnerOptions) and options.snapshots and options.snapshots_folder.exists():
                raise RunError(f"{options.snapshots_folder} exists; choose another --out, or move it away")
            with writing(settings, "choose another --out"):
                write_json(settings, sealed(self._record))
            return None
        remedy = f"delete {self._partial} to start over"
        found = read_json(settings, RunError, remedy, {"settings?": {str: object}})
        if "checksum" in found and sealed(found) != found:
            raise RunError(f"{settings} is damaged (its content does not fit its checksum); {remedy}")
        found.pop("checksum", None)
        if strange := set(found) - set(self._record):
            raise RunError(f"{settings} is damaged (it has {quoted(min(strange))}); {remedy}")
        self._check_same(found)
        self._record = found
        self._say(f"resumed at step {checkpoint.step}")
        return checkpoint

    def _collect(self, checkpoint: Checkpoint | None) -> None:
        environment = OnlineEnvironment(self._task, self._options.dynamics, self._options.seed)
        recorder = Recorder(self._task, environment.joints, self._options.steps)
        behavior = self._behavior(environment, recorder)
        step = checkpoint.step if checkpoint else 0
        stored = ReplayFile(self._partial, "rows", recorder.width, step, checkpoint)
        if checkpoint is not None:
            recorder.load_rows(stored.read().numpy())
            behavior.load_state(select(checkpoint.tensors, "player/"))
        progress = Progress(self._options.steps, step, self._options.quiet, unit="steps")
        with closing(progress), stopped_by_signals(stop := Stop()):
            look = saved = time.monotonic()
            while step < self._options.steps:
                step += 1
                behavior.step(step)
                if (now := time.monotonic()) - look < LOOK_SECONDS and step < self._options.steps:
                    continue
                look = now
                progress.newest(_newest(recorder))
                progress.at(step)
                if stop.signal or now - saved >= self._options.checkpoint_seconds or step == self._options.steps:
                    self._save(step, behavior, recorder, stored)
                    saved = now
                if stop.signal and step < self._options.steps:
                    raise CollectionInterrupted(step, stop.signal, self._out)
        self._write(recorder)

    def _behavior(self, environment: OnlineEnvironment, recorder: Recorder) -> Behavior:
        options = self._options
        if isinstance(options, AgentOptions):
            assert self._agent is not None
            return SavedAgent(environment, recorder, options, self._agent)
        if isinstance(options, LearnerOptions):
            return Learner(self._new_agent(), self._task, recorder, options)
        return RandomPolicy(environment, recorder, options)

    def _new_agent(self) -> Agent:
        robot, options = self._task.robot, self._options
        assert self._config is not None
        agent = find_algorithm(self._kind)(
            self._config,
            robot.observation_size,
            robot.action_size,
            seed=options.seed,
            steps=0,
            online_steps=options.steps,
        )
        agent.provenance = {"task": self._task.robot.name, "dynamics": options.dynamics, "versions": versions()}
        return agent

    def _save(self, step: int, behavior: Behavior, recorder: Recorder, stored: ReplayFile) -> None:
        state = behavior.state()
        stored.append(torch.from_numpy(recorder.rows(stored.count)))
        checkpoint = Checkpoint(step, 0, [], 0.0, files=stored.checksum(), tensors=prefixed(state, "player/"))
        checkpoint.save(self._partial)

    def _write(self, recorder: Recorder) -> None:
        statistics, arrays = _statistics(recorder, self._task), recorder.arrays()
        cut = not (arrays["terminals"][-1] or arrays["timeouts"][-1])
        arrays["timeouts"][-1] |= cut
        attributes = {
            name: json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
            for name, value in self._record.items()
        }
        with writing(self._out, MAKE_ROOM):
            try:
                write_hdf5(self._out, arrays, {**attributes, **statistics, "last_episode_cut": cut})
            except FileExistsError:
                remedy = "move it away, then continue with --resume"
                raise RunError(f"{self._out} exists by now, though it did not in the beginning; {remedy}") from None


def _load_agent(options: AgentOptions) -> Agent:
    agent = load_agent(options.agent)
    if not options.deterministic and not agent.explores():
        raise AgentError(f"{agent.name} has no way to explore; leave out --deterministic, or give --noise")
    if options.noise and isinstance(agent, SequenceAgent):
        raise AgentError(f"{agent.name} remembers its own actions, not noisy ones; leave out --noise")
    return agent


def _statistics(recorder: Recorder, task: Task) -> dict[str, Any]:
    """Return what the file says of its rows and of its complete episodes."""
    returns, lengths = recorder.episodes()
    facts: dict[str, Any] = {"transitions": len(recorder.rows()), "episodes": len(returns)}
    if len(returns):
        facts |= {"return_mean": returns.mean(), "return_std": returns.std(), "length_mean": lengths.mean()}
        if task.robot.scored:
            facts["normalized_score"] = normalized_score(task.name, float(returns.mean()))
    return facts


def _newest(recorder: Recorder) -> str:
    returns, lengths = recorder.episodes()
    if not len(returns):
        return "first episode"
    return f"episode {len(returns):,} had return {returns[-1]:.1f} in {lengths[-1]} steps"


def _from_attribute(found: Any, value: Any) -> Any:
    """Return an attribute of a file as the value it was made from."""
    if not isinstance(value, dict) or not isinstance(found, str):
        return found
    with suppress(ValueError):
        return parse_json(found)
    return found


@contextmanager
def _arithmetic(kernel: Kernel) -> Iterator[None]:
    """Compute with one thread, which alone gives the same bytes everywhere; then as PyTorch does."""
    threads = torch.get_num_threads()
    use_kernel(kernel, 1)
    try:
        yield
    finally:
        use_defaults(threads)
