"""The HTML report of a session: whole, self-contained, and right for sessions of any kind."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sample_states import ROOFLINE, conv, good_tasks, report, task

pytest.importorskip("matplotlib")

from kompilo.compiler import html_page
from kompilo.compiler.errors import KompiloError
from kompilo.compiler.tune.html_report import html_report

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Reads a page; notes its ids, what it would fetch, and its cells. Tags must close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        links = (values.get(a) for a in ("src", "href", "xlink:href", "data", "action"))
        self.fetched += [link for link in links if link and not link.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def page_of(*tasks, roofline=ROOFLINE, **changes) -> tuple[str, Page]:
    text = html_report(report(*tasks, **changes), roofline)
    return text, Page(text)


def test_facts_table_and_pictures():
    text, page = page_of(*good_tasks(), skipped=("a", "b"))
    assert page.tags.count("svg") == 3
    assert "5.1 ms before, 3.1 ms now (1.65 times as fast)" in text
    assert "60 s; the time is up" in text
    assert "8 measured, 1 of them failed" in text
    assert "2 operators whose sizes" in text
    assert page.cells[:5] == ["conv 3x3 64->64 56x56", "2", "64.5%", "2", "1"]
    assert "conv2d_direct(tile_w=4)" in page.cells
    assert "as before" in page.cells
    assert "seconds since the session began" in text
    assert "peak 150 GFLOP/s" in text
    assert "<title>depthwise 3x3 128 28x28: " in text


@pytest.mark.parametrize(("measured", "source"), [(True, "measured"), (False, "as its maker says")])
def test_of_a_gpu(measured, source):
    text, _ = page_of(*good_tasks(), roofline=replace(ROOFLINE, measured=measured), whole_device=True)
    assert f"<dt>the GPU</dt><dd>150 GFLOP/s, L2 90 GB/s, L3 25 GB/s, memory 10 GB/s, {source}" in text
    assert "with the roofs of the GPU" in text
    assert "one core" not in text
    assert "one thread" not in text
    assert "<dt>one core</dt>" in page_of(*good_tasks())[0]


def test_notes():
    noted = replace(report(*good_tasks()), notes=("a node was lost",))
    assert "<dt>note</dt><dd>a node was lost</dd>" in html_report(noted)


def test_it_needs_nothing_else():
    text, page = page_of(*good_tasks())
    assert page.fetched == []
    assert "script" not in page.tags
    assert not re.search(r"https?:|@import|url\((?!#)|//cdn", text)
    assert len(text) < 500_000


def test_pictures_have_names_and_no_ids_in_common():
    text, page = page_of(*good_tasks())
    assert len(page.ids) == len(set(page.ids))
    assert len(re.findall(r'<svg role="img" aria-label="[^"]{20,}"', text)) == 3
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert referred <= set(page.ids)


def test_names_are_escaped():
    text = html_report(replace(report(*good_tasks()), model="<script>&.onnx", records='/a"<b>'), ROOFLINE)
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;&amp;.onnx" in text


def test_the_same_session_gives_the_same_page():
    assert page_of(*good_tasks())[0] == page_of(*good_tasks())[0]


def test_without_a_roofline():
    text, page = page_of(*good_tasks(), roofline=None)
    assert page.tags.count("svg") == 3
    assert "peak" not in text


def test_no_operators():
    text, page = page_of()
    assert "no operators that can be tuned" in text
    assert page.tags.count("svg") == 0
    assert text.count("too little was measured") == 3


def test_all_failed():
    text, page = page_of(task(conv(8, 8), failed=8), task(conv(8, 16), failed=8))
    assert page.cells.count("none works") == 2
    assert page.tags.count("svg") == 0
    assert "some operators were not measured" in text


def test_some_not_measured():
    _, page = page_of(*good_tasks(), task(conv(8, 8)))
    assert page.tags.count("svg") == 2, "the model has no time, its operators have"


def test_nothing_won():
    text, _ = page_of(task(conv(8, 8), (1e-3, 2e-3)), task(conv(8, 9), (1e-3,)))
    assert "none got faster" in text


def test_many_operators():
    tasks = [task(conv(8, 8 + k), (3e-3, (1 + k / 50) * 1e-3)) for k in range(40)]
    text, page = page_of(*tasks)
    assert "32 others" in text
    assert len(page.cells) == 40 * 11


def test_a_session_of_no_time():
    assert page_of(elapsed_s=0.0)[1].tags.count("dl") == 1


def test_without_matplotlib(monkeypatch):
    monkeypatch.setattr(html_page, "find_spec", lambda name: None)
    with pytest.raises(KompiloError, match="needs matplotlib") as caught:
        page_of(*good_tasks())
    assert caught.value.hint == "pip install 'kompilo[report]'"
