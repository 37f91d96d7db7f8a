"""The environments: tasks and scores, D4RL's dynamics, and evaluation of many episodes in lock-step.

* `registry`: all tasks, one entry each.
* `tasks`: which robot a name means; the normalised score.
* `recovered`: tasks that a dataset brings along, and what a score means there.
* `robotics`: Gymnasium-Robotics, imported if it is asked for.
* `layout`: nested observations as vectors.
* `antmaze`: D4RL's AntMaze.
* `described`: what a file may say of how its environment is made.
* `dynamics`: the environments, with the dynamics D4RL was recorded with, whatever MuJoCo is installed.
* `vector`: one episode for each of many seeds, one call of the policy a step.
* `video`: MP4s and GIFs of episodes that `vector` plays.

Importing this package loads neither Gymnasium nor MuJoCo.
"""

from offline_rl.envs.dynamics import make_env
from offline_rl.envs.registry import ROBOTS
from offline_rl.envs.tasks import Task, find_task, normalized_score

__all__ = ["ROBOTS", "Task", "find_task", "make_env", "normalized_score"]
