"""The forms of a download that users of the stores' own libraries know: parts of a given size on so many
threads with a checkpoint that they name, and presigned links.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import alibabacloud_oss_v2 as oss_v2
import pytest

import fastxfer
from tests.cli.command import COMMAND
from tests.cli.command import fastxfer as command
from tests.servers.objects import make_bytes
from tests.servers.proxy import Harm, Proxy
from tests.servers.rgw import Rgw
from tests.servers.store import Store, make_client
from tests.stores import known, url

MIB = 1 << 20
DATA = make_bytes(6 * MIB + 11, 2)
KILLS = 6


def as_options(store: Store) -> list[str]:
    """Returns what a caller says of a store on the command line."""
    return [f"--{name}={value}" for name, value in known(store).items()]


# ---- parts, threads and a checkpoint ----


@pytest.mark.parametrize(
    ("size", "chunk_size", "connections"),
    [(300, "1", 7), (300, "1", 1), (1, "1", 4), (0, "1", 4), (70_000, "5G", 4), (6 * MIB, "5G", 4)],
)
def test_parts_are_from_one_byte_to_five_gibibytes(
    oss_store: Store, tmp_path: Path, size: int, chunk_size: str, connections: int
) -> None:
    oss_store.put("o", DATA[:size])
    options = {**known(oss_store), "chunk_size": chunk_size}
    result = fastxfer.fetch(url(oss_store, "o"), tmp_path / "o", connections, **options)
    assert (tmp_path / "o").read_bytes() == DATA[:size]
    assert result.transferred == size


def test_a_checkpoint_has_the_place_that_is_named_until_the_end(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    (tmp_path / "checkpoints").mkdir()
    out = tmp_path / "out" / "o"
    options: dict[str, Any] = {"chunk_size": "64K", "checkpoint_dir": tmp_path / "checkpoints"}
    out.parent.mkdir()
    cut = lambda call, number: Harm(cut_answer=MIB) if number > 0 else None  # noqa: E731
    with Proxy(store, cut) as proxy, pytest.raises(fastxfer.NetworkError) as caught:
        fastxfer.fetch(url(store, "o"), out, 1, retries=0, **known(proxy.store), **options)
    assert caught.value.kept
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert [each.name for each in out.parent.iterdir()] == ["o.part"]
    result = fastxfer.fetch(url(store, "o"), out, 5, **known(store), **options)
    assert result.resumed > 0
    assert out.read_bytes() == DATA
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_kill_at_any_moment_is_gone_on_from(oss_store: Store, tmp_path: Path) -> None:
    oss_store.put("o", DATA)
    (tmp_path / "checkpoints").mkdir()
    out, rng, killed = tmp_path / "o", random.Random("forms"), 0
    line = [
        *COMMAND, "fetch", url(oss_store, "o"), "-o", str(out), "-q", "-x3", "-k100K", "--max-rate=3M",
        f"--checkpoint-dir={tmp_path / 'checkpoints'}", *as_options(oss_store),
    ]  # fmt: skip
    for _ in range(KILLS):
        with subprocess.Popen(line) as process:
            try:
                process.wait(rng.uniform(0.3, 1.0))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
    done = command(*line[len(COMMAND) :], "--json")
    assert (done.returncode, killed >= 2) == (0, True), done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["resumed"] > 0 or out.exists()
    assert out.read_bytes() == DATA
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_without_resume_what_is_there_is_dropped(oss_store: Store, tmp_path: Path) -> None:
    oss_store.put("o", DATA)
    cut = lambda call, number: Harm(cut_answer=MIB) if number > 0 else None  # noqa: E731
    with Proxy(oss_store, cut) as proxy, pytest.raises(fastxfer.NetworkError):
        fastxfer.fetch(url(oss_store, "o"), tmp_path / "o", 1, retries=0, **known(proxy.store))
    result = fastxfer.fetch(url(oss_store, "o"), tmp_path / "o", resume=False, **known(oss_store))
    assert (result.resumed, result.transferred) == (0, len(DATA))
    assert [each.name for each in tmp_path.iterdir()] == ["o"]


# ---- presigned links ----


@pytest.fixture(params=["rgw", "seaweedfs", "rclone", "oss"])
def link(request: pytest.FixtureRequest) -> str:
    """A link to an object, signed by the store's own library."""
    store: Store = request.getfixturevalue(request.param).store().make_bucket()
    store.put("dir/a b", DATA)
    if store.kind == "oss":
        return oss_link(store, "dir/a b")
    client = make_client(store.endpoint, store.user)
    signed: str = client.generate_presigned_url(
        "get_object", Params={"Bucket": store.bucket, "Key": "dir/a b"}, ExpiresIn=600
    )
    return signed


def oss_link(store: Store, key: str) -> str:
    config = oss_v2.config.load_default()
    config.credentials_provider = oss_v2.credentials.StaticCredentialsProvider(
        store.access_key, store.secret_key
    )
    config.region, config.endpoint, config.use_path_style = store.region, store.endpoint, True
    wanted = oss_v2.GetObjectRequest(bucket=store.bucket, key=key)
    made: str = oss_v2.Client(config).presign(wanted, expires=timedelta(seconds=600)).url
    return made


def test_a_presigned_link_is_fetched_by_ranges_and_goes_on(link: str, tmp_path: Path) -> None:
    out = tmp_path / "o"
    with pytest.raises(fastxfer.InterruptedTransferError):
        begun = fastxfer.start(link, out, 2, max_rate="4M", chunk_size="128K")
        begun.cancel()
        begun.wait(60)
    result = fastxfer.fetch(link, out, 4, chunk_size="128K")
    assert out.read_bytes() == DATA
    assert result.requests > 1
    assert result.verified == ("server" if "x-oss-" in link else "none")
    assert "ignature" not in str(result.to_dict())


def test_a_link_to_an_object_that_is_kept_coded_brings_it_as_it_is_kept(rgw: Rgw, tmp_path: Path) -> None:
    store = rgw.store().make_bucket()
    store.put("o", DATA, ContentEncoding="gzip")
    what = {"Bucket": store.bucket, "Key": "o"}
    link: str = make_client(store.endpoint, store.user).generate_presigned_url("get_object", Params=what)
    fastxfer.fetch(link, tmp_path / "o", 4)
    assert (tmp_path / "o").read_bytes() == DATA


def test_a_link_to_another_key_is_refused_without_its_signature(link: str, tmp_path: Path) -> None:
    with pytest.raises(fastxfer.AuthError) as caught:
        fastxfer.fetch(link.replace("dir/a", "dir/c"), tmp_path / "o")
    assert "ignature=" not in str(caught.value.to_dict())


# ---- what is told ----


def test_oss_tells_its_request_and_its_code_of_the_error(oss_store: Store) -> None:
    with pytest.raises(fastxfer.StoreNotFoundError) as caught:
        fastxfer.probe(url(oss_store, "missing"), **known(oss_store))
    error = caught.value
    assert error.request_id and error.ec
    assert error.request_id in str(error) and error.ec in str(error)
    assert (error.to_dict()["ec"], error.to_dict()["code"]) == (error.ec, "NoSuchKey")


def test_the_variables_of_fastxfer_say_where_and_who(store: Store, tmp_path: Path) -> None:
    store.put("o", DATA)
    told = {**known(store), "addressing": "path"}
    variables = {f"FASTXFER_{name.upper()}": str(value) for name, value in told.items()}
    done = command("fetch", url(store, "o"), "-o", tmp_path / "o", "--json", env=variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o").read_bytes() == DATA
    assert store.secret_key not in done.stdout + done.stderr


WITHOUT = """
import runpy, sys
sys.modules[sys.argv.pop(1)] = None
runpy.run_module("fastxfer", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("library", "where"), [("botocore", "s3://b/o"), ("alibabacloud_credentials", "oss://bucket/o")]
)
def test_who_lacks_the_library_is_told_which_extra_has_it(tmp_path: Path, library: str, where: str) -> None:
    bare = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    line = [sys.executable, "-c", WITHOUT, library, "fetch", where, "-o", str(tmp_path / "o"), "--json"]
    done = subprocess.run(
        [*line, "--profile=p", "--region=x-1"], env=bare, cwd=Path.cwd(), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    error = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, error["type"]) == (24, "CredentialsError")
    assert f"pip install 'fastxfer[{where.partition(':')[0]}]'" in error["message"]
