"""The fetches that kills and errors are done to: how a target looks before, and the command that is run."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fastxfer
from fastxfer._native.writer import Writer
from fastxfer.plan.response import Identity
from fastxfer.storage.part_file import PartFile, Source
from fastxfer.storage.paths import Target, resolve_target
from tests.cli.command import COMMAND
from tests.kills.calls import Call
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject, make_bytes

CHUNK = 65536
CONNECTIONS = 4
SIZE = 2 * 1024**2 + 12345
SMALL = 300_000
RATE = "2M"  # so that a run takes a second, and claims in between
OLD = make_bytes(SIZE - 4096, seed=1)
OLD_ETAG = '"of another version"'


@dataclass(frozen=True, slots=True)
class Things:
    """What is served: an object, a small one, and where."""

    nginx: Nginx
    large: TestObject
    small: TestObject
    identities: dict[str, Identity]
    contents: dict[str, bytes]

    @classmethod
    def make(cls, nginx: Nginx, objects: Objects) -> Things:
        """Has the objects served."""
        large, small = objects.make(SIZE, seed=11), objects.make(SMALL, seed=12)
        things = cls(nginx, large, small, {}, {})
        for thing in (large, small):
            told = fastxfer.probe(nginx.url(thing.name))
            things.identities[thing.name] = Identity(told.size, told.etag, told.last_modified)
            things.contents[thing.name] = thing.path.read_bytes()
        return things


@dataclass(frozen=True, slots=True)
class Victim:
    """One way to fetch. `before` says what is there of the target when it begins:

    fresh, small, links   nothing (links: and nothing may be replaced, so that the target is made by a link)
    resumed               half of it, saved as the durability says
    replaces              the target, with the bytes of an older version
    changed               half of another version
    """

    before: str
    durability: str
    sink: str
    directory: Path
    things: Things = field(repr=False)

    def __str__(self) -> str:
        return f"{self.before}-{self.durability}-{self.sink}"

    @property
    def out(self) -> Path:
        """The target."""
        return self.directory / "out"

    @property
    def part(self) -> Path:
        """Its part file."""
        return self.directory / "out.part"

    @property
    def checkpoint(self) -> Path:
        """Its checkpoint."""
        return self.directory / "out.part.ckpt"

    @property
    def thing(self) -> TestObject:
        """The object."""
        return self.things.small if self.before == "small" else self.things.large

    @property
    def url(self) -> str:
        """The object's URL."""
        return self.things.nginx.url(self.thing.name)

    @property
    def identity(self) -> Identity:
        """The object's identity as the server tells it."""
        return self.things.identities[self.thing.name]

    @property
    def content(self) -> bytes:
        """The object."""
        return self.things.contents[self.thing.name]

    @property
    def exists(self) -> str:
        """The option `exists`."""
        return "error" if self.before == "links" else "update"

    def command(self, rate: str = RATE) -> list[str]:
        """Returns the command line that fetches it."""
        options = {
            "-x": str(CONNECTIONS),
            "-k": str(CHUNK),
            "--durability": self.durability,
            "--sink": self.sink,
            "--exists": self.exists,
            "--max-rate": rate,
        }
        pairs = itertools.chain.from_iterable(options.items())
        return [*COMMAND, "fetch", self.url, "-o", str(self.out), "--json", *pairs]

    def prepare(self) -> None:
        """Makes the directory, with what is there before."""
        self.directory.mkdir(parents=True)
        if self.before == "replaces":
            self.out.write_bytes(OLD)
        elif self.before == "resumed":
            self._leave_half(self.identity, self.content)
        elif self.before == "changed":
            self._leave_half(Identity(len(OLD), OLD_ETAG), OLD)

    def _leave_half(self, identity: Identity, data: bytes) -> None:
        """Leaves every other chunk and the first part of one more, as a run of fastxfer leaves them."""
        with opened(self.out) as target:
            part = PartFile.open(target, Source.of(self.url, self.url))
            part.allocate(identity, CHUNK, sink=self.sink)
            writer = Writer()
            part.attach(writer)
            marks: tuple[tuple[int, int], ...] = ()
            for start in range(0, len(data), 2 * CHUNK):
                length = CHUNK if start + 2 * CHUNK < len(data) else 1000
                stop = min(start + length, len(data))
                writer.begin(start, stop)
                writer(data[start:stop])
                marks = (writer.end(),)
            writer.detach()
            (part.claim if self.durability == "none" else part.sync)(marks)
            part.close()

    def at(self, directory: Path) -> Victim:
        """Returns the same in another directory."""
        return Victim(self.before, self.durability, self.sink, directory, self.things)


@contextmanager
def opened(out: Path) -> Iterator[Target]:
    """Gives the target at a path."""
    target = resolve_target("http://127.0.0.1/out", out)
    try:
        yield target
    finally:
        target.directory.close()


BEFORE = ("fresh", "resumed", "replaces", "changed", "links", "small")
DURABILITIES = ("none", "periodic", "chunk")
SINKS = ("mmap", "pwrite")
Recorded = dict[tuple[str, str], list[tuple[Victim, Call]]]


def every(directory: Path, things: Things, *, all_of_them: bool) -> Iterator[Victim]:
    """Yields a victim for each state before and each durability, with each sink or with one, in turn."""
    for (i, before), (k, durability) in itertools.product(enumerate(BEFORE), enumerate(DURABILITIES)):
        for number, sink in enumerate(SINKS):
            if all_of_them or number == (i + k) % 2:
                yield Victim(before, durability, sink, directory / f"{before}-{durability}-{sink}", things)


# A child that fetches, and tells on each line how far it is.
CHILD = """
import signal, sys, fastxfer
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever those who started the tests ignore
def tell(progress):
    print(progress.done, flush=True)
fastxfer.fetch(sys.argv[1], sys.argv[2], int(sys.argv[3]), progress=tell, max_rate=sys.argv[4],
               durability=sys.argv[5], sink=sys.argv[6], chunk_size=262144)
print("done", flush=True)
"""


def child_command(
    url: str, out: Path, *, connections: int, rate: str, durability: str = "periodic", sink: str = "auto"
) -> list[str]:
    """Returns the command of such a child."""
    return [sys.executable, "-c", CHILD, url, str(out), str(connections), rate, durability, sink]
