"""What a command imports: what it has no use for is not there, and does not keep it from starting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fastxfer
from tests.cli.command import DEADLINE_S, environment
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects

# Each takes 0.5 to 5 ms, of the 60 or so of a small fetch.
NOT_FOR_A_FETCH = {
    "asyncio", "botocore", "bz2", "calendar", "concurrent.futures", "email.utils", "http", "logging",
    "lzma", "numpy", "pyexpat", "random", "rich", "secrets", "shutil", "sqlite3", "string", "subprocess",
    "tempfile", "textwrap", "traceback", "unicodedata", "urllib.request", "xml", "zipfile",
    "fastxfer.batch", "fastxfer.dataset", "fastxfer.examining", "fastxfer.inputs", "fastxfer.many",
    "fastxfer.metalinks", "fastxfer.plan.expiry", "fastxfer.plan.parts", "fastxfer.probe_result",
    "fastxfer.probing", "fastxfer.progress.bar", "fastxfer.progress.overall", "fastxfer.put_results",
    "fastxfer.queue", "fastxfer.refusals", "fastxfer.repairing",
    "fastxfer.sources.credential_chain", "fastxfer.sources.locations", "fastxfer.sources.signing",
    "fastxfer.sources.store", "fastxfer.sources.store_access", "fastxfer.sources.store_errors",
    "fastxfer.sources.tus", "fastxfer.storage.reopening", "fastxfer.storage.upload_file",
    "fastxfer.uploading", "fastxfer.verification", "fastxfer.verify_results",
}  # fmt: skip
NOT_FOR_HELP = NOT_FOR_A_FETCH | {"argparse", "dataclasses", "pycurl", "fastxfer.api", "fastxfer.options"}
# What one from a store, with credentials from the environment, needs besides.
FOR_A_STORE = {"pyexpat", "xml", "fastxfer.sources.credential_chain", "fastxfer.sources.locations"} | {
    f"fastxfer.sources.{name}" for name in ("signing", "store", "store_access", "store_errors")
}
# What callers give or are given is of the standard kind, whose making takes five times as long.
STANDARD_DATACLASSES = {
    f"dataclass in fastxfer.{name}"
    for name in ("options", "progress.snapshot", "results", "sources.credentials")
}
TELL = """
import os, sys
before = set(sys.modules)
from fastxfer.cli.main import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as told:
    print(*(sys.modules.keys() - before), sep="\\n", file=told)
    import dataclasses
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "fastxfer":
            if getattr(module, "dataclass", None) is dataclasses.dataclass:
                print("dataclass in", name, file=told)
sys.stdout.flush()
os._exit(code)
"""


def imported_by(tmp_path: Path, *arguments: str, **more: str) -> set[str]:
    """Returns the modules that a command imports up to its end, which must be a good one, and which of our
    own have standard dataclasses.
    """
    told = tmp_path / "told"
    # As where nobody has logged in.
    env = environment({"XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path), **more})
    command = [sys.executable, "-c", TELL, str(told), *arguments]
    subprocess.run(command, env=env, timeout=DEADLINE_S, stdout=subprocess.DEVNULL, check=True)
    return set(told.read_text().splitlines())


def test_a_plain_fetch_imports_only_what_it_needs(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(3)
    imported = imported_by(tmp_path, "fetch", nginx.url(thing.name), "-o", str(tmp_path / "out"))
    assert (tmp_path / "out").stat().st_size == 3
    assert "fastxfer.download" in imported
    assert imported & NOT_FOR_A_FETCH == set()
    assert {each for each in imported if " in " in each} == STANDARD_DATACLASSES


def test_a_fetch_from_a_store_imports_only_what_it_needs(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    objects.make(3, name="bucket/key")
    out = tmp_path / "out"
    where = ("s3://bucket/key", "--endpoint", nginx.url("").rstrip("/"), "--addressing", "path")
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_REGION": "here"}
    imported = imported_by(tmp_path, "fetch", *where, "-o", str(out), **keys)
    assert out.stat().st_size == 3
    assert imported & NOT_FOR_A_FETCH == FOR_A_STORE
    assert {each for each in imported if " in " in each} == STANDARD_DATACLASSES


@pytest.mark.parametrize("asked", ["--version", "--help"])
def test_the_version_and_the_help_do_not_start_the_engine(asked: str, tmp_path: Path) -> None:
    imported = imported_by(tmp_path, asked)
    assert "fastxfer.cli.main" in imported
    assert imported & NOT_FOR_HELP == set()


def test_the_package_has_its_names_before_they_are_imported() -> None:
    script = "import fastxfer, sys; print(*dir(fastxfer)); print('pycurl' in sys.modules); fastxfer.fetch"
    script += "; print('pycurl' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    names, before, after = done.stdout.splitlines()
    assert set(fastxfer.__all__) <= set(names.split())
    assert (before, after) == ("False", "True")
    assert all(getattr(fastxfer, name) is not None for name in fastxfer.__all__)


def test_the_help_is_as_wide_as_the_terminal() -> None:
    def widest(columns: str) -> int:
        done = subprocess.run(
            [sys.executable, "-m", "fastxfer", "fetch", "--help"],
            env={**environment(), "COLUMNS": columns},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        return max(map(len, done.stdout.partition("transfer:")[2].partition("\n\n")[0].splitlines()))

    assert widest("70") < 80
    assert widest("160") > 100
