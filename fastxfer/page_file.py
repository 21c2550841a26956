"""Writes a page, or another text for people, as a file: the whole of it or nothing."""

from __future__ import annotations

import os
from contextlib import suppress

from fastxfer.errors import storage_error


def write_page(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text to a file, in whose place it comes when it is complete. Raises StorageError."""
    place = os.path.realpath(path)
    whole = not os.path.exists(place) or os.path.isfile(place)  # else a terminal, a pipe
    beside = f"{place}.{os.getpid()}.new" if whole else place
    try:
        try:
            with open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            if whole:
                os.replace(beside, place)
        except BaseException:
            if whole:
                with suppress(OSError):
                    os.unlink(beside)
            raise
    except OSError as error:
        raise storage_error(f"write {os.fspath(path)}", error) from error
