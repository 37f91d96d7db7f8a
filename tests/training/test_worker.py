import numpy as np
from datasets import random_dataset

from algos.td3_bc import TD3BC, Config
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.training.evaluation import BLOCK, blocks
from offline_rl.training.worker import Member


def test_a_member_continues_with_the_metrics_of_a_delayed_actor():
    """Stopped after update 2 and asked after update 3, which has no actor: its last loss must not be forgotten."""
    dataset = random_dataset()
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    straight, before, after = (Member(TD3BC(Config(hidden_dims=[8]), 5, 2), rows) for _ in range(3))
    straight.run(1, 3)
    before.run(1, 2)
    after.load_state({name: tensor.clone() for name, tensor in before.state().items()})
    after.run(3, 3)
    assert "actor_loss" in straight.metrics()
    assert after.metrics() == straight.metrics()


def test_episodes_depend_on_seed_and_step_and_come_in_fixed_blocks():
    drawn = {(seed, step): blocks(seed, step, 25) for seed in (0, 1) for step in (0, 5000)}
    assert all([len(block) for block in parts] == [BLOCK, BLOCK, 5] for parts in drawn.values())
    episodes = np.concatenate([np.concatenate(parts) for parts in drawn.values()])
    assert len(set(episodes.tolist())) == 100
    assert drawn[0, 5000] == blocks(0, 5000, 25)
    assert np.concatenate(blocks(0, 5000, 12)).tolist() == np.concatenate(drawn[0, 5000])[:12].tolist()
