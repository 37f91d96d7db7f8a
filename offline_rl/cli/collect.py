"""``offline-rl collect``."""

from typing import Any

from offline_rl.arguments import CommandLine, UsageError, options_class, read_off
from offline_rl.cli.about import describe_dataset
from offline_rl.settings import table_of, types_of


def collect_command(arguments: list[str]) -> None:
    """Make a dataset."""
    from offline_rl.collection.collect import collect
    from offline_rl.collection.options import KINDS, find_kind, learner_config

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError(f"say first who plays: offline-rl collect {'|'.join(KINDS)} --task TASK --out FILE.hdf5")
        print("usage: offline-rl collect KIND --task TASK --steps N --out FILE.hdf5 [options]\n")
        print("KIND is random (uniform random actions), agent (a saved one plays), or sac (SAC learns from nothing,")
        print("and every step is kept); offline-rl collect KIND --help lists all options")
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
            learner: The algorithm's settings.
        """
        return collection, learner

    own, table = types_of(kind_class), config_class().table() if config_class else {}
    for function in (command, learning_command):
        function.__annotations__ |= {
            "collection": options_class(table_of(kind_class)),
            "learner": options_class(table),
        }
    line = CommandLine(arguments[1:], own | {name: setting.kind for name, setting in table.items()})
    options, learner = line.parse(learning_command if config_class else command, f"offline-rl collect {kind}")
    settings = read_off(learner, [name for name in line.given if name in table])
    path = collect(kind, options=kind_class(**read_off(options, own)), **settings)
    describe_dataset(str(path), None)
