"""Which paths of a data set are wanted: include and exclude globs, read as rclone and rsync read theirs.

    *        anything within one component
    **       anything, slashes too
    ?        one character, no slash
    [a-z]    one of these; [!a-z] none of these
    {a,b}    one of these patterns
    \\x       x itself

A pattern that begins with a slash is of the whole path; any other may begin at any component: `*.csv` is
every CSV file, `raw/*.csv` those right in any folder `raw`. One that ends with a slash is a folder with all
below it, `raw/` the same as `raw/**`. Case counts.

A path is wanted when no exclude matches it, and an include does or there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fastxfer.errors import OptionError

MAX_PATTERN = 4096
_ANYTHING = ".*"


class Filters:
    """Wanted paths; see the module. Raises OptionError for what is no pattern."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._included = [_compiled(pattern) for pattern in self.include]
        self._excluded = [_compiled(pattern) for pattern in self.exclude]
        self._ways = [list(_components(pattern)) for pattern in self.include]
        self._cut = [_compiled(each) for each in map(_spelt_out, self.exclude) if each.endswith("**")]

    def wants(self, path: str) -> bool:
        """Returns whether a file is wanted; `path` has slashes, and none in front."""
        if self._included and not any(pattern.fullmatch(path) for pattern in self._included):
            return False
        return not any(pattern.fullmatch(path) for pattern in self._excluded)

    def enters(self, folder: str) -> bool:
        """Returns whether a folder may hold anything wanted, so that it is worth listing."""
        if any(pattern.fullmatch(folder + "/") for pattern in self._cut):
            return False
        parts = folder.split("/")
        return not self._ways or any(_leads(way, parts) for way in self._ways)


def _spelt_out(pattern: str) -> str:
    return pattern + "**" if pattern.endswith("/") else pattern


def _compiled(pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN:
        raise OptionError("a pattern must be a text that is not empty")
    text = _spelt_out(pattern)
    anywhere = "" if text.startswith("/") else "(?:.*/)?"
    try:
        return re.compile(anywhere + _translated(text.removeprefix("/")), re.DOTALL)
    except (re.error, ValueError) as error:
        raise OptionError(f"{pattern[:80]!r} is no pattern: {error}") from error


_TOKEN = re.compile(r"\*\*|\*|\?|\\.|\[!?\]?[^\]]*\]|.", re.DOTALL)


def _translated(pattern: str) -> str:
    """Returns the regular expression of a glob. Raises ValueError."""
    said, depth = [], 0
    for token in _TOKEN.findall(pattern):
        if token in _SIMPLE:
            said.append(_SIMPLE[token])
        elif token == "{":
            said.append("(?:")
            depth += 1
        elif token == "}" and depth:
            said.append(")")
            depth -= 1
        elif token == "," and depth:
            said.append("|")
        elif token[0] == "[" and len(token) > 2:
            said.append(_set(token[1:-1]))
        elif token in ("[", "\\"):
            raise ValueError(f"nothing ends its {token!r}")
        else:
            said.append(re.escape(token[-1]))
    if depth:
        raise ValueError("a brace is not closed")
    return "".join(said)


_SIMPLE = {"**": _ANYTHING, "*": "[^/]*", "?": "[^/]"}


def _set(inner: str) -> str:
    negated = inner.startswith("!")
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner.removeprefix("!"))
    return f"(?!/)[{'^' if negated else ''}{members}]"


def _components(pattern: str) -> Iterator[re.Pattern[str] | None]:
    """Gives the pattern of each folder on the way that a pattern leads, None where it may be any number."""
    text = _spelt_out(pattern)
    if not text.startswith("/") or any(c in text for c in "{[\\"):
        yield None
        return
    for part in text[1:].split("/")[:-1]:
        if "**" in part:
            yield None
            return
        yield re.compile(_translated(part), re.DOTALL)
    if "**" in text.rpartition("/")[2]:
        yield None


def _leads(way: list[re.Pattern[str] | None], parts: list[str]) -> bool:
    for at, part in enumerate(parts):
        if at >= len(way):
            return False
        step = way[at]
        if step is None:
            return True
        if not step.fullmatch(part):
            return False
    return True
