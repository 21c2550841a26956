"""Lists of URLs, and aria2's input files, which are the same with options (aria2c(1), "Input File").

    # a comment
    http://one.example/a<TAB>http://two.example/a
      out=folder/a
      checksum=sha-256=...

The URLs of one line are of one object. The indented lines below it are its options, named as aria2 names
them; one that has no meaning here is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastxfer.errors import OptionError
from fastxfer.inputs.entry import Entry, Warnings, at, lines_of, usable_urls
from fastxfer.options import MAX_CONNECTIONS, TransferOptions, parse_flag
from fastxfer.sources.schemes import is_location

MAX_TRIES = 1000
_NAME = re.compile(r"[A-Za-z0-9-]+")
_OPTION = re.compile(r"[ \t]\s*[A-Za-z0-9-]+\s*=")


@dataclass(slots=True)
class Draft:
    """An entry in the making."""

    where: str
    urls: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    out: str = ""
    directory: str | None = None
    paused: bool = False
    any_dir: bool = False

    @classmethod
    def of_line(cls, where: str, line: str, warnings: Warnings, *, any_dir: bool = False) -> Draft:
        """Returns the draft that a line of URLs begins. Raises OptionError."""
        urls = [url for url in map(str.strip, line.strip().split("\t")) if url]
        _check_spaces(where, urls)
        return cls(where, usable_urls(where, urls, warnings, stores=True), any_dir=any_dir)

    def take(self, where: str, line: str, warnings: Warnings) -> None:
        """Takes a line with an option. Raises OptionError."""
        _take_option(self, where, line.strip(), warnings)

    def entry(self) -> Entry:
        """Returns what it has become."""
        options = {name: value for name, value in self.options.items() if name != "user"}
        return Entry(
            self.urls, self.folder + self.out, self.directory, options, paused=self.paused, where=self.where
        )


def is_option(line: str) -> bool:
    """Returns whether a line is an indented option, as aria2 has them."""
    return bool(_OPTION.match(line))


def read_list(text: str, warnings: Warnings) -> list[Entry]:
    """Returns the entries of a list: a URL a line; empty lines and those that begin with # do not count."""
    found = []
    for where, line in lines_of(text):
        url = line.strip()
        if url and not url.startswith("#"):
            _check_spaces(where, [url])
            found.append(Entry(usable_urls(where, [url], warnings, stores=True), where=where))
    return found


def read_aria2(text: str, warnings: Warnings, *, any_dir: bool = False) -> list[Entry]:
    """Returns the entries of an aria2 input file. `any_dir` allows absolute directories in it."""
    drafts: list[Draft] = []
    for where, line in lines_of(text):
        if begins_entry(line):
            drafts.append(Draft.of_line(where, line, warnings, any_dir=any_dir))
        elif is_said(line) and not drafts:
            raise OptionError(f"{where}: an option without a URL before it")
        elif is_said(line):
            drafts[-1].take(where, line, warnings)
    return [draft.entry() for draft in drafts]


def is_said(line: str) -> bool:
    """Returns whether a line says anything."""
    content = line.strip()
    return bool(content) and not content.startswith("#")


def begins_entry(line: str) -> bool:
    """Returns whether a line has the URLs of an entry; another one that says something is an option."""
    return is_said(line) and line[0] not in " \t"


def _check_spaces(where: str, urls: list[str]) -> None:
    if any((" " in url and not is_location(url)) or not url.isprintable() for url in urls):
        raise OptionError(
            f"{where}: the URL has a space or a control character in it: percent-encode it, or put a tab "
            "between two URLs of one object"
        )


def _take_option(draft: Draft, where: str, content: str, warnings: Warnings) -> None:
    name, equals, value = (part.strip() for part in content.partition("="))
    if not equals or not _NAME.fullmatch(name):
        raise OptionError(f"{where}: an option is written name=value")
    take = _OPTIONS.get(name)
    if take is None:
        warnings.add(where, f"the option {name[:40]!r} has no meaning here and no effect")
        return
    try:
        take(draft, value)
    except (ValueError, OptionError) as error:
        raise at(f"{where}: {name}", error) from error


def _keep(draft: Draft, name: str, value: Any) -> None:
    """Keeps an option of `fetch`, checked."""
    TransferOptions.build(**{name: value})
    draft.options[name] = value


def _as(name: str) -> Callable[[Draft, str], None]:
    return lambda draft, value: _keep(draft, name, value)


def _header(draft: Draft, value: str) -> None:
    _keep(draft, "headers", [*draft.options.get("headers", []), value])


def _field(name: str) -> Callable[[Draft, str], None]:
    return lambda draft, value: _header(draft, f"{name}: {value}")


def _referer(draft: Draft, value: str) -> None:
    _header(draft, f"Referer: {draft.urls[0] if value == '*' else value}")


def _fewest(draft: Draft, value: str) -> None:
    """`split` and `max-connection-per-server` each limit the connections."""
    count = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if count < 1:
        raise ValueError("must be a whole number from 1")
    _keep(draft, "connections", min(count, draft.options.get("connections", MAX_CONNECTIONS)))


def _user(draft: Draft, value: str) -> None:
    password = draft.options.get("auth", ("", ""))[1]
    _keep(draft, "auth", (value, password))
    draft.options["user"] = value


def _password(draft: Draft, value: str) -> None:
    _keep(draft, "auth", (draft.options.get("user", ""), value))


def _tries(draft: Draft, value: str) -> None:
    """aria2 counts tries, 0 of them for no end; here it is the retries."""
    tries = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else -1
    if tries < 0:
        raise ValueError("must be a whole number")
    _keep(draft, "retries", min(tries or MAX_TRIES, MAX_TRIES + 1) - 1)


def _folder(draft: Draft, value: str) -> None:
    if value.startswith("/"):
        if not draft.any_dir:
            raise ValueError(
                "is an absolute path, and could write anywhere; where you trust the file use any_dir=True "
                "(--any-dir)"
            )
        draft.directory, draft.folder = value, ""
        return
    folder = value.removeprefix("./").rstrip("/")
    draft.folder, draft.directory = ("" if folder in ("", ".") else folder + "/"), None


def _out(draft: Draft, value: str) -> None:
    draft.out = value


def _pause(draft: Draft, value: str) -> None:
    draft.paused = parse_flag(value)


def _nothing(_draft: Draft, _value: str) -> None:
    """`continue` is always so, and a GID means nothing to another program."""


_OPTIONS: dict[str, Callable[[Draft, str], None]] = {
    "out": _out,
    "dir": _folder,
    "checksum": _as("checksum"),
    "header": _header,
    "user-agent": _field("User-Agent"),
    "referer": _referer,
    "split": _fewest,
    "max-connection-per-server": _fewest,
    "max-download-limit": _as("max_rate"),
    "http-user": _user,
    "http-passwd": _password,
    "all-proxy": _as("proxy"),
    "http-proxy": _as("proxy"),
    "https-proxy": _as("proxy"),
    "connect-timeout": _as("connect_timeout"),
    "timeout": _as("stall_timeout"),
    "max-tries": _tries,
    "check-certificate": _as("verify_tls"),
    "ca-certificate": _as("ca_bundle"),
    "pause": _pause,
    "continue": _nothing,
    "gid": _nothing,
}
