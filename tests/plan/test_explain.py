"""What is said of a plan: sentences, tables, JSON, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kompilo.compiler.plan.explain import PREDICTION, as_json, bound, device_rows, route_rows, sentences
from kompilo.compiler.plan.planner import Planned, Wish, make_plan

from plan_support import chain, cluster, device, timed


@pytest.fixture(scope="module")
def several() -> Planned:
    """Throughput over three devices, of which one cannot hold the model."""
    devices = [device("<big>", 4e9), device("middle", 2e9), device("tiny", 1e9, memory=3e6)]
    return make_plan(timed(chain([1e6] * 6, [1e3] * 7, weights=1e6), cluster(devices, 1e-5, 1e8)), Wish("throughput"))


@pytest.fixture(scope="module")
def single() -> Planned:
    """Latency where links are so slow that one device is best."""
    work = timed(chain([1e6] * 4, [1e6] * 5), cluster([device("d0"), device("d1", 2e9)], 1.0, 1e6))
    return make_plan(work, Wish("latency", deadline_s=1e-3))


def test_sentences_say_why(several, single):
    told = sentences(several)
    assert told[0] == PREDICTION
    assert any(s.startswith("tiny alone cannot hold the model: it needs 6.0 MB, and has 3.0 MB.") for s in told)
    assert any("times as good; the best single device, <big>, reaches 66" in s for s in told)
    assert told[-1] == "Predicted times come from: 100% roofline; they may be off by 55%."
    told = sentences(single)
    assert "d1: 2 ms; one device alone is the best plan." in told
    assert "A request that is alone takes 2 ms, behind the deadline of 1 ms." in told
    assert "No plan was found in which d0 would be of use." in told


def test_tables_have_a_row_for_each_device_and_route(several):
    rows = device_rows(several)
    assert [r[0] for r in rows] == ["<big>", "middle", "tiny"]
    assert rows[2][2] == "too little memory"
    routes = route_rows(several)
    assert len(routes) == len(several.best.plan.routes)
    assert sum(float(share.rstrip("%")) for share, _ in routes) == pytest.approx(100, abs=0.2)
    assert all("operator" in stages for _, stages in routes)


def test_json_is_json_and_says_that_nothing_is_executed(several):
    facts = json.loads(json.dumps(as_json(several)))
    assert facts["executes"] is False
    assert facts["bound_requests_per_s"] == pytest.approx(bound(several)) == pytest.approx(7e9 / 6e6)
    assert facts["best"]["throughput"] >= facts["singles"]["<big>"]["throughput"]
    assert facts["singles"]["tiny"]["fits"] is False
    for route in facts["plan"]["routes"]:
        assert [o for s in route["stages"] for o in s["operators"]] == [f"n{k}" for k in range(6)]


def test_narrow_links_are_told():
    devices = [device(n, memory=4.1e6) for n in ("d0", "d1")]
    work = timed(chain([1e6] * 4, [2e5] * 5, weights=1e6), cluster(devices, 1e-6, 2e7))
    planned = make_plan(work, Wish("throughput", max_error=0.01))
    assert any("Over d0-d1 float32 tensors go as int8, which loses at most 0.0039" in s for s in sentences(planned))


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("#")]


@pytest.mark.parametrize("name", ["several", "single"])
def test_the_page_needs_nothing_else(name, request):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from kompilo.compiler.plan.html import html_plan

    text = html_plan(request.getfixturevalue(name))
    links = _Links()
    links.feed(text)
    assert links.outside == []
    assert "script" not in links.tags
    assert links.tags.count("svg") == 2
    assert "<big>" not in text
    assert "n0: " in text  # under the pointer


def test_without_power_or_prices_nothing_is_said_of_ratios(single):
    planned = make_plan(single.work, Wish("energy"))
    assert "times as good" not in " ".join(sentences(planned))
    assert planned.best.outcome.joules == 0.0
    assert replace(planned, together=None).meets_deadline
