"""Command lines and option files, in the spellings that people and W&B agents use."""

import ast
import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import re
import shutil
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_rl.documents import check, parse_yaml, read_bytes, said
from offline_rl.errors import OfflineRLError, brief, named_inside, quoted
from offline_rl.settings import Setting, table_of, types_of

if TYPE_CHECKING:
    from offline_rl.agent import AgentConfig

RUN = {
    "config": {str: object},
    "options": {"each?": {str: object}, str: object},
    "dataset": {"source": (str, None), "mode": (str, None)},
    "task": (str, None),
    "dynamics": str,
}
"""What repeating a run needs of its ``config.json``; what the values mean is checked like that of any option."""


RENAMED = {"members": "concurrent_trials"}
"""Options that had another name, by the old one; the error for the old one names the new one."""
UNSAID = (None, "")
"""Defaults that help does not show: they say nothing, and the option's sentence says what happens."""


class UsageError(OfflineRLError):
    """The command line is not understood."""


@dataclass
class CommandLine:
    """Arguments in the spellings that people and W&B agents use, brought to the one that the parser reads.

    ``--seeds 0 1``, ``--seeds=[0, 1]`` and ``--seeds="0 1"``, ``--eval-every`` and ``--eval_every``, ``--resume`` and
    ``--resume=True`` mean the same. Unknown options are refused with the nearest known one.

    Args:
        arguments: What was typed after the command.
        types: The type of each option.
        positional: What is given by place, in this order; its name will do, too. A list takes all that is left.
    """

    arguments: list[str]
    types: dict[str, Any]
    positional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.help = False
        self.given: dict[str, str] = {}
        self._waiting = list(self.positional)
        tokens, several = list(self.arguments), list[str]()
        while tokens:
            token = tokens.pop(0)
            if token in ("-h", "--help"):
                self.help = True
            elif token.startswith("--"):
                name, _, value = token[2:].partition("=")
                values = [value] if "=" in token else self._take_values(name, tokens)
                self._set(name, values)
            elif self._waiting and self.types[self._waiting[0]] == list[str]:
                several.append(token)
            elif self._waiting:
                self._set(self._waiting[0], [token])
            else:
                example = f", for instance --{token.lstrip('+-')}" if "=" in token else ""
                raise UsageError(f"unexpected argument {token!r}; options begin with --{example}")
        if several:  # as they are: a path may hold commas and spaces
            self.given[self._waiting.pop(0)] = repr(several)
        if not self.help and self._waiting and type(None) not in typing.get_args(self.types[self._waiting[0]]):
            raise UsageError(f"missing argument {self._waiting[0].upper()}; see --help")

    def value(self, name: str) -> str | None:
        """Return what was given for an option, as typed."""
        return self.given.get(name)

    def add_defaults(self, values: dict[str, Any]) -> None:
        """Take values for options that were not typed; they are spelled as if they had been, and read the same way."""
        self.given = {**{name: _spelled(self.types[name], str(value)) for name, value in values.items()}, **self.given}

    def parse(self, command: Callable[..., Any], program: str) -> Any:
        """Call ``command`` with the options, converted to its types; print help and exit if it was asked for."""
        import tyro

        marks = (
            tyro.conf.FlagConversionOff,
            tyro.conf.UsePythonSyntaxForLiteralCollections,
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
        )
        command.__doc__ = _flowing(command.__doc__)
        for name, parameter in inspect.signature(command).parameters.items():
            if name in self.types and parameter.default in UNSAID:
                shown = tyro.conf.arg(help_behavior_hint="")
                command.__annotations__[name] = typing.Annotated[self.types[name], shown]
        for name in self.positional:
            kind, place = self.types[name], name.upper()
            shown = tyro.conf.arg(metavar=f"[{place}]" if type(None) in typing.get_args(kind) else place)
            command.__annotations__[name] = typing.Annotated[kind, tyro.conf.Positional, shown]
        typed = [f"--{name}={value}" for name, value in self.given.items() if name not in self.positional]
        typed += ["--help"] if self.help else []
        typed += [self.given[name] for name in self.positional if name in self.given]
        messages = io.StringIO()
        try:
            with contextlib.redirect_stderr(messages):
                return tyro.cli(
                    command,
                    args=typed,
                    prog=program,
                    description=_description(command),
                    config=marks,
                    use_underscores=True,
                    registry=_parsing_rules(),
                )
        except SystemExit as stop:
            if not stop.code:
                raise
            raise UsageError(_plain(messages.getvalue())) from None

    def _canonical(self, name: str) -> str:
        known = name.replace("-", "_")
        if known not in self.types:
            if (renamed := RENAMED.get(known)) in self.types:
                raise UsageError(f"--{known} is now --{renamed}; give that")
            near = named_inside(known, self.types, "--") or _abbreviated(known, self.types)
            raise UsageError(f"unknown option --{brief(name, 100)}{near}")
        return known

    def _take_values(self, name: str, tokens: list[str]) -> list[str]:
        """Take from the tokens what belongs to an option: one value, any number for a list, or a truth value."""
        kind = self.types[self._canonical(name)]
        values: list[str] = []
        while tokens and not tokens[0].startswith("--") and (not values or typing.get_origin(kind) is list):
            if kind is bool and tokens[0] not in ("True", "False", "true", "false"):
                break
            values.append(tokens.pop(0))
        return values

    def _set(self, name: str, values: list[str]) -> None:
        name = self._canonical(name)
        kind = self.types[name]
        if name in self._waiting:
            self._waiting.remove(name)
        if typing.get_origin(kind) is list and not (len(values) == 1 and values[0].startswith("[")):
            parts = [part for value in values for part in value.replace(",", " ").split()]
            values = [repr(parts) if kind == list[str] else f"[{', '.join(parts)}]"]
        if kind is bool and not values:
            values = ["True"]
        if not values:
            raise UsageError(f"--{name} needs a value")
        if typing.get_origin(kind) is dict:
            values = [_mapping(name, values[0])]
        self.given[name] = _spelled(kind, values[0])


def _flowing(docstring: str | None) -> str:
    """Return a docstring whose arguments have a line each: the parser would keep the breaks between lines."""
    text, heading, arguments = inspect.cleandoc(docstring or "").partition("\n\nArgs:\n")
    return f"{text}{heading}" + re.sub(r"\n {5,}", " ", arguments)


def _description(command: Callable[..., Any]) -> str:
    """Return what a docstring says before its arguments, wrapped for the terminal, which the parser does not do.

    It would also join lines of a paragraph again, but for those that begin with a space.
    """
    paragraphs = inspect.cleandoc(command.__doc__ or "").partition("\n\nArgs:")[0].split("\n\n")
    width = shutil.get_terminal_size().columns
    return "\n\n".join(textwrap.fill(" ".join(each.split()), width, subsequent_indent="  ") for each in paragraphs)


def _abbreviated(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for the names whose last words begin with these letters, as in lr; or nothing."""
    initials = {other: "".join(word[0] for word in other.split("_") if word) for other in known}
    found = [f"--{other}" for other, letters in initials.items() if len(name) > 1 and letters.endswith(name)]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _parsing_rules() -> Any:
    """Return the parser's rules for our types: help shows what is really typed, and messages are in plain words."""
    from tyro import constructors

    registry = constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: constructors.PrimitiveTypeInfo) -> constructors.PrimitiveConstructorSpec[Any] | None:
        metavar = _metavar(info.type)
        if metavar is None:
            return None
        return constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda texts: _value(info.type, texts[0]),
            is_instance=lambda _: True,
            str_from_instance=_shown,
        )

    return registry


_METAVARS = {bool: "[True|False]", int: "INT", float: "NUMBER", str: "TEXT"}
_MEANINGS = {bool: "True or False", int: "a whole number", float: "a number"}


def _metavar(kind: Any) -> str | None:
    """Return what help shows behind an option; None for a type that is not ours."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in arguments:
        return _metavar(arguments[0])
    if origin is typing.Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is list:
        inner = _METAVARS[arguments[0]]
        return f"{inner} [{inner} ...]"
    return "JSON" if origin is dict else _METAVARS.get(kind)


def _value(kind: Any, text: str) -> Any:
    """Return the value of one type that a text of :class:`CommandLine` spells; a ValueError says what it must be."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in arguments:
        return None if text == "None" else _value(arguments[0], text)
    if origin is typing.Literal:
        if text not in arguments:
            raise ValueError(f"{quoted(text)} is not one of {', '.join(map(str, arguments))}")
        return text
    if origin in (list, dict):
        return _collection(origin, arguments, text)
    if kind is bool and text not in ("True", "False"):
        raise ValueError(f"{quoted(text)} is not True or False")
    try:
        return text == "True" if kind is bool else kind(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not {_MEANINGS[kind]}") from None


def _collection(origin: Any, arguments: tuple[Any, ...], text: str) -> Any:
    """Return the list, or the names with lists, that a text spells in Python."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if origin is dict and not isinstance(found, dict):
        raise ValueError(f"{quoted(text)} does not hold names with lists of numbers")
    if not isinstance(found, origin):
        # Not everything between brackets is a literal: a, b of [a, b] is no text.
        entries = [entry.strip() for entry in text.strip("[]").split(",")]
        return [_value(arguments[0], entry) for entry in entries]
    if origin is list:
        return [_value(arguments[0], str(entry)) for entry in found]
    if odd := [name for name, values in found.items() if not isinstance(values, list)]:
        raise ValueError(f"{quoted(found[odd[0]])} of {quoted(odd[0])} is not a list")
    return found


def _default_text(value: Any) -> str:
    """Return a default as help shows it; empty where there is nothing to show."""
    return "" if value in UNSAID or value in ([], {}) else " ".join(_shown(value))


def _shown(value: Any) -> list[str]:
    """Return a default as one types it."""
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _spelled(kind: Any, text: str) -> str:
    """Return a value as the parser reads it: null, true and false in Python's words, whole floats as integers."""
    if kind == list[int]:
        return re.sub(r"[^\s,\[\]]+", lambda entry: _whole(entry[0]), text)
    kinds = (kind, *typing.get_args(kind))
    if text == "null" and type(None) in kinds:
        return "None"
    if text in ("true", "false") and bool in kinds:
        return text.capitalize()
    return _whole(text) if int in kinds else text


def _mapping(name: str, text: str) -> str:
    """Return names with values, written as JSON, YAML or Python, as the parser reads them."""
    with contextlib.suppress(ValueError):
        if isinstance(value := parse_yaml(text), dict):
            return repr(value)
    example = f"--{name} '{{\"alpha\": [1, 2.5]}}'"
    raise UsageError(f"--{name} is {quoted(text)}; write names with values, for instance {example}")


def _whole(text: str) -> str:
    """Return a whole number that is written as a float, such as 1e6 or 256.0, as an integer."""
    if text.isdigit():
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def _plain(message: str) -> str:
    """Return the parser's message, which comes in a box of several parts, as one line."""
    first = re.split(r"Argument helptext|For full helptext", message)[0]
    words = re.sub(r"[╭╮╰╯│─]|-{5,}", " ", first).split()
    return re.sub(r"^(Value error Error parsing|Invalid choice) ", "", " ".join(words))


def own_first(kind: type) -> dict[str, Setting]:
    """Return what is known of the options of a class, those that it adds to its base before the others."""
    table = table_of(kind)
    own = [name for name in table if name in vars(kind).get("__annotations__", {})]
    return {name: table[name] for name in (*own, *table)}


def options_class(table: Mapping[str, Setting]) -> type:
    """Return a class for the parser with a field for each option; help says the option's limits behind its default.

    Names with a dot are no names of fields, so :func:`read_off` has to be asked for the values.
    """
    import tyro

    fields: list[tuple[str, Any, Any]] = []
    for name, setting in table.items():
        hints = [f"default: {text}" if (text := _default_text(setting.default)) else "", setting.range]
        shown = f"({said})" if (said := "; ".join(filter(None, hints))) else ""
        marks = tyro.conf.arg(name=name, help=setting.description, help_behavior_hint=shown)
        default = dataclasses.field(default_factory=functools.partial(copy.copy, setting.default))
        fields.append((_field(name), typing.Annotated[setting.kind, marks], default))
    return dataclasses.make_dataclass("Options", fields)


def read_off(parsed: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of options by name, of what the parser made of an :func:`options_class`."""
    return {name: getattr(parsed, _field(name)) for name in names}


def _field(name: str) -> str:
    return name.replace(".", "__")


def show_options(command: Callable[..., Any], program: str, kind: type) -> None:
    """Print the help of a command whose first argument, given by place, decides on options that are not listed.

    Args:
        command: Takes that argument, and then what has the options of ``kind``; its docstring is the help.
        program: The words before them.
        kind: The class of the options that are always there.
    """
    place, options = inspect.signature(command).parameters
    command.__annotations__ |= {options: options_class(own_first(kind))}
    types = {place: str, **types_of(kind)}
    with contextlib.suppress(SystemExit):
        CommandLine(["--help"], types, positional=(place,)).parse(command, program)


def training_types(algorithm: str) -> dict[str, Any]:
    """Return the type of each option of ``offline-rl train ALGORITHM``."""
    from offline_rl.agent import setting_types
    from offline_rl.training.options import TrainOptions

    return {**types_of(TrainOptions), **setting_types(algorithm)}


def train_settings(arguments: list[str]) -> tuple[str, Any, dict[str, Any]]:
    """Read what stands after ``offline-rl train``: the algorithm's name, then options.

    Returns:
        The algorithm's name, the run's :class:`TrainOptions`, and those of the algorithm's settings that were given.
    """
    from offline_rl.agent import find_algorithm, setting_types
    from offline_rl.training.options import TrainOptions

    name = arguments[0]
    types = training_types(name)
    line = CommandLine(arguments[1:], {"config": str | None, **types})
    typed, values = line.value("preset"), read_settings(line.value("config"), types)
    chosen = {key: value for key, value in {**values, **line.given}.items() if key in setting_types(name)}
    algorithm = find_algorithm(name, chosen)
    line.add_defaults(_under_preset(algorithm, typed, values) if typed else values)

    def command(run: Any, agent: Any, config: str | None = None) -> tuple[Any, Any]:
        """Train an agent for each seed, show progress, evaluate, save; print the normalised score per seed.

        Args:
            run: The run.
            agent: Hyperparameters of the algorithm.
            config: File with values for any of these options, for instance a run's config.json; or JSON, in quotes.
        """
        return run, agent

    own, table = types_of(TrainOptions), algorithm_table(name, algorithm.config_class())
    command.__annotations__ |= {"run": options_class(own_first(TrainOptions)), "agent": options_class(table)}
    run, agent = line.parse(command, f"offline-rl train {name}")
    settings = read_off(agent, [key for key in line.given if key in table])
    options = TrainOptions(**read_off(run, own))
    algorithm.config_class.of(settings)  # refuses what is out of range
    return name, options, settings


def algorithm_table(name: str, defaults: "AgentConfig") -> dict[str, Setting]:
    """Return what is known of the settings of an algorithm, of the variant that the defaults are of."""
    from offline_rl.agent import setting_types

    types = setting_types(name)
    return {key: dataclasses.replace(setting, kind=types[key]) for key, setting in defaults.table().items()}


def _under_preset(algorithm: Any, typed: str, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a file's values those of its own preset and of the one typed, which goes over the file."""
    from offline_rl.training.preset import named_preset

    before = named_preset(algorithm, str(values["preset"])).settings if values.get("preset") else {}
    from_preset = [name for name, value in before.items() if values.get(name) == value]
    return {n: v for n, v in values.items() if n not in (*from_preset, *named_preset(algorithm, typed).settings)}


def read_settings(path: str | None, known: dict[str, Any]) -> dict[str, Any]:
    """Read option values from a YAML or JSON file, or from JSON itself; a run's ``config.json`` will do."""
    if path is None:
        return {}
    text, path = (path, "--config") if path.lstrip().startswith("{") else (None, path)
    try:
        values = parse_yaml(read_bytes(Path(path)) if text is None else text)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {said(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no options; write one 'name: value' a line")
    options = _options_of_a_run(path, values) if isinstance(values.get("dataset"), dict) else dict(values)
    for name in options:
        if name not in known:
            raise UsageError(_unknown_in(path, str(name), values.get("algorithm"), known))
    return options


def _unknown_in(path: str, name: str, algorithm: Any, known: Iterable[str]) -> str:
    """Return what to say of an option of a file that is unknown; the file may be that of another algorithm's run."""
    if isinstance(algorithm, str):
        return (
            f"{path} is the config.json of a run of {brief(algorithm, 100)}, whose {quoted(name)} is no option here;"
            f" give it to offline-rl train {brief(algorithm, 100)}, or write what both share into a file of its own"
        )
    return f"{path}: unknown option {quoted(name)}{named_inside(name, known)}"


def _options_of_a_run(path: str, config: Any) -> dict[str, Any]:
    """Return the options that repeat the run of a ``config.json``."""
    from offline_rl.training.plan import options_of, upgraded_record

    try:
        check(config, RUN)
        return options_of(upgraded_record(config))
    except ValueError as error:
        raise UsageError(f"{path} is no whole config.json of a run: {error}") from None
