"""Train on the dataset that comes with the package, load the agent again, and act with it in the environment."""

import offline_rl as orl


def main() -> None:
    """Train TD3+BC for a few seconds and play one episode."""
    run = orl.train("td3_bc", "hopper-demo", steps=3000, hidden_dims=[64, 64], eval_every=0, final_episodes=0)

    agent = orl.load_agent(run.path / "agents" / "seed-0")
    env = orl.make_env("hopper")
    observation, _ = env.reset(seed=0)
    earned, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
        earned += float(reward)
        ended = terminated or truncated
    print(f"it earned {earned:.1f}, a score of {orl.normalized_score('hopper', earned):.1f}")


if __name__ == "__main__":
    main()
