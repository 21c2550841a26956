"""Where an object is written: a safe file name from an outside name, and the files beside it."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastxfer.errors import OptionError, StorageError, storage_error

MAX_NAME_BYTES = 255
_BAD = re.compile(r"[\x00-\x1f\x7f-\x9f/\\:]|[. ]\Z")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_ENCODED = re.compile(r"%(2f|5c|00|25)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """The final path of an object and the working files beside it."""

    final: Path
    part: Path
    checkpoint: Path


def safe_name(name: str) -> str:
    """Returns an outside name (of a URL, a manifest) as one file name, unchanged, or raises OptionError if
    it cannot be one.

    Refused: empty, "." and "..", slashes of both kinds (percent-encoded ones too), control characters,
    colons, a dot or space at the end and the device names of Windows (the file would not travel), over 255
    bytes.
    """
    if name in ("", ".", ".."):
        raise OptionError(f"{name!r} is no file name: say where to write with out (-o FILE)")
    if _BAD.search(name) or _ENCODED.search(name) or _RESERVED.fullmatch(name):
        raise OptionError(f"{name[:80]!r} is not safe as a file name: say where to write with out (-o FILE)")
    if _bytes_of(name) > MAX_NAME_BYTES:
        raise OptionError("the URL's name is over 255 bytes long: say where to write with out (-o FILE)")
    return name


def _bytes_of(name: str) -> int:
    try:
        return len(os.fsencode(name))
    except UnicodeEncodeError as error:
        raise OptionError(f"{ascii(name)[:80]} cannot be a file name here") from error


def name_of_url(url: str) -> str:
    """Returns the file name that a URL suggests: its last path segment, decoded once. Raises OptionError
    when there is none.
    """
    segment = urlsplit(url).path.rpartition("/")[2]
    if _ENCODED.search(segment):
        raise OptionError(
            f"{segment[:80]!r} is not safe as a file name: say where to write with out (-o FILE)"
        )
    try:
        return safe_name(unquote(segment, errors="strict"))
    except UnicodeDecodeError as error:
        raise OptionError("the URL's name is not UTF-8: say where to write with out (-o FILE)") from error


def resolve_target(url: str, out: str | os.PathLike[str] | None) -> Target:
    """Returns where an object of `url` goes: `out`, or its name inside `out` when that is a directory, or in
    the current directory.

    Raises OptionError for an unusable name, StorageError when the directory is missing or the target is not
    a regular file.
    """
    text = os.fspath(out) if out is not None else ""
    if "\0" in text:
        raise OptionError("out must not hold a NUL character")
    final = Path(text or ".")
    if not text or text.endswith(os.sep) or os.path.isdir(final):
        final = final / name_of_url(url)
    if _bytes_of(final.name) > MAX_NAME_BYTES - len(".part.ckpt"):
        raise OptionError("the file's name is too long for its working files: 245 bytes are allowed")
    directory = final.parent
    if not os.path.isdir(directory):
        raise StorageError(f"cannot write {final}: there is no directory {directory}; create it first")
    try:
        mode = final.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise storage_error(f"look at {final}", error) from error
    if not stat.S_ISREG(mode):
        raise StorageError(f"cannot write {final}: it is there and not a regular file")
    return Target(final, final.with_name(final.name + ".part"), final.with_name(final.name + ".part.ckpt"))
