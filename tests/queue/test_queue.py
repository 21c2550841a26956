"""What a queue keeps, what may become of an item, and what a queue that is no good leads to."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import fastxfer
from fastxfer import Queue, database
from fastxfer.errors import OptionError, QueueError, StorageError
from fastxfer.inputs import parse
from fastxfer.options import TransferOptions
from fastxfer.progress.snapshot import STATES, Progress
from fastxfer.queue import items, store
from fastxfer.queue.items import job_of
from fastxfer.queue.runner import QueueWork
from fastxfer.queue.store import SCHEMA, Store
from tests.cli.command import COMMAND, environment
from tests.servers import find_program
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects

URL = "http://127.0.0.1:9/f"


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "state" / "queue.db")


def states(queue: Queue) -> dict[int, str]:
    return {item.id: item.state for item in queue.items()}


def in_each_state(queue: Queue, folder: Path) -> dict[str, int]:
    """Returns an item in each state but running, which takes a runner."""
    ids = {state: queue.add(f"{URL}/{state}", folder) for state in items.STATES if state != "running"}
    with sqlite3.connect(queue.path) as db:
        db.executemany("UPDATE items SET state = ? WHERE id = ?", ids.items())
    db.close()
    return ids


# ---- what is kept ----


def test_the_states_are_those_of_a_progress() -> None:
    assert set(items.STATES) <= set(STATES)


def test_an_item_keeps_what_was_given(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    id = queue.add(
        URL, "out", mirrors=["http://127.0.0.1:9/g"], priority=7, connections=3, checksum=f"md5:{'0' * 32}"
    )
    item = Queue(queue.path).item(id)
    assert (item.state, item.priority, item.url, item.path) == ("queued", 7, URL, str(tmp_path / "out"))
    assert item.mirrors == ("http://127.0.0.1:9/g",)
    assert item.options == {"connections": 3, "checksum": {"md5": "0" * 32}}
    assert json.loads(json.dumps(item.to_dict())) == item.to_dict()
    assert str(item).endswith(str(tmp_path / "out"))


SAMPLES: dict[str, Any] = {
    "connections": 3,
    "connections_per_host": 5,
    "refresh": "echo x",
    "checksum": {"md5": "0" * 32, "sha-256": "0" * 64},
    "chunk_size": "1M",
    "resume": "force",
    "exists": "skip",
    "headers": {"A": "ä"},
    "secret_headers": "x-mine",
    "auth": ("u", "p"),
    "proxy": "http://p:1",
    "client_cert": ("cert.pem", "key.pem"),
    "ca_bundle": "ca.pem",
    "http_version": "2",
    "max_rate": "5M",
    "max_rate_per_host": "6M",
    "max_rate_total": "7M",
    "on_change": "fail",
    "durability": "none",
    "sink": "pwrite",
    "mirrors": ["http://127.0.0.1:9/m"],
    "credentials": "AK:SK",
    "addressing": "path",
}


@pytest.mark.parametrize("name", sorted(TransferOptions.__dataclass_fields__))
def test_every_option_of_a_fetch_is_kept(queue: Queue, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(queue.path.parent.parent)
    given: Any = SAMPLES.get(name, 7 if isinstance(getattr(TransferOptions(), name), int | float) else "x")
    given = True if isinstance(getattr(TransferOptions(), name), bool) and name != "resume" else given
    options: dict[str, Any] = {name: given}
    queue.add(URL, "f", **options)
    with Store(queue.path) as opened:
        (row,) = opened.rows("SELECT * FROM items")
        job = job_of(row)
    wanted = TransferOptions.build(**{name: given})
    if name in ("ca_bundle", "client_cert", "checkpoint_dir"):  # files are found from anywhere
        assert all(
            os.path.isabs(path) for path in json.loads(row["options"]).values() if isinstance(path, str)
        )
        assert str(queue.path.parent.parent) in row["options"]
    elif name == "mirrors":
        assert job.mirrors == tuple(given)
    else:
        assert TransferOptions.build(**job.options) == wanted


def test_a_refresh_that_is_no_command_is_refused(queue: Queue) -> None:
    with pytest.raises(OptionError, match="must be a command"):
        queue.add(URL, "f", refresh=lambda: URL)


def test_secrets_are_kept_for_the_owner_alone_and_shown_to_nobody(queue: Queue, tmp_path: Path) -> None:
    secret = "c4n4ry"
    queue.add(
        f"http://user:{secret}@127.0.0.1:9/f?token={secret}",
        tmp_path / "f",
        mirrors=[f"http://user:{secret}@127.0.0.1:9/g?token={secret}"],
        headers={"X-Token": secret},
        auth=("user", secret),
        proxy=f"http://user:{secret}@127.0.0.1:9",
        refresh=f"echo {secret}",
    )
    (item,) = queue.items()
    for shown in (str(item), repr(item), json.dumps(item.to_dict()), repr(queue)):
        assert secret not in shown
    assert item.secret_options == ("auth", "headers", "proxy", "refresh")
    with Store(queue.path) as opened, opened.change() as db:
        db.execute("UPDATE items SET priority = 1")
        for path in queue.path.parent.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        (row,) = db.execute("SELECT * FROM items").fetchall()
        assert secret not in repr(job_of(row))
    assert stat.S_IMODE(queue.path.parent.stat().st_mode) == 0o700


def test_a_queue_that_others_could_read_is_closed_to_them(queue: Queue) -> None:
    queue.add(URL, "f")
    queue.path.chmod(0o666)
    queue.add(URL, "g")
    assert stat.S_IMODE(queue.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "given",
    [
        {"url": "ftp://h/f"},
        {"url": "http://h/"},
        {"mirrors": ["ftp://h/f"]},
        {"connections": 0},
        {"checksum": "md5:0"},
        {"priority": "high"},
        {"priority": 10**9},
        {"out": "x" * 300},
        {"out": "\udcff"},
        {"out": "\ud800"},
        {"out": "a\0b"},
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_added(queue: Queue, given: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        queue.add(**{"url": URL, **given})
    assert queue.items() == []


def test_a_name_that_is_too_long_is_refused_when_it_is_added(queue: Queue, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="too long"):
        queue.add(URL, tmp_path / ("x" * 250))


def test_two_items_that_are_not_ended_have_two_targets(queue: Queue, tmp_path: Path) -> None:
    first = queue.add(URL, tmp_path / "f")
    (tmp_path / "link").symlink_to(tmp_path)
    for same in (tmp_path / "f", tmp_path, tmp_path / "link" / "f"):
        with pytest.raises(OptionError, match="has the target"):
            queue.add(URL, same)
    queue.cancel(first)
    second = queue.add(URL, tmp_path / "f")
    with pytest.raises(OptionError, match=f"item {first} has the target of another"):
        queue.retry(first)
    assert states(queue) == {first: "cancelled", second: "queued"}


def test_many_are_added_or_none(queue: Queue, tmp_path: Path) -> None:
    queue.add(URL + "3", tmp_path)
    found = parse(b"".join(b"http://127.0.0.1:9/f%d\n" % i for i in range(6)))
    with pytest.raises(OptionError, match="line 4: another item"):
        queue.add_many(found.entries, tmp_path)
    assert len(queue.items()) == 1


def test_paused_entries_rest(queue: Queue, tmp_path: Path) -> None:
    found = parse(b"http://h/a\n pause=true\nhttp://h/b\n")
    assert queue.add_many(found.entries, tmp_path) == [1, 2]
    assert states(queue) == {1: "paused", 2: "queued"}


def test_a_queue_that_is_not_there_is_empty_and_is_not_made_by_looking(queue: Queue) -> None:
    assert queue.items() == []
    assert not queue.path.exists()


def test_the_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FASTXFER_QUEUE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Queue().path == tmp_path / "fastxfer" / "queue.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Queue().path == tmp_path / ".local" / "state" / "fastxfer" / "queue.db"
    monkeypatch.setenv("FASTXFER_QUEUE", str(tmp_path / "mine.db"))
    assert Queue().path == tmp_path / "mine.db"


# ---- changes ----

CHANGES = {
    "pause": {"queued": "paused", "paused": "paused"},
    "resume": {"paused": "queued", "queued": "queued"},
    "cancel": {"queued": "cancelled", "paused": "cancelled", "failed": "cancelled", "cancelled": "cancelled"},
    "retry": {"failed": "queued", "cancelled": "queued", "queued": "queued"},
}


@pytest.mark.parametrize("state", [state for state in items.STATES if state != "running"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_leads_where_it_may_and_is_refused_elsewhere(
    queue: Queue, tmp_path: Path, change: str, state: str
) -> None:
    ids = in_each_state(queue, tmp_path)
    wanted = CHANGES[change].get(state)
    if wanted is None:
        with pytest.raises(OptionError, match=f"item {ids[state]} is {state}"):
            getattr(queue, change)(ids[state])
        assert queue.item(ids[state]).state == state
    else:
        assert getattr(queue, change)(ids[state]) == ([] if wanted == state else [ids[state]])
        assert queue.item(ids[state]).state == wanted


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ("pause", {"queued"}),
        ("resume", {"paused"}),
        ("cancel", {"queued", "paused", "failed"}),
        ("retry", {"failed"}),
        ("remove", {"done"}),
    ],
)
def test_a_change_of_all_takes_those_that_it_is_for(
    queue: Queue, tmp_path: Path, change: str, changed: set[str]
) -> None:
    ids = in_each_state(queue, tmp_path)
    assert sorted(getattr(queue, change)()) == sorted(ids[state] for state in changed)


def test_an_item_that_is_not_there_changes_nothing(queue: Queue) -> None:
    id = queue.add(URL, "f")
    with pytest.raises(OptionError, match="no item 9"):
        queue.pause([id, 9])
    with pytest.raises(OptionError, match="no item 9"):
        queue.item(9)
    assert states(queue) == {id: "queued"}


def test_ids_are_never_used_again(queue: Queue) -> None:
    first = queue.add(URL, "f")
    assert queue.remove(first) == [first]
    assert queue.add(URL, "f") == first + 1


def test_priorities_order_the_line(queue: Queue) -> None:
    ids = [queue.add(URL, f"f{i}", priority=p) for i, p in enumerate([0, 5, -5, 5])]
    assert [item.id for item in queue.items()] == [ids[1], ids[3], ids[0], ids[2]]
    queue.set_priority(ids[2], 9)
    assert queue.items()[0].id == ids[2]


# ---- runners, without a network ----


def test_an_item_is_claimed_by_one_runner_by_priority(queue: Queue) -> None:
    ids = [queue.add(URL, f"f{i}", priority=p) for i, p in enumerate([0, 1, 0])]
    with Store(queue.path) as one, Store(queue.path) as other:
        works = [QueueWork(one), QueueWork(other)]
        claimed = [works[i % 2].claim() for i in range(4)]
        assert [job.key for job in claimed if job is not None] == [ids[1], ids[0], ids[2]]
        assert claimed[3] is None
        assert set(states(queue).values()) == {"running"}
        for work in works:
            work.close()
    assert set(states(queue).values()) == {"queued"}


def test_many_threads_claim_each_item_once(queue: Queue, tmp_path: Path) -> None:
    ids = [queue.add(URL, tmp_path / f"f{i}") for i in range(40)]
    claimed: list[int] = []
    start = threading.Barrier(4)

    def run() -> None:
        with Store(queue.path) as opened:
            work = QueueWork(opened)
            start.wait(60)
            while (job := work.claim()) is not None:
                claimed.append(job.key)
            start.wait(60)
            work.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(claimed) == ids


def test_a_runner_notices_what_others_say_of_its_items(queue: Queue, tmp_path: Path) -> None:
    ids = [queue.add(URL, tmp_path / f"f{i}") for i in range(5)]
    now = {id: Progress(done=5, size=10) for id in ids}
    with Store(queue.path) as opened:
        work = QueueWork(opened)
        for _ in ids:
            work.claim()
        assert work.look(now) == {}
        assert {(item.done, item.size) for item in queue.items()} == {(5, 10)}
        queue.pause(ids[0])
        queue.cancel(ids[1])
        queue.pause(ids[2])
        queue.resume(ids[2])
        queue.cancel(ids[3])
        queue.remove(ids[3])
        assert work.look(now) == {ids[0]: "paused", ids[1]: "cancelled", ids[3]: "cancelled"}
        assert states(queue) == {
            ids[0]: "paused",
            ids[1]: "cancelled",
            ids[2]: "running",
            ids[4]: "running",
        }
        with pytest.raises(OptionError, match="is running"):
            queue.remove(ids[4])
        work.close()
    assert states(queue) == {ids[0]: "paused", ids[1]: "cancelled", ids[2]: "queued", ids[4]: "queued"}


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ("boot = 'another'", True),
        ("started = started + 1", True),
        ("pid = 4194304", True),  # over the greatest that a process can have
        ("token = 'of an earlier runner of this process'", True),
        ("host = 'elsewhere'", False),
        ("host = 'elsewhere', heartbeat = heartbeat - 61", True),
        ("host = 'elsewhere', heartbeat = heartbeat + 61", True),
        ("space = 'elsewhere', boot = boot", False),
        ("heartbeat = heartbeat - 1000", False),  # it is there, and only sleeps
    ],
)
def test_the_items_of_a_runner_that_is_gone_are_taken_over(queue: Queue, change: str, gone: bool) -> None:
    id = queue.add(URL, "f")
    with Store(queue.path) as first, Store(queue.path) as second:
        dead = QueueWork(first)
        assert dead.claim() is not None
        with first.change() as db:
            db.execute(f"UPDATE runners SET {change}")
            db.execute("UPDATE items SET owner = (SELECT token FROM runners)")
        assert queue.item(id).state == ("queued" if gone else "running")
        assert (QueueWork(second).claim() is not None) is gone


def test_an_item_that_cannot_be_read_fails_alone(queue: Queue, tmp_path: Path) -> None:
    bad: dict[str, list[Any]] = {
        "options": ["nonsense", "[]", '{"connections": 0}', '{"no_such": 1}', "[" * 100_000],
        "url": ["", "file:///etc/passwd"],
        "path": ["relative"],
        "below": ["../../x", "other"],
        "mirrors": ["{}", "[1]"],
        "size": [-1],
    }
    ids: list[int] = []
    for column, values in bad.items():
        for value in values:
            ids.append(queue.add(URL, tmp_path / f"f{len(ids)}", retries=0))
            with sqlite3.connect(queue.path) as db:
                db.execute(f"UPDATE items SET {column} = ? WHERE id = ?", (value, ids[-1]))
            db.close()
    assert len(queue.items()) == len(ids)
    result = queue.run()
    found = queue.items()
    assert {item.state for item in found} == {"failed"}
    assert {(item.error or {})["type"] for item in found} <= {"QueueError", "OptionError"}
    assert len(result.outcomes) <= len(ids)
    assert sorted(os.listdir(tmp_path)) == ["state"]


# ---- databases that are no good ----


def test_a_damaged_queue_is_an_error_that_says_what_to_do(queue: Queue, tmp_path: Path) -> None:
    queue.add_many([(f"{URL}{i}", tmp_path / f"f{i}") for i in range(300)])
    whole = queue.path.read_bytes()
    refused = 0
    for start in range(0, len(whole), 4096):
        for size in (16, 600):
            queue.path.write_bytes(whole[:start] + b"\xa5" * size + whole[start + size :])
            try:
                queue.items()
                with Store(queue.path) as opened:
                    opened.check()
            except QueueError as error:
                refused += 1
                assert error.exit_code == 8
                assert "move it away" in str(error) or "something else" in str(error)
    assert refused > len(whole) // 4096
    queue.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(QueueError, match="move it away"):
        queue.run()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"\0" * 8192, b"SQLite format 3\0"])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "queue.db").write_bytes(content)
    queue = Queue(tmp_path / "queue.db")
    with pytest.raises(QueueError, match="no queue"):
        queue.add(URL, tmp_path)
    assert (tmp_path / "queue.db").read_bytes() == content


def test_a_queue_of_the_future_is_refused(queue: Queue) -> None:
    queue.add(URL, "f")
    with sqlite3.connect(queue.path) as db:
        db.execute(f"PRAGMA user_version = {store.VERSION + 1}")
    db.close()
    for use in (queue.items, queue.run, queue.pause):
        with pytest.raises(QueueError, match=r"is of version 2, and this fastxfer knows 1: .* newer one"):
            use()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER UPDATE ON items BEGIN DELETE FROM items; END",
        "CREATE VIEW v AS SELECT * FROM items",
        "DROP INDEX items_one_a_target",
        "ALTER TABLE items ADD COLUMN more",
    ],
)
def test_another_schema_is_refused(queue: Queue, statement: str) -> None:
    queue.add(URL, "f")
    with sqlite3.connect(queue.path) as db:
        db.execute(statement)
    db.close()
    with pytest.raises(QueueError):
        queue.items()


def test_another_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE items (id)")
    db.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(QueueError, match="of something else"):
        Queue(tmp_path / "other.db").add(URL, tmp_path)
    assert (tmp_path / "other.db").read_bytes() == before


def test_a_locked_queue_is_an_error_and_not_a_hang(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.add(URL, "f")
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    holder = sqlite3.connect(queue.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="locked") as caught:
            queue.add(URL, "g")
        assert caught.value.exit_code == 17
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    queue.add(URL, "g")


def test_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StorageError, match="no regular file"):
            Queue(path).add(URL, tmp_path)


def test_a_queue_on_a_read_only_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    unshare = find_program("unshare", install="apt-get install util-linux")
    place = tmp_path / "disk"
    place.mkdir()
    command = " ".join(COMMAND)
    script = (
        f"mount -t tmpfs none {place} && {command} queue add {URL} -d / --queue {place}/q.db && "
        f"mount -o remount,ro {place} && {{ {command} queue run --queue {place}/q.db; echo $?; "
        f"{command} queue add {URL} --queue {place}/new.db; echo $?; }}"
    )
    done = subprocess.run(
        [unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", script],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=True,
    )
    assert done.stdout.split("\n")[1:] == ["17", "17", ""]
    lines = done.stderr.splitlines()
    assert "mounted read-only" in lines[0] and "mounted read-only" in lines[1]


def test_a_queue_of_another_user_is_refused(queue: Queue) -> None:
    queue.add(URL, "f")
    if os.geteuid() == 0:
        os.chown(queue.path, 65534, -1)
        with pytest.raises(StorageError, match="another user's"):
            queue.items()
    else:
        with pytest.raises(StorageError, match=r"another user's|cannot open|no regular"):
            Queue("/etc/passwd").items()


# ---- running, with a network ----


def test_a_queue_is_run(nginx: Nginx, objects: Objects, queue: Queue, tmp_path: Path) -> None:
    things = [objects.make(200_000 + i, seed=i) for i in range(5)]
    ids = queue.add_many([nginx.url(thing.name) for thing in things], tmp_path)
    missing = queue.add(nginx.url("missing"), tmp_path, priority=1, retries=0)
    result = queue.run()
    assert (len(result.results), result.exit_code, result.first_error is not None) == (5, 3, True)
    for id, thing in zip(ids, things, strict=True):
        item = queue.item(id)
        assert (item.state, item.size, item.done, item.attempts) == ("done", thing.size, thing.size, 1)
        assert Path(item.path).read_bytes() == thing.path.read_bytes()
    error = queue.item(missing).error
    assert error is not None
    assert (error["type"], error["exit_code"], error["kept"]) == ("NotFoundError", 3, None)
    assert queue.run().to_dict()["items"] == 0
    objects.put("missing", b"there now")
    assert queue.retry() == [missing]
    assert queue.item(missing).error is None
    assert len(queue.run().results) == 1
    assert queue.item(missing).state == "done"


def test_sizes_are_known_before_the_first_byte(
    own_nginx: Nginx, objects: Objects, queue: Queue, tmp_path: Path
) -> None:
    things = [objects.make(150_000 + i, seed=i, name=f"sized-{i}") for i in range(6)]
    queue.add_many([own_nginx.url(thing.name) for thing in things], tmp_path)
    totals: list[tuple[int | None, int]] = []
    queue.run(jobs=2, progress=lambda overall: totals.append((overall.size, overall.done)))
    whole = sum(thing.size for thing in things)
    assert all(size == whole for size, done in totals if done > 0)
    assert totals[-1] == (whole, whole)
    ranges = [entry.range for entry in own_nginx.requests(count=12)]
    assert ranges[:6] == ["bytes=0-0"] * 6
    own_nginx.forget()
    queue.run()
    assert own_nginx.requests() == []


def test_contents_stay_below_their_directory(
    nginx: Nginx, objects: Objects, queue: Queue, tmp_path: Path
) -> None:
    thing = objects.make(1000)
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    found = parse(f"{nginx.url(thing.name)}\n out=a/b/c\n{nginx.url(thing.name)}\n out=link/d\n".encode())
    queue.add_many(found.entries, root)
    (root / "link").symlink_to(outside)
    queue.run()
    assert [item.state for item in queue.items()] == ["done", "failed"]
    assert (root / "a/b/c").stat().st_size == 1000
    assert list(outside.iterdir()) == []


def test_a_size_that_is_not_what_the_metalink_says_fails_before_a_byte(
    nginx: Nginx, objects: Objects, queue: Queue, tmp_path: Path
) -> None:
    thing = objects.make(5000)
    text = (
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a"><size>5001</size>'
        f"<url>{nginx.url(thing.name)}</url></file></metalink>"
    )
    (id,) = queue.add_many(parse(text.encode()).entries, tmp_path)
    queue.run()
    item = queue.item(id)
    assert item.state == "failed"
    assert "has 5000 bytes and should have 5001" in str((item.error or {})["message"])
    assert not (tmp_path / "a").exists()


def test_items_go_on_where_their_target_was_paused(
    nginx: Nginx, objects: Objects, queue: Queue, tmp_path: Path
) -> None:
    thing = objects.make(8 * 1024**2)
    out = tmp_path / "f"
    begun = threading.Event()

    def watch(progress: fastxfer.Progress) -> None:
        if progress.done > 0:
            begun.set()

    url = nginx.url(thing.name, prefix="/slow256k")
    with fastxfer.start(url, out, 4, progress=watch) as transfer:
        assert begun.wait(60)
        transfer.pause()
    id = queue.add(nginx.url(thing.name), out, resume="force")
    result = queue.run()
    assert queue.item(id).state == "done"
    assert result.results[0].resumed > 0
    assert out.read_bytes() == thing.path.read_bytes()


def test_the_schema_in_the_documentation_is_the_schema() -> None:
    page = (Path(__file__).parents[2] / "docs" / "queue.md").read_text(encoding="utf-8")
    for statement in SCHEMA.values():
        assert statement in page


def test_importing_fastxfer_does_not_import_sqlite() -> None:
    told = "print('sqlite3' in sys.modules)"
    code = f"import sys, fastxfer; {told}; fastxfer.Queue; {told}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "True"]
