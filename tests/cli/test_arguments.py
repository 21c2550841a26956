"""Long options, flags and variables are those of the option fields, and are named when they are wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fastxfer.cli import arguments
from fastxfer.cli.fetch import make_parser, out_path
from fastxfer.cli.probe import OF_A_FETCH
from fastxfer.errors import OptionError
from fastxfer.options import TransferOptions
from tests.cli.command import events, fastxfer, one_error
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects

DIGEST = "0" * 32


def given(*words: str, environ: dict[str, str] | None = None) -> dict[str, object]:
    parser, _, options = make_parser()
    return arguments.values(options, parser.parse(words, "urls"), environ or {})


def test_every_keyword_is_a_long_option_of_fetch() -> None:
    parser, _, _ = make_parser()
    text = parser.format_help()
    for field in fields(TransferOptions):
        assert "--" + field.name.replace("_", "-") in text
        assert all(f"{flag} {field.metadata['metavar']}" in text for flag in field.metadata["flags"])


def test_every_keyword_is_a_variable() -> None:
    samples = {
        "chunk_size": "1M",
        "max_rate": "1M",
        "max_rate_per_host": "1M",
        "max_rate_total": "1M",
        "connections_per_host": "64",
        "checksum": f"md5:{DIGEST}",
        "headers": "A: b",
        "auth": "u:p",
        "credentials": "AK:SK",
        "addressing": "path",
    }
    samples |= {
        "exists": "skip",
        "http_version": "2",
        "on_change": "fail",
        "durability": "none",
        "sink": "mmap",
    }
    for field in fields(TransferOptions):
        text = samples.get(field.name, "1")
        assert field.name in given(environ={"FASTXFER_" + field.name.upper(): text}), field.name


def test_values_are_what_the_options_take() -> None:
    found = given(
        *[
            "-x4",
            "-k",
            "1M",
            "--max-rate=5M",
            "-H",
            "A: b",
            "--header",
            "C: d",
            "--checksum",
            f"md5={DIGEST}",
        ],
        *["--stall-timeout", "2", "--on-change", "fail", "http://h/x"],
    )
    options = TransferOptions.build(**found)
    assert (options.connections, options.chunk_size, options.max_rate) == (4, 1024**2, 5 * 1024**2)
    assert options.headers == (("A", "b"), ("C", "d"))
    assert options.checksum == (("md5", DIGEST),)
    assert (options.stall_timeout, options.on_change) == (2, "fail")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--netrc", "http://h/x"], True),
        (["--netrc", "true", "http://h/x"], True),
        (["--netrc=off", "http://h/x"], False),
        (["--netrc", "no", "http://h/x"], False),
        (["http://h/x", "--netrc"], True),
        (["--netrc", "--", "http://h/x"], True),
        (["--netrc", "-q", "http://h/x"], True),
    ],
)
def test_a_flag_stands_alone_or_has_a_value_and_never_takes_the_url(words: list[str], value: bool) -> None:
    parser, _, options = make_parser()
    parsed = parser.parse(words, "urls")
    assert parsed.urls == ["http://h/x"]
    assert TransferOptions.build(**arguments.values(options, parsed, {})).netrc is value


def test_insecure_is_verify_tls_false() -> None:
    assert given("--insecure") == given("--verify-tls", "false") == {"verify_tls": "false"}


def test_the_command_line_wins_over_the_environment() -> None:
    environ = {"FASTXFER_CONNECTIONS": "3", "FASTXFER_HEADERS": "A: 1\nB: 2", "FASTXFER_SINK": ""}
    assert given(environ=environ) == {"connections": "3", "headers": ["A: 1", "B: 2"]}
    assert given("-x", "4", "-H", "C: 3", environ=environ) == {"connections": "4", "headers": ["C: 3"]}


@pytest.mark.parametrize("name", ["CONNECTIONS", "STALL_TIMEOUT", "EXISTS", "RESUME", "HEADERS", "AUTH"])
def test_a_bad_variable_is_named(name: str) -> None:
    with pytest.raises(OptionError, match=f"^variable FASTXFER_{name}: "):
        given(environ={f"FASTXFER_{name}": "no good"})


def test_a_variable_of_no_use_to_the_command_is_not_looked_at() -> None:
    options = arguments.transfer_options(without=OF_A_FETCH)
    assert "FASTXFER_SINK" not in {option.variable for option in options}
    assert {field.name for field in fields(TransferOptions)} >= OF_A_FETCH


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--password=hunter2"], "there is no option --password;"),
        (["-uhunter2"], "there is no option -u;"),
        (["--quiet=hunter2"], "argument -q/--quiet takes no value;"),
        (["--conn", "hunter2"], "there is no option --conn;"),
        (["-qzhunter2"], ""),
    ],
)
def test_what_was_typed_is_not_repeated(words: list[str], message: str) -> None:
    parser, _, _ = make_parser()
    with pytest.raises(OptionError, match="^" + re.escape(message)) as caught:
        parser.parse(words, "urls")
    assert "hunter2" not in str(caught.value)


def test_out_is_inside_dir_unless_it_is_absolute() -> None:
    assert out_path() is None
    assert (out_path("o"), out_path("o", "d"), out_path("/o", "d")) == ("o", "d/o", "/o")
    assert out_path(dir="d") == "d/"


def test_variables_reach_a_fetch(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(100)
    url = nginx.url(thing.name)
    env = {"FASTXFER_DIR": str(tmp_path), "FASTXFER_OUT": "named", "FASTXFER_JSON": "1"}
    done = fastxfer("fetch", url, env=env)
    assert events(done.stdout)[-1]["path"] == str(tmp_path / "named")
    quiet = fastxfer("fetch", url, env={**env, "FASTXFER_JSON": "", "FASTXFER_QUIET": "true"})
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    skipped = fastxfer("fetch", url, env={**env, "FASTXFER_EXISTS": "error"})
    assert events(skipped.stdout)[-1]["exit_code"] == 13
    assert (
        fastxfer("fetch", url, "--exists", "replace", env={**env, "FASTXFER_EXISTS": "error"}).returncode == 0
    )


def test_a_bad_variable_is_28(tmp_path: Path) -> None:
    done = fastxfer("fetch", "http://127.0.0.1/x", env={"FASTXFER_STALL_TIMEOUT": "-1"}, cwd=tmp_path)
    assert "variable FASTXFER_STALL_TIMEOUT: " in one_error(done, 28)
    done = fastxfer("fetch", "http://127.0.0.1/x", env={"FASTXFER_QUIET": "rather"}, cwd=tmp_path)
    assert "variable FASTXFER_QUIET: must be true or false" in one_error(done, 28)


@pytest.mark.parametrize("words", [[], ["no-such-command"], ["http://user:hunter2@127.0.0.1/x"]])
def test_no_known_command_is_help_and_28(words: list[str]) -> None:
    done = fastxfer(*words)
    assert "the commands are fetch, put, copy, mirror, uploads, probe, verify, " in one_error(done, 28)
    assert done.stdout.startswith("usage: fastxfer COMMAND")
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["fetch", "probe", "status", "demo"])
def test_help_of_a_command_ends_with_0(command: str) -> None:
    done = fastxfer(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: fastxfer {command} ")


def test_help_and_version_end_with_0() -> None:
    helped, version = fastxfer("--help"), fastxfer("--version")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "Exit status:" in helped.stdout
    assert (version.returncode, version.stderr) == (0, "")
    assert re.fullmatch(r"fastxfer \d+\.\d+\.\d+\S*\n", version.stdout)
