"""Options of the command line and of the environment, made from the fields of option dataclasses.

A field `stall_timeout` with its metadata (parse, help, metavar, flags) becomes `--stall-timeout`, its short
flags and `FASTXFER_STALL_TIMEOUT`. The command line wins over the environment. Every fault is an OptionError
that names the option or the variable; what was typed is never repeated by this module, for it may hold a
secret.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, field, fields
from functools import partial
from typing import Any, NoReturn

from fastxfer.errors import OptionError
from fastxfer.options import TransferOptions, parse_checksum, parse_flag
from fastxfer.values import dataclass

SAID_TWICE = "is given twice for one algorithm, with different digests"


def _merge_checksums(texts: list[str]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for text in texts:
        for algorithm, digest in parse_checksum(text):
            if merged.setdefault(algorithm, digest) != digest:
                raise ValueError(SAID_TWICE)
    return merged


def _all(texts: list[str]) -> list[str]:
    return texts


# Options that may be given several times (in the environment: on several lines), and how their values join.
REPEATED: dict[str, Callable[[list[str]], Any]] = {
    "headers": _all,
    "object_headers": _all,
    "checksum": _merge_checksums,
    "include": _all,
    "exclude": _all,
    "base_url": _all,
}
# What curl's users type.
ALIASES = {"headers": ("--header",)}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: what a dataclass field says of it. `flag` ones take true or false, or stand alone."""

    name: str
    parse: Callable[[Any], Any]
    help: str
    metavar: str
    flags: tuple[str, ...]
    flag: bool

    @classmethod
    def of(cls, made_from: Field[Any]) -> Option:
        """Returns the option of a field."""
        meta, default = made_from.metadata, made_from.default
        text = meta["help"]
        if "default" not in text and isinstance(default, int | float | str) and default is not False:
            shown = str(default).lower() if isinstance(default, bool) else f"{default:{_format(default)}}"
            text += f" (default: {shown})"
        return cls(
            made_from.name, meta["parse"], text, meta["metavar"], meta["flags"], isinstance(default, bool)
        )

    @property
    def long(self) -> str:
        """The option's long form, such as --stall-timeout."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The option's environment variable, such as FASTXFER_STALL_TIMEOUT."""
        return "FASTXFER_" + self.name.upper()

    def add_to(self, group: argparse._ActionsContainer) -> None:
        """Adds the option to a parser or a group of one."""
        names = [*self.flags, self.long, *ALIASES.get(self.name, ())]
        text = self.help.replace("%", "%%")
        if self.flag:
            group.add_argument(*names, help=text, metavar=self.metavar, nargs="?", const="true")
        else:
            action = "append" if self.name in REPEATED else "store"
            group.add_argument(*names, help=text, metavar=self.metavar, action=action)

    def value(self, given: Any, environ: Mapping[str, str]) -> Any:
        """Returns what was asked for, as `TransferOptions.build` takes it; None when nothing was.

        An empty variable is one that is not set.
        """
        where = "/".join([*self.flags, self.long])
        if given is None:
            text = environ.get(self.variable, "")
            if not text:
                return None
            where = f"variable {self.variable}"
            given = text.splitlines() if self.name in REPEATED else text
        try:
            if self.name in REPEATED:
                given = REPEATED[self.name](given)
            self.parse(given)
        except (ValueError, TypeError) as error:
            raise OptionError(f"{where}: {error}") from error
        return given


def _format(default: float | str) -> str:
    return "g" if isinstance(default, float) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchTarget:
    """Where `fastxfer fetch` writes to."""

    out: str | None = field(
        default=None,
        metadata={
            "parse": str,
            "help": "file to write, or a directory (default: the URL's file name)",
            "metavar": "OUT",
            "flags": ("-o",),
        },
    )
    dir: str | None = field(
        default=None,
        metadata={
            "parse": str,
            "help": "directory to write in (default: the current one)",
            "metavar": "DIR",
            "flags": ("-d",),
        },
    )


def transfer_options(without: Iterable[str] = (), only: Iterable[str] | None = None) -> list[Option]:
    """Returns an option for each field of TransferOptions, but for those named, or for `only` some."""
    chosen = [each for each in fields(TransferOptions) if only is None or each.name in only]
    return [Option.of(each) for each in chosen if each.name not in without]


def target_options() -> list[Option]:
    """Returns the options that say where a fetch writes to."""
    return [Option.of(each) for each in fields(FetchTarget)]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are OptionErrors that do not repeat what was typed."""

    def __init__(self, command: str, synopsis: str, description: str, *, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"fastxfer {command}",
            usage=f"fastxfer {command} {synopsis}",
            description=description,
            allow_abbrev=False,
            # It looks at each argument as it is added. The terminal's width is for `--help` alone to ask for:
            # that imports compressors, which takes 2 ms.
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
            epilog=epilog,
        )
        self._flags: dict[str, Option] = {}

    def format_help(self) -> str:
        """Returns the help text, as wide as the terminal."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def add_options(self, title: str, options: Sequence[Option]) -> None:
        """Adds options as a group of the help text."""
        group = self.add_argument_group(title)
        for option in options:
            option.add_to(group)
            if option.flag:
                self._flags[option.long] = option

    def add_switch(self, *names: str, help: str) -> None:
        """Adds an option without a value."""
        self.add_argument(*names, action="store_true", default=None, help=help)

    def add_insecure(self) -> None:
        """Adds --insecure, the short word for one of the network's options."""
        self.add_argument(
            "--insecure",
            dest="verify_tls",
            action="store_const",
            const="false",
            help="the same as --verify-tls false",
        )

    def parse(self, arguments: Sequence[str], positional: str) -> argparse.Namespace:
        """Returns the parsed arguments; the list `positional` has all those that are no options."""
        given, rest = self.parse_known_args(self._spelled_out(arguments))
        for text in rest:
            if text.startswith("-") and text not in ("-", "--"):
                name = text.partition("=")[0] if text.startswith("--") else text[:2]
                raise OptionError(f"there is no option {name}; {self.prog} --help lists them")
        getattr(given, positional).extend(text for text in rest if text != "--")
        return given

    def error(self, message: str) -> NoReturn:
        """Raises OptionError."""
        known, ignored, _ = message.partition(": ignored explicit argument")
        if ignored:
            message = f"{known} takes no value"
        raise OptionError(f"{message}; {self.prog} --help tells more")

    def _spelled_out(self, arguments: Sequence[str]) -> list[str]:
        """Gives a flag that stands alone its value, so that it does not take the URL after it for one."""
        spelled: list[str] = []
        words = list(arguments)
        while words:
            word = words.pop(0)
            if word == "--":
                return [*spelled, word, *words]
            if word in self._flags:
                is_value = bool(words) and not words[0].startswith("-") and not set(words[0]) & set(":/.")
                word += f"={words.pop(0)}" if is_value else "=true"
            spelled.append(word)
        return spelled


def add_inputs(parser: Parser) -> None:
    """Adds the options that say how an input file is read."""
    formats = "list, aria2, checksums or metalink"
    parser.add_argument("--input-format", metavar="F", help=f"{formats} (default: recognised by content)")
    parser.add_argument(
        "--base-url",
        metavar="URL",
        action="append",
        default=[],
        help="where the files of a list of checksums are; repeated: mirrors",
    )
    parser.add_switch("--any-dir", help="allow absolute directories in an aria2 input file")


def add_jobs(parser: Parser) -> None:
    """Adds the option -j."""
    parser.add_argument("-j", "--jobs", metavar="N", help="transfers at once, 1 to 64 (default: 4)")


def values(
    options: Iterable[Option], given: argparse.Namespace, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns the values of those options that the command line or the environment has.

    Raises OptionError for one that cannot be used.
    """
    environ = os.environ if environ is None else environ
    found = {option.name: option.value(getattr(given, option.name), environ) for option in options}
    return {name: value for name, value in found.items() if value is not None}


def switch(name: str, given: bool | None, environ: Mapping[str, str] | None = None) -> bool:
    """Returns a switch of the command line or else of its variable. Raises OptionError."""
    if given is not None:
        return given
    variable = "FASTXFER_" + name.upper()
    try:
        return bool(parse_flag((os.environ if environ is None else environ).get(variable) or "false"))
    except ValueError as error:
        raise OptionError(f"variable {variable}: {error}") from error


def wants_json(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> bool:
    """Returns whether JSON was asked for, also where the arguments as a whole cannot be read."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        return switch("json", True if "--json" in options else None, environ)
    except OptionError:
        return False


def one_url(urls: Sequence[str]) -> str:
    """Returns the one URL that was given. Raises OptionError for none and for several."""
    if len(urls) != 1:
        raise OptionError("a URL is missing" if not urls else "only one URL at a time can be given for now")
    return urls[0]
