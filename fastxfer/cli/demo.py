"""`fastxfer demo`: a fetch is killed half way, another one goes on, and the digest is equal.

The server and both fetches are processes of their own; the kill is a SIGKILL; what is said of the state
between the runs is what `fastxfer status` reads. Only the pace of the first run is arranged, so that its half
comes on every machine after about two seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from fastxfer.cli import output
from fastxfer.cli.arguments import Option, Parser, transfer_options, values
from fastxfer.cli.status import Status, describe, read_status
from fastxfer.errors import CheckpointError, FastxferError, OptionError, StorageError, storage_error
from fastxfer.units import format_size, parse_size

LEAST_SIZE = 4 * 1024**2
FIRST_RUN_S = 4  # what the first run would take if it were left alone; claims come each half second
LOOK_S = 0.02
DEADLINE_S = 120.0
END_S = 5.0
NAME = "demo.bin"


def run(arguments: Sequence[str]) -> int:
    """Runs the command; returns 0 when all held. Raises FastxferError."""
    parser = Parser(
        "demo",
        "[--size SIZE] [-x N] [--dir DIR]",
        "Starts a local server, fetches from it on many connections, kills that half way, goes on, checks.",
    )
    parser.add_argument("extra", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--size", default="256M", metavar="SIZE", help="size of the object (default: 256M)")
    parser.add_argument(
        "--dir", metavar="DIR", help="where to work; takes twice the size (default: the temporary one)"
    )
    options = [option for option in transfer_options() if option.name == "connections"]
    parser.add_options("transfer", options)
    given = parser.parse(arguments, "extra")
    if given.extra:
        raise OptionError("demo takes no arguments; fastxfer demo --help lists its options")
    size, connections = _size(given.size), _connections(options, given)
    try:
        directory = tempfile.mkdtemp(prefix="fastxfer-demo-", dir=given.dir)
    except OSError as error:
        raise storage_error(f"make a directory in {given.dir or tempfile.gettempdir()}", error) from error
    try:
        with Demo(directory, size, connections) as demo:
            return 0 if demo.play() else 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise OptionError(f"--size: {error}") from error
    if size < LEAST_SIZE:
        raise OptionError(
            f"--size: must be at least {format_size(LEAST_SIZE)}, or there is no half way to see"
        )
    return size


def _connections(options: list[Option], given: argparse.Namespace) -> int:
    return int(values(options, given).get("connections", 16))


class Demo:
    """A context manager: its processes have all ended when it is left, each by its own process id."""

    def __init__(self, directory: str, size: int, connections: int) -> None:
        self.size = size
        self.connections = connections
        self.out = os.path.join(directory, NAME)
        self._served = os.path.join(directory, "served", NAME)
        self._children: list[subprocess.Popen[str]] = []
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            if child.stdin is not None:
                child.stdin.close()  # the server's sign to end
                try:
                    child.wait(END_S)
                except subprocess.TimeoutExpired:
                    pass
            if child.poll() is None:
                child.kill()
            child.wait()

    def play(self) -> bool:
        """Plays the whole story and tells it as it goes; returns whether all held."""
        began = time.monotonic()
        url, sha256 = self._serve()
        _say("object", f"{format_size(self.size)}, sha256 {sha256}")
        _say("server", url)
        rate = max(1, self.size // FIRST_RUN_S)
        pace = f"held to {format_size(rate)}/s so that there is a half way to see"
        _say("run 1", f"{self.connections} connections, {pace}")
        first = Run(self._fetch(url, sha256, rate))
        self._kill_half_way(first)
        left = read_status(self.out)
        _say("status", "")
        output.line(_indented(describe(left, time.time())))
        _say("run 2", "the same command without that limit")
        second = Run(self._fetch(url, sha256, None))
        code = second.end()
        return self._tell(first, left, second, code, sha256, time.monotonic() - began)

    def _start(self, *arguments: str, stdin: int) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FASTXFER_")}
        environment |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._children.append(child)
        return child

    def _serve(self) -> tuple[str, str]:
        os.mkdir(os.path.dirname(self._served))
        child = self._start("fastxfer.cli.demo_server", self._served, str(self.size), stdin=subprocess.PIPE)
        assert child.stdout is not None
        try:
            with child.stdout:
                told = json.loads(child.stdout.readline())
        except ValueError as error:
            raise FastxferError("the demo's server did not start") from error
        return f"http://127.0.0.1:{told['port']}/{told['name']}", told["sha256"]

    def _fetch(self, url: str, sha256: str, rate: int | None) -> subprocess.Popen[str]:
        command = ["fastxfer", "fetch", url, "--out", self.out, "--connections", str(self.connections)]
        command += ["--checksum", f"sha256:{sha256}", "--json", "--progress"]
        if rate is not None:
            command += ["--max-rate", str(rate)]
        # It is given no keyboard: a process that is killed could not give the terminal's modes back.
        return self._start(*command, stdin=subprocess.DEVNULL)

    def _kill_half_way(self, first: Run) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while (claimed := self._claimed()) * 2 < self.size:
            if first.over_within(LOOK_S):
                raise FastxferError(f"the first run ended before it could be killed: {first.last_words()}")
            if time.monotonic() > deadline:
                raise FastxferError(f"the first run is not half way after {DEADLINE_S:g} s")
        first.child.kill()
        first.end()
        if self._terminal:
            print(file=sys.stderr)  # the bar of the dead was left without its end
        share = f"when its checkpoint claimed {format_size(claimed)} ({claimed * 100 // self.size}%)"
        _say("kill", f"SIGKILL to process {first.child.pid}, {share}")

    def _claimed(self) -> int:
        try:
            return read_status(self.out).claimed or 0
        except (StorageError, CheckpointError):
            return 0  # it has not begun, or is just making its files

    def _tell(self, first: Run, left: Status, second: Run, code: int, sha256: str, elapsed: float) -> bool:
        kept = left.claimed or 0
        result = second.last if second.last.get("event") == "result" else {}
        if not result:
            _say("run 2", f"failed with exit status {code}: {second.last_words()}")
            return False
        known = max(kept, int(first.last.get("transferred", 0)))
        resumed, transferred = int(result["resumed"]), int(result["transferred"])
        files = sorted(name for name in os.listdir(os.path.dirname(self.out)) if name.startswith(NAME))
        held = {
            "run 1 fetched": (True, f"{_exactly(known)} or more: what it had last reported or saved"),
            "kept": (
                0 < kept < self.size,
                f"{_exactly(kept)}, of which {_exactly(resumed)} held when verified",
            ),
            "run 2 fetched": (
                resumed == kept and transferred == self.size - resumed,
                f"{_exactly(transferred)}, {_exactly(self.size - resumed)} were missing",
            ),
            "sha256": _compare(_sha256(self.out), sha256),
            "files left": (files == [NAME], ", ".join(files)),
            "exit status": (code == 0, str(code)),
        }
        for name, (good, text) in held.items():
            _say(name, text if good else f"{text}  <- NOT as it should be")
        all_held = all(good for good, _ in held.values())
        _say("", f"{'all held' if all_held else 'NOT all held'}, in {elapsed:.1f} s")
        return all_held


class Run:
    """A fetch in a process of its own; `last` is the last JSON line it wrote."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        self.child = child
        self.last: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, args=(child.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                try:
                    self.last = json.loads(line)
                except ValueError:
                    continue  # a line that the kill cut off

    def over_within(self, timeout_s: float) -> bool:
        """Returns whether it ends within the time."""
        try:
            self.child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> int:
        """Waits for its end and its last line; returns its exit status."""
        code = self.child.wait()
        self._reader.join()
        return code

    def last_words(self) -> str:
        """Returns its error's message, or what it said last."""
        self.end()
        return str(self.last.get("message") or self.last.get("event") or "it said nothing")


def _say(what: str, text: str) -> None:
    output.line(f"{what:<14} {text}".rstrip())


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _exactly(size: int) -> str:
    return f"{format_size(size)} ({size} bytes)"


def _compare(actual: str, expected: str) -> tuple[bool, str]:
    equal = actual == expected
    return equal, f"{actual}, {'equal' if equal else 'DIFFERENT from the object'}"


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1024**2):
            digest.update(block)
    return digest.hexdigest()
