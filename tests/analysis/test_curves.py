"""The picture of one run: what is drawn of its seeds, and that the legend says what each mark is."""

import math

import pytest
from helpers.records import evaluation, record
from matplotlib.figure import Figure

from offline_rl.analysis.curves import draw_curve


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw a run and give its axes and the texts of its legend."""

    def draw(config, rows):
        figures = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        draw_curve(rows, config, tmp_path / "curve.png")
        (figure,) = figures
        return figure.axes[0], [text.get_text() for text in figure.legends[0].get_texts()]

    return draw


def band_of(axes):
    """Return the ends of the band at the last step."""
    (band,) = axes.collections
    points = band.get_paths()[0].vertices
    last = points[points[:, 0] == points[:, 0].max()]
    return last[:, 1].min(), last[:, 1].max()


def line_of(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def test_final_evaluations_have_a_mark_of_their_own(drawn):
    """Fails if points of 5 and of 100 episodes look alike, or an evaluation during training is marked as final."""
    config, rows = record([10.0, 20.0, 30.0], final_episodes=100)
    axes, legend = drawn(config, rows)
    assert "evaluation during training, 5 episodes" in legend
    assert "final evaluation, 100 episodes" in legend
    finals = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in finals] == [
        ([40], [10.0]),
        ([40], [20.0]),
        ([40], [30.0]),
    ]
    along = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert {tuple(line.get_xdata()) for line in along} == {(0, 20)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("updates", "normalised score")
    assert axes.get_title() == "made_up on beads"


def test_the_band_of_a_run_is_the_t_interval_and_of_two_seeds_their_range(drawn):
    """The interval of three seeds is 4.3027 standard errors, of 10/√3, wide on either side."""
    axes, legend = drawn(*record([10.0, 20.0, 30.0]))
    half = 4.302652729911275 * 10 / math.sqrt(3)
    assert band_of(axes) == pytest.approx((20 - half, 20 + half))
    assert "95 % t interval of the mean, 3 seeds" in legend
    axes, legend = drawn(*record([10.0, 30.0]))
    assert band_of(axes) == pytest.approx((10, 30))
    assert "lower to higher of 2 seeds" in legend
    axes, legend = drawn(*record([10.0]))
    assert not axes.collections
    assert legend[0] == "seed 0"
    assert "mean of seeds" not in legend


def test_the_mean_of_the_data_is_a_dashed_line(drawn):
    axes, _ = drawn(*record([10.0]))
    line = line_of(axes, "mean of the data, 3.0")
    assert line.get_linestyle() == "--"
    assert set(line.get_ydata()) == {3.0}
    config, rows = record([10.0])
    config["dataset"]["mean_score"] = None
    assert not any("data" in text for text in drawn(config, rows)[1])


def test_a_mean_has_a_gap_where_a_seed_has_diverged(drawn):
    """Broken by the mean of those that are left, which rises when the worst seed is lost."""
    axes, _ = drawn(*record([None, 20.0, 30.0]))
    first, along, final = line_of(axes, "mean of seeds").get_ydata()
    assert (first, along) == pytest.approx((1.0, 99.0))
    assert math.isnan(final)


def test_a_run_in_which_nothing_was_played_has_no_picture(tmp_path):
    config, _ = record()
    draw_curve([evaluation("final", 0, 40, None)], config, tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


def test_the_online_phase_is_marked(drawn):
    axes, legend = drawn(*record([10.0, 20.0], online_steps=20))
    assert "online from here" in legend
    assert axes.get_xlabel() == "updates, then steps in the environment"
