"""`fastxfer probe`: what a server tells of an object."""

from __future__ import annotations

from collections.abc import Sequence

from fastxfer.api import probe
from fastxfer.cli import output
from fastxfer.cli.arguments import Parser, one_url, switch, transfer_options, values
from fastxfer.probe_result import RemoteObject
from fastxfer.units import format_size

# What is about the local file and the pace of a fetch; everything else a probe takes too.
OF_A_FETCH = frozenset(
    {
        "connections",
        "checksum",
        "chunk_size",
        "resume",
        "unpause",
        "exists",
        "max_rate",
        "on_change",
        "ignore_etag",
        "durability",
        "keep_ledger",
        "sink",
    }
)


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser = Parser(
        "probe",
        "URL [OPTION...]",
        "Asks a server what it tells of an object, with a ranged request of one byte.",
    )
    parser.add_argument("urls", metavar="URL", nargs="*", help="http:// or https://")
    parser.add_switch("--json", help="one JSON object on stdout")
    parser.add_insecure()
    options = transfer_options(without=OF_A_FETCH)
    parser.add_options("network (each also as a variable, --stall-timeout: FASTXFER_STALL_TIMEOUT)", options)
    given = parser.parse(arguments, "urls")
    remote = probe(one_url(given.urls), **values(options, given))
    if switch("json", given.json):
        output.event("result", remote.to_dict())
    else:
        output.line(describe(remote))
    return 0


def describe(remote: RemoteObject) -> str:
    """Returns what is known of an object, a line each."""
    size = "not told" if remote.size is None else f"{format_size(remote.size)} ({remote.size} bytes)"
    rows = {
        "size": size,
        "ranges": "yes"
        if remote.accepts_ranges
        else "no: it cannot be resumed, and comes over one connection",
        "etag": remote.etag or "not told",
        "last modified": remote.last_modified or "not told",
        "content type": remote.content_type or "not told",
        "http": remote.http_version,
        "redirects": str(remote.redirects),
    }
    return "\n".join([output.plain(remote.url), *(f"  {k:<14} {output.plain(v)}" for k, v in rows.items())])
