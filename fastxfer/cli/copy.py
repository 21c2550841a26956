"""`fastxfer copy`: one copy from a server to an object store, shown as a bar, as JSON lines or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from fastxfer.cli.arguments import Option, Parser, transfer_options, values
from fastxfer.cli.manner import Manner, add_manner
from fastxfer.cli.put import show_to_the_end
from fastxfer.copy_options import SHARED, CopyOptions
from fastxfer.copying import begin_copy
from fastxfer.errors import OptionError

EPILOG = """\
Where and who of stores (--endpoint, --region, --profile, --credentials, --anonymous, --addressing) are the
destination's. They hold for the source too where it is of the same kind (s3, oss) and no --source-... of
them is given; else those, or the environment, say it. Header fields, --auth and --netrc go to the source.

Every option with a value is also a variable, --stall-timeout is FASTXFER_STALL_TIMEOUT; the command line
wins. K, M and G are powers of 1024. Ctrl-C stops: run the same command again to go on.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs the command. Raises FastxferError."""
    parser = Parser(
        "copy",
        "SRC_URL DST_URL [OPTION...]",
        "Copies an object from a server to an object store: ranges of the source become parts of an upload,\n"
        "without touching the disk, and a later run goes on where an earlier one stopped.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "words",
        metavar="SRC_URL DST_URL",
        nargs="*",
        help="http://, https://, s3:// or oss://; and s3://BUCKET/KEY or oss://BUCKET/KEY, with / at the end "
        "the source's name is added",
    )
    own = [Option.of(each) for each in fields(CopyOptions)]
    shared = transfer_options(only=SHARED)
    parser.add_options("copy", own)
    add_manner(parser)
    parser.add_insecure()
    parser.add_options("source, store and network", shared)
    given = parser.parse(arguments, "words")
    if len(given.words) != 2:
        raise OptionError("two URLs are wanted: fastxfer copy SRC_URL DST_URL")
    manner = Manner.of(given)
    running = begin_copy(*given.words, **values([*own, *shared], given))
    show_to_the_end(running, running.location.key.rpartition("/")[2], manner)
    return 0
