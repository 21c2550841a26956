"""What a ledger says of the files that are here, for others: a manifest in JSON lines, and SHA256SUMS."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator

from fastxfer.dataset.compare import TOLD, Known
from fastxfer.dataset.ledger import Ledger
from fastxfer.errors import storage_error
from fastxfer.sources.http import safe_url

_ESCAPED = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})


def manifest_lines(ledger: Ledger, *, secrets: bool = False) -> Iterator[str]:
    """Gives a JSON object a line for each file that is kept: url, path, size, checksum, etag, mtime. The
    URLs are without user info and query unless `secrets`. What was written reads back as a manifest.
    """
    for path, url, known in ledger.kept():
        said = {
            "url": url if secrets else safe_url(url),
            "path": path,
            "size": known.size,
            "checksum": _proven(known) or None,
            "etag": known.etag,
            "mtime": known.modified,
        }
        yield json.dumps({name: value for name, value in said.items() if value is not None}) + "\n"


def sha256sums_lines(ledger: Ledger) -> Iterator[str]:
    """Gives the lines of a SHA256SUMS file, as sha256sum(1) writes and reads them, of those files whose
    SHA-256 is known.
    """
    for path, _, known in ledger.kept():
        digest = dict(known.checksums).get("sha256")
        if digest is not None:
            escaped = path.translate(_ESCAPED)
            yield f"{'' if escaped == path else chr(92)}{digest}  {escaped}\n"


def _proven(known: Known) -> dict[str, str]:
    return {name: digest for name, digest in known.checksums if not name.startswith(TOLD)}


def save(lines: Iterable[str], path: str | os.PathLike[str]) -> None:
    """Writes lines to a file, which has its name when all of them are in it; what is there and is no file, a
    pipe for example, is written to as it is. Raises StorageError.
    """
    final = os.path.realpath(path)
    whole = os.path.isfile(final) or not os.path.lexists(final)
    into = f"{final}.{os.getpid()}.tmp" if whole else final
    try:
        with open(into, "x" if whole else "w", encoding="utf-8") as file:
            try:
                file.writelines(lines)
                file.flush()
                if whole:
                    os.fsync(file.fileno())
                    os.replace(into, final)
            except BaseException:
                if whole:
                    os.unlink(into)
                raise
    except OSError as error:
        raise storage_error(f"write {os.fspath(path)}", error) from error
