"""Reports: what they turn into and come back from, and what they never show."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastxfer
from fastxfer.drawing import WIDTH
from fastxfer.errors import OptionError
from fastxfer.mirrorbench import drawing
from fastxfer.mirrorbench.report import BenchReport
from fastxfer.mirrorbench.words import changes
from tests.mirrorbench.rows import rate, report, row

FULL = report(
    row("http://a/x", rate(1, 10), rate(4, 30), full_url="http://u:canary@a/x?token=canary", whole=False),
    row("http://b/x", rate(1, 5), notes=("limited",), findings=("limited",), same_object=True),
    row("http://c/x", rate(1, 99), same_object=False, findings=("stale",), notes=("stale: old",)),
    row("http://d/x", error="no connection was made", exit_code=6, first_byte=0.0),
    verdicts=("http://a/x is faster than http://b/x",),
)
EVIL = '"><script>alert(1)</script><img src=http://evil.example/x>$\\frac{&'


def test_it_comes_back_from_json_as_it_was() -> None:
    text = FULL.to_json()
    assert "\n" not in text
    again = BenchReport.from_json(text)
    assert again == FULL
    assert again.to_json() == text
    assert json.loads(text) == FULL.to_dict()


def test_no_secret_is_in_what_is_shown_or_kept() -> None:
    shown = [str(FULL), repr(FULL), FULL.to_json(), FULL.to_html()]
    assert not any("canary" in each for each in shown)


def test_the_best_are_urls_that_a_fetch_can_use() -> None:
    assert FULL.best(1) == ["http://u:canary@a/x?token=canary"]
    assert FULL.best() == ["http://u:canary@a/x?token=canary", "http://b/x"]
    assert FULL.best(0) == FULL.best(-1) == []
    assert BenchReport.from_json(FULL.to_json()).best(3) == ["http://b/x"], "the other was not saved whole"


def damaged(data: st.DataObject) -> str:
    """Returns a report's JSON with one value in it replaced, or one key taken out."""
    plain = FULL.to_dict()
    place: Any = plain
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        if isinstance(place, dict) and data.draw(st.booleans()):
            del place[key]
        else:
            wrong: list[Any] = [
                None,
                -1,
                1e400,
                10**30,
                "x",
                True,
                [],
                {},
                [[]],
                "\x1b[31m",
                {"rows": 1},
                [1, 2, 3],
            ]
            place[key] = data.draw(st.sampled_from(wrong))
        return json.dumps(plain)


@given(st.data())
def test_a_damaged_one_is_a_typed_error_or_a_report_that_prints(data: st.DataObject) -> None:
    try:
        found = BenchReport.from_json(damaged(data))
    except OptionError as error:
        assert "\x1b" not in str(error)
        return
    assert BenchReport.from_json(found.to_json()) == found
    assert str(found)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"format": 1}', '{"format": 2, "rows": []}', "[" * 10**5]
)
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="no report"):
        BenchReport.from_json(text)


class Page(HTMLParser):
    """Notes the elements and attributes of a page, and that each is closed."""

    VOID = ("meta", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            f"{name}={value}" for name, value in attrs if name in ("src", "href", "xlink:href", "onload")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    text = FULL.to_html()
    found = Page(text)
    assert found.open == [] and found.links == []
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(found.tags)
    assert found.tags.count("svg") == 3
    assert "default-src 'none'" in text
    assert re.findall(r"url\(|@import", text) == []


def test_what_others_have_written_is_escaped() -> None:
    evil = report(
        row(EVIL, rate(1, 1), notes=(EVIL,), http_version=EVIL, etag=EVIL, address=EVIL),
        row(EVIL + "2", rate(1, 2), error=EVIL),
        verdicts=(EVIL,),
        measured_at=EVIL,
    )
    found = Page(evil.to_html())
    assert found.open == [] and found.links == []
    assert not {"script", "img"} & set(found.tags)
    assert any(EVIL in text for text in found.texts)


def test_a_page_of_nothing_measured_is_a_page() -> None:
    found = Page(report(row("http://a/x", error="down", exit_code=6, first_byte=0.0)).to_html())
    assert found.open == []
    assert "nan" not in "".join(found.texts).lower()


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=12))
def test_drawings_have_finite_numbers_inside_their_frames(mibs: list[float]) -> None:
    rows = [row(f"http://{at}/x", rate(1, mib), rate(4, mib * 2)) for at, mib in enumerate(mibs)]
    for text in (drawing.rates(rows), drawing.latency(rows), drawing.over_time(rows)):
        for name, value in re.findall(r' (x|y|width|height|cx|cy)="([^"]*)"', text):
            assert -1 <= float(value) <= 42 * 12 * 3 + WIDTH, (name, value)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_plot_is_drawn(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"plot.{kind}"
    report(*FULL.rows, row("http://cash$1/$x_2^", rate(16, 0.001))).plot(path)
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}[kind]
    assert path.read_bytes().startswith(begins)
    assert path.stat().st_size > 5000


def test_a_plot_of_nothing_measured_is_drawn_too(tmp_path: Path) -> None:
    report(row("http://a/x", error="down", first_byte=0.0)).plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_a_plot_that_cannot_be_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"\.png, \.svg, \.pdf"):
        FULL.plot(tmp_path / "plot.gif")
    with pytest.raises(fastxfer.StorageError):
        FULL.plot(tmp_path / "missing" / "plot.png")
    with pytest.raises(fastxfer.StorageError):
        FULL.save_html(tmp_path / "missing" / "page.html")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"fastxfer\[plot\]"):
        FULL.plot(tmp_path / "plot.png")


def test_changes_are_told_where_they_are_shown() -> None:
    before = report(*(row(f"http://{name}/x", rate(4, 10)) for name in "abcdef"))
    now = report(
        row("http://a/x", rate(4, 20)),
        row("http://b/x", rate(4, 5)),
        row("http://c/x", rate(4, 10.2)),
        row("http://d/x", rate(4, 10), same_object=False, notes=("stale: old",)),
        row("http://e/x", error="no connection", exit_code=6),
        row("http://g/x", rate(4, 1)),
    )
    said = changes(before, now)
    when = before.measured_at
    assert said[0].startswith(f"http://a/x: faster: x4 20 MiB/s (19 MiB to 21 MiB), on {when} 10 MiB/s (")
    assert said[1].startswith("http://b/x: slower: x4 5 MiB/s (")
    assert said[2].startswith("http://c/x: no difference shown: ")
    assert said[3] == "http://d/x: cannot be used any more (stale: old)"
    assert said[4] == "http://e/x: cannot be used any more (no connection)"
    assert said[5] == f"http://g/x: new since {when}"
    assert said[6] == f"http://f/x: it was measured on {when} only"
    other = report(row("http://a/x", rate(1, 3), rate(16, 900)))
    assert changes(other, now)[0] == "http://a/x: no number of connections was measured both times"
    both = report(row("http://a/x", rate(4, 10), rate(16, 900)))
    assert changes(both, now)[0].startswith("http://a/x: faster: x4 20 MiB/s")
    assert changes(now, before)[3] == "http://d/x: can be used again (stale: old)"
