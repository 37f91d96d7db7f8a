"""The settings that every algorithm has, and how settings that lie inside others are named."""

import copy
import dataclasses
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from offline_rl.errors import AgentError, quoted
from offline_rl.settings import Above, AtLeast, AtMost, Count, Setting, check_limits, conform, table_of, types_of


@dataclass(frozen=True)
class AgentConfig:
    """Settings that every algorithm has.

    A field may hold the settings of an algorithm inside this one, a :class:`NestedConfig` or one of several:
    ``lower: OnIQL | OnTD3BC``. Everywhere but in Python its settings go by ``lower.alpha``, and ``lower`` by itself is
    the ``kind`` of what it holds: on the command line, in files, in sweeps, in suites and in records.
    """

    hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of every network."""
    batch_size: Count = 256
    """Rows in a batch, drawn uniformly with replacement."""
    normalize: bool = True
    """Normalise observations by the dataset's mean and standard deviation."""

    def __post_init__(self) -> None:
        conform(self, AgentError)
        for name in nested_kinds(type(self)):
            object.__setattr__(self, name, getattr(self, name).within(self))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Make a config of settings by name, those inside a nested one by ``lower.alpha``.

        Raises:
            AgentError: A value does not fit, or a name is unknown.
        """
        values = dict(settings)
        for name, kinds in nested_kinds(cls).items():
            inner = {key: values.pop(key) for key in settings if key.startswith(f"{name}.")}
            values[name] = _nested(name, kinds, values.get(name, next(iter(kinds))), inner)
        if unknown := sorted(set(values) - set(types_of(cls))):
            raise AgentError(f"there is no setting {quoted(unknown[0])}; correct its name")
        return cls(**values)

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Return the types of all settings by name, also of those inside nested ones of any kind."""
        types = dict(types_of(cls))
        for name, kinds in nested_kinds(cls).items():
            types[name] = Literal[tuple(kinds)]
            for kind in kinds.values():
                types |= {f"{name}.{inner}": own for inner, own in kind.types().items()}
        return types

    def table(self) -> dict[str, Setting]:
        """Return what is known of all settings of :meth:`types`; ``self`` holds the defaults."""
        table = table_of(type(self), self)
        for name, kinds in nested_kinds(type(self)).items():
            own: NestedConfig = getattr(self, name)
            table[name] = dataclasses.replace(table[name], kind=Literal[tuple(kinds)], default=own.kind)
            for kind, nested in kinds.items():
                inner = (own if kind == own.kind else nested()).table()
                for key, setting in inner.items():
                    alone = all(key not in other.types() for other in kinds.values() if other is not nested)
                    text = f"On {kind}: {setting.description}" if alone else setting.description
                    table.setdefault(f"{name}.{key}", dataclasses.replace(setting, description=text))
        return table

    def defaults(self) -> dict[str, Any]:
        """Return what all settings would be, were none given but the kinds of nested ones."""
        return type(self).of({name: getattr(self, name).kind for name in nested_kinds(type(self))}).settings()

    @classmethod
    def upgraded(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a record, which an older version may have written, by the names of today.

        Before settings could lie inside others, the nested ones stood beside those of the algorithm. Of the kinds that
        are not taken a record may hold what had no effect, which is left out.
        """
        known, upgraded = cls.types(), dict(settings)
        for name, kinds in nested_kinds(cls).items():
            chosen = kinds.get(settings.get(name, ""))
            for inner in {inner for kind in kinds.values() for inner in kind.types()} - set(known):
                if inner in upgraded:
                    value = upgraded.pop(inner)
                    if chosen is None or inner in chosen.types():
                        upgraded[f"{name}.{inner}"] = value
        return upgraded

    def settings(self) -> dict[str, Any]:
        """Return all settings by the names that :meth:`of` takes."""
        settings: dict[str, Any] = {}
        nested = nested_kinds(type(self))
        for name in types_of(type(self)):
            value = getattr(self, name)
            if name in nested:
                settings[name] = value.kind
                settings |= {f"{name}.{inner}": own for inner, own in value.settings().items()}
            else:
                settings[name] = copy.copy(value)
        return settings

    def replaced(self, changes: Mapping[str, Any]) -> Self:
        """Return the settings with some changed, by the names that :meth:`of` takes."""
        return type(self).of({**self.settings(), **changes})

    def put(self, name: str, value: Any) -> None:
        """Write over a setting in place; for who owns this config alone and knows that nothing is built of it."""
        owner: Any = self
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        object.__setattr__(owner, last, value)

    def require(
        self, *names: str, at_least: float | None = None, above: float | None = None, at_most: float | None = None
    ) -> None:
        """Refuse settings outside a range. Deprecated: write the limits at the fields."""
        message = "AgentConfig.require goes with the next release; write name: Annotated[float, AtLeast(0)]"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        given = ((AtLeast, at_least), (Above, above), (AtMost, at_most))
        limits = [kind(limit) for kind, limit in given if limit is not None]
        for name in names:
            check_limits(name, getattr(self, name), limits, AgentError)


@dataclass(frozen=True)
class NestedConfig(AgentConfig):
    """Settings of an algorithm inside another: what concerns the whole agent is that one's, and no option here.

    Put it first: ``class OnIQL(NestedConfig, iql.Config)``.
    """

    kind: ClassVar[str]
    """What tells it from others in the same place."""

    hidden_dims: Annotated[list[int], AtLeast(1)] = field(init=False, default_factory=lambda: [256, 256])
    batch_size: Count = field(init=False, default=256)
    normalize: bool = field(init=False, default=True)

    def within(self, outer: AgentConfig) -> Self:
        """Return these settings with what concerns the whole agent taken from ``outer``."""
        own = copy.copy(self)
        for entry in dataclasses.fields(AgentConfig):
            own.put(entry.name, getattr(outer, entry.name))
        return own


def nested_kinds(config_class: type) -> Mapping[str, Mapping[str, type[NestedConfig]]]:
    """Return, for each setting that holds others, the classes that these may have by their kind, the default first."""
    found = {}
    for name, hint in types_of(config_class).items():
        classes = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type)]
        if kinds := {kind.kind: kind for kind in classes if issubclass(kind, NestedConfig)}:
            found[name] = kinds
    return found


def _nested(name: str, kinds: Mapping[str, type[NestedConfig]], given: Any, inner: Mapping[str, Any]) -> NestedConfig:
    """Return the settings of a nested algorithm of the ``given`` kind, or ``given`` itself, with those in ``inner``."""
    if not isinstance(given, NestedConfig) and given not in kinds:
        raise AgentError(f"{name} is {quoted(given)}; it must be one of {', '.join(kinds)}")
    kind = given.kind if isinstance(given, NestedConfig) else given
    for key in inner:
        own = key.removeprefix(f"{name}.")
        if own not in kinds[kind].types():
            others = [other for other, known in kinds.items() if own in known.types()]
            remedy = f"leave it out, or choose --{name} {others[0]}" if others else "correct its name"
            raise AgentError(f"{key} has no meaning on {kind}; {remedy}")
    values = {key.removeprefix(f"{name}."): value for key, value in inner.items()}
    try:
        return given.replaced(values) if isinstance(given, NestedConfig) else kinds[kind].of(values)
    except AgentError as error:
        raise AgentError(f"{name}.{error}") from None


def decimals(config_class: type[AgentConfig], *but: str) -> tuple[str, ...]:
    """Name the settings that hold a decimal number, but for some. Deprecated: write the names."""
    message = "decimals goes with the next release; write the names into stackable_settings"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return tuple(name for name, kind in types_of(config_class).items() if kind is float and name not in but)
