"""The transformer and its dropout; each test names the mistake that breaks it."""

import numpy as np
import pytest
import torch

from offline_rl.draws import Stream
from offline_rl.networks.dropout import Dropout
from offline_rl.networks.transformer import TrajectoryTransformer

SIZES = [1, 4, 2]


def keys(rows, step=1, seed=0):
    return torch.from_numpy(Stream(seed, "dropout").at(step).random((rows, 2), np.float32))


@pytest.fixture
def network():
    made = TrajectoryTransformer(SIZES, width=16, layers=2, heads=2, longest=50).double()
    made.initialize(np.random.default_rng(0))
    for parameter in made.parameters():
        parameter.data *= 4  # far from the almost linear beginning
    return made


def tokens(rows=3, steps=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, steps, size, generator=generator, dtype=torch.float64) for size in SIZES]


def times(rows=3, steps=6):
    return torch.arange(steps).expand(rows, steps)


def test_no_token_reads_a_later_one(network):
    """Broken by a mask that is off by one, or transposed."""
    mask = torch.ones(3, 6, dtype=torch.bool)
    before = network(tokens(), times(), mask)
    for step in range(6):
        for place in range(3):
            changed = tokens()
            changed[place][:, step] += 1
            after = network(changed, times(), mask)
            flat_before, flat_after = before.flatten(1, 2), after.flatten(1, 2)
            first = 3 * step + place
            assert torch.equal(flat_before[:, :first], flat_after[:, :first])
            assert (flat_before[:, first:] != flat_after[:, first:]).any(2).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_padded_does_not_matter(network, side):
    """Broken by a key mask that is missing, of the wrong side, or not repeated for all tokens of a step."""
    mask = torch.arange(6) >= torch.tensor([[0], [2], [5]])
    mask = mask if side == "left" else mask.flip(1)
    garbage = [torch.where(mask[:, :, None], token, 1e3 * (token + 1)) for token in tokens()]
    wrong_times = torch.where(mask, times(), 49)
    masks = [Dropout(0.3, keys(3)) for _ in range(2)]
    before, after = network(tokens(), times(), mask, masks[0]), network(garbage, wrong_times, mask, masks[1])
    assert torch.equal(before[mask], after[mask])
    alone = network([token[2:, mask[2]] for token in tokens()], times()[2:, mask[2]], torch.ones(1, 1).bool())
    assert torch.allclose(alone, network(tokens(), times(), mask)[2:, mask[2]], atol=1e-12)
    gradients = torch.autograd.grad(after[mask].sum(), list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_same_key_gives_the_same_masks_and_another_one_others():
    """Broken by masks that forget the step, the row, the call, or the seed."""
    x = torch.ones(8, 1000)
    kept = Dropout(0.5, keys(8))(x)
    assert torch.equal(kept, Dropout(0.5, keys(8))(x))
    others = [Dropout(0.5, keys(8, step=2))(x), Dropout(0.5, keys(8, seed=1))(x), kept.roll(1, 0)]
    twice = Dropout(0.5, keys(8))
    twice(x)
    for other in (*others, twice(x)):
        assert abs(((kept > 0) == (other > 0)).double().mean() - 0.5) < 0.03


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_independently_at_its_rate(rate):
    """Broken by a rate of elements kept, by a missing factor, or by a hash with patterns in its bits."""
    x = torch.ones(64, 20_001, dtype=torch.float64)
    kept = Dropout(rate, keys(64))(x)
    assert set(kept.unique().tolist()) == {0.0, 1 / (1 - rate)}
    dropped = ((kept == 0).double() - rate) / np.sqrt(rate * (1 - rate))
    limit = 5 / np.sqrt(x.numel())
    assert abs(dropped.mean()) < limit
    for lag in (1, 2, 3, 4, 8, 128, 512, 1024):
        assert abs((dropped[:, lag:] * dropped[:, :-lag]).mean()) < limit * 1.1, lag
    for lag in (1, 2, 7):
        assert abs((dropped[lag:] * dropped[:-lag]).mean()) < limit * 1.1, lag
    per_row, per_column = dropped.mean(1) * np.sqrt(20_001), dropped.mean(0) * np.sqrt(64)
    assert abs(per_row.var() - 1) < 5 * np.sqrt(2 / 64)
    assert abs(per_column.var() - 1) < 5 * np.sqrt(2 / 20_001)


def test_no_dropout_changes_nothing(network):
    mask = torch.ones(3, 6, dtype=torch.bool)
    with_none = network(tokens(), times(), mask)
    assert torch.equal(with_none, network(tokens(), times(), mask, Dropout(0.0, keys(3))))
    assert not torch.equal(with_none, network(tokens(), times(), mask, Dropout(0.1, keys(3))))


def test_late_times_count_as_the_last():
    network = TrajectoryTransformer([1], width=8, layers=1, longest=5)
    network.initialize(np.random.default_rng(0))
    one = torch.ones(1, 1, 1)
    far, last, before = (network([one], torch.tensor([[t]]), torch.ones(1, 1).bool()) for t in (400, 4, 3))
    assert torch.equal(far, last)
    assert not torch.equal(last, before)
