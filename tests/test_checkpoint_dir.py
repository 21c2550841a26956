"""A checkpoint in a directory of its own: named for its target alone, resumed from, gone at the end."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from tests.cli.command import COMMAND
from tests.faults.scenarios import wait
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject

MIB = 1024**2
SIZE = 12 * MIB + 5
KILLS = 12
DEADLINE_S = 60.0


@pytest.fixture
def thing(objects: Objects) -> TestObject:
    """What is fetched."""
    return objects.make(SIZE, seed=17)


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """The directory for checkpoints."""
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir() if each.is_file())


def begin(url: str, out: Path, *, keep: bool = True, **options: Any) -> None:
    """Leaves a part of the object at `out`, or nothing without `keep`."""
    some = threading.Event()
    transfer = fastxfer.start(
        url,
        out,
        4,
        max_rate="8M",
        chunk_size="256K",
        progress=lambda now: some.set() if now.done > 2 * MIB else None,
        **options,
    )
    assert some.wait(DEADLINE_S)
    transfer.cancel(keep=keep)
    with pytest.raises(fastxfer.InterruptedTransferError):
        wait(transfer, DEADLINE_S)


def test_it_is_there_alone_and_is_gone_at_the_end(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path
) -> None:
    url, out = nginx.url(thing.name), tmp_path / "o"
    begin(url, out, checkpoint_dir=apart)
    (checkpoint,) = names(apart)
    assert checkpoint.startswith("o.") and checkpoint.endswith(".part.ckpt")
    assert names(tmp_path) == ["o.part"]
    result = fastxfer.fetch(url, out, checkpoint_dir=str(apart))
    assert result.resumed >= 2 * MIB
    assert out.read_bytes() == thing.path.read_bytes()
    assert (names(apart), names(tmp_path)) == ([], ["o"])


def test_targets_of_one_name_do_not_meet(nginx: Nginx, objects: Objects, tmp_path: Path, apart: Path) -> None:
    things = [objects.make(SIZE, seed=seed) for seed in (18, 19)]
    for n, each in enumerate(things):
        (tmp_path / str(n)).mkdir()
        begin(nginx.url(each.name), tmp_path / str(n) / "o", checkpoint_dir=apart)
    assert len(names(apart)) == 2
    for n, each in enumerate(things):
        result = fastxfer.fetch(nginx.url(each.name), tmp_path / str(n) / "o", checkpoint_dir=apart)
        assert result.resumed >= 2 * MIB
        assert (tmp_path / str(n) / "o").read_bytes() == each.path.read_bytes()
    assert names(apart) == []


def test_one_that_is_given_up_is_removed(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path
) -> None:
    begin(nginx.url(thing.name), tmp_path / "o", keep=False, checkpoint_dir=apart)
    assert (names(apart), names(tmp_path)) == ([], [])


def test_one_that_was_beside_the_part_file_moves_there(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path
) -> None:
    url, out = nginx.url(thing.name), tmp_path / "o"
    begin(url, out)
    assert names(tmp_path) == ["o.part", "o.part.ckpt"]
    begin(url, out, checkpoint_dir=apart)
    assert len(names(apart)) == 1
    assert names(tmp_path) == ["o.part"]
    result = fastxfer.fetch(url, out, checkpoint_dir=apart)
    assert result.resumed >= 2 * MIB
    assert out.read_bytes() == thing.path.read_bytes()
    assert (names(apart), names(tmp_path)) == ([], ["o"])


def test_who_does_not_name_the_directory_loses_no_bytes(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path
) -> None:
    url, out = nginx.url(thing.name), tmp_path / "o"
    begin(url, out, checkpoint_dir=apart)
    before = (tmp_path / "o.part").read_bytes()
    begin(url, out)
    assert (tmp_path / "o.part.orphan").read_bytes() == before
    # Now there are two: the one beside the part file is of it.
    result = fastxfer.fetch(url, out, checkpoint_dir=apart)
    assert result.resumed >= 2 * MIB
    assert not any("did not hold" in note for note in result.notes)
    assert out.read_bytes() == thing.path.read_bytes()
    assert (names(apart), names(tmp_path)) == ([], ["o", "o.part.orphan"])


def test_one_whose_part_file_is_gone_claims_nothing(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path
) -> None:
    url, out = nginx.url(thing.name), tmp_path / "o"
    begin(url, out, checkpoint_dir=apart)
    (tmp_path / "o.part").unlink()
    result = fastxfer.fetch(url, out, checkpoint_dir=apart)
    assert (result.resumed, result.transferred) == (0, SIZE)
    assert out.read_bytes() == thing.path.read_bytes()
    assert names(apart) == []


def test_that_of_another_user_is_not_believed(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, out = nginx.url(thing.name), tmp_path / "o"
    begin(url, out, checkpoint_dir=apart)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(fastxfer.CheckpointError, match="belongs to another user") as caught:
        fastxfer.fetch(url, out, checkpoint_dir=apart)
    assert caught.value.kept == str(tmp_path / "o.part")
    assert len(names(apart)) == 1


def test_the_directory_must_be_there(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    with pytest.raises(fastxfer.StorageError, match="create it first"):
        fastxfer.fetch(nginx.url(thing.name), tmp_path / "o", checkpoint_dir=tmp_path / "none")


def test_a_name_that_is_as_long_as_it_may_be(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path
) -> None:
    out = tmp_path / ("ü" * 122)
    begin(nginx.url(thing.name), out, checkpoint_dir=apart)
    result = fastxfer.fetch(nginx.url(thing.name), out, checkpoint_dir=apart)
    assert result.resumed > 0
    assert (names(apart), out.read_bytes()) == ([], thing.path.read_bytes())


@pytest.mark.parametrize("durability", ["none", "periodic", "chunk"])
def test_kills_at_random_moments_lose_no_claim_and_no_byte(
    nginx: Nginx, thing: TestObject, tmp_path: Path, apart: Path, durability: str
) -> None:
    rng, out = random.Random(f"apart {durability}"), tmp_path / "o"
    command = [
        *COMMAND, "fetch", nginx.url(thing.name), "-o", str(out), "-q", "--checkpoint-dir", str(apart),
        "--max-rate", "4M", "--chunk-size", "256K", "--durability", durability,
    ]  # fmt: skip
    killed = 0
    for _ in range(KILLS):
        with subprocess.Popen(command) as process:
            try:
                process.wait(rng.uniform(0.2, 1.2))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        if out.exists():
            break
        assert names(tmp_path) in ([], ["o.part"])
    result = fastxfer.fetch(nginx.url(thing.name), out, checkpoint_dir=apart)
    assert killed >= 3
    assert result.skipped or result.resumed > 0
    assert out.read_bytes() == thing.path.read_bytes()
    assert (names(apart), names(tmp_path)) == ([], ["o"])
