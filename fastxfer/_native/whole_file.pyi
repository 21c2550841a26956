from typing import Final

from typing_extensions import Buffer

CREATE: Final[int]
WRITE: Final[int]
RENAME: Final[int]

def store(
    files: list[tuple[int, bytes, bytes, Buffer, int | None]], unnamed: bool = True, looks: bool = True
) -> list[tuple[int, int, int]]: ...
def date(files: list[tuple[int, bytes, int]]) -> list[int]: ...
def has_ending(fd: int, ending: bytes) -> bool: ...
def sync_file_system(fd: int) -> None: ...
