from typing import Final

from typing_extensions import Buffer

CREATE: Final[int]
WRITE: Final[int]
RENAME: Final[int]

def store(
    files: list[tuple[int, bytes, bytes, Buffer, int | None]], unnamed: bool = True
) -> list[tuple[int, int, int]]: ...
def sync_file_system(fd: int) -> None: ...
