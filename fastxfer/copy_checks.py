"""What the bytes that come must have: the CRCs that the source tells of all of them, and the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fastxfer._native.checksum import crc32c, crc64nvme, crc64xz
from fastxfer._native.memory import PartBuffer
from fastxfer.errors import ChecksumError
from fastxfer.storage.digest import make_hasher

CRC = {"crc32c": crc32c, "crc64nvme": crc64nvme, "crc64xz": crc64xz}
"""Those that can be put together of the parts'."""
DIGITS = {"crc32c": 8, "crc64nvme": 16, "crc64xz": 16}


class Expected(NamedTuple):
    """What a listing says of an object: its bytes, and its digests, as (algorithm, hex digest) pairs."""

    size: int | None = None
    digests: tuple[tuple[str, str], ...] = ()


def hex_of(name: str, value: int) -> str:
    """Returns a CRC as it is shown."""
    return f"{value:0{DIGITS[name]}x}"


def sums_of(buffer: PartBuffer, ours: str, others: Iterable[str]) -> dict[str, str]:
    """Returns the CRCs of what is in a buffer in hex, by name: its own, and others."""
    found = {name: CRC[name](buffer) for name in others}
    return {name: hex_of(name, value) for name, value in {ours: buffer.crc, **found}.items()}


def digests_of(buffer: PartBuffer, names: Iterable[str]) -> dict[str, str]:
    """Returns the digests of what is in a buffer that are no CRCs. Raises OptionError for one whose library
    is missing.
    """
    found = {}
    for name in names:
        if name not in CRC:
            hasher = make_hasher(name)
            hasher.update(buffer)
            found[name] = hasher.hexdigest()
    return found


@dataclass(frozen=True, slots=True)
class Checks:
    """See the module; raises ChecksumError where the source tells another checksum than the caller."""

    source: str
    told: Mapping[str, str]
    asked: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for name, expected in self.asked:
            if self.told.get(name, expected) != expected:
                raise _wrong(f"{self.source} is another object", name, expected, self.told[name])

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The names of those that there are."""
        return tuple(name for name in {**self.told, **dict(self.asked)} if name in CRC)

    def hold(self, sums: Mapping[str, str]) -> None:
        """Raises ChecksumError where what came has others."""
        for name, expected in (*self.told.items(), *self.asked):
            if sums.get(name, expected) != expected:
                raise _wrong(f"the bytes that came from {self.source}", name, expected, sums[name])

    def verified(self, sums: Mapping[str, str]) -> str:
        """Returns whose checksum what came has: "checksum" for the caller's, "server", or "none"."""
        if any(sums.get(name) == digest for name, digest in self.asked):
            return "checksum"
        return "server" if any(sums.get(name) == digest for name, digest in self.told.items()) else "none"


def _wrong(what: str, name: str, expected: str, actual: str) -> ChecksumError:
    return ChecksumError(
        f"{what}: {name} is {actual} and should be {expected}; nothing was put together",
        algorithm=name,
        expected=expected,
        actual=actual,
    )
