"""Pictures of many results: order, colours, legend and size."""

import math

import pytest
from helpers.records import made
from matplotlib.figure import Figure

from offline_rl.analysis.figures import COLOURS, band, draw_comparison, draw_profiles, spread, styles
from offline_rl.analysis.groups import grouped, labels

METHODS = ["zebra", "ape", "mule"]


@pytest.fixture
def figures(monkeypatch):
    """Collect the figures that are saved."""
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    return found


def of_methods(names=METHODS, datasets=("beads", "pebbles")):
    """Return two seeds of each method; the first dataset lacks the first method."""
    return [
        result
        for dataset in datasets
        for name in names
        if (dataset, name) != ("beads", "zebra")
        for result in made([10.0, 20.0], algorithm=name, name=dataset, fingerprint=dataset.ljust(64, "0"))
    ]


def colour_of(axes, label):
    return next(line.get_color() for line in axes.lines if line.get_label() == label)


def test_methods_have_one_order_and_one_colour_everywhere(figures, tmp_path):
    """Broken by colours by the order within a panel: a method that one dataset lacks moves those of all others."""
    results = of_methods()
    draw_comparison(results, tmp_path / "curves.png", METHODS)
    order = labels(grouped(results, METHODS), METHODS)
    assert order == METHODS
    draw_profiles({name: [[0.1], [0.5], [0.9]] for name in order[1:]}, [50.0], tmp_path / "p.png", styles(order))
    (curves, profiles) = figures
    for axes, name in ((curves.axes[0], "ape"), (curves.axes[1], "ape"), (profiles.axes[0], "ape")):
        assert colour_of(axes, name) == COLOURS[1]
    assert [text.get_text() for text in curves.legends[0].get_texts()] == [
        *(f"{name} (n = 2)" for name in METHODS),
        "mean of the data",
    ]


def test_without_a_suite_methods_are_ordered_by_name_and_number():
    results = made([1.0], alpha=10.0) + made([1.0], alpha=2.5) + made([1.0], algorithm="ape")
    assert labels(grouped(results)) == ["ape", "made_up, alpha 2.5", "made_up, alpha 10.0"]


def test_more_methods_than_colours_differ_in_their_dashes():
    found = styles([str(number) for number in range(20)])
    assert len(set(found.values())) == 20


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (9, 3, 3), (4, 2, 3)])
def test_each_panel_is_named_and_there_is_one_legend(count, rows, columns, figures, tmp_path):
    """Fails if nine datasets stand in one row, or each panel has a legend over its curves."""
    draw_comparison(of_methods(["ape"], [f"data-{number}" for number in range(count)]), tmp_path / "curves.png")
    (figure,) = figures
    assert len(figure.axes) == count
    assert len(figure.legends) == 1
    assert not any(axes.get_legend() for axes in figure.axes)
    assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes} == {("updates", "normalised score")}
    grid = figure.axes[0].get_subplotspec().get_gridspec()
    assert (grid.nrows, grid.ncols) == (rows, columns)
    width, height = figure.get_size_inches()
    assert width / columns <= 7.5
    assert 0.4 < height / rows / (width / columns) < 1


def test_a_band_of_two_seeds_reaches_from_one_to_the_other():
    assert spread([10.0, 30.0]) == (10.0, 20.0, 30.0)
    half = 4.302652729911275 * 10 / math.sqrt(3)
    assert spread([10.0, 20.0, 30.0]) == pytest.approx((20 - half, 20, 20 + half))
    for scores in ([10.0, None], [None], [10.0, None, 30.0]):
        assert all(map(math.isnan, spread(scores)))
    assert band(made([10.0, 30.0]))[1][-1] == 10.0
