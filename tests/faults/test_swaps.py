"""Files and directories that are swapped for others while a transfer runs: its bytes go where they should or
nowhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer.errors import StorageError, TargetExistsError
from tests.cli.command import wait_until
from tests.descriptors import held_open
from tests.faults.planting import PRECIOUS, SWAPS, link_to_precious, tree
from tests.faults.scenarios import (
    DEADLINE_S,
    OBJECT,
    QUICK,
    Asked,
    Scenario,
    crosswise,
    everywhere,
    fresh,
    wait,
)


@contextmanager
def under_way(scenario: Scenario, **options: Any) -> Iterator[fastxfer.Transfer]:
    """Gives a transfer of which every answer stalls half-way, and lets it go on at the end."""
    gate, moving = threading.Event(), threading.Event()

    def half(asked: Asked) -> None:
        middle = len(asked.data) // 2
        asked.send(body=asked.data[:middle])
        moving.set()
        asked.connection.stall(gate)
        asked.connection.send(asked.data[middle:])

    scenario.server_does(half)
    quick = {**QUICK, "stall_timeout": 30, **options}
    transfer = fastxfer.start(scenario.url, scenario.out, scenario.connections, **quick)
    try:
        assert moving.wait(DEADLINE_S)
        if len(scenario.data) > 1024**2:
            wait_until((scenario.directory / "out.part.ckpt").exists)
        yield transfer
    finally:
        gate.set()
        if not transfer.done:
            outcome(transfer)


def outcome(transfer: fastxfer.Transfer) -> fastxfer.FastxferError | None:
    """Returns how a transfer failed, None if it did not."""
    try:
        wait(transfer)
    except fastxfer.FastxferError as error:
        return error
    return None


@crosswise
@pytest.mark.parametrize("exists", ["update", "error"])
@pytest.mark.parametrize("swap", SWAPS)
def test_a_part_file_that_is_swapped_meanwhile_never_becomes_the_target(
    tmp_path: Path,
    connections: int,
    resumed: bool,
    swap: str,
    exists: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with Scenario(tmp_path, connections, resumed) as scenario:
        part = scenario.directory / "out.part"
        with under_way(scenario, exists=exists) as transfer:
            SWAPS[swap](part)
            planted = tree(tmp_path)
        with pytest.raises(StorageError, match="was removed or replaced meanwhile") as caught:
            wait(transfer)
        assert caught.value.exit_code == 17
        assert not os.path.lexists(scenario.out)
        now = tree(tmp_path)
        ours = ("target/out.part.ckpt", "moved-out.part")
        assert {name: now[name] for name in now if name not in ours} == {
            name: planted[name] for name in planted if name not in ours
        }
        if os.path.lexists(part):
            part.rmdir() if part.is_dir() and not part.is_symlink() else part.unlink()
        scenario.handler.wrong = None
        scenario.arrives()


@crosswise
@pytest.mark.parametrize("swap", SWAPS)
def test_a_checkpoint_that_is_swapped_meanwhile_leads_nowhere(
    tmp_path: Path, connections: int, resumed: bool, swap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Scenario(tmp_path, connections, resumed) as scenario:
        with under_way(scenario) as transfer:
            SWAPS[swap](scenario.directory / "out.part.ckpt")
        if swap == "directory":
            with pytest.raises(StorageError, match="cannot remove"):
                wait(transfer)
        else:
            wait(transfer)
            assert scenario.names() == ["out"]
        assert scenario.out.read_bytes() == OBJECT
        if swap == "link":
            assert (tmp_path / "precious").read_bytes() == PRECIOUS


@crosswise
@pytest.mark.parametrize("exists", ["update", "error"])
@pytest.mark.parametrize("swap", ["link", "dangling", "loop", "device", "pipe"])
def test_a_link_that_is_put_at_the_target_meanwhile_is_not_followed(
    tmp_path: Path, connections: int, resumed: bool, swap: str, exists: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        with under_way(scenario, exists=exists) as transfer:
            SWAPS[swap](scenario.out)
            planted = scenario.out.lstat()
        if exists == "error":
            with pytest.raises(TargetExistsError):
                wait(transfer)
            assert scenario.out.lstat() == planted
            assert (scenario.directory / "out.part").read_bytes() == OBJECT
        else:
            wait(transfer)
            assert not scenario.out.is_symlink()
            assert scenario.out.read_bytes() == OBJECT
            assert scenario.names() == ["out"]
        if swap == "link":
            assert (tmp_path / "precious").read_bytes() == PRECIOUS


@everywhere
@pytest.mark.parametrize("sink", ["direct", "mmap", "pwrite"])
@pytest.mark.parametrize("durability", ["periodic", "none"])
def test_a_directory_that_is_swapped_for_a_link_meanwhile_leads_nowhere_else(
    tmp_path: Path, connections: int, resumed: bool, sink: str, durability: str
) -> None:
    with Scenario(tmp_path, connections, resumed) as scenario:
        (tmp_path / "elsewhere").mkdir()
        with under_way(scenario, sink=sink, durability=durability) as transfer:
            scenario.directory.rename(tmp_path / "moved")
            scenario.directory.symlink_to("elsewhere")
        wait(transfer)
        assert os.listdir(tmp_path / "elsewhere") == []
        assert os.listdir(tmp_path / "moved") == ["out"]
        assert (tmp_path / "moved" / "out").read_bytes() == OBJECT


@fresh
def test_a_small_objects_directory_and_part_file_may_be_swapped_too(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections, data=OBJECT[:100_000]) as scenario:
        (tmp_path / "elsewhere").mkdir()
        with under_way(scenario) as transfer:
            scenario.directory.rename(tmp_path / "moved")
            scenario.directory.symlink_to("elsewhere")
            link_to_precious(tmp_path / "moved" / "out.part")
        with pytest.raises(StorageError, match="was removed or replaced meanwhile"):
            wait(transfer)
        assert os.listdir(tmp_path / "elsewhere") == []
        assert not os.path.lexists(tmp_path / "moved" / "out")
        assert (tmp_path / "precious").read_bytes() == PRECIOUS


@everywhere
def test_a_parent_further_up_that_is_swapped_meanwhile_leads_nowhere_else(
    tmp_path: Path, connections: int, resumed: bool
) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "elsewhere" / "target").mkdir(parents=True)
    with Scenario(tmp_path / "top", connections, resumed) as scenario:
        with under_way(scenario) as transfer:
            (tmp_path / "top").rename(tmp_path / "moved")
            (tmp_path / "top").symlink_to("elsewhere")
        wait(transfer)
    assert os.listdir(tmp_path / "elsewhere" / "target") == []
    assert (tmp_path / "moved" / "target" / "out").read_bytes() == OBJECT


@everywhere
def test_a_change_of_the_current_directory_leads_nowhere_else(
    tmp_path: Path, connections: int, resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with Scenario(tmp_path, connections, resumed) as scenario:
        monkeypatch.chdir(scenario.directory)
        scenario.out = Path("out")
        with under_way(scenario) as transfer:
            monkeypatch.chdir(tmp_path / "elsewhere")
        wait(transfer)
        assert os.listdir(tmp_path / "elsewhere") == []
        assert scenario.names() == ["out"]
        assert (scenario.directory / "out").read_bytes() == OBJECT


@fresh
def test_a_transfer_that_is_over_holds_nothing_open(tmp_path: Path, connections: int) -> None:
    with Scenario(tmp_path, connections) as scenario:
        kept: list[fastxfer.Transfer] = []

        def fails(kind: type[fastxfer.FastxferError] | None, **options: Any) -> None:
            transfer = fastxfer.start(scenario.url, scenario.out, connections, **{**QUICK, **options})
            assert type(outcome(transfer)) is (kind or type(None))
            kept.append(transfer)  # who keeps it keeps nothing open

        scenario.server_does(lambda asked: asked.connection.respond(404))
        fails(fastxfer.NotFoundError)
        assert held_open(scenario.directory) == 0
        with under_way(scenario) as transfer:
            running = held_open(scenario.directory)
            fails(fastxfer.TargetBusyError)
            assert held_open(scenario.directory) == running >= 3
        wait(transfer)
        assert held_open(scenario.directory) == 0
        scenario.handler.wrong = None
        for exists in ("update", "skip", "replace"):
            fails(None, exists=exists)
            assert held_open(scenario.directory) == 0, exists
        fails(fastxfer.TargetExistsError, exists="error")
        fails(fastxfer.ChecksumError, exists="replace", checksum="sha256:" + "0" * 64)
        assert held_open(scenario.directory) == 0
