"""The store: create-once whoever races, whole keys whoever dies, and nothing left by a question."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isobench_ray.errors import UserError
from isobench_ray.store import LocalStore, open_store, refuse_unwritable
from tests.fixtures_git import wait_for

RACER = """
import sys
from pathlib import Path
from isobench_ray.store import LocalStore
store, name = LocalStore(Path(sys.argv[1])), sys.argv[2]
sys.stdin.readline()
for key in range(40):
    if store.create_once(f"race/{key}", name.encode() * 1000):
        print(key)
"""

WRITER = """
import sys
from pathlib import Path
from isobench_ray.store import LocalStore
store = LocalStore(Path(sys.argv[1]))
for key in range(10**6):
    store.create_once(f"{sys.argv[2]}/{key}", str(key).encode().rjust(300_000, b"."))
"""


def all_files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in (folder, *folder.rglob("*"))
    }


def is_whole(store: LocalStore, key: str) -> bool:
    return store.get(key) == key.rsplit("/", 1)[1].encode().rjust(300_000, b".")


def test_the_second_creation_of_a_key_is_refused_and_changes_nothing(tmp_path):
    store = LocalStore(tmp_path / "new" / "results")
    assert store.create_once("a/b/c", b"first")
    assert not store.create_once("a/b/c", b"second")
    assert store.get("a/b/c") == b"first"
    assert store.create_once("a/b/d", b"second")


def test_of_32_racing_threads_exactly_one_creates_and_the_content_is_its_own(tmp_path):
    store = LocalStore(tmp_path)
    for round_ in range(5):
        barrier, winners = threading.Barrier(32), []

        def race(name: int, key: str = f"k/{round_}", barrier=barrier, winners=winners) -> None:
            barrier.wait()
            if store.create_once(key, b"%d" % name * 500):
                winners.append(name)

        threads = [threading.Thread(target=race, args=(name,)) for name in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert store.get(f"k/{round_}") == b"%d" % winners[0] * 500
    assert not list((tmp_path / ".tmp").iterdir())


def test_racing_processes_share_the_keys_out_without_overlap(tmp_path):
    argv = [sys.executable, "-c", RACER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = {name: subprocess.Popen([*argv, name], **pipes) for name in "abcd"}
    for racer in racers.values():
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {name: racer.communicate()[0].split() for name, racer in racers.items()}
    assert sorted(key for keys in won.values() for key in keys) == sorted(map(str, range(40)))
    store = LocalStore(tmp_path)
    for name, keys in won.items():
        assert all(store.get(f"race/{key}") == name.encode() * 1000 for key in keys)


def test_put_replaces_and_a_reader_never_sees_a_mixture(tmp_path):
    store, seen, stop = LocalStore(tmp_path), set(), threading.Event()
    store.put("k", b"a" * 100_000)

    def read() -> None:
        while not stop.is_set():
            seen.add(store.get("k"))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in (b"b", b"c", b"d") * 10:
        store.put("k", letter * 100_000)
    stop.set()
    reader.join()
    assert store.get("k") == b"d" * 100_000
    assert seen <= {letter * 100_000 for letter in (b"a", b"b", b"c", b"d")}


def test_a_writer_that_is_killed_leaves_only_whole_keys(tmp_path):
    draw, store = random.Random(5), LocalStore(tmp_path)
    for run in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), f"run-{run}"])
        wait_for(lambda run=run: store.list(f"run-{run}/"))
        time.sleep(draw.uniform(0.01, 0.1))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        keys = store.list(f"run-{run}/")
        assert keys
        assert all(is_whole(store, key) for key in keys)
    torn = tmp_path / "run-0" / "0"  # positive control: the same look finds a torn key
    os.truncate(torn, 1234)
    assert not is_whole(store, "run-0/0")


def test_what_a_killed_writer_left_is_no_key_and_can_be_swept(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a/key", b"whole")
    (tmp_path / ".tmp" / "0123abcd").write_bytes(b"half a rec")
    assert store.list("") == ["a/key"]
    store.sweep()
    assert not list((tmp_path / ".tmp").iterdir())
    assert store.get("a/key") == b"whole"


def test_list_gives_the_keys_under_a_prefix_sorted(tmp_path):
    store = LocalStore(tmp_path)
    for key in ("b/2", "b/1", "b/deep/er", "c/1", "a"):
        store.put(key, b"")
    assert store.list("b/") == ["b/1", "b/2", "b/deep/er"]
    assert store.list("absent/") == []
    assert store.list("a/") == []


def test_what_is_absent_is_none_and_deleting_it_is_no_error(tmp_path):
    store = LocalStore(tmp_path)
    store.put("file", b"x")
    assert store.get("absent") is None
    assert store.get("file/below") is None
    store.delete("absent")
    store.delete("file")
    assert store.get("file") is None


def test_appended_lines_follow_each_other(tmp_path):
    store = LocalStore(tmp_path)
    store.append("events/1.jsonl", b"one\n")
    store.append("events/1.jsonl", b"two\n")
    assert store.get("events/1.jsonl") == b"one\ntwo\n"


def test_a_link_replaces_what_was_there_and_survives_a_move_of_the_folder(tmp_path):
    store = LocalStore(tmp_path / "results")
    store.put("t/executions/1/a.diff", b"one")
    store.put("t/executions/2/a.diff", b"two")
    store.link("t/a.diff", "t/executions/1/a.diff")
    store.link("t/a.diff", "t/executions/2/a.diff")
    (tmp_path / "results").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "t" / "a.diff").read_bytes() == b"two"


def test_a_scheme_of_a_later_release_is_refused_by_name():
    with pytest.raises(UserError, match=r"s3://.*not in this release"):
        open_store("s3://bucket/prefix")


def test_asking_whether_a_path_can_be_written_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "kept").write_text("x")
    before = all_files(tmp_path)
    refuse_unwritable(str(tmp_path))
    refuse_unwritable(str(tmp_path / "not" / "there" / "yet"))
    assert all_files(tmp_path) == before
    (tmp_path / "probe").touch()  # positive control: the comparison sees a file
    assert all_files(tmp_path) != before


def test_a_path_under_a_file_is_refused_with_the_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=f"{tmp_path}/file is not a folder"):
        refuse_unwritable(str(tmp_path / "file" / "results"))
    with pytest.raises(UserError, match="is not a folder"):
        refuse_unwritable(str(tmp_path / "file"))


def test_a_place_that_takes_no_files_is_refused():
    with pytest.raises(UserError, match="cannot write results: /proc"):
        refuse_unwritable("/proc/isobench/results")
