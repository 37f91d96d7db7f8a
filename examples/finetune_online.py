"""Train on a dataset, then go on in the environment; the offline run stays as it is."""

import offline_rl as orl


def main() -> None:
    """Train IQL offline, then online, each for a few seconds."""
    settings = {"eval_every": 0, "final_episodes": 2}
    offline = orl.train("iql", "hopper-demo", steps=500, hidden_dims=[64, 64], **settings)
    online = orl.finetune(offline, steps=500, **settings)
    print(f"offline {offline.scores[0]:.1f}, online {online.scores[0]:.1f}; agents in {online.path / 'agents'}")


if __name__ == "__main__":
    main()
