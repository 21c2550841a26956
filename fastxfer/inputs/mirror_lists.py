"""Lists of mirrors as people have them. Pure: bytes in, URLs out.

- plain: a URL a line, `#` begins a comment. A URL that ends with a slash is a base.
- Metalink 3 and 4, of one object.
- Arch's mirrorlist: `Server = https://HOST/PATH/$repo/os/$arch`; commented servers are left out.
- Debian's sources.list: `deb [OPTIONS] URI SUITE COMPONENT...`, and its deb822 form (`URIs:`, `Suites:`).
- Debian's Mirrors.masterlist: `Site:`, `Archive-http: /debian/`, `Archive-https:`.

Lists of distributions name bases, where a mirror begins; the object is below: `object_path`, or what each
such mirror has (Arch: the repository's database, Debian: a suite's Release file, which are small).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastxfer.errors import OptionError
from fastxfer.inputs.entry import MAX_INPUT_BYTES, Warnings, lines_of, usable_urls
from fastxfer.inputs.metalink import read_metalink

DEFAULT_SUITE = "stable"
_ARCH_SERVER = re.compile(r"\s*Server\s*=\s*(\S+)\s*(#.*)?")
_DEB = re.compile(r"\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)(?:\s.*)?")
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]*)\s*:\s*(.*)")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

Base = tuple[str, str]
"""Where a mirror begins, and the path of a small object below it."""


@dataclass(frozen=True, slots=True)
class MirrorList:
    """What was read: "plain", "metalink", "arch", "debian", "deb822" or "masterlist", and the URLs, in order,
    each once.
    """

    format: str
    urls: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def parse_mirrors(
    data: bytes, *, object_path: str | None = None, repo: str = "core", arch: str = "x86_64"
) -> MirrorList:
    """Returns the URLs of one object that a list of mirrors names. Raises OptionError."""
    if len(data) > MAX_INPUT_BYTES:
        raise OptionError(f"the list of mirrors is over {MAX_INPUT_BYTES // 1024**2} MiB long")
    for what, name in (("repo", repo), ("arch", arch)):
        if not _NAME.fullmatch(name):
            raise OptionError(f"option {what}: must be a name, such as core or x86_64")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # Debian's masterlist was so for years; URLs are ASCII
    warnings = Warnings()
    kind = _recognised(text)
    if kind == "metalink":
        found = _of_metalink(text, warnings)
    elif kind == "plain":
        found = list(_plain(text, object_path))
    else:
        readers = {"arch": _arch, "debian": _debian, "deb822": _deb822, "masterlist": _masterlist}
        bases = readers[kind](text)
        found = [_below(base, object_path or usual) for base, usual in bases]
        found = [each.replace("$repo", repo).replace("$arch", arch) for each in found]
    if not found:
        raise OptionError("the list names no mirror")
    return MirrorList(kind, usable_urls("the list", found, warnings), warnings.lines())


def _recognised(text: str) -> str:
    if text.lstrip().startswith("<"):
        return "metalink"
    told = [line for _, line in lines_of(text) if line.strip() and not line.lstrip().startswith("#")]
    if any(_ARCH_SERVER.fullmatch(line) for line in told):
        return "arch"
    if any(_DEB.fullmatch(line) for line in told):
        return "debian"
    names = {match[1].lower() for line in told if (match := _FIELD.fullmatch(line.strip()))}
    if "uris" in names:
        return "deb822"
    if "site" in names:
        return "masterlist"
    if any("://" in line for line in told):
        return "plain"
    raise OptionError("the list of mirrors is none that is known: it names no URL and no mirror")


def _below(base: str, path: str) -> str:
    return f"{base.rstrip('/')}/{path.lstrip('/')}"


def _of_metalink(text: str, warnings: Warnings) -> list[str]:
    entries = read_metalink(text, warnings)
    if len(entries) != 1:
        raise OptionError(f"the Metalink names {len(entries)} objects: mirrors are measured by one")
    return list(entries[0].urls)


def _plain(text: str, object_path: str | None) -> Iterator[str]:
    for where, line in lines_of(text):
        url = line.strip().partition("\t")[0]
        if not url or url.startswith("#"):
            continue
        if object_path is not None:
            url = _below(url, object_path)
        elif url.endswith("/"):
            raise OptionError(
                f"{where}: is a base, not an object: say which object with object_path (--object-path)"
            )
        yield url


def _arch(text: str) -> list[Base]:
    matches = [_ARCH_SERVER.fullmatch(line) for _, line in lines_of(text)]
    return [(match[1], "$repo.db") for match in matches if match]


def _debian(text: str) -> list[Base]:
    matches = [_DEB.fullmatch(line) for _, line in lines_of(text) if not line.lstrip().startswith("#")]
    return [(match[1], _release(match[2])) for match in matches if match]


def _release(suite: str) -> str:
    """Returns where a suite's Release file is; one with a slash at its end is a path of its own."""
    return f"{suite}Release" if suite.endswith("/") else f"dists/{suite}/Release"


def _stanzas(text: str) -> Iterator[dict[str, list[str]]]:
    """Gives the fields of each stanza (deb822), names in lower case, a line of the value each."""
    for block in re.split(r"\n[ \t\r]*\n", text):
        found: dict[str, list[str]] = {}
        last: list[str] = []
        for line in block.split("\n"):
            if line.startswith("#"):
                continue
            match = _FIELD.fullmatch(line.rstrip())
            if line[:1] in (" ", "\t"):
                last.append(line.strip())
            elif match is not None:
                last = found.setdefault(match[1].lower(), [])
                last.append(match[2].strip())
        if found:
            yield found


def _words(lines: Iterable[str]) -> list[str]:
    return " ".join(lines).split()


def _deb822(text: str) -> list[Base]:
    found = []
    for stanza in _stanzas(text):
        if "no" in _words(stanza.get("enabled", [])):
            continue
        suites = _words(stanza.get("suites", [])) or [DEFAULT_SUITE]
        found += [(uri, _release(suites[0])) for uri in _words(stanza.get("uris", []))]
    return found


def _masterlist(text: str) -> list[Base]:
    found = []
    for stanza in _stanzas(text):
        for site in _words(stanza.get("site", []))[:1]:
            for scheme in ("https", "http"):
                paths = _words(stanza.get(f"archive-{scheme}", []))[:1]
                if paths and paths[0].startswith("/") and _HOST.fullmatch(site):
                    found.append((f"{scheme}://{site}{paths[0]}", _release(DEFAULT_SUITE)))
                    break
    return found
