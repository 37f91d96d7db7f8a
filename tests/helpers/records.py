"""Finished runs written by hand, and the results made of them."""

from offline_rl.analysis.results import results_of


def record(scores=(10.0,), online_steps=0, **changes):
    """Write a finished run by hand: a score for each seed, ten times the score as return."""
    config = {
        "algorithm": "made_up",
        "config": {"alpha": 2.5, "normalize": True},
        "options": {
            "seeds": list(range(len(scores))), "steps": 40, "online_steps": online_steps,
            "eval_every": 20, "eval_episodes": 5, "final_episodes": 5,
        },
        "task": "hopper",
        "dynamics": "d4rl",
        "compute": {"device": "cpu", "kernel": "default"},
        "versions": {"torch": "9.9", "numpy": "1.0"},
        "hardware": {"machine": "abacus", "cores": 1, "gpu": None},
        "dataset": {
            "name": "beads", "source": "/home/me/beads.hdf5", "fingerprint": "f" * 64, "mode": "exact",
            "rows": 100, "episodes": 2, "mean_return": 30.0, "mean_score": 3.0,
        },
    }  # fmt: skip
    for name, value in changes.items():
        place = next(part for part in (config["options"], config["config"], config["dataset"], config) if name in part)
        place[name] = value
    rows, episodes, end = [], config["options"]["final_episodes"], config["options"]["steps"]
    for seed, score in enumerate(scores):
        rows += [evaluation("evaluation", seed, 0, 1.0), evaluation("evaluation", seed, 20, 99.0)]
        rows += [train(seed, step) for step in (10, 20, 40, 60) if step <= end + online_steps]
        rows.append(evaluation("final", seed, end, score, episodes))
        if online_steps:
            rows.append(evaluation("final", seed, end + online_steps, score and score + 50, episodes))
    return config, rows


def evaluation(kind, seed, step, score, episodes=5):
    value = None if score is None else 10 * score
    numbers = {"episodes": episodes, "return": value, "return_std": 1.0, "score": score, "length": 8.0}
    return {"kind": kind, "step": step, "seed": seed, **numbers, "seconds": 2.0 + step}


def train(seed, step):
    """Write a row of training metrics: two updates a second on the dataset, a tenth of that afterwards."""
    return {"kind": "train", "step": step, "seed": seed, "loss": step / 10, "seconds": step / 2 + 9 * max(step - 40, 0)}


def made(scores=(10.0,), **changes):
    return results_of("run", *record(scores, **changes))
