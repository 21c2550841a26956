"""The page about a mirror run: whole, escaped, from a report alone; and the file that it goes to."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastxfer.dataset.page import page, rates_of
from fastxfer.dataset.report import Counts, Failure, HostCount, MirrorReport, Sample, Slow
from fastxfer.drawing import columns, over_time, steps, time_steps
from fastxfer.errors import StorageError

NASTY = "a<script>alert('1')</script>&\"\x1b[31m\u202egnp.exe\udc80\n"
REPORT = MirrorReport(
    "http://example.org/set/",
    "/data/set",
    complete=True,
    listed=1234,
    new=1200,
    fetched=1190,
    same=30,
    failed=7,
    refused=3,
    deleted=2,
    bytes=5 << 20,
    elapsed=20.0,
    requests=1199,
    failures=tuple(Failure(f"gone/{n}", "NotFoundError", "the server answered 404") for n in range(7)),
    refusals=tuple(Failure(f"../{n}", "refused", "it is not safe") for n in range(3)),
    deletions=("old/a", "old/b"),
    hosts=(HostCount("example.org", 1190, 5 << 20, 7),),
    slowest=(Slow("large.tar", 9.5, 1 << 20),),
    samples=(Sample(0.0, 0, 0), Sample(10.0, 4 << 20, 190), Sample(20.0, 5 << 20, 1190)),
    sizes={1024: 90, 16384: 1000, 1 << 20: 100},
)


class Looked(HTMLParser):
    """What a browser would see: texts, and the tags with their attributes; each tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "path"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "path"):
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def test_the_page_says_all_that_the_report_has() -> None:
    seen = Looked(page(REPORT))
    for said in (
        *("http://example.org/set/", "to /data/set", "1,234", "1,190", "5 MiB", "256 KiB/s", "20 s"),
        *("gone/0", "gone/6", "the server answered 404", "../2", "it is not safe", "old/b", "large.tar"),
        *("example.org", "9.50 s", "Failed: 7", "Refused: 3", "Deleted: 2", "Bytes a second"),
        *("Objects a second", "1 KiB", "4 KiB", "16 KiB", "1 MiB", "1,000"),
    ):
        assert said in seen.texts, said
    assert [tag for tag, _ in seen.tags].count("svg") == 3


def test_what_others_wrote_is_shown_and_never_run() -> None:
    report = replace(
        REPORT,
        source=NASTY,
        dest=NASTY,
        stopped=NASTY,
        failures=(Failure(NASTY, NASTY, NASTY),),
        refusals=(Failure(NASTY, NASTY, NASTY),),
        deletions=(NASTY,),
        hosts=(HostCount(NASTY, 1, 1, 1),),
        slowest=(Slow(NASTY, 1.0, 1),),
    )
    text = page(report)
    seen = Looked(text)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert seen.text.count("a<script>alert('1')</script>&\"\\u001b[31m\\u202egnp.exe") == 13
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_it_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    text = page(REPORT)
    seen = Looked(text)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in seen.tags
    used = {name for _, attributes in seen.tags for name in attributes}
    assert not used & {"src", "srcset", "style", "onload", "onclick", "data"}
    assert {value for _, each in seen.tags for name, value in each.items() if name == "href"} == {
        "#Failed",
        "#Refused",
    }
    assert "url(" not in text and "@import" not in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"failed": 0, "refused": 0}, "The destination has all that the source lists."),
        ({"failed": 0, "refused": 0, "dry_run": True}, "A dry run: nothing was fetched or deleted."),
        ({"complete": False}, "Not all is there: the listing is not complete; "),
        ({"stopped": "the disk is full"}, "Not all is there: stopped: the disk is full; "),
    ],
)
def test_the_verdict_is_in_words(changed: dict[str, object], said: str) -> None:
    assert said in Looked(page(replace(REPORT, **changed))).texts  # type: ignore[arg-type]


def test_only_the_first_are_named_and_the_others_counted() -> None:
    seen = Looked(page(replace(REPORT, failed=12_345, deleted=2)))
    assert "Failed: 12,345" in seen.texts and "and 12,338 more" in seen.texts
    assert not any("more" in text for text in Looked(page(REPORT)).texts)


@pytest.mark.parametrize("dry", [False, True])
def test_a_run_of_nothing_has_a_page(dry: bool) -> None:
    seen = Looked(page(MirrorReport("a", "b", dry_run=dry)))
    assert "svg" not in {tag for tag, _ in seen.tags}
    assert "Not all is there: the listing is not complete." in seen.text


def test_the_rates_come_to_what_was_fetched() -> None:
    rates = rates_of(REPORT.samples)
    assert rates == [(5.0, (4 << 20) / 10, 19.0), (15.0, (1 << 20) / 10, 100.0)]
    many = tuple(Sample(n**1.5, n * 1000, n * 3) for n in range(1000))
    rates = rates_of(many)
    apart = many[-1].seconds / len(rates)
    assert len(rates) == 120
    assert sum(rate * apart for _, rate, _ in rates) == pytest.approx(999_000)
    assert sum(rate * apart for _, _, rate in rates) == pytest.approx(2997)
    assert rates_of(()) == rates_of((Sample(0.0, 0, 0),)) == []
    assert rates_of((Sample(0.0, 0, 0), Sample(0.0, 5, 5))) == []


def test_objects_are_counted_by_their_sizes() -> None:
    counts = Counts()
    for size in (0, 1, 2, 4, 5, 16, 17, 1 << 20, (1 << 20) + 1):
        counts.came("x", "h", size, 0.1)
    assert counts.report(1.0, source="", dest="").sizes == {1: 2, 4: 2, 16: 2, 64: 1, 1 << 20: 1, 1 << 22: 1}
    text = page(counts.report(1.0, source="", dest=""))
    assert [
        name for name in ("1 B", "4 B", "64 B", "256 B", "256 KiB", "4 MiB") if f">{name}<" not in text
    ] == []
    huge = page(replace(REPORT, sizes={1: 3, 4: 4, 1 << 60: 5}))
    assert ">7<" in huge and ">5<" in huge and huge.count("<rect") == 2


def test_samples_are_thinned_and_keep_begin_and_end() -> None:
    counts = Counts()
    for second in range(100_000):
        counts.came("x", "h", 10, 0.1)
        if counts.sample_due(float(second)):
            counts.sample(float(second), 0)
    samples = counts.report(100_000.0, source="", dest="").samples
    assert 100 < len(samples) <= 402
    assert samples[0] == (0.0, 0, 0) and samples[-1] == (100_000.0, 1_000_000, 100_000)
    assert list(samples) == sorted(samples)


def test_axes_have_few_round_numbers() -> None:
    assert steps(10) == [0, 2, 4, 6, 8, 10]
    assert steps(7, binary=True) == [0, 2, 4, 6]
    assert steps(0) == [0]
    for most in (0.003, 1, 9.99, 4e6, 7e12):
        assert 3 <= len(steps(most)) <= 6
        assert 3 <= len(steps(most, binary=True)) <= 6
        assert steps(most)[-1] <= most * 1.000001
    for last in (0.01, 1, 7.9, 59, 61, 3600, 86_400, 1e7):
        assert 3 <= len(time_steps(last)) <= 10, last


def test_a_drawing_stays_within_its_frame() -> None:
    drawn = over_time(
        [(0.0, 0.0), (3.0, 9.0), (7.0, 2.0)], colour=1, title="t", shown=str, shown_time=str, height=190
    )
    numbers = [tuple(map(float, pair)) for pair in re.findall(r"[ML](\d+\.\d) (\d+\.\d)", drawn)]
    assert numbers and all(0 <= x <= 980 and 0 <= y <= 190 for x, y in numbers)
    bars = columns([(str(n), float(n)) for n in range(18)], colour=1, title="t", shown=str)
    for x, y, width, tall in re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', bars):
        assert float(x) + float(width) <= 980 and float(y) + float(tall) <= 160.1 and float(y) >= 20


def test_a_page_takes_the_place_of_an_older_one_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("older")
    old = os.open(out, os.O_RDONLY)
    REPORT.save(out)
    assert out.read_text(encoding="utf-8") == page(REPORT)
    assert os.read(old, 100) == b"older"  # who reads the old one reads it to its end
    os.close(old)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~_umask()
    (tmp_path / "link").symlink_to("page.html")
    replace(REPORT, source="other").save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and "other" in out.read_text()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*no/page.html: .*create the directory first"):
        REPORT.save(tmp_path / "no" / "page.html")
    with pytest.raises(StorageError, match="Is a directory"):
        REPORT.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told() -> None:
    with pytest.raises(StorageError) as caught:
        REPORT.save("/dev/full")
    assert caught.value.exit_code == 9


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
