"""The moving picture of the README: a trained agent beside its learning curve.

``python -m benchmarks.picture docs/assets/hopper.webp`` trains TD3+BC on the dataset that comes with the package,
films the first agent, and draws its curve as far as the film has come. A run that is there already is taken as it is.
"""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

import offline_rl as orl

HEIGHT = 270
"""Of the picture, in pixels; the film is a square, the curve half as wide again."""
PICTURES = 120
"""How many the film is thinned to."""
HOLD = 2000
"""Milliseconds for which the last picture stays."""


def picture(
    out: Path,
    /,
    *,
    run: Path = Path("runs/picture"),
    steps: int = 15_000,
    eval_every: int = 500,
    seeds: tuple[int, ...] = (0, 1),
) -> None:
    """Make the picture.

    Args:
        out: Animated WebP file to write.
        run: Folder of the run; trained if it is not there, and continued if it is not finished.
        steps: Updates of each agent.
        eval_every: Updates between two points of the curve.
        seeds: One agent for each; the film shows the first one.
    """
    options = {"steps": steps, "eval_every": eval_every, "eval_episodes": 5, "final_episodes": 20}
    finished = orl.train("td3_bc", "hopper-demo", seeds=list(seeds), out=str(run), resume=run.exists(), **options)
    film = list(_film(finished.path / "agents" / f"seed-{seeds[0]}"))
    frames = film[:: max(1, len(film) // PICTURES)]
    curves = _curves(finished.rows)
    shown = [_beside(frame, _curve(curves, (number + 1) / len(frames))) for number, frame in enumerate(frames)]
    seconds = 0.04 * len(film) / len(frames)
    durations = [round(1000 * seconds)] * (len(shown) - 1) + [HOLD]
    shown[0].save(out, save_all=True, append_images=shown[1:], duration=durations, loop=0, quality=60, method=4)
    print(f"{out}: {len(shown)} pictures, {out.stat().st_size / 1000:.0f} kB")


def _film(agent: Path) -> Iterator[Image.Image]:
    """Yield the pictures of the first scored episode."""
    with tempfile.TemporaryDirectory() as folder:
        orl.evaluate(agent, "hopper", episodes=1, video=f"{folder}/film.gif")
        with Image.open(f"{folder}/film.gif") as film:
            for frame in ImageSequence.Iterator(film):
                yield frame.convert("RGB").resize((HEIGHT, HEIGHT), Image.Resampling.LANCZOS)


def _curves(rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps `(E,)` of evaluations and the scores `(seeds, E)`."""
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    steps = sorted({row["step"] for row in evaluations})
    seeds = sorted({row["seed"] for row in evaluations})
    scores = {(row["seed"], row["step"]): row["score"] for row in evaluations}
    return np.array(steps), np.array([[scores[seed, step] for step in steps] for seed in seeds])


def _curve(curves: tuple[np.ndarray, np.ndarray], share: float) -> Image.Image:
    """Draw this share of the curves, on axes that hold all of them."""
    from matplotlib.figure import Figure

    steps, scores = curves
    until = share * steps[-1]
    seen = np.append(steps[steps < until], until)
    figure = Figure(figsize=(1.5 * HEIGHT / 100, HEIGHT / 100), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    lines = [np.interp(seen, steps, line) for line in scores]
    for line in lines:
        axes.plot(seen, line, color="#0072B2", alpha=0.35, lw=1)
    axes.plot(seen, np.mean(lines, 0), color="#0072B2", lw=2)
    axes.set_xlim(0, steps[-1])
    axes.locator_params("x", nbins=5)
    axes.set_ylim(0, 1.1 * scores.max())
    axes.set_xlabel("updates")
    axes.set_ylabel("normalised score")
    axes.set_title(f"TD3+BC on hopper-demo, {len(scores)} seeds and their mean", fontsize=9)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width, HEIGHT), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


if __name__ == "__main__":
    import tyro

    tyro.cli(picture)
