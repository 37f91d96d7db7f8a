"""Watch a run with a function of your own: print each evaluation's score, and keep the best.

    python examples/callback.py

A callback is called with each row that is written to metrics.jsonl; see offline_rl/tracking/callbacks.py for what rows
hold. This run has no workers: it trains in this process, so that a breakpoint in the callback, or in an algorithm's
losses, stops.
"""

import math

import offline_rl as orl


class Best:
    """Remembers the best score of a run. A function that takes a row would do, too."""

    def __init__(self):
        self.score, self.step = -math.inf, 0

    def __call__(self, row):
        """Take one row; the first is of kind "config", the others are "train", "evaluation" and "final"."""
        if row["kind"] == "evaluation":
            print(f"step {row['step']}: score {row['score']:.1f}")
            if row["score"] > self.score:
                self.score, self.step = row["score"], row["step"]

    def close(self):
        """Is called when the run has ended."""
        print(f"best: {self.score:.1f} at step {self.step}")


if __name__ == "__main__":
    orl.train(
        "td3_bc",
        "hopper-demo",
        steps=400,
        eval_every=100,
        eval_episodes=2,
        final_episodes=0,
        hidden_dims=[32, 32],
        workers=0,
        callbacks=[Best()],
    )
