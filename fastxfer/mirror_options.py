"""The options of a mirror run alone, checked; those it shares with a fetch are TransferOptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from fastxfer import copy_options
from fastxfer.copy_options import CopyOptions
from fastxfer.errors import OptionError
from fastxfer.options import TransferOptions, checked_options, parse_choice, parse_flag, parse_whole

NOT_SHARED = frozenset(
    (
        "mirrors", "refresh", "checksum", "chunk_size", "resume", "checkpoint_dir", "unpause", "exists",
        "on_change", "keep_ledger",
    )
)  # fmt: skip
"""The options of TransferOptions that say nothing of a whole set."""
SHARED = frozenset(each.name for each in fields(TransferOptions)) - NOT_SHARED
COPY = tuple(each for each in fields(CopyOptions) if each.name not in ("connections", "checkpoint_dir"))
"""The options of CopyOptions that a run to a store takes too."""
_COPIED = (copy_options.SHARED & SHARED) | {"connections"}
"""The options of TransferOptions that mean something where the destination is a store."""
_TO_STORE = frozenset(each.name for each in COPY) | {"state_dir"}
_TO_FOLDER = (SHARED - _COPIED) | {"verify"}
MAX_JOBS = 256


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("must be texts that are not empty")
    return texts


def _number(least: int, most: int) -> Callable[[Any], int | None]:
    return lambda value: None if value is None else parse_whole(value, least, most)


def _format(value: Any) -> str | None:
    return None if value is None else str(value)


def _address(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or (value != "local" and "://" not in value):
        raise ValueError("must be local or the address of a scheduler, such as tcp://HOST:8786")
    return value


def _option(
    parse: Callable[[Any], Any], default: Any, text: str, metavar: str, flags: tuple[str, ...] = ()
) -> Any:
    return field(default=default, metadata={"parse": parse, "help": text, "metavar": metavar, "flags": flags})


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """The options that only a mirror run has."""

    jobs: int | None = _option(
        _number(1, MAX_JOBS), None,
        f"large objects, or copies to a store, at once, 1 to {MAX_JOBS}; small ones share the connections "
        "(default: 2; to a store 8)",
        "N", ("-j",),
    )  # fmt: skip
    include: tuple[str, ...] = _option(
        _texts, (), "a glob of paths that are wanted; may be repeated (default: all)", "GLOB"
    )
    exclude: tuple[str, ...] = _option(
        _texts, (), "a glob of paths that are not wanted, which wins; may be repeated", "GLOB"
    )
    compare: str = _option(
        parse_choice("auto", "size", "time", "etag", "checksum", "always"), "auto",
        "what tells that an object is here already: auto (the best that is known), size, time (and size), "
        "etag, checksum, or always (nothing does)",
        "HOW",
    )  # fmt: skip
    delete: bool = _option(
        parse_flag, False, "delete what was fetched from this source and has vanished there", "BOOL"
    )
    dry_run: bool = _option(
        parse_flag, False, "say what would be fetched and deleted, and do nothing of it", "BOOL"
    )
    verify: bool = _option(
        parse_flag, False, "read all that is here first, and fetch anew what is damaged", "BOOL"
    )
    order: str = _option(
        parse_choice("listed", "largest"), "listed", "listed (by path) or largest (first)", "HOW"
    )
    max_errors: int | None = _option(
        _number(0, 10**9), None, "stop when so many objects have failed (default: go on)", "N"
    )
    retry_failed: bool = _option(
        parse_flag, False, "try again only what failed in the last run, without a new listing", "BOOL"
    )
    relist: bool = _option(
        parse_flag, False, "list the source anew, though a run that was stopped within the hour has", "BOOL"
    )
    format: str | None = _option(
        _format, None,
        "of a manifest: csv, tsv, jsonl, parquet, checksums, metalink, list or aria2 (default: recognised)",
        "F",
    )  # fmt: skip
    base_url: tuple[str, ...] = _option(
        _texts, (), "where the names of a manifest without URLs are; may be repeated: mirrors", "URL"
    )

    state_dir: str | None = _option(
        _format, None,
        "where the ledgers of runs to stores are (default: $XDG_STATE_HOME/fastxfer/mirrors, "
        "~/.local/state/fastxfer/mirrors)",
        "D",
    )  # fmt: skip
    dask: str | None = _option(
        _address, None,
        "have the workers of a Dask cluster fetch: local (a process a core here), or the address of its "
        "scheduler; all of them share the destination",
        "ADDRESS",
    )  # fmt: skip

    @classmethod
    def build(cls, **given: Any) -> MirrorOptions:
        """Returns checked options. Raises OptionError that names the option."""
        return cls(**checked_options(cls, given))


def means_nothing(name: str, *, to_store: bool) -> bool:
    """Returns whether an option means nothing for such a destination."""
    return name in (_TO_FOLDER if to_store else _TO_STORE)


@dataclass(frozen=True, slots=True)
class Given:
    """The options of a run: its own, those of `fetch` by name, and those that copies alone have."""

    own: MirrorOptions
    shared: dict[str, Any]
    copies: dict[str, Any]

    @classmethod
    def of(cls, options: dict[str, Any], *, to_store: bool) -> Given:
        """Returns the options, checked. Raises OptionError, and TypeError for a name that there is not."""
        mine = {each.name for each in fields(MirrorOptions)}
        of_copies = {each.name for each in COPY}
        for name, value in options.items():
            if name not in mine | SHARED | of_copies:
                raise TypeError(f"there is no option {name!r} of a mirror run")
            if means_nothing(name, to_store=to_store) and value not in (None, False):
                where = "an object store" if to_store else "a folder"
                raise OptionError(f"option {name}: it means nothing where the destination is {where}")
        own = MirrorOptions.build(**{name: value for name, value in options.items() if name in mine})
        shared = {name: value for name, value in options.items() if name in SHARED}
        copies = {name: value for name, value in options.items() if name in of_copies}
        TransferOptions.build(**shared)
        CopyOptions.build(**copies)
        return cls(own, shared, copies)

    def of_source(self, *, same_kind: bool) -> dict[str, Any]:
        """Returns the options of `fetch` that hold for the source; see `copy_options.shared_out`."""
        built = CopyOptions.build(**self.copies)
        if same_kind and built.of_source == CopyOptions().of_source:
            return self.shared
        others = {name: value for name, value in self.shared.items() if name not in copy_options.STORE}
        told = {name: self.copies[f"source_{name}"] for name in copy_options.STORE
                if f"source_{name}" in self.copies}  # fmt: skip
        return {**others, **told}
