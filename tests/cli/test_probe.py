"""`fastxfer probe`: what a server tells, in lines and as JSON."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import events, fastxfer, one_error
from tests.servers import port_of, reserve_port
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects


def test_it_tells_size_ranges_and_validators(nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(3 * 1024**2)
    done = fastxfer("probe", nginx.url(thing.name))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == nginx.url(thing.name)
    assert "  size           3 MiB (3145728 bytes)" in lines
    assert "  ranges         yes" in lines
    assert any(line.startswith('  etag           "') for line in lines)


def test_json_is_one_object(nginx: Nginx, objects: Objects) -> None:
    thing = objects.make(1000)
    done = fastxfer("probe", "--json", nginx.url(thing.name, prefix="/redirect"))
    (told,) = events(done.stdout)
    assert (told["event"], told["size"], told["accepts_ranges"]) == ("result", 1000, True)
    assert (told["url"], told["redirects"]) == (nginx.url(thing.name), 1)


def test_no_ranges_are_told(nginx: Nginx, objects: Objects) -> None:
    done = fastxfer("probe", nginx.url(objects.make(1000).name, prefix="/noranges"))
    assert "  ranges         no" in done.stdout


def test_it_takes_the_network_options(nginx: Nginx, objects: Objects) -> None:
    name = objects.make(1000).name
    url = nginx.url(name, prefix="/auth")
    one_error(fastxfer("probe", url), 24)
    assert fastxfer("probe", url, "--auth", "user:pass").returncode == 0
    assert fastxfer("probe", url, env={"FASTXFER_AUTH": "user:pass"}).returncode == 0
    one_error(fastxfer("probe", nginx.url(name, tls=True), "--retries", "0"), 6)
    assert fastxfer("probe", nginx.url(name, tls=True), "--insecure").returncode == 0


def test_its_errors_have_their_status(nginx: Nginx, tmp_path: Path) -> None:
    one_error(fastxfer("probe", nginx.url("not-there")), 3)
    one_error(fastxfer("probe"), 28)
    one_error(fastxfer("probe", "http://h/a", "http://h/b"), 28)
    one_error(fastxfer("probe", "http://h/a", "--sink", "mmap"), 28)
    with reserve_port() as holder:
        done = fastxfer("probe", f"http://127.0.0.1:{port_of(holder)}/x", "--retries", "0", "--json")
    one_error(done, 6)
    assert events(done.stdout)[-1]["type"] == "NetworkError"
