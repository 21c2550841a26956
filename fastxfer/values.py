"""`dataclass`, as the standard library's, for the values inside: made in a fifth of its time.

The standard one compiles six functions a class (0.3 ms of a frozen one), which for the classes that a small
fetch imports took more than the fetch. Here only `__init__` is compiled, without its annotations; `__eq__`,
`__hash__` and `__repr__` are the three functions below, for all. That a frozen one stays as it is, is for
mypy to see, and not checked at run time: so each is made in a quarter of the time as well. What callers are
given (results, progress) is of the standard kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses
    from functools import cache

    def dataclass(*, frozen: bool = False, eq: bool = True, repr: bool = True, **others: Any) -> Any:
        """Returns what makes a class a dataclass. The options are those of `dataclasses.dataclass`."""

        def make(given: type) -> type:
            given.__doc__ = given.__doc__ or given.__name__  # or it gets its signature, which takes longest
            made = dataclasses.dataclass(init=False, eq=False, repr=False, **others)(given)
            made.__init__ = _init(dataclasses.fields(made), hasattr(made, "__post_init__"))
            if repr and "__repr__" not in given.__dict__:
                made.__repr__ = _repr
            if eq and "__eq__" not in given.__dict__:
                made.__eq__ = _eq
                made.__hash__ = _hash if frozen else None
            return made

        return make

    def _init(fields: tuple[dataclasses.Field[Any], ...], post: bool) -> Any:
        """Returns the `__init__` that sets these fields."""
        known: dict[str, Any] = {"missing": dataclasses.MISSING}
        given, named, lines = ["self"], [], []
        for each in fields:
            name, value = each.name, each.name
            if each.default_factory is not dataclasses.MISSING:
                known[f"new_{name}"] = each.default_factory
                value = f"new_{name}() if {name} is missing else {name}"
            known[f"default_{name}"] = each.default
            required = each.default is each.default_factory  # both are missing
            (named if each.kw_only else given).append(name if required else f"{name}=default_{name}")
            lines.append(f"self.{name} = {value}")
        if named:
            given += ["*", *named]
        if post:
            lines.append("self.__post_init__()")
        exec(f"def __init__({', '.join(given)}): {'; '.join(lines) or 'pass'}", known)
        return known["__init__"]

    @cache
    def _compared(made: type) -> tuple[str, ...]:
        return tuple(each.name for each in dataclasses.fields(made) if each.compare)

    def _values(it: Any) -> tuple[Any, ...]:
        return tuple([getattr(it, name) for name in _compared(it.__class__)])

    def _eq(self: Any, other: Any) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return _values(self) == _values(other)

    def _hash(self: Any) -> int:
        return hash(_values(self))

    def _repr(self: Any) -> str:
        shown = [
            f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr
        ]
        return f"{self.__class__.__qualname__}({', '.join(shown)})"
