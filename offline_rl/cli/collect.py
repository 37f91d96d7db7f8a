"""``offline-rl collect``."""

from typing import Any

from offline_rl.arguments import CommandLine, UsageError, options_class, own_first, read_off, show_options
from offline_rl.cli.about import describe_dataset
from offline_rl.settings import types_of


def collect_command(arguments: list[str]) -> None:
    """Make a dataset."""
    from offline_rl.collection.collect import collect
    from offline_rl.collection.options import KINDS, find_kind, learner_config

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError(f"say first who plays: offline-rl collect {'|'.join(KINDS)} --task TASK --out FILE.hdf5")
        _show_help()
        return
    kind = arguments[0]
    kind_class, config_class = find_kind(kind), learner_config(kind)

    def command(collection: Any) -> tuple[Any, Any]:
        """Make a dataset in D4RL's layout by playing a task, every step a row; resumed, it ends in the same bytes.

        Args:
            collection: The collection.
        """
        return collection, None

    def learning_command(collection: Any, learner: Any) -> tuple[Any, Any]:
        """Make a dataset in D4RL's layout of all steps of an agent that learns; resumed, it ends in the same bytes.

        Args:
            collection: The collection.
            learner: Hyperparameters of the algorithm.
        """
        return collection, learner

    own, table = types_of(kind_class), config_class().table() if config_class else {}
    for function in (command, learning_command):
        function.__annotations__ |= {
            "collection": options_class(own_first(kind_class)),
            "learner": options_class(table),
        }
    line = CommandLine(arguments[1:], own | {name: setting.kind for name, setting in table.items()})
    options, learner = line.parse(learning_command if config_class else command, f"offline-rl collect {kind}")
    settings = read_off(learner, [name for name in line.given if name in table])
    path = collect(kind, options=kind_class(**read_off(options, own)), **settings)
    describe_dataset(str(path), None)


def _show_help() -> None:
    """Show the options that all kinds share."""
    from offline_rl.collection.options import CollectOptions

    def command(kind: str, collection: Any) -> None:
        """Make a dataset in D4RL's layout by playing a task, every step a row; resumed, it ends in the same bytes.

        These options are common to all kinds. offline-rl collect KIND --help also lists those of the kind.

        Args:
            kind: random (uniform random actions), agent (a saved agent plays), or sac (SAC learns from nothing, and
                every step is kept).
            collection: The collection.
        """

    show_options(command, "offline-rl collect", CollectOptions)
