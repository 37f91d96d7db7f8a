"""What a plug-in declares of its updates is seen before they are repeated; nothing goes wrong without a word."""

import importlib.util
from pathlib import Path

import pytest
import torch
from helpers.datasets import episodic_dataset
from helpers.members import ALL, STEPS, differing, members, states

from offline_rl.agent import Agent, AgentConfig
from offline_rl.algos import bc, td3_bc
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import RunError
from offline_rl.networks import DeterministicActor
from offline_rl.training import contract, plan
from offline_rl.training.loop import make_updates
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan
from offline_rl.training.replica import Replica
from offline_rl.training.updates import compiled
from offline_rl.training.updates.compiled import CompiledUpdates
from offline_rl.training.updates.cuda_graph import CapturedUpdates

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin" / "weighted_bc.py"
SMALL = {"hidden_dims": [16, 16], "batch_size": 8}


@pytest.fixture(autouse=True)
def _traced_only(monkeypatch):
    """What a program does is decided when it is traced; compiling it takes seconds."""
    monkeypatch.setattr(compiled, "compiled", lambda graph, inputs: graph)


def example():
    spec = importlib.util.spec_from_file_location("weighted_bc", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def some(algorithm, count=1, settings=({},), seed=0):
    """Make members of a class that no package registers."""
    dataset = episodic_dataset([20, 30, 15, 25, 40])
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    rows = PackedRows.of(dataset, preprocessing)
    made = []
    for number in range(count):
        config = algorithm.config_class(**SMALL, **settings[number % len(settings)])
        agent = algorithm(config, 4, 2, seed=seed + number, steps=STEPS, preprocessing=preprocessing)
        made.append(Replica(agent, rows))
    return made


class Forgotten(td3_bc.TD3BC):
    """Updates the actor every second time, and says that all updates are the same."""

    def build_learner(self):
        super().build_learner()
        self.cycle = 1


class Ramp(bc.BC):
    """Weighs its loss by how far the run is, and inherits what BC declares."""

    def update(self, batch, step):
        self.weight = min(1, step / 100)
        return self.minimize(batch, actor=self.weighted)

    def weighted(self, batch):
        loss, metrics = self.actor_loss(batch)
        return self.weight * loss, metrics


class HiddenRamp(Ramp):
    """The same, in tensors, which do not tell what they are made from."""

    def update(self, batch, step):
        self.weight = (torch.tensor(0.01) * torch.tensor(step, dtype=torch.float32)).clamp(max=1)
        return self.minimize(batch, actor=self.weighted)


class Rare(bc.BC):
    """Does something else every thousandth time."""

    def update(self, batch, step):
        metrics = self.minimize(batch, actor=self.actor_loss)
        return metrics | (self.minimize(batch, actor=self.actor_loss) if step % 1000 == 0 else {})


class Late(Rare):
    """Does something else once."""

    def update(self, batch, step):
        return {} if step in {5000} else self.minimize(batch, actor=self.actor_loss)


class Scheduled(Rare):
    """Changes its loss after a while."""

    def update(self, batch, step):
        return self.minimize(batch, actor=self.actor_loss if step < 5000 else self.other_loss)

    def other_loss(self, batch):
        return self.actor(batch.observation).abs().mean(), {}


class Answered(Scheduled):
    """Answers for what it does with the step by ``repeats``, and does not keep to it."""

    def repeats(self, step):
        return step > 3


BROKEN = [Forgotten, Ramp, HiddenRamp, Rare, Late, Scheduled, Answered]


@pytest.mark.parametrize("algorithm", BROKEN)
@pytest.mark.parametrize("way", [CapturedUpdates, CompiledUpdates])
def test_an_update_that_does_not_repeat_as_declared_is_refused(way, algorithm):
    """Broken by a replay of what was recorded once for steps at which the algorithm does something else."""
    updates = way(some(algorithm))
    with pytest.raises(RunError, match=rf"^{algorithm.name} .*(cycle|repeats).*docs/api\.md.*--mode eager$"):
        updates.run(1, 20)


class Counting(bc.BC):
    """Counts its updates itself, beside optimisers and targets, in a tensor that it makes again."""

    def build_learner(self):
        super().build_learner()
        self.made = torch.zeros(())

    def update(self, batch, step):
        self.made = self.made + 1
        return self.minimize(batch, actor=self.weighted)

    def weighted(self, batch):
        loss, metrics = self.actor_loss(batch)
        return loss * self.made, metrics


class Branching(bc.BC):
    """Looks at its data on the host."""

    def update(self, batch, step):
        return self.minimize(batch, actor=self.actor_loss) if batch.reward.sum() > 0 else {}


@pytest.mark.parametrize("algorithm", [Counting, Branching])
@pytest.mark.parametrize("way", [CapturedUpdates, CompiledUpdates])
def test_an_update_that_changes_more_than_it_declares_is_refused(way, algorithm):
    """Stacked and compiled alike: both hold for what lies in optimisers and targets only."""
    updates = way(some(algorithm, 2))
    with pytest.raises(RunError, match=rf"^{algorithm.name}.*(docs/api\.md.*)?--mode eager$"):
        updates.run(1, 20)


class ReadOnce(td3_bc.TD3BC):
    """Reads a setting when it is built that may differ between agents of one run, as it inherits."""

    def build_learner(self):
        super().build_learner()
        self.own_alpha = self.config.alpha

    def actor_loss(self, batch):
        action = self.actor(batch.observation)
        q = self.critic.frozen(batch.observation, action, count=1)[0]
        return (action - batch.action).square().mean() - self.own_alpha * q.mean(), {}


def test_agents_that_would_share_one_setting_are_refused():
    """Broken by a stack that trains all agents with the settings of the first."""
    settings = ({"alpha": 1.0}, {"alpha": 40.0})
    with pytest.raises(RunError, match=r"stackable_settings.*docs/api\.md"):
        CapturedUpdates(some(ReadOnce, 2, settings)).run(1, 20)


class Undeclared(Agent):
    """Declares nothing."""

    name = "undeclared"
    config_class = AgentConfig

    def build_policy(self):
        self.actor = DeterministicActor(self.observation_size, self.action_size, self.config.hidden_dims)

    def build_learner(self):
        self.optimizer("actor", self.actor, 1e-3)

    def loss(self, batch):
        return (self.actor(batch.observation) - batch.action).square().mean(), {}

    def update(self, batch, step):
        return self.minimize(batch, actor=self.loss)


def test_what_declares_nothing_is_not_repeated_and_not_stacked():
    assert Undeclared.stackable is False
    for way in (CapturedUpdates, CompiledUpdates):
        with pytest.raises(RunError, match=r"^undeclared does not declare after how many updates.*\(cycle\).*eager$"):
            way(some(Undeclared))
    make_updates(some(Undeclared)[0], 1, 3)


class Declared(Undeclared):
    name = "declared"
    cycle = 1


@pytest.mark.parametrize(("mode", "device"), [("auto", "cuda:0"), ("cudagraph", "cuda:0"), ("compile", "cpu")])
def test_what_declares_nothing_is_made_eagerly_and_one_sentence_says_so(mode, device, monkeypatch):
    """A GPU is pretended; broken by a default that repeats what nobody has declared."""
    monkeypatch.setattr(plan, "_device", lambda name: device)
    monkeypatch.setattr(
        plan, "find_algorithm", lambda name, settings=None: {"undeclared": Undeclared, "declared": Declared}[name]
    )
    monkeypatch.setattr("offline_rl.agent.registry.find_algorithm", plan.find_algorithm)
    options = TrainOptions(mode=mode, dataset="hopper-demo")
    with pytest.warns(UserWarning, match=r"made eagerly, not .*: undeclared does not declare.*") as warnings:
        assert Plan.make("undeclared", "hopper-demo", options, {}).mode == "eager"
    assert len(warnings) == 1
    if mode != "compile":
        assert Plan.make("declared", "hopper-demo", options, {}).mode == "cudagraph"


@ALL
def test_being_checked_changes_nothing(name, more):
    """Broken by weights, moments, counts or a table of rewards that are not put back, and put back where they lay."""
    (member,) = members(name, more, seeds=(0,))
    make_updates(member, 1, 5)
    (before,) = states([member])
    places = [group.flat.data_ptr() for group in member.agent.groups.values()]
    updates = CapturedUpdates([member], stacked=False)
    contract.check([member.agent], member.rows, 6, member.agent.cycle, updates)
    assert differing(states([member])[0], before) == []
    assert [group.flat.data_ptr() for group in member.agent.groups.values()] == places


def test_the_example_ends_in_the_same_weights_by_all_ways():
    """After three cycles and more: by its own updates, replayed, stacked and traced."""
    algorithm = example().WeightedBC

    def trained(way, count):
        made = some(algorithm, count)
        updates = way(made)
        updates.run(1, STEPS)
        updates.settle()
        return states(made)

    alone = some(algorithm, 2)
    for member in alone:
        make_updates(member, 1, STEPS)
    theirs = states(alone)
    assert differing(trained(CapturedUpdates, 1)[0], theirs[0]) == []
    for way in (CapturedUpdates, CompiledUpdates):
        for ours, expected in zip(trained(way, 2), theirs, strict=True):
            assert differing(ours, expected, rtol=1e-3, atol=1e-5) == []


def test_a_run_that_has_diverged_is_not_taken_for_a_broken_promise():
    (member,) = members("td3_bc", {}, seeds=(0,))
    member.agent.groups["critic"].flat.fill_(float("nan"))
    CapturedUpdates([member]).run(1, STEPS)


def test_steps_that_do_not_repeat_are_left_out():
    """PARL's rounds, and the fit before its first update, are made one by one and not looked at."""
    (member,) = members("parl", {}, seeds=(0,))
    make_updates(member, 1, 1)
    steps = contract._repeating([member.agent], 2, member.agent.cycle)
    assert len(steps) == 2 * member.agent.cycle
    assert all(member.agent.repeats(step) for step in steps)


def test_a_long_cycle_is_not_looked_at_for_long():
    (member,) = members("td3_bc", {"policy_delay": 1000}, seeds=(0,))
    assert len(contract._repeating([member.agent], 1, 1000)) == contract.MOST
