"""The options of a copy alone, checked, and how those that it shares with a fetch are shared out between the
source and the store that it goes to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from fastxfer.errors import OptionError
from fastxfer.options import TransferOptions, checked_options, parse_connections
from fastxfer.put_options import PutOptions
from fastxfer.units import parse_size

STORE = ("endpoint", "region", "profile", "credentials", "anonymous", "addressing")
"""The options of TransferOptions that say where a store is and who asks; `source_...` are the source's."""
SHARED = frozenset(
    (
        *STORE, "headers", "secret_headers", "auth", "netrc", "allow_http_redirects",
        "allow_private_redirects", "checksum", "on_change", "ignore_etag", "proxy", "ca_bundle",
        "client_cert", "verify_tls", "http_version", "connect_timeout", "stall_timeout", "retries",
    )
)  # fmt: skip
"""The options of TransferOptions that a copy takes."""
OF_SOURCE = ("headers", "auth", "netrc", "secret_headers")
"""Those that go to the source alone."""
_CRCS = ("crc32c", "crc64nvme", "crc64xz")
_DEFAULT_MEMORY = 256 << 20
_LEAST_MEMORY = 1 << 20
_of_put = {each.name: each for each in fields(PutOptions)}
_of_transfer = {each.name: each for each in fields(TransferOptions)}


def _part_size(value: Any) -> int | None:
    parsed: int | None = None if value is None else _of_put["part_size"].metadata["parse"](value)
    return parsed


def _memory(value: Any) -> int:
    size = parse_size(value)
    if size < _LEAST_MEMORY:
        raise ValueError("must be 1M at the least")
    return size


def _flag(value: Any) -> bool:
    parsed: bool = _of_transfer["anonymous"].metadata["parse"](value)
    return parsed


def _option(parse: Any, default: Any, text: str, metavar: str, flags: tuple[str, ...] = ()) -> Any:
    meta = {"parse": parse, "help": text, "metavar": metavar, "flags": flags}
    return field(default=default, metadata=meta, repr=metavar != "C")


def _of_source(name: str) -> Any:
    like = _of_transfer[name]
    text = f"the same as --{name} of the store that is read from"
    return _option(like.metadata["parse"], like.default, text, like.metadata["metavar"])


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """The options that only a copy has."""

    part_size: int | None = _option(
        _part_size, None,
        "size of a part, 100K to 5G, at Amazon from 5M; larger where 10000 parts would not do (default: 8M; "
        "64M where the store copies by itself)",
        "S",
    )  # fmt: skip
    connections: int = _option(parse_connections, 8, "parts at once, 1 to 1024", "N",
        ("-x",))  # fmt: skip
    memory: int = _option(
        _memory, _DEFAULT_MEMORY, "bytes of parts in memory at the most; fewer parts at once where they are "
        "large (default: 256M)", "S",
    )  # fmt: skip
    checkpoint_dir: str | None = _option(
        _of_put["checkpoint_dir"].metadata["parse"], None,
        "where the progress is kept (default: $XDG_STATE_HOME/fastxfer, ~/.local/state/fastxfer)", "D",
    )  # fmt: skip
    server_side: bool = _option(
        _flag, True, "let a store that is both source and destination copy by itself", "BOOL"
    )
    object_headers: tuple[tuple[str, str], ...] = _option(
        _of_transfer["headers"].metadata["parse"], (),
        "a header field that the object gets, 'Name: value'; may be repeated", "H",
    )  # fmt: skip
    source_endpoint: str | None = _of_source("endpoint")
    source_region: str | None = _of_source("region")
    source_profile: str | None = _of_source("profile")
    source_credentials: Any = _of_source("credentials")  # noqa: RUF009 - it is a field
    source_anonymous: bool = _of_source("anonymous")
    source_addressing: str = _of_source("addressing")

    @classmethod
    def build(cls, **given: Any) -> CopyOptions:
        """Returns checked options. Raises OptionError that names the option."""
        return cls(**checked_options(cls, given))

    @property
    def of_source(self) -> dict[str, Any]:
        """What was said of the store that is read from, by the names of TransferOptions."""
        return {name: getattr(self, f"source_{name}") for name in STORE}


def shared_out(
    own: CopyOptions, options: TransferOptions, *, same_kind: bool
) -> tuple[TransferOptions, TransferOptions]:
    """Returns the options of the source and those of the destination.

    Where and who of stores are the destination's, and the source's too where it is of the `same_kind` and
    none of the `source_` options was given; else those alone are the source's. Header fields, user and
    password go to the source. Raises OptionError.
    """
    for name, _ in options.checksum:
        if name not in _CRCS:
            raise OptionError(
                f"option checksum: {name} cannot be put together of parts; a copy checks {', '.join(_CRCS)}"
            )
    source = replace(options, connections=own.connections)
    if not same_kind or own.of_source != CopyOptions().of_source:
        source = replace(source, **own.of_source)
    plain = TransferOptions()
    target = replace(
        options,
        connections=own.connections,
        headers=own.object_headers,
        **{name: getattr(plain, name) for name in OF_SOURCE if name != "headers"},
    )
    return source, target
