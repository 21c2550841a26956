"""Files that name many objects: lists of URLs, aria2's input files, SHA256SUMS and its kind, Metalink.

`parse` is pure: bytes in, entries out. Whatever stands in such a file comes from outside: names go through
`fastxfer.names`, all of them before anything is fetched, and a fault is an OptionError that names the line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastxfer.errors import OptionError
from fastxfer.inputs.checksums import is_line, read_checksums
from fastxfer.inputs.entry import MAX_INPUT_BYTES, Entry, Pieces, Warnings, finished, lines_of
from fastxfer.inputs.metalink import read_metalink
from fastxfer.inputs.uris import is_option, read_aria2, read_list

__all__ = ["FORMATS", "MAX_INPUT_BYTES", "Entry", "Inputs", "Pieces", "parse"]

FORMATS = ("list", "aria2", "checksums", "metalink")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was read: the format, the entries in the file's order, and warnings, a line each."""

    format: str
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()


def parse(
    data: bytes, *, format: str | None = None, base_urls: Sequence[str] = (), any_dir: bool = False
) -> Inputs:
    """Returns the objects that an input file names.

    Args:
        data: the file, UTF-8, at most 64 MiB.
        format: "list", "aria2", "checksums" or "metalink"; by default it is recognised.
        base_urls: where the files of a list of checksums are.
        any_dir: allow absolute directories in an aria2 file.

    Raises:
        OptionError: something cannot be used; it names the line.
    """
    if format is not None and format not in FORMATS:
        raise OptionError(f"the format of an input file must be one of {', '.join(FORMATS)}")
    text = _decoded(data)
    chosen = format if format is not None else _recognised(text)
    readers: dict[str, Callable[[str, Warnings], list[Entry]]] = {
        "list": read_list,
        "aria2": lambda text, warnings: read_aria2(text, warnings, any_dir=any_dir),
        "checksums": lambda text, warnings: read_checksums(text, warnings, base_urls=base_urls),
        "metalink": read_metalink,
    }
    warnings = Warnings()
    entries = finished(readers[chosen](text, warnings), warnings)
    if not entries:
        raise OptionError("the input file names nothing to fetch")
    return Inputs(chosen, entries, warnings.lines())


def _decoded(data: bytes) -> str:
    if len(data) > MAX_INPUT_BYTES:
        raise OptionError(f"the input file is over {MAX_INPUT_BYTES // 1024**2} MiB long")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OptionError(f"line {line}: not UTF-8") from error


def _recognised(text: str) -> str:
    """Returns the format of a text, by its first line that counts and whether options follow."""
    if text.lstrip().startswith("<"):
        return "metalink"
    told = [line for _, line in lines_of(text) if line.strip() and not line.lstrip().startswith("#")]
    if not told:
        raise OptionError("the input file names nothing to fetch")
    if is_line(told[0]):
        return "checksums"
    if "://" not in told[0]:
        raise OptionError(
            "the input file is none that is known: it begins neither with a URL, a checksum nor XML; "
            f"--input-format takes one of {', '.join(FORMATS)}"
        )
    return "aria2" if any(is_option(line) or "\t" in line.strip() for line in told) else "list"
