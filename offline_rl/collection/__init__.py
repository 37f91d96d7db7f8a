"""Making datasets: an agent, or chance, plays a task, and every step becomes a row of a file in D4RL's layout."""
