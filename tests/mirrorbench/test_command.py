"""`fastxfer bench`: what it prints, writes, saves and compares, and how a signal ends it."""

from __future__ import annotations

import json
import signal
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

import fastxfer as fastxfer_package
from fastxfer.bench_options import NETWORK, BenchOptions
from fastxfer.mirrorbench.report import BenchReport
from tests.cli.command import events, fastxfer, one_error, running
from tests.cli.terminal import Terminal
from tests.mirrorbench.rows import rate, report, row
from tests.servers import port_of, reserve_port
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects, TestObject

MIB = 1024**2
SHORT = ["-x", "1,3", "--duration", "0.32", "--rounds", "4"]


@pytest.fixture
def thing(objects: Objects) -> TestObject:
    return objects.make(8 * MIB, 41)


def test_it_prints_a_table_and_what_is_shown(nginx: Nginx, thing: TestObject) -> None:
    fast, slow = nginx.url(thing.name), nginx.url(thing.name, prefix="/slow64k")
    done = fastxfer("bench", slow, fast, *SHORT, "-x", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (
        " ".join(lines[0].split()) == "# mirror rate (95 %) at first byte dns connect tls errors HTTP object"
    )
    assert lines[1].split()[:2] == ["1", fast]
    assert lines[2].split()[:2] == ["2", slow]
    assert any(line.startswith(f"{fast} is faster than {slow}: ") for line in lines)
    assert lines[-1].startswith(f"for {fast} ")


def test_json_tells_how_far_it_is_and_ends_with_the_report(nginx: Nginx, thing: TestObject) -> None:
    done = fastxfer("bench", nginx.url(thing.name), *SHORT, "--json", "--seed", "5")
    *before, result = events(done.stdout)
    assert {each["event"] for each in before} == {"progress"}
    assert before[-1]["total"] == 12
    assert (result["event"], result["seed"], result["interrupted"]) == ("result", 5, False)
    assert result["rows"][0]["url"] == nginx.url(thing.name)
    assert result["rows"][0]["by_connections"][1]["connections"] == 3


def test_a_variable_is_as_good_as_an_option(nginx: Nginx, thing: TestObject) -> None:
    variables = {"FASTXFER_CONNECTIONS": "2", "FASTXFER_DURATION": "0.3", "FASTXFER_ROUNDS": "4"}
    done = fastxfer("bench", nginx.url(thing.name), "--json", env=variables)
    result = events(done.stdout)[-1]
    assert (result["connections"], result["duration"], result["rounds"]) == ([2], 0.3, 4)


def test_every_keyword_is_a_long_option() -> None:
    text = fastxfer("bench", "--help").stdout
    names = {*signature(fastxfer_package.bench).parameters} - {"urls", "progress", "options"}
    assert names == {each.name for each in fields(BenchOptions)}
    for name in {*names, *NETWORK, "plot", "html", "save", "compare", "mirrors_from"}:
        assert f"--{name.replace('_', '-')} " in text, name


def test_all_down_is_a_table_and_the_status_of_the_first(nginx: Nginx) -> None:
    with reserve_port() as holder:
        url = f"http://127.0.0.1:{port_of(holder)}/x"
        done = fastxfer("bench", url, nginx.url("missing"), *SHORT)
        assert done.returncode in (3, 6)
        assert one_error(done, done.returncode) == "fastxfer: no mirror can be used\n"
    assert f"{url}: not used: no connection was made" in done.stdout
    assert "404" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no URL"),
        (["nonsense"], "scheme"),
        (["http://h/x", "--duration", "0"], "--duration"),
        (["http://h/x", "-x", "1,zero"], "-x/--connections"),
        (["http://h/x", "--plot", "x.gif"], ".png, .svg, .pdf"),
        (["--mirrors-from", "/dev/null"], "none that is known"),
        (["--sink", "mmap", "http://h/x"], "--sink"),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments: list[str], said: str) -> None:
    assert said in one_error(fastxfer("bench", *arguments), 28)


def test_page_and_plot_are_written(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    page, plot = tmp_path / "page.html", tmp_path / "plot.svg"
    done = fastxfer("bench", nginx.url(thing.name), *SHORT, "--html", page, "--plot", plot, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert nginx.url(thing.name) in page.read_text()
    assert plot.read_text().startswith("<?xml")


def test_runs_are_saved_and_compared(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    url = nginx.url(thing.name)
    earlier = report(row(url, rate(1, 0.001)), row("http://gone/x", rate(1, 1)))
    runs.write_text(earlier.to_json() + "\n")
    done = fastxfer("bench", url, *SHORT, "--compare", runs, "--save", runs)
    assert done.returncode == 0
    assert f"{url}: faster: " in done.stdout
    assert f"http://gone/x: it was measured on {earlier.measured_at} only" in done.stdout
    saved = [BenchReport.from_json(line) for line in runs.read_text().splitlines()]
    assert (len(saved), saved[0], saved[1].rows[0].url) == (2, earlier, url)
    again = fastxfer("bench", "--compare", runs)
    assert f"{url}: faster: " in again.stdout
    assert events(fastxfer("bench", "--compare", runs, "--json").stdout)[-1]["changes"]


def test_what_was_not_saved_is_not_compared(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert "cannot read" in one_error(fastxfer("bench", "--compare", runs), 17)
    runs.write_text("hello\n")
    assert "no report" in one_error(fastxfer("bench", "--compare", runs), 28)
    runs.write_text(report(row("http://a/x", rate(1, 1))).to_json())
    assert "only one saved run" in one_error(fastxfer("bench", "--compare", runs), 28)
    runs.write_text('{"format": 1, "rows": 5}\n')
    assert "no report" in one_error(fastxfer("bench", "--compare", runs), 28)


def test_a_fetch_takes_the_best_of_a_saved_run(nginx: Nginx, objects: Objects, tmp_path: Path) -> None:
    thing = objects.make(8 * MIB, 41)
    stale = objects.make(8 * MIB, 42, "stale/saved.bin")
    good = [nginx.url(thing.name), nginx.url(thing.name, prefix="/etagless")]
    runs, out = tmp_path / "runs", tmp_path / "out"
    assert fastxfer("bench", nginx.url(stale.name), *good, *SHORT, "--save", runs).returncode == 0
    done = fastxfer("fetch", "--mirrors-from", runs, "-o", out, "--json")
    result = events(done.stdout)[-1]
    assert result["event"] == "result" and set(result["sources"]) <= set(good)
    assert out.read_bytes() == thing.path.read_bytes()


def test_a_fetch_takes_mirrors_from_a_list_too(nginx: Nginx, thing: TestObject, tmp_path: Path) -> None:
    mirrors, out = tmp_path / "mirrors", tmp_path / "out"
    mirrors.write_text(f"{nginx.url(thing.name)}\n{nginx.url(thing.name, prefix='/etagless')}\n")
    with reserve_port() as holder:
        down = f"http://127.0.0.1:{port_of(holder)}/x"
        done = fastxfer("fetch", down, "--mirrors-from", mirrors, "-o", out)
    assert done.returncode == 0
    assert out.read_bytes() == thing.path.read_bytes()
    mirrors.write_text("")
    assert "none that is known" in one_error(fastxfer("fetch", "--mirrors-from", mirrors, "-o", out), 28)


def test_a_list_of_bases_is_measured_by_an_object_below(
    nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(8 * MIB, 41)
    mirrors = tmp_path / "mirrorlist"
    mirrors.write_text(f"Server = {nginx.url('', prefix='/etagless')}/$repo\nServer = {nginx.url('')}\n")
    found = ["--mirrors-from", str(mirrors), "--repo", thing.name, "--object-path", ""]
    assert "--object-path" in one_error(fastxfer("bench", *found, *SHORT), 28)
    mirrors.write_text(f"Server = {nginx.url('', prefix='/etagless')}\nServer = {nginx.url('')}\n")
    done = fastxfer("bench", "--mirrors-from", mirrors, "--object-path", thing.name, *SHORT, "--json")
    rows = events(done.stdout)[-1]["rows"]
    wanted = {nginx.url(thing.name), nginx.url(thing.name, prefix="/etagless")}
    assert {each["url"] for each in rows} == wanted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_signal_shows_what_was_measured(
    nginx: Nginx, thing: TestObject, tmp_path: Path, number: signal.Signals, options: list[str]
) -> None:
    saved = tmp_path / "runs"
    slow = nginx.url(thing.name, prefix="/slow1m")
    words = [slow, "-x", "2", "--duration", "30", "--rounds", "60", "--json"]
    if not options:
        words.remove("--json")
    nginx.forget()
    with running("bench", *words, "--save", saved) as process:
        nginx.requests(thing.name, count=8)
        process.send_signal(number)
        process.send_signal(number)  # an impatient user
        stdout, stderr = process.communicate()
    assert process.returncode == 7
    assert stderr == "fastxfer: stopped; the same command starts it again\n"
    if options:
        *_, partial, error = events(stdout)
        assert (partial["event"], partial["interrupted"]) == ("partial", True)
        assert partial["rows"][0]["rate"] > 0
        assert (error["event"], error["exit_code"]) == ("error", 7)
    else:
        assert slow in stdout and "MiB/s" in stdout
    assert json.loads(saved.read_text())["interrupted"] is True


def test_on_a_terminal_there_is_a_bar_and_a_table(nginx: Nginx, thing: TestObject) -> None:
    url = nginx.url(thing.name)
    with Terminal("bench", url, *SHORT, columns=160) as terminal:
        terminal.wait_for("/12")
        assert terminal.end() == 0
        text = terminal.text
    assert "first byte" in text and url in text and "connection" in text
