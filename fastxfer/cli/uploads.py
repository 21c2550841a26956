"""`fastxfer uploads`: the uploads in parts that a store still holds, and their end."""

from __future__ import annotations

from collections.abc import Sequence

from fastxfer.cli import output
from fastxfer.cli.arguments import Parser, switch, transfer_options, values
from fastxfer.cli.manner import add_output
from fastxfer.errors import OptionError
from fastxfer.put_options import NETWORK
from fastxfer.uploading import abort_uploads, list_uploads

EPILOG = """\
Parts of an upload that was neither completed nor aborted cost space, and no list of objects shows them. Those
that somebody uploads just now are listed as well: abort ends them too.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser = Parser(
        "uploads",
        "list|abort URL [OPTION...]",
        "Lists or aborts the uploads in parts to a bucket that were begun and not ended.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "words",
        metavar="list|abort URL",
        nargs="*",
        help="s3://BUCKET or oss://BUCKET; with a key, those to keys that begin with it",
    )
    parser.add_argument("--upload-id", metavar="ID", help="abort only this one")
    add_output(parser)
    parser.add_insecure()
    network = transfer_options(only=NETWORK)
    parser.add_options("store and network", network)
    given = parser.parse(arguments, "words")
    if len(given.words) != 2 or given.words[0] not in ("list", "abort"):
        raise OptionError("what to do and a URL are wanted: fastxfer uploads list|abort URL")
    if given.words[0] == "list" and given.upload_id is not None:
        raise OptionError("--upload-id is for abort")
    chosen = values(network, given)
    if given.words[0] == "list":
        found = list_uploads(given.words[1], **chosen)
    else:
        found = abort_uploads(given.words[1], upload_id=given.upload_id, **chosen)
    if switch("json", given.json):
        output.event("result", {"uploads": [each.to_dict() for each in found]})
    elif not switch("quiet", given.quiet):
        for each in found:
            output.line(output.plain(str(each)))
    return 0
