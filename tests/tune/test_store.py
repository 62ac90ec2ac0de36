"""Writing records: what is written stays, whatever happens to the writer."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kompilo.compiler.errors import UsageError
from kompilo.compiler.tune.store import RecordStore, append_whole, given_store, installed_store
from kompilo.compiler.tune.upkeep import take_over

from record_support import KEY, matmul, record

WRITER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from record_support import record
from kompilo.compiler.tune.store import RecordStore
store = RecordStore(Path({folder!r}))
for k in range({first}, {first} + {count}):
    store.append(record(k))
    print(k, flush=True)
"""


def writer(folder: Path, first: int, count: int = 10**6, before: str = "") -> subprocess.Popen:
    """A process that appends records of the tiles from `first` on, and says each when it is written."""
    code = before + WRITER.format(tests=str(Path(__file__).parent), folder=str(folder), first=first, count=count)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


@pytest.fixture
def store(tmp_path) -> RecordStore:
    return RecordStore(tmp_path / "logs")


def tiles(store: RecordStore) -> list[int]:
    return [r.point.config.int("tile") for r in store.read(KEY)[0]]


def test_appended_records_are_read(store):
    assert store.targets() == []
    assert store.read(KEY) == ([], [])
    made = [record(1), record(2, op=matmul(9)), record(3, None)]
    for r in made:
        store.append(r)
    store.extend([record(4), record(1, target="cpu-other-4c")], "imported")
    assert store.targets() == ["cpu-other-4c", KEY]
    assert [path.name for path in store.files(KEY)] == ["imported.jsonl", "tuned.jsonl"]
    assert store.read(KEY) == ([record(4), *made], [])
    assert [f.record for f in store.find(matmul(9), KEY)] == [made[1]]


def test_a_writer_killed_in_mid_line_costs_that_line_only(store):
    store.append(record(1))
    file = store.files(KEY)[0]
    whole = record(2).to_line()
    for cut in (1, 30, 300, len(whole) - 1, len(whole)):
        with file.open("a") as broken:
            broken.write(whole[:cut])
        store.append(record(3))
    assert tiles(store) == [1, 3, 3, 3, 3, 2, 3]
    assert len(store.read(KEY)[1]) == 4
    assert [f.record.point.config.int("tile") for f in store.find(matmul(), KEY)] == [1, 2, 3], "equal lines count once"


def test_writers_killed_at_any_moment_lose_nothing_they_had_written(store, tmp_path):
    store.folder.mkdir()
    for round in range(3):
        process = writer(store.folder, round * 10**6)
        for _ in range(20 * round + 5):
            process.stdout.readline()
        time.sleep(0.001 * round)
        process.send_signal(signal.SIGKILL)
        rest = process.communicate(timeout=60)[0].split()
        found = [t for t in tiles(store) if t // 10**6 == round]
        assert len(found) >= 20 * round + 5 + len(rest)
        assert found == list(range(found[0], found[0] + len(found)))
    assert len(store.read(KEY)[1]) <= 3
    store.append(record(7))
    assert tiles(store)[-1] == 7


def test_two_writers_at_once(store):
    store.folder.mkdir()
    processes = [writer(store.folder, first, 60) for first in (1000, 2000)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    records, problems = store.read(KEY)
    assert problems == []
    assert sorted(r.point.config.int("tile") for r in records) == [*range(1000, 1060), *range(2000, 2060)]


def test_two_imports_of_the_same_at_once(store, tmp_path):
    """Both have begun before either may write: the second finds what the first has added."""
    source = RecordStore(tmp_path / "source")
    source.extend(record(k) for k in range(20))
    with ThreadPoolExecutor(2) as threads:
        with store.locked(KEY):
            takers = [threads.submit(take_over, RecordStore(store.folder), [source.folder]) for _ in range(2)]
            time.sleep(0.5)
        taken = [taker.result(60) for taker in takers]
    assert sorted((t.added, t.present) for t in taken) == [(0, 20), (20, 0)]
    assert tiles(store) == list(range(20))


def test_taking_over_what_is_there_needs_no_right_to_write(store, tmp_path, monkeypatch):
    store.extend([record(1), record(2)])
    monkeypatch.setattr(RecordStore, "locked", None)
    taken = take_over(store, [store.folder])
    assert (taken.added, taken.present) == (0, 2)


def test_a_full_disk_is_one_sentence_and_takes_nothing(store):
    """The file may not grow beyond a size: the last line fits in part only."""
    store.append(record(1))
    size = store.files(KEY)[0].stat().st_size
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size * 3 + size // 2},) * 2)\n"
    process = writer(store.folder, 10, before=limit)
    said, err = process.communicate(timeout=60)
    assert "UsageError: cannot write records to" in err
    assert "file too large" in err
    assert said.split() == ["10", "11"]
    assert tiles(store) == [1, 10, 11]
    assert store.read(KEY)[1] == []
    store.append(record(2))
    assert tiles(store) == [1, 10, 11, 2]


def test_a_device_without_space(store):
    folder = store.target_folder(KEY)
    folder.mkdir(parents=True)
    (folder / "tuned.jsonl").symlink_to("/dev/full")
    with pytest.raises(UsageError, match=r"cannot write records to '.*': no space left on device\."):
        store.append(record(1))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write records to .*: not a directory"):
        RecordStore(tmp_path / "file").append(record(1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder_is_read_and_not_written(store):
    store.append(record(1))
    folder = store.target_folder(KEY)
    folder.chmod(0o555)
    (folder / "tuned.jsonl").chmod(0o444)
    try:
        assert tiles(store) == [1]
        with pytest.raises(UsageError, match="permission denied"):
            store.append(record(2))
    finally:
        folder.chmod(0o755)


def test_a_writer_that_never_ends_is_named(store, monkeypatch):
    monkeypatch.setattr("kompilo.compiler.tune.store._LOCK_TIMEOUT_S", 0.1)
    with store.locked(KEY), pytest.raises(UsageError, match="another process writes"):
        RecordStore(store.folder).append(record(1))


@pytest.mark.parametrize("key", ["..", "../elsewhere", "a/b", "", ".hidden", "x" * 200, "a\nb"])
def test_keys_that_are_no_folder(store, key):
    with pytest.raises(UsageError, match="expected the key of a target"):
        store.append(record(1, target=key))
    assert not store.folder.exists()


def test_given_folders(tmp_path):
    (tmp_path / "file").write_text("")
    assert given_store(tmp_path).label == tmp_path.name
    for folder, says in ((tmp_path / "none", "does not exist"), (tmp_path / "file", "is not a folder")):
        with pytest.raises(UsageError, match=says):
            given_store(folder)
    with pytest.raises(UsageError, match="expected a folder"):
        given_store(3.5)


def test_what_is_installed_is_whole():
    """Every record that comes with Kompilo can be read."""
    store = installed_store()
    assert store is not None
    for key in store.targets():
        records, problems = store.read(key)
        assert problems == []
        assert records


@pytest.mark.parametrize(("written", "kept"), [(None, True), (3, False)])
def test_an_interrupt_leaves_whole_lines_only(tmp_path, monkeypatch, written, kept):
    path, write = tmp_path / "tuned.jsonl", os.write
    append_whole(path, b"first\n")

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:written])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        append_whole(path, b"second\n")
    assert path.read_bytes() == (b"first\nsecond\n" if kept else b"first\n")
