"""Processes that run one fetch or one verification each, and are told, paused and killed from outside.

`python -m tests.machine.actors` is the parent of them all: it has everything imported and no thread, and
forks one for each job, which takes milliseconds. It reads jobs and commands as lines of JSON, and passes the
latter on. What an actor has to tell is a line too; after it comes the parent's own line that says how it
ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastxfer
from tests.machine import DEADLINE_S

_ENDED = b'{"ended":'


@dataclass(slots=True)
class Outcome:
    """How an actor ended: with a result, with an error, or killed, which is neither."""

    result: dict[str, Any] | None = None
    error: str = ""
    message: str = ""
    status: int = 0


@dataclass(slots=True)
class Actors:
    """A context manager: the parent process. One actor runs at a time."""

    fallen: int
    """The pipe that says that the curtain fell."""
    _process: subprocess.Popen[bytes] = field(init=False)
    _rest: bytes = b""
    _runs: bool = False

    def __enter__(self) -> Actors:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.machine.actors"]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(DEADLINE_S)

    def begin(self, call: str, *arguments: Any, **options: Any) -> None:
        """Starts an actor that calls a function of fastxfer."""
        while select.select([self.fallen], [], [], 0)[0]:
            os.read(self.fallen, 64)
        self._rest, self._runs = b"", True
        self._write({"call": call, "arguments": arguments, "options": options})

    def tell(self, command: str) -> None:
        """Gives the actor a command: kill, pause, resume, cancel or exit; one that ended hears nothing."""
        self._write({"command": command})

    def _write(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()

    def clear(self) -> None:
        """Ends the actor that still runs, if one does, since a test failed meanwhile."""
        if self._runs:
            self.tell("kill")
            self.end()

    @property
    def ended(self) -> bool:
        """True when the actor has ended, by itself."""
        assert self._process.stdout is not None
        told = self._process.stdout.fileno()
        while select.select([told], [], [], 0)[0]:
            block = os.read(told, 65536)
            assert block, "the parent of the actors ended"
            self._rest += block
        return _ENDED in self._rest

    def curtain_or_end(self) -> Outcome | None:
        """Returns None when the curtain fell, and how it ended if the actor ended before."""
        return self._wait(also=[self.fallen])

    def end(self) -> Outcome:
        """Returns how the actor ended, once it has."""
        outcome = self._wait(also=[])
        assert outcome is not None
        return outcome

    def _wait(self, also: list[int]) -> Outcome | None:
        assert self._process.stdout is not None
        told = self._process.stdout.fileno()
        while True:
            lines = self._rest.split(b"\n")
            if any(line.startswith(_ENDED) for line in lines):
                self._runs = False
                return _outcome(lines)
            ready, _, _ = select.select([told, *also], [], [], DEADLINE_S)
            if not ready:
                said, also = self._rest, []
                self.tell("kill")
                self.end()
                raise AssertionError(f"it does not end: {said!r}")
            if told in ready:
                block = os.read(told, 65536)
                assert block, "the parent of the actors ended"
                self._rest += block
            elif also:
                return None


def _outcome(lines: list[bytes]) -> Outcome:
    outcome = Outcome()
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue  # the end of the last line, or one that a kill cut off
        assert "crash" not in told, told["crash"]
        outcome.result = told.get("result", outcome.result)
        outcome.error = told.get("error", outcome.error)
        outcome.message = told.get("message", outcome.message)
        outcome.status = told.get("ended", outcome.status)
    told_something = outcome.result is not None or outcome.error
    assert told_something or outcome.status in (signal.SIGKILL, 0), outcome
    return outcome


# ---- the other side ----


def _say(line: dict[str, Any]) -> None:
    os.write(1, b"\n" + json.dumps(line).encode() + b"\n")


def _lines() -> Any:
    """Yields the lines of standard input as they come. It has no buffer, which an actor would inherit."""
    data = b""
    while block := os.read(0, 4096):
        data += block
        *lines, data = data.split(b"\n")
        for line in lines:
            yield json.loads(line)


def _parent() -> dict[str, Any] | None:
    """Runs jobs; returns None at the end, and in each actor its job."""
    for line in _lines():
        if "call" not in line:
            continue  # for an actor that has ended meanwhile
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os.dup2(read, 0)
            os.close(read)
            return dict(line)
        os.close(read)
        _attend(pid, write)
    return None


def _attend(pid: int, commands: int) -> None:
    """Passes commands on to an actor until it ends, and tells that."""
    ends = os.pidfd_open(pid)
    try:
        while True:
            ready, _, _ = select.select([0, ends], [], [])
            if ends in ready:
                break
            block = os.read(0, 4096)
            if not block or b'"kill"' in block:
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                continue
            with contextlib.suppress(BrokenPipeError):
                os.write(commands, block)
    finally:
        os.close(ends)
        os.close(commands)
    _say({"ended": os.waitpid(pid, 0)[1]})


def _act(job: dict[str, Any]) -> None:
    """Runs one call and tells what came of it."""
    try:
        if job["call"] == "verify":
            _say({"result": fastxfer.verify(*job["arguments"], **job["options"]).to_dict()})
        else:
            _fetch(job)
    except fastxfer.FastxferError as error:
        _say(_told(error))
    except BaseException:  # noqa: BLE001 - the test has to learn of it
        _say({"crash": traceback.format_exc()})


def _told(error: fastxfer.FastxferError) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": str(error)}


def _until_it_moves(transfer: fastxfer.Transfer) -> None:
    """Returns when the first bytes have a place: before there is nothing that a pause could be written to."""
    pulse = threading.Event()
    while not transfer.progress.transferred and not transfer.done:
        pulse.wait(0.01)


def _fetch(job: dict[str, Any]) -> None:
    transfer = fastxfer.start(*job["arguments"], **job["options"])
    leaving = threading.Event()

    def wait() -> None:
        try:
            told: dict[str, Any] = {"result": transfer.wait().to_dict()}
        except fastxfer.FastxferError as error:
            told = _told(error)
        except BaseException:  # noqa: BLE001 - the test has to learn of it
            told = {"crash": traceback.format_exc()}
        _say(told)
        if not leaving.is_set():
            os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    for line in _lines():
        match line["command"]:
            case "pause":
                _until_it_moves(transfer)
                transfer.pause()
            case "resume":
                transfer.resume()
            case "cancel":
                transfer.cancel()
            case "exit":
                leaving.set()
                return


if __name__ == "__main__":
    given = _parent()
    if given is not None:
        _act(given)
