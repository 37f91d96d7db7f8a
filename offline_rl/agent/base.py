"""What an algorithm is: a config, networks, losses, an update, a policy. Nothing of loops, files of runs or loggers.

An algorithm is written for one agent and plain tensors: ``B`` is the batch, ``O`` the size of an observation, ``A`` of
an action. See ``algos/td3_bc.py`` for how one reads.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.agent.about import About
from offline_rl.agent.batch import Batch, Draw, Length, Metrics
from offline_rl.agent.config import AgentConfig
from offline_rl.agent.folder import describe, write
from offline_rl.agent.hub import model_card, upload
from offline_rl.agent.optimizer import Adam, OptimizerGroup, ParameterGroup, Target, TargetNetwork, flatten
from offline_rl.data.names import Names, in_order, numbered
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.replay import Replay
from offline_rl.draws import Stream
from offline_rl.envs.layout import Layout
from offline_rl.errors import AgentError, DivergedError, brief
from offline_rl.files import replace_folder

LARGEST_WEIGHT = 1e18
"""Largest weight of an agent that can act: the product of two fits into single precision."""


Phase = Literal["offline", "online"]


Loss = Callable[[Any], tuple[Tensor, Metrics]]


class Agent:
    """Base of all algorithms: optimisers, targets, saving and acting; everything else is the algorithm's.

    Subclasses set ``name``, ``config_class`` and ``PRESETS`` and write, in this order, ``build_policy``,
    ``build_learner``, ``draws``, their losses, ``update`` and ``policy``; those that can be trained online, too, also
    write ``explore``.

    Three methods choose actions. Users call :meth:`act`: it takes raw observations, normalises them, calls one of the
    other two, and scales the result to the environment's range. :meth:`policy` is the actor's forward pass on
    normalised tensors, without noise. :meth:`explore` is the same with noise, which is an argument: nothing is drawn
    inside.

    ``lengths_used`` names those of ``steps`` and ``online_steps`` that the algorithm has asked for.
    ``phase`` says whether updates are ``"offline"`` or, after :meth:`go_online`, ``"online"``.

    Args:
        config: The algorithm's settings.
        observation_size: O.
        action_size: A.
        seed: Decides the initial weights and every random draw.
        steps: Length of the offline phase in updates, which schedules refer to.
        online_steps: Length of the online phase that follows it; 0 for none.
        preprocessing: Normalisation and action scale; by default none.
        device: Where the networks live.
        dtype: ``torch.float64`` for checks of the arithmetic.
        learning: Make what training needs, too. False makes the acting networks alone, whose weights mean nothing until
            :meth:`load_acting_weights` sets them.

    Raises:
        AgentError: The preprocessing is for other sizes, or the algorithm still has a method ``build``.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[AgentConfig]]
    about: ClassVar[About | None] = None
    """What lists of algorithms say of it."""
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Per task, or ``robot-*`` for all of a robot's, the settings that differ from the default."""
    acting_networks: ClassVar[tuple[str, ...]] = ("actor",)
    """Attributes that hold the networks which ``policy`` needs; these alone are saved for reuse."""
    stochastic: ClassVar[bool] = False
    """Whether the method's policy is a random one, so that episodes are scored with noise, by :meth:`explore`.

    :meth:`policy` is then a deterministic reading of it, for those who need one."""
    stackable: ClassVar[bool] = False
    """Whether the agents of several seeds may be trained as one on a GPU (``torch.vmap``), and updates be compiled.

    True is right if :meth:`update` changes nothing but optimisers and targets and never branches on a tensor."""
    stackable_settings: ClassVar[tuple[str, ...]] = ()
    """Settings in which agents that are trained as one may differ.

    :meth:`update` must read them from ``config`` each time; one that ``build_learner`` or ``prepare`` reads is wrong
    here, unless it is a learning rate, which :meth:`optimizer` keeps for each agent."""
    starts_empty: ClassVar[bool] = False
    """Whether it may begin without any dataset, and learn from what it collects online alone."""
    needs_next_action: ClassVar[bool] = False
    """Whether :meth:`update` gets a :class:`NextActionBatch`, which also brings what was done next."""
    cycle: int | None = None
    """Period of :meth:`update`: update number ``step`` executes the same code as number ``step + cycle``.

    1 if ``update`` does not use ``step``. If it does something when ``step % n == 0``, a multiple of every such n, set
    in ``build_learner``; any other use of ``step`` is not allowed. A GPU then records one CUDA graph for each update of
    the period and replays them. None: not declared, so every update is executed eagerly."""
    random_steps: int = 0
    """Up to and including this step, online actions are drawn uniformly and nothing is learned."""
    config: Any

    def __init__(
        self,
        config: AgentConfig,
        observation_size: int,
        action_size: int,
        *,
        seed: int = 0,
        steps: int = 1_000_000,
        online_steps: int = 0,
        preprocessing: Preprocessing | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        learning: bool = True,
    ) -> None:
        if hasattr(self, "build"):
            raise AgentError(
                f"{self.name} has a method build; write build_policy for the networks in acting_networks, and"
                " build_learner for all else and every optimizer() and target_of()"
            )
        self.config = config
        self.observation_size = observation_size
        self.action_size = action_size
        self.seed = seed
        self.length = Length(steps, online_steps)
        self.lengths_used: set[str] = set()
        self.phase: Phase = "offline"
        self.preprocessing = preprocessing or Preprocessing.identity(observation_size, action_size)
        if self.preprocessing.sizes != (observation_size, action_size):
            raise AgentError(
                f"preprocessing is for sizes {self.preprocessing.sizes}, not {(observation_size, action_size)}"
            )
        self.device = torch.device(device)
        self.dtype = dtype
        self.provenance: dict[str, Any] = {}
        self.rows: Tensor | None = None
        self._generator = np.random.default_rng(seed)
        self.groups: dict[str, OptimizerGroup] = {}
        self.targets: dict[str, TargetNetwork] = {}
        self.build_policy()
        for network in self.acting_networks:
            getattr(self, network).to(device=self.device, dtype=self.dtype)
        if learning:
            self.build_learner()

    @property
    def steps(self) -> int:
        """Length of the offline phase in updates.

        Asking is noted in ``lengths_used``: who knows the end trains otherwise when the end is another, so that the run
        cannot be made longer later.
        """
        self.lengths_used.add("steps")
        return self.length.offline

    @property
    def online_steps(self) -> int:
        """Length of the online phase in updates; asking is noted as by ``steps``."""
        self.lengths_used.add("online_steps")
        return self.length.online

    def __repr__(self) -> str:
        origin = self.provenance.get("dataset")
        trained = f", trained on {brief(origin)}" if origin else ""
        sizes = f"{self.observation_size} observations, {self.action_size} actions"
        return f"Agent('{self.name}', {sizes}, seed {self.seed}{trained})"

    # What an algorithm writes.

    def build_policy(self) -> None:
        """Make the networks that acting needs, those named in ``acting_networks`` and no others.

        A saved agent is loaded by this method alone. Weights need not be set: :meth:`optimizer` draws them for
        training, and loading copies the saved ones.
        """
        raise NotImplementedError

    def build_learner(self) -> None:
        """Make what learning needs besides; register all networks with :meth:`optimizer` and :meth:`target_of`."""
        raise NotImplementedError

    def draws(self) -> Mapping[str, Draw]:
        """Name the random numbers that one update needs; ``batch.draws`` brings them under these names.

        They are functions of (seed, name, step), so that an interrupted run goes on with the same ones.
        """
        return {}

    def prepare(self, rows: PackedRows) -> None:
        """Look at the whole dataset once before training; may set ``self.rows`` ``(N,)`` to train on a part of it."""

    def go_online(self, replay: Replay) -> None:
        """Begin the online phase; ``replay`` holds the dataset's rows and, growing, what is collected."""
        self.phase = "online"

    def update(self, batch: Any, step: int) -> Metrics:
        """Make update number ``step``, counted from 1, without ever waiting for the device."""
        raise NotImplementedError

    def policy(self, observation: Tensor) -> Tensor:
        """Map normalised observations ``(B, O)`` to actions ``(B, A)`` in [-1, 1], without noise."""
        raise NotImplementedError

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Map normalised observations ``(B, O)`` to noisy actions ``(B, A)`` in [-1, 1], to collect data online.

        Args:
            observation: ``(B, O)``.
            noise: ``(B, A)`` from N(0, 1).

        Raises:
            AgentError: The algorithm does not write this method, so it cannot be trained online.
        """
        raise AgentError(f"{self.name} has no way to explore; it acts deterministically, and trains offline only")

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return the log-density ``(B,)`` of :meth:`explore`'s actions at ``action`` ``(B, A)``, for estimates.

        Args:
            observation: ``(B, O)``, normalised.
            action: ``(B, A)`` in [-1, 1].

        Raises:
            AgentError: The algorithm does not write this method.
        """
        raise AgentError(f"{self.name} knows no density of its noisy actions, so they have no importance weights")

    def signals(self, observation: Tensor) -> dict[str, Tensor]:
        """Return, for a picture, what the policy decides on the way to its actions, each ``(B,)``."""
        return {}

    def repeats(self, step: int) -> bool:
        """Say whether update ``step`` may be replayed from what was recorded a ``cycle`` or more before.

        False for an update that does something rare, or works on the host, such as fitting a model again; it is then
        executed eagerly, and the updates around it are still replayed.
        """
        return True

    # What an algorithm uses.

    def optimizer(
        self,
        name: str,
        network: nn.Module,
        learning_rate: float,
        *,
        decays: bool = False,
        warmup: float = 0.0,
        weight_decay: float = 0.0,
        gradient_clip: float | None = None,
    ) -> None:
        """Initialise ``network`` from the agent's seed and give it an Adam optimiser that :meth:`minimize` knows.

        With ``decays`` the learning rate falls to 0 over the run, unless an online phase follows. It grows to its value
        in the share ``warmup`` of the run. For the rest see :class:`offline_rl.agent.optimizer.Adam`.
        """
        network.to(device=self.device, dtype=self.dtype)
        network.initialize(Stream(self.seed, f"init/{name}").at(0))  # type: ignore[operator]
        decay_steps = self.steps if decays and not self.length.online else None
        warmup_steps = round(warmup * self.steps) if warmup else 0
        adam = Adam(learning_rate, decay_steps, warmup_steps, weight_decay, gradient_clip)
        self.groups[name] = ParameterGroup(network, adam)

    def target_of(self, name: str) -> Any:
        """Return a copy of the network registered as ``name`` that :meth:`track_targets` moves slowly after it."""
        online = self.groups[name]
        target = copy.deepcopy(online.network).requires_grad_(False)
        self.targets[name] = Target(target, flatten(target), online.flat)
        return target

    def minimize(self, batch: Batch, **losses: Loss) -> Metrics:
        """Take one optimiser step for each loss; the loss named ``x`` moves the network registered as ``x`` only.

        All gradients are computed before the first step. A loss that looks through a network which it does not move
        calls ``network.frozen(...)``: the same output with the weights as constants; gradients reach the input only.

        Args:
            batch: What each loss is called with.
            losses: Functions that return a loss and metrics. What else they need is bound by ``functools.partial``.

        Returns:
            The losses as ``x_loss``, and their metrics.
        """
        metrics: Metrics = {}
        gradients = {}
        for name, loss_of in losses.items():
            loss, extra = loss_of(batch)
            gradients[name] = self.groups[name].gradients(loss)
            metrics |= {f"{name}_loss": loss.detach()} | extra
        for name, gradient in gradients.items():
            self.groups[name].step(gradient)
        return metrics

    def track_targets(self, rate: float) -> None:
        """Move every target by θ' ← rate θ + (1 - rate) θ'."""
        for target in self.targets.values():
            target.track(rate)

    # What everybody else uses.

    @property
    def observation_names(self) -> Names | None:
        """What the entries of an observation are called, ``(O,)``; None if the data did not say."""
        return self.preprocessing.observation_names

    @property
    def layout(self) -> Layout | None:
        """How the environment's observations are nested; None if they are vectors."""
        return self.preprocessing.layout

    @property
    def action_names(self) -> Names | None:
        """What the entries of an action are called, ``(A,)``; None if the data did not say."""
        return self.preprocessing.action_names

    @classmethod
    def explores(cls) -> bool:
        """Say whether the algorithm can be trained online."""
        return cls.explore is not Agent.explore

    @classmethod
    def has_density(cls) -> bool:
        """Say whether the algorithm knows the density of its noisy actions."""
        return cls.log_density is not Agent.log_density

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Say that new episodes begin; only a :class:`SequenceAgent` needs to know.

        Args:
            mask: ``(B,)``, True for the environments where one begins; None for all, of which there may then be another
                number than before.
        """

    def act(
        self, observation: Any, reward: np.ndarray | float | None = None, *, deterministic: bool = True
    ) -> np.ndarray:
        """Return the actions for raw observations.

        Args:
            observation: ``(O,)`` or ``(B, O)``, as the environment gives them; for an agent of an environment whose
                observations are nested, also the dictionary or tuple itself, see :mod:`offline_rl.envs.layout`; or by
                name, in any order: a mapping of names to numbers or columns ``(B,)``, a pandas series or frame. Names
                are :attr:`observation_names`, with or without ``observation_`` before them, or ``observation_0``, …
                where there are none.
            reward: What the last actions earned, one or ``(B,)``; only a :class:`SequenceAgent` uses it. None: unknown.
            deterministic: Act as well as possible; False explores, with noise from a generator of the agent's own.

        Returns:
            Environment actions ``(A,)`` or ``(B, A)``, float32, in the order of :attr:`action_names`.

        Raises:
            AgentError: The observation has another size or other names, or holds NaN or infinity; or it cannot explore.
            DivergedError: The action would hold NaN or infinity.
        """
        raw = self._raw(observation)
        if deterministic:
            return self._act(raw, self.policy)
        noise = self._generator.standard_normal((*raw.shape[:-1], self.action_size), np.float32)
        return self.act_with_noise(raw, noise)

    def act_with_noise(self, observation: Any, noise: np.ndarray) -> np.ndarray:
        """Like exploring with :meth:`act`, with ``noise`` ``(A,)`` or ``(B, A)`` from N(0, 1) given."""
        raw = self._raw(observation)
        given = np.asarray(noise)
        if given.shape != (*raw.shape[:-1], self.action_size) or not np.isfinite(given).all():
            raise AgentError(f"noise is no array {(*raw.shape[:-1], self.action_size)} of finite numbers; draw it so")
        rows = torch.from_numpy(np.atleast_2d(given)).to(self.device, self.dtype)
        return self._act(raw, lambda observations: self.explore(observations, rows))

    def _raw(self, observation: Any) -> np.ndarray:
        """Return raw observations ``(O,)`` or ``(B, O)`` as float32, in the order of the training."""
        size = self.observation_size
        names = self.observation_names or numbered("observation", size)
        whose = "this agent" if self.observation_names else "this agent, whose data had no names,"
        try:
            if (layout := self.layout) and layout.matches(observation):
                observation = layout.flat(observation)
            given = np.asarray(in_order(observation, names, "observation", AgentError, "observation", whose))
            if given.dtype.kind == "O":
                given = np.asarray(given, np.float64)
            elif given.dtype.kind not in "biuf":
                raise TypeError(f"it has type {given.dtype}")
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
                raw = given.astype(np.float32, copy=False)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise AgentError(f"observation is not an array of numbers ({brief(error)})") from None
        if raw.ndim not in (1, 2) or raw.shape[-1] != size:
            raise AgentError(f"observation has shape {raw.shape}; this agent takes ({size},) or (B, {size})")
        if not np.isfinite(raw).all():
            entry = names[int(np.argwhere(~np.isfinite(np.atleast_2d(raw)))[0, 1])]
            raise AgentError(f"observation holds NaN or infinity in {entry}; check the environment that made it")
        return raw

    def _act(self, raw: np.ndarray, policy: Callable[[Tensor], Tensor]) -> np.ndarray:
        with np.errstate(over="ignore"):
            rows = torch.from_numpy(np.atleast_2d(self.preprocessing.normalized(raw)))
        with torch.inference_mode():
            action = policy(rows.to(self.device, self.dtype)).cpu().float().numpy()
        if not np.isfinite(action).all():
            self.refuse_divergence()
            raise DivergedError(
                f"{self.name} answers with NaN or infinity: its weights, or the numbers in this observation, are too"
                " large; check the observation, or train again with lower learning rates"
            )
        return self.preprocessing.to_environment(action).reshape(*raw.shape[:-1], self.action_size)

    def predict(
        self,
        observation: Any,
        state: None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        """Like :meth:`act`, spelled and returned as Stable-Baselines3 does."""
        if episode_start is not None:
            self.reset(None if np.all(episode_start) else np.asarray(episode_start))
        return self.act(observation, deterministic=deterministic), None

    def refuse_divergence(self) -> None:
        """Do nothing if every weight that acting needs is a number to compute with.

        Raises:
            DivergedError: One is not finite, or so large that two of them multiplied are not; the message names it.
        """
        for name, weight in self.acting_weights().items():
            largest = float(weight.abs().max()) if weight.numel() else 0.0
            if not largest <= LARGEST_WEIGHT:
                found = f"numbers up to {largest:.1g}" if math.isfinite(largest) else "NaN or infinity"
                raise DivergedError(
                    f"{self.name} holds {found} in {name}, because its training has diverged; train again with lower "
                    "learning rates"
                )

    def rehearse(self) -> None:
        """Act once on what is usual in the data, so that an agent that cannot act is refused before it is needed."""
        usual = self.preprocessing.observation_mean + self.preprocessing.observation_std
        self.act(usual)
        self.reset()

    def save(self, path: str | Path) -> None:
        """Write what acting needs to the folder ``path``: ``agent.json`` and ``weights.safetensors``.

        The folder appears whole or not at all; one that holds an agent already is replaced.
        """
        path = Path(path)
        if path.exists() and not (path / "agent.json").is_file():
            raise AgentError(f"{path} exists and holds no agent; choose another place so that nothing is overwritten")
        with replace_folder(path) as folder:
            write(folder, self.description(), self.acting_weights())

    def export_onnx(self, path: str | Path, *, deterministic: bool = True) -> float:
        """Write the policy to the file ``path`` as ONNX, which runs without PyTorch and without this package.

        Raw observations in, environment actions out, batches of any size. Its inputs, outputs and origin stand in the
        file's metadata; :data:`offline_rl.agent.export.INPUTS` says what inputs are. It is compared with the agent
        first.

        Args:
            path: The file, for instance ``policy.onnx``; one that exists is replaced.
            deterministic: Act as well as possible; False explores, with the noise as an input.

        Returns:
            The largest difference between the file's actions and the agent's, in the environment's units.

        Raises:
            AgentError: The extra ``export`` is missing, the file cannot be written or does not act as the agent does,
                or the agent does not explore.
            DivergedError: The agent's weights are no finite numbers.
        """
        from offline_rl.agent.export import write_onnx

        self.refuse_divergence()
        return write_onnx(self.acting_copy(), Path(path), deterministic=deterministic)

    def export_program(self, path: str | Path, *, deterministic: bool = True) -> float:
        """Like :meth:`export_onnx`, as a program for ``torch.export.load``, which needs PyTorch only.

        Its inputs are given by name: ``torch.export.load("policy.pt2").module()(observation=...)``.
        """
        from offline_rl.agent.export import write_program

        self.refuse_divergence()
        return write_program(self.acting_copy(), Path(path), deterministic=deterministic)

    def push_to_hub(
        self, name: str, *, evaluation: Any = None, private: bool = False, message: str = "Upload agent"
    ) -> str:
        """Upload the agent to the Hugging Face Hub with a model card, in one commit.

        ``load_agent("hf://user/name")`` loads it from there.

        Args:
            name: ``"hf://user/name"``, or without ``hf://``; the repository is made if it is not there.
            evaluation: What :func:`offline_rl.evaluate` returned for this agent, for the card.
            private: Make the repository a private one.
            message: Of the commit.

        Returns:
            The commit's address.

        Raises:
            AgentError: The extra ``hub`` is missing, or the Hub refuses or cannot be reached.
            DivergedError: The agent's weights are no finite numbers.
        """
        self.refuse_divergence()
        with tempfile.TemporaryDirectory() as place:
            self.save(Path(place, "agent"))
            card = model_card(self.description(), name.removeprefix("hf://"), evaluation)
            return upload(Path(place, "agent"), name, card, private=private, message=message)

    def fresh_copy(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, *, learning: bool = True
    ) -> "Agent":
        """Return an agent of the same settings and seed that has learned nothing; see the class for ``learning``."""
        return type(self)(
            copy.deepcopy(self.config),
            self.observation_size,
            self.action_size,
            seed=self.seed,
            steps=self.length.offline,
            online_steps=self.length.online,
            preprocessing=self.preprocessing,
            device=device,
            dtype=dtype,
            learning=learning,
        )

    def acting_copy(self) -> "Agent":
        """Return an agent that acts the same, on the CPU, has no episode in play, and cannot be trained."""
        agent = self.fresh_copy(learning=False)
        agent.provenance = dict(self.provenance)
        agent.load_acting_weights({name: weight.cpu() for name, weight in self.acting_weights().items()})
        return agent

    def description(self) -> dict[str, Any]:
        """Return what ``agent.json`` holds: all that rebuilding the agent needs, except its weights."""
        return describe(
            type(self),
            self.config,
            observation_size=self.observation_size,
            action_size=self.action_size,
            seed=self.seed,
            steps=self.length.offline,
            online_steps=self.length.online,
            preprocessing=self.preprocessing,
            provenance=self.provenance,
        )

    def acting_weights(self) -> dict[str, Tensor]:
        """Return the weights that ``policy`` needs, by name."""
        return {
            f"{network}.{name}": weight
            for network in self.acting_networks
            for name, weight in getattr(self, network).state_dict().items()
        }

    def load_acting_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`acting_weights` returned.

        Raises:
            AgentError: A weight is missing, superfluous, or of another shape.
        """
        own = self.acting_weights()
        if unequal := sorted(set(own) ^ set(weights)):
            raise AgentError(f"weights do not fit: {unequal[0]} is {'missing' if unequal[0] in own else 'unknown'}")
        for name, weight in own.items():
            if weight.shape != weights[name].shape:
                found, expected = tuple(weights[name].shape), tuple(weight.shape)
                raise AgentError(f"weights do not fit: {name} has shape {found}, expected {expected}")
            weight.copy_(weights[name])

    def training_state(self) -> dict[str, Tensor]:
        """Return all that continuing the training exactly needs, by name."""
        state = {
            f"{group}.{name}": tensor
            for group, parameters in self.groups.items()
            for name, tensor in parameters.state().items()
        }
        return state | {f"{name}.target": target.flat for name, target in self.targets.items()}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`training_state` returned."""
        for name, group in self.groups.items():
            for key, tensor in group.state().items():
                tensor.copy_(state[f"{name}.{key}"])
        for name, target in self.targets.items():
            target.flat.copy_(state[f"{name}.target"])
