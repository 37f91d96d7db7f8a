"""Runs in the competitors' environment: makes single updates of d3rlpy's algorithms from given weights, in float64.

Speaks JSON, a line each. ``"describe"`` is answered with d3rlpy's version and, for each algorithm, the differences that
are known. Everything else asks for updates: the algorithm, our settings, a folder with ``given.npz``, and which
differences to bridge. What they come to is written to a file of that folder.

A bridge is a function that makes d3rlpy do what ours does, in one respect; its docstring says in which. With all of
them, nothing but rounding may be left. Without any, d3rlpy's code is as it comes, but for two things: float32 that is
written into it becomes float64, and it gets its random numbers from ``given.npz`` instead of a generator.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import d3rlpy
import numpy as np
import torch
from d3rlpy.models.torch import ActionOutput, build_gaussian_distribution, build_squashed_gaussian_distribution
from torch import Tensor, nn

Settings = Mapping[str, Any]


def matched(algorithm: str, settings: Settings, steps: int, **more: Any) -> Any:
    """Return d3rlpy's configuration that means the same as our settings, as far as it has words for them.

    Args:
        algorithm: Our name of it.
        settings: Ours.
        steps: Length of the run, over which IQL's learning rate falls.
        more: What else to set, in d3rlpy's words.
    """
    encoder = d3rlpy.models.VectorEncoderFactory(list(settings["hidden_dims"]))
    common = {
        "batch_size": settings["batch_size"],
        "gamma": settings["discount"],
        "tau": settings["target_rate"],
        "actor_learning_rate": settings["actor_learning_rate"],
        "critic_learning_rate": settings["critic_learning_rate"],
        "actor_encoder_factory": encoder,
        "critic_encoder_factory": encoder,
        **more,
    }
    make = PEERS[algorithm].config if algorithm in PEERS else TRAINED_ONLY[algorithm]
    return make(settings, steps, common)


def _td3_bc(settings: Settings, steps: int, common: dict[str, Any]) -> Any:
    return d3rlpy.algos.TD3PlusBCConfig(
        **common,
        alpha=settings["alpha"],
        target_smoothing_sigma=settings["policy_noise"],
        target_smoothing_clip=settings["noise_clip"],
        update_actor_interval=settings["policy_delay"],
    )


def _prdc(settings: Settings, steps: int, common: dict[str, Any]) -> Any:
    return d3rlpy.algos.PRDCConfig(
        **common,
        alpha=settings["alpha"],
        beta=settings["beta"],
        target_smoothing_sigma=settings["policy_noise"],
        target_smoothing_clip=settings["noise_clip"],
        update_actor_interval=settings["policy_delay"],
    )


def _iql(settings: Settings, steps: int, common: dict[str, Any]) -> Any:
    if settings["critic_learning_rate"] != settings["value_learning_rate"]:
        raise SystemExit("d3rlpy has one learning rate for critics and V; give both the same")
    falls = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps)
    return d3rlpy.algos.IQLConfig(
        **common,
        value_encoder_factory=common["critic_encoder_factory"],
        actor_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=falls),
        expectile=settings["expectile"],
        weight_temp=settings["beta"],
        max_weight=settings["weight_limit"],
    )


def _cql(settings: Settings, steps: int, common: dict[str, Any]) -> Any:
    return d3rlpy.algos.CQLConfig(
        **common,
        temp_learning_rate=settings["temperature_learning_rate"],
        conservative_weight=settings["conservative_weight"],
        n_action_samples=settings["num_actions"],
        # Off, as in ours: the weight's dual ascent with its threshold.
        alpha_learning_rate=0.0,
        alpha_threshold=0.0,
    )


def _rebrac(settings: Settings, steps: int, common: dict[str, Any]) -> Any:
    if settings["critic_layer_norm"] != "after":
        raise SystemExit("d3rlpy can normalise hidden layers after their ReLU only; leave critic_layer_norm as it is")
    widths = list(settings["critic_hidden_dims"] or settings["hidden_dims"])
    critic = d3rlpy.models.VectorEncoderFactory(widths, use_layer_norm=True)
    return d3rlpy.algos.ReBRACConfig(
        **{**common, "critic_encoder_factory": critic},
        actor_beta=settings["actor_penalty"],
        critic_beta=settings["critic_penalty"],
        target_smoothing_sigma=settings["policy_noise"],
        target_smoothing_clip=settings["noise_clip"],
        update_actor_interval=settings["policy_delay"],
    )


def _awac(settings: Settings, steps: int, common: dict[str, Any]) -> Any:
    if not settings["normalize_weights"]:
        raise SystemExit("d3rlpy divides weights by their mean over the batch; give normalize_weights")
    return d3rlpy.algos.AWACConfig(**common, lam=settings["temperature"], n_action_samples=1)


@dataclass
class Learner:
    """One of d3rlpy's algorithms, and what bridges may change of how it is used.

    Attributes:
        impl: The object of d3rlpy that makes updates.
        first: Number of the first update.
        limit: Where actions of the data are cut.
        bridges: Names of the bridges that are in use.
        extra: Networks that bridges have added.
        temperature_gradient: Of the temperature's own loss.
    """

    impl: Any
    first: int = 0
    limit: float = 1.0
    bridges: Sequence[str] = ()
    extra: dict[str, list[Tensor]] = field(default_factory=dict)
    temperature_gradient: Tensor | None = None


Bridge = Callable[[Learner], None]


def count(learner: Learner) -> None:
    """Ours counts updates from 1, like the authors, so the second one moves the actor; d3rlpy counts from 0."""
    learner.first = 1


def open_interval(learner: Learner) -> None:
    """Ours cuts the data's actions to ±(1 - 1e-5), as the authors do; d3rlpy takes them as they are."""
    learner.limit = 1 - 1e-5


def value_first(learner: Learner) -> None:
    """Ours steps V first, as the authors; d3rlpy steps it with the critics, whose target has the V from before."""
    impl, modules = learner.impl, learner.impl._modules
    rate = modules.critic_optim.optim.param_groups[0]["lr"]
    value_adam = torch.optim.Adam(modules.value_func.parameters(), lr=rate)
    critic_adam = torch.optim.Adam(modules.q_funcs.parameters(), lr=rate)

    def update(batch: Any, step: int) -> dict[str, float]:
        value_loss = impl.compute_value_loss(batch)
        value_adam.zero_grad()
        value_loss.backward()
        value_adam.step()
        critic_loss = impl.compute_critic_loss(batch, impl.compute_target(batch)).q_loss
        critic_adam.zero_grad()
        critic_loss.backward()
        critic_adam.step()
        metrics = impl.update_actor(batch)
        impl.update_critic_target()
        return {"v_loss": float(value_loss), "q_loss": float(critic_loss), **metrics}

    impl.inner_update = update


def cut_log_std(learner: Learner) -> None:
    """Our log-std is a parameter, cut to [-5, 2]; d3rlpy's is a sigmoid of one, so that it starts at -1.5, not 0."""
    policy = learner.impl._modules.policy

    def forward(x: Tensor, *_: Any) -> ActionOutput:
        mean = policy._mu(policy._encoder(x))
        return ActionOutput(mean, mean.tanh(), policy._logstd.clamp(policy._min_logstd, policy._max_logstd))

    policy.forward = forward


def narrower_interval(learner: Learner) -> None:
    """Ours cuts the data's actions to ±0.999, as JaxCQL does; d3rlpy takes them as they are."""
    learner.limit = 0.999


def sampled_target(learner: Learner) -> None:
    """Ours takes a sample of the policy for the critics' target, d3rlpy its mode; neither has the entropy there."""
    impl, policy = learner.impl, learner.impl._modules.policy

    def target(batch: Any) -> Tensor:
        action = build_squashed_gaussian_distribution(policy(batch.next_observations)).sample()
        return impl._targ_q_func_forwarder.compute_target(batch.next_observations, action, reduction="min")

    impl._compute_deterministic_target = target


def line_of_log_std(learner: Learner) -> None:
    """Ours learns a scale and a shift of the log-std, which start at 1 and -1, as in JaxCQL; d3rlpy has none."""
    policy, optim = learner.impl._modules.policy, learner.impl._modules.actor_optim.optim
    scale, shift = (torch.tensor(start, requires_grad=True) for start in (1.0, -1.0))
    optim.add_param_group({"params": [scale, shift]})
    learner.extra["spread"] = [scale, shift]

    def forward(x: Tensor, *_: Any) -> ActionOutput:
        hidden = policy._encoder(x)
        mean, log_std = policy._mu(hidden), scale * policy._logstd(hidden) + shift
        return ActionOutput(mean, mean.tanh(), log_std.clamp(policy._min_logstd, policy._max_logstd))

    policy.forward = forward


def slope_of_temperature(learner: Learner) -> None:
    """Ours differentiates the temperature's loss as a line in log η, as JaxCQL; d3rlpy has η there."""
    _set_temperature(learner)


def together(learner: Learner) -> None:
    """Ours takes all gradients before the first step, as JaxCQL; d3rlpy steps critics, temperature, policy in turn."""
    _set_temperature(learner)
    impl, modules = learner.impl, learner.impl._modules
    (temperature,) = modules.log_temp.parameters()

    def update(batch: Any, step: int) -> dict[str, float]:
        # The policy's loss first: its gradient runs through the critics, whose own gradients are zeroed after it.
        actor, critic = impl.compute_actor_grad(batch), impl.compute_critic_grad(batch)
        temperature.grad = learner.temperature_gradient
        for optim in (modules.actor_optim, modules.critic_optim, modules.temp_optim):
            optim.step()
        impl.update_critic_target()
        losses = {"actor_loss": actor.actor_loss, "temp_loss": actor.temp_loss, "critic_loss": critic.critic_loss}
        return {name: float(loss) for name, loss in losses.items()}

    impl.inner_update = update


def _set_temperature(learner: Learner) -> None:
    """Write d3rlpy's step of the temperature anew, with those of its two differences that are not bridged."""
    impl, optim = learner.impl, learner.impl._modules.temp_optim
    (log_temperature,) = impl._modules.log_temp.parameters()

    def update(log_likelihood: Tensor) -> Tensor:
        optim.zero_grad()
        excess = (log_likelihood - impl._action_size).detach().mean()
        linear = slope_of_temperature.__name__ in learner.bridges
        loss = -(log_temperature if linear else log_temperature.exp()) * excess
        loss.sum().backward()
        if together.__name__ not in learner.bridges:
            optim.step()
        # Kept, because d3rlpy's loss of the policy has a slope in the temperature, too, which it never uses.
        learner.temperature_gradient = log_temperature.grad.clone()
        return loss.sum()

    impl.update_temp = update


def _cql_noise(bridges: Sequence[str]) -> list[str]:
    critic = ["current", "next", "random"]
    critic[:0] = ["target"] if sampled_target.__name__ in bridges else []
    return ["policy", *critic] if together.__name__ in bridges else [*critic, "policy"]


def count_of_rebrac(learner: Learner) -> None:
    """Ours counts updates from 1, so the second one moves the actor; d3rlpy counts from 0, like the authors."""
    learner.first = 1


def flax_epsilon(learner: Learner) -> None:
    """Ours adds 1e-6 to the variance in a layer normalisation, as Flax in the authors' code; PyTorch adds 1e-5."""
    for network in (learner.impl._modules.q_funcs, learner.impl._modules.targ_q_funcs):
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6


def plain_mean(learner: Learner) -> None:
    """Our mean is not squashed, as in CORL; d3rlpy's is, by tanh, as the authors'."""
    _set_awac_policy(learner)


def wide_log_std(learner: Learner) -> None:
    """Our log-std is cut to [-20, 2], as in CORL; d3rlpy's is a sigmoid between -6 and 0, as the authors'."""
    _set_awac_policy(learner)


def _set_awac_policy(learner: Learner) -> None:
    policy, bridges = learner.impl._modules.policy, learner.bridges

    def forward(x: Tensor, *_: Any) -> ActionOutput:
        mean, low, high = policy._mu(policy._encoder(x)), policy._min_logstd, policy._max_logstd
        sigmoid = low + policy._logstd.sigmoid() * (high - low)
        log_std = policy._logstd.clamp(-20, 2) if wide_log_std.__name__ in bridges else sigmoid
        return ActionOutput(mean, mean if plain_mean.__name__ in bridges else mean.tanh(), log_std)

    policy.forward = forward


def no_entropy(learner: Learner) -> None:
    """Our target has no entropy; d3rlpy's has, with temperature 1, which is left from SAC and no option."""
    _set_awac_target(learner)


def own_distribution(learner: Learner) -> None:
    """Our target has a sample of the policy; d3rlpy's has the tanh of one around the mean before its tanh."""
    _set_awac_target(learner)


def _set_awac_target(learner: Learner) -> None:
    impl, policy, bridges = learner.impl, learner.impl._modules.policy, learner.bridges
    own = own_distribution.__name__ in bridges
    build = build_gaussian_distribution if own else build_squashed_gaussian_distribution

    def target(batch: Any) -> Tensor:
        with torch.no_grad():
            action, log_likelihood = build(policy(batch.next_observations)).sample_with_log_prob()
            value = impl._targ_q_func_forwarder.compute_target(batch.next_observations, action, reduction="min")
            return value if no_entropy.__name__ in bridges else value - log_likelihood

    impl.compute_target = target


def mean_loss(learner: Learner) -> None:
    """Our loss of the policy is a mean over the batch, d3rlpy's a sum; to Adam they are nearly the same."""
    loss_of = learner.impl.compute_actor_loss

    def mean(batch: Any, action: ActionOutput) -> Any:
        loss = loss_of(batch, action)
        return replace(loss, actor_loss=loss.actor_loss / len(batch.rewards))

    learner.impl.compute_actor_loss = mean


@dataclass(frozen=True)
class Peer:
    """How an algorithm of d3rlpy stands beside ours.

    Attributes:
        config: Returns its configuration.
        losses: Its names of our losses.
        bridges: What makes it ours.
        noise: Returns our names of the random numbers in the order in which it asks for them, given the bridges.
        modules: Its names of our networks.
    """

    config: Callable[[Settings, int, dict[str, Any]], Any]
    losses: Mapping[str, str]
    bridges: Sequence[Bridge]
    noise: Callable[[Sequence[str]], list[str]]
    modules: Mapping[str, str]


TD3_NETWORKS = {
    "actor": "policy",
    "critic": "q_funcs",
    "target_actor": "targ_policy",
    "target_critic": "targ_q_funcs",
}
PEERS = {
    "td3_bc": Peer(
        _td3_bc,
        {"critic_loss": "critic_loss", "actor_loss": "actor_loss"},
        [count],
        lambda bridges: ["target"],
        TD3_NETWORKS,
    ),
    "iql": Peer(
        _iql,
        {"critic_loss": "q_loss", "value_loss": "v_loss", "actor_loss": "actor_loss"},
        [value_first, cut_log_std, open_interval],
        lambda bridges: [],
        {"actor": "policy", "value": "value_func", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    ),
    "cql": Peer(
        _cql,
        {"critic_loss": "critic_loss", "actor_loss": "actor_loss", "temperature_loss": "temp_loss"},
        [together, sampled_target, slope_of_temperature, line_of_log_std, narrower_interval],
        _cql_noise,
        {"actor": "policy", "critic": "q_funcs", "target_critic": "targ_q_funcs", "temperature": "log_temp"},
    ),
    "awac": Peer(
        _awac,
        {"critic_loss": "critic_loss", "actor_loss": "actor_loss"},
        [no_entropy, own_distribution, plain_mean, wide_log_std, mean_loss],
        lambda bridges: ["target", "policy"],
        {"actor": "policy", "critic": "q_funcs", "target_critic": "targ_q_funcs"},
    ),
    "rebrac": Peer(
        _rebrac,
        {"critic_loss": "critic_loss", "actor_loss": "actor_loss"},
        [count_of_rebrac, flax_epsilon],
        lambda bridges: ["target"],
        TD3_NETWORKS,
    ),
}
TRAINED_ONLY = {"prdc": _prdc}
"""Algorithms whose single updates are not compared."""


def parameters(learner: Learner, modules: Mapping[str, str]) -> dict[str, list[Tensor]]:
    """Return the parameters of all networks by our names, of several critics each."""
    found: dict[str, list[Tensor]] = {}
    for name, theirs in modules.items():
        module = getattr(learner.impl._modules, theirs)
        parts = (
            {f"{name}_{place}": part for place, part in enumerate(module)} if isinstance(module, nn.ModuleList) else {}
        )
        found |= {own: list(part.parameters()) for own, part in (parts or {name: module}).items()}
    return found | learner.extra


class Noise:
    """Stands in for generators: hands out given numbers in a given order, and notices a wrong shape.

    Args:
        names: What is asked for in each update, in this order.
        draws: Our numbers by name, each ``(updates, B, K A)``.
        actions: A.
    """

    def __init__(self, names: Sequence[str], draws: Mapping[str, np.ndarray], actions: int) -> None:
        self._names, self._draws, self._actions = names, draws, actions
        self._update, self._left = 0, list[str]()

    def begin(self, update: int) -> None:
        """Begin an update, with number 0 the first; the last one must have used up its numbers."""
        if self._left:
            raise SystemExit(f"d3rlpy did not ask for the random numbers {self._left}")
        self._update, self._left = update, list(self._names)

    def give(self, shape: Sequence[int]) -> Tensor:
        """Return the next numbers as ``(B, A)``, ``(K, B, A)`` or ``(B K, A)``."""
        name, shape = self._left.pop(0), tuple(shape)
        rows = torch.from_numpy(self._draws[name][self._update])
        samples = rows.view(len(rows), -1, self._actions)
        for form in (samples.movedim(1, 0), samples.flatten(0, 1)):
            if tuple(form.shape) == shape:
                return form
        raise SystemExit(f"d3rlpy asked for numbers {shape}, but {name} is {tuple(samples.shape)}")

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let this be where PyTorch's random numbers come from."""
        with (
            mock.patch.object(torch, "randn", lambda *shape, **_: self.give(shape[0])),
            mock.patch("torch.distributions.normal._standard_normal", lambda shape, **_: self.give(shape)),
            mock.patch.object(
                Tensor, "uniform_", lambda own, low, high: own.copy_(low + (high - low) * self.give(own.shape))
            ),
        ):
            yield


@contextlib.contextmanager
def doubled() -> Iterator[None]:
    """Let what d3rlpy writes as float32 be float64."""
    tensor = torch.tensor

    def double(*values: Any, dtype: Any = None, **more: Any) -> Tensor:
        return tensor(*values, dtype=torch.float64 if dtype in (None, torch.float32) else dtype, **more)

    torch.set_default_dtype(torch.float64)
    with mock.patch.object(torch, "tensor", double), mock.patch.object(Tensor, "float", Tensor.double):
        yield


def minibatch(columns: Mapping[str, np.ndarray], update: int, limit: float) -> Any:
    """Return d3rlpy's kind of batch of the rows of one update."""
    rows = {name: torch.from_numpy(values[update]) for name, values in columns.items()}
    action, zeros = rows["action"].clamp(-limit, limit), torch.zeros_like(rows["reward"])[:, None]
    return d3rlpy.torch_utility.TorchMiniBatch(
        observations=rows["observation"],
        actions=action,
        rewards=rows["reward"][:, None],
        next_observations=rows["next_observation"],
        next_actions=rows.get("next_action", torch.zeros_like(action)),
        returns_to_go=zeros,
        terminals=rows["terminated"][:, None],
        intervals=zeros + 1,
        device="cpu",
    )


def updates(algorithm: str, settings: Settings, folder: str, bridges: Sequence[str], out: str) -> None:
    """Make the updates that ``given.npz`` has batches for; write losses and weights after each to ``out``."""
    peer, arrays = PEERS[algorithm], dict(np.load(Path(folder) / "given.npz"))
    columns, draws, start = (
        {name.removeprefix(f"{kind}/"): value for name, value in arrays.items() if name.startswith(f"{kind}/")}
        for kind in ("rows", "draws", "start")
    )
    total, _, size = columns["action"].shape
    learner = _learner(algorithm, settings, columns, bridges)
    networks = parameters(learner, peer.modules)
    for name, tensors in networks.items():
        for place, tensor in enumerate(tensors):
            tensor.data.copy_(torch.from_numpy(start[f"{name}/{place}"]))
    noise, written = Noise(peer.noise(bridges), draws, size), dict[str, Any]()
    with noise.installed():
        for update in range(total):
            noise.begin(update)
            batch = minibatch(columns, update, learner.limit)
            losses = learner.impl.update(batch, learner.first + update)
            written |= {f"{update}/{own}": losses[name] for own, name in peer.losses.items() if name in losses}
            written |= {
                f"{update}/{name}/{place}": tensor.detach().numpy().copy()
                for name, tensors in networks.items()
                for place, tensor in enumerate(tensors)
            }
        noise.begin(total)
    np.savez(Path(folder) / out, **written)


def _learner(algorithm: str, settings: Settings, columns: Mapping[str, np.ndarray], bridges: Sequence[str]) -> Learner:
    total, _, observations = columns["observation"].shape
    algo = matched(algorithm, settings, total).create(device="cpu:0")
    algo.create_impl((observations,), columns["action"].shape[2])
    for module in vars(algo.impl._modules).values():
        if isinstance(module, nn.Module):
            module.double()
    learner = Learner(algo.impl, bridges=bridges)
    for bridge in PEERS[algorithm].bridges:
        if bridge.__name__ in bridges:
            bridge(learner)
    return learner


def describe() -> dict[str, Any]:
    """Return the version, and the differences of each algorithm by the names of their bridges."""
    differences = {name: {one.__name__: str(one.__doc__) for one in peer.bridges} for name, peer in PEERS.items()}
    return {"version": d3rlpy.__version__, "torch": torch.__version__, "differences": differences}


def main() -> None:
    """Answer until nothing more is asked."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        with doubled():
            answer = describe() if asked == "describe" else updates(**asked)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
