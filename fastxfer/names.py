"""Safe names from outside ones: of URLs, manifests, indexes, object keys, Metalink. The only place for these
rules.

`safe_name` takes one file name, `safe_path` one with folders, `name_of_url` a URL's; `check_collisions` tells
whether many of them can stand side by side. All is text here: that a safe path also stays below its root on
disk, whatever symbolic links are there, is `storage.directory`'s part.

A name is taken as it is or refused, never changed. Refused are
- what leads elsewhere: absolute, "." and "..", empty components, slashes of both kinds; the same
  percent-encoded, once or more often, so that no later decoding brings it back;
- what cannot be told apart or deceives the eye: control characters, line and paragraph separators, and the
  invisible ones (Unicode's category Cf: text direction, zero width, tags), but for the two joiners that
  Persian, Indic scripts and emoji are written with;
- what would not travel: colons, a dot or space at the end, the device names of Windows, what is not Unicode
  (lone surrogates), components over 255 bytes, files over 245 (their working files need ten more), paths over
  2,048 (the folder they go into has the other half of a system's 4,096).
A "~" or "-" at the front is fine: nothing here expands or parses names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from urllib.parse import unquote, urlsplit

from fastxfer.errors import OptionError
from fastxfer.sources.schemes import is_location

PART = ".part"
CHECKPOINT = ".part.ckpt"
NEW_CHECKPOINT = ".part.new"
LOCK = ".part.lock"
LEDGER = ".fxsum"
NEW_LEDGER = ".fxsum.new"
NEW_WHOLE = ".fxnew"
"""What the names of a file's working files and of its kept ledger end in, and of new ones in the making."""
UPLOAD = ".fxput"
UPLOAD_NEW = ".fxput.new"
UPLOAD_LOCK = ".fxput.lock"
"""What the names of the working files of an upload end in."""
METALINK_ENDINGS = (".meta4", ".metalink")
WORKING = (PART, CHECKPOINT, NEW_CHECKPOINT)
"""Those of the files that hold what is there of an object until it is whole."""
MAX_NAME_BYTES = 255
MAX_FILE_BYTES = MAX_NAME_BYTES - len(CHECKPOINT)
MAX_PATH_BYTES = 2048
_SHORT = MAX_PATH_BYTES // 4  # what has no more characters has no more bytes
_DOTS = re.compile(r"(\.|%2e){0,2}", re.IGNORECASE)
_ENCODED = re.compile(r"%(2f|5c|00|25)", re.IGNORECASE)
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
# What none of the rules below says anything against; nearly all names are such.
_PLAIN = re.compile(
    r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z))[A-Za-z0-9_-](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?",
    re.ASCII,
)
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
# Of what is accepted, the letters that nothing may show for (Unicode's Default_Ignorable_Code_Point).
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
ENDINGS = (*WORKING, LOCK, LEDGER, NEW_LEDGER, NEW_WHOLE)
"""All that the names of files beside a file may end in."""
_WORKING = "are a file and the name of one of its working files"
_SAY_WHERE = "say where to write with out (-o FILE)"


def safe_name(name: str) -> str:
    """Returns an outside name as one file name, unchanged. Raises OptionError if it cannot be one."""
    fault = _fault(name)
    if fault is not None:
        raise OptionError(f"{name[:80]!r} is not safe as a file name: it {fault}")
    return name


def _fault(name: str) -> str | None:
    """Returns what is wrong with an outside name as one component of a path, None if nothing is."""
    if _PLAIN.fullmatch(name):
        return None
    if _DOTS.fullmatch(name):
        return "is empty or a folder's own name"
    if "/" in name or "\\" in name:
        return "holds a slash"
    if _ENCODED.search(name):
        return "holds a slash, a percent sign or a NUL in percent-encoding"
    if not name.isascii() and not _IGNORABLE.sub("", name):
        return "is invisible"
    if not name.isprintable() and _has_unseen(name):
        return "holds a control character or an invisible one"
    if ":" in name:
        return "holds a colon"
    if name[-1] in ". ":
        return "ends in a dot or a space"
    if _RESERVED.fullmatch(name):
        return "is a device on Windows"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is over {MAX_NAME_BYTES} bytes long"
    return None


def safe_path(name: str) -> tuple[str, ...]:
    """Returns the components of an outside name, the folders and the file, unchanged. Raises OptionError if
    one of them, or the whole, cannot be used.
    """
    above, last = safe_parts(name)
    return (*above, last)


def safe_parts(name: str) -> tuple[tuple[str, ...], str]:
    """Returns what `safe_path` does as the folders and the file; the tuple of folders may be that of other
    names. Raises OptionError as it does.
    """
    if len(name) <= _SHORT:
        folders, slash, last = name.rpartition("/")
        above, unsafe = _split(folders) if slash else ((), None)
        if unsafe is None and _PLAIN.fullmatch(last):
            return above, last
    if len(name) > MAX_PATH_BYTES or _bytes_of(name) > MAX_PATH_BYTES:
        raise OptionError(f"{name[:80]!r}... is not safe as a path: it is over {MAX_PATH_BYTES} bytes long")
    folders, slash, last = name.rpartition("/")
    above, unsafe = _split(folders) if slash else ((), None)
    unsafe = unsafe or _unsafe(last)
    if unsafe is not None:
        raise OptionError(f"{name[:80]!r} is not safe as a path: {unsafe}")
    if len(last) > MAX_FILE_BYTES or _bytes_of(last) > MAX_FILE_BYTES:
        raise OptionError(
            f"{name[:80]!r} is too long for its working files: {MAX_FILE_BYTES} bytes are allowed"
        )
    return above, last


@lru_cache(maxsize=1024)
def _split(folders: str) -> tuple[tuple[str, ...], str | None]:
    """Returns the components of a path of folders, and what is wrong with the first unsafe one."""
    components = tuple(folders.split("/"))
    return components, next(filter(None, map(_unsafe, components)), None)


def _unsafe(component: str) -> str | None:
    fault = _fault(component)
    return f"{component[:80]!r} {fault}" if fault is not None else None


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def is_metalink(url: object) -> bool:
    """Returns whether what was given in place of a URL is a Metalink: by the ending of its path."""
    try:
        return isinstance(url, str) and urlsplit(url.strip()).path.lower().endswith(METALINK_ENDINGS)
    except ValueError:
        return False  # it is no URL, which is told later


def name_of_url(url: str) -> str:
    """Returns the file name that a URL suggests: its last path segment, decoded once. Raises OptionError
    when there is none.
    """
    if is_location(url):
        from fastxfer.sources.locations import encode_key, parse_location

        path = encode_key(parse_location(url).key)
    else:
        path = urlsplit(url).path
    segment = path.rpartition("/")[2]
    if not segment:
        raise OptionError(f"the URL has no file name: {_SAY_WHERE}")
    if _ENCODED.search(segment):  # before decoding; what is encoded once more is seen after it
        raise OptionError(f"{segment[:80]!r} is not safe as a file name: {_SAY_WHERE}")
    try:
        return safe_name(unquote(segment, errors="strict"))
    except UnicodeDecodeError as error:
        raise OptionError(f"the URL's name is not UTF-8: {_SAY_WHERE}") from error
    except OptionError as error:
        raise OptionError(f"{error.message}; {_SAY_WHERE}") from error


def check_collisions(names: Iterable[str]) -> None:
    """Reads a set of outside names once and raises OptionError, naming both, if two cannot stand side by
    side, or one is not a safe path.

    They cannot if they are the same but for case or Unicode form (many file systems then keep one file: what
    is compared is the canonical form, case folded, without ignorable letters), if one is a folder of the
    other, or has the name of one of its working files (or both those of a third). Folders may differ so:
    nothing is lost where they become one.
    """
    files: dict[str, str] = {}  # a folded name, and the name
    folders: dict[str, str] = {}  # a folded folder, and one of the names in it
    for name in names:
        safe_path(name)
        key = folded(name)
        _place_file(name, key, files, folders)
        for folder in _folders(key):
            if folder in folders:
                break  # and all those above it
            _place_folder(name, folder, files)
            folders[folder] = name
        files[key] = name


def _place_file(name: str, key: str, files: dict[str, str], folders: dict[str, str]) -> None:
    if key in files:
        other = files[key]
        how = "are the same name" if name == other else "differ only by case or Unicode form"
        raise _collision(other, name, how)
    if key in folders:
        raise _collision(name, folders[key], "are a file and something in a folder of its name")
    for working in (key + ending for ending in ENDINGS):
        for taken in (files, folders):
            if working in taken:
                raise _collision(name, taken[working], _WORKING)
    _place_beside_working_files(name, key, files, folders)


def _place_folder(name: str, folder: str, files: dict[str, str]) -> None:
    if folder in files:
        raise _collision(files[folder], name, "are a file and something in a folder of its name")
    _place_beside_working_files(name, folder, files)


def _place_beside_working_files(name: str, key: str, files: dict[str, str], *others: dict[str, str]) -> None:
    for mine in ENDINGS:
        if not key.endswith(mine):
            continue
        base = key.removesuffix(mine)
        if base in files:
            raise _collision(files[base], name, _WORKING)
        for taken, twin in product((files, *others), ENDINGS):
            if twin != mine and base + twin in taken:
                raise _collision(taken[base + twin], name, "have the names of the working files of one")


def _collision(one: str, other: str, how: str) -> OptionError:
    return OptionError(f"{one!r} and {other!r} {how}: they cannot be written to one place; rename one")


def _folders(key: str) -> Iterator[str]:
    """Gives the folders that a path is in, the deepest first."""
    while (key := key.rpartition("/")[0]) != "":
        yield key


def _has_unseen(name: str) -> bool:
    from unicodedata import category

    return any(category(c) in _UNSEEN and c not in _JOINERS for c in name)


def folded(name: str) -> str:
    """Returns a name such that those are equal that some file system may take for one (Unicode, D145)."""
    if name.isascii():
        return name.lower()
    from unicodedata import normalize

    return normalize("NFD", normalize("NFD", _IGNORABLE.sub("", name)).casefold())
