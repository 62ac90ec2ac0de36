"""Reading files of records: whole, broken, packed, foreign, changing, long."""

import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompilo.compiler.tune.evidence import Found, combine, join
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.compiler.tune.record import Record
from kompilo.compiler.tune.record_file import record_file
from kompilo.compiler.tune.store import IMPORTED, RecordStore
from kompilo.compiler.tune.upkeep import prune

from record_support import KEY, matmul, record

CASES = ({}, {"cache": "warm"}, {"status": "crashed"}, {"status": "timed_out"}, {"status": "wrong_result"})


def lines(*records):
    return "".join(r.to_line() + "\n" for r in records).encode()


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads it: read(bytes) -> RecordFile."""

    def of(content: bytes, name: str = "a.jsonl"):
        (tmp_path / name).write_bytes(content)
        return record_file(tmp_path / name, KEY)

    return of


def test_records_by_operator_and_all(read):
    mine, others = [record(k) for k in range(3)], [record(k, op=matmul(99)) for k in range(2)]
    file = read(lines(mine[0], others[0], mine[1], others[1], mine[2]))
    assert file.of(matmul()) == mine
    assert file.of(matmul(99)) == others
    assert file.of(matmul(7)) == []
    assert file.all() == [mine[0], others[0], mine[1], others[1], mine[2]]
    assert file.problems == []


def test_foreign_forms_of_a_line_are_found_as_well(read):
    data = json.loads(record(1).to_line())
    spaced = json.dumps(data)
    turned = json.dumps(dict(reversed(data.items())))
    file = read(f"{spaced}\r\n\n  {turned}\n".encode() + lines(record(2)))
    assert [r.point for r in file.of(matmul())] == [record(1).point, record(1).point, record(2).point]
    assert len(file.all()) == 3


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (record(2).to_line().encode()[:60], "not JSON"),
        (record(2).to_line().encode()[:-40], "not JSON|Expecting|Unterminated"),
        (b"\x00" * 700, "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 9999, "nested too deeply|not JSON"),
        (record(2).to_line().replace('"schema":1', '"schema":2').encode(), "expected schema 1, found 2"),
        (record(2, target="cpu-other-2c").to_line().encode(), "a record of target 'cpu-other-2c' in the folder of"),
        (record(2).to_line().replace("0.001", "-1.0").encode(), "seconds -1.0"),
    ],
)
def test_a_broken_line_anywhere_is_reported_and_costs_no_other(read, broken, says):
    for place in range(3):
        good = [record(1).to_line().encode(), record(3).to_line().encode()]
        good.insert(place, broken)
        for end in (b"", b"\n"):
            file = read(b"\n".join(good) + end)
            for _ in range(2):
                assert [r.point for r in file.of(matmul())] == [record(1).point, record(3).point]
                assert file.all() == [record(1), record(3)]
            assert [p.line for p in file.problems] == [place + 1]
            assert re.search(says, str(file.problems[0]))


def test_a_last_line_without_its_end_counts_if_it_is_whole(read):
    assert read(lines(record(1), record(2))[:-1]).of(matmul()) == [record(1), record(2)]


def test_packed_files(read):
    packed = gzip.compress(lines(*(record(k) for k in range(50))))
    assert len(read(packed, "a.jsonl.gz").of(matmul())) == 50
    for cut in (0, 1, 12, len(packed) // 2, len(packed) - 1):
        file = read(packed[:cut], f"cut{cut}.jsonl.gz")
        assert len(file.of(matmul())) <= 50
        assert (len(file.problems) == 1) == (cut > 0)
    assert len(file.of(matmul())) >= 49
    assert "damaged" in str(read(b"plain text", "text.jsonl.gz").problems[0])


def test_a_changed_file_is_read_anew(read):
    assert read(lines(record(1))).of(matmul()) == [record(1)]
    assert read(lines(record(1), record(2))).of(matmul()) == [record(1), record(2)]


def test_what_cannot_be_read_is_one_problem(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "endless.jsonl").symlink_to("/dev/zero")
    assert "not a regular file" in str(record_file(tmp_path / "endless.jsonl", KEY).problems)
    assert "not a regular file" in str(record_file(tmp_path / "folder.jsonl", KEY).problems)
    assert "no such file" in str(record_file(tmp_path / "none.jsonl", KEY).problems)


MEASURED = st.tuples(st.integers(1, 2), st.integers(1, 9), st.sampled_from(CASES))


@given(st.lists(MEASURED, max_size=60), st.lists(MEASURED, max_size=20))
def test_lookups_and_pruning_change_no_choice(tmp_path_factory, measured, imported):
    """What is known of each point is the same from all records, from a lookup's, and from what pruning leaves.

    Some lines are the same, and one config is no longer offered.
    """

    def holds(r):
        return r.point.config.int("tile") != 1

    store = RecordStore(tmp_path_factory.mktemp("store"))
    made = [
        record(tile, None if "status" in case else 1e-3 * (1 + k % 4), day, **case)
        for k, (tile, day, case) in enumerate(measured + imported)
    ]
    store.extend(made[: len(measured)])
    store.extend(made[len(measured) :], IMPORTED)

    def known():
        return {p: (k.record, k.seconds) for p, k in RecordLibrary((store,)).known(matmul(), KEY, holds).items()}

    places = (made[: len(measured)], made[len(measured) :])
    everything = join(combine([Found(r, "") for r in place if holds(r)]) for place in places)
    assert known() == {p: (k.record, k.seconds) for p, k in everything.items()}
    prune(store, KEY, holds)
    assert known() == {p: (k.record, k.seconds) for p, k in everything.items()}
    assert len(store.read(KEY)[0]) <= len(made)


def test_a_line_is_parsed_only_when_asked_for(read, monkeypatch):
    file = read(lines(*(record(k, op=matmul(k)) for k in range(1, 200))))
    parsed = []
    original = Record.from_json.__func__
    monkeypatch.setattr(Record, "from_json", classmethod(lambda *args: parsed.append(1) or original(*args)))
    assert len(file.of(matmul(77))) == 1
    assert len(parsed) == 1
