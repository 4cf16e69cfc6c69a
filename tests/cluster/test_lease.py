"""Epochs: one driver at a time, taken over at once from the dead, and noticed by who lost it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isobench_ray.cluster.lease import (
    BEAT_INTERVAL_S,
    DriverRecord,
    is_alive,
    read_driver,
    refuse_second_driver,
    take_epoch,
)
from isobench_ray.errors import UserError
from isobench_ray.results import Results, open_results
from isobench_ray.schema import utc_now
from isobench_ray.store import LocalStore
from tests.fixtures_git import wait_for

HOLDER = """
import sys
from isobench_ray.cluster.lease import take_epoch
from isobench_ray.results import open_results
epoch = take_epoch(open_results(sys.argv[1]))
print(epoch.number, flush=True)
sys.stdin.readline()
epoch.give_back()
"""


@pytest.fixture
def results(tmp_path) -> Results:
    return open_results(tmp_path / "results")


def start_holder(results: Results) -> subprocess.Popen[str]:
    """A process that holds an epoch until a line comes in."""
    argv = [sys.executable, "-c", HOLDER, results.uri]
    process = subprocess.Popen(argv, stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdigit()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def elsewhere(epoch: int, beat: int) -> DriverRecord:
    """A driver on another machine."""
    return DriverRecord(
        epoch=epoch, beat=beat, hostname="far-away", boot_id="another boot", pid=1, start_ticks=1,
        started_at=utc_now(),
    )  # fmt: skip


def test_a_second_driver_is_refused_while_the_first_lives_and_changes_nothing(results):
    holder = start_holder(results)
    try:
        with pytest.raises(UserError, match=rf"pid {holder.pid} on ") as raised:
            take_epoch(results)
        assert f"isobench-ray status {results.uri}" in str(raised.value)
        with pytest.raises(UserError, match="is working on these Results"):
            refuse_second_driver(results)
        assert results.store.list("epochs/") == ["epochs/1.json"]
        assert read_driver(results).pid == holder.pid
    finally:
        end(holder)


def test_a_driver_that_was_killed_is_taken_over_at_once_with_the_next_epoch(results):
    holder = start_holder(results)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    start = time.monotonic()
    epoch = take_epoch(results)
    assert time.monotonic() - start < BEAT_INTERVAL_S / 2
    assert epoch.number == 2
    epoch.give_back()
    assert results.store.list("epochs/") == ["epochs/1.json", "epochs/2.json"]


def test_a_driver_that_ended_in_order_says_so_and_the_next_one_goes_on_counting(results):
    holder = start_holder(results)
    holder.communicate("end\n")
    assert read_driver(results).ended_at is not None
    for number in (2, 3):
        epoch = take_epoch(results)
        assert epoch.number == number
        epoch.give_back()


def test_epoch_ten_follows_epoch_nine(results):
    for number in range(1, 10):
        results.store.create_once(f"epochs/{number}.json", b"{}\n")
    epoch = take_epoch(results)
    assert epoch.number == 10
    epoch.give_back()


def test_a_process_with_the_pid_of_a_dead_driver_is_not_taken_for_it(results):
    epoch = take_epoch(results)
    epoch.give_back()
    alive = read_driver(results).model_copy(update={"ended_at": None})
    assert is_alive(results, alive)
    assert not is_alive(results, alive.model_copy(update={"start_ticks": alive.start_ticks - 1}))


def test_a_living_driver_moves_its_beat(results):
    epoch = take_epoch(results)
    first = read_driver(results).beat
    wait_for(lambda: read_driver(results).beat > first, 3 * BEAT_INTERVAL_S)
    epoch.give_back()
    assert not epoch.lost.is_set()


def test_a_driver_that_was_superseded_notices_and_leaves_the_record_alone(results):
    epoch = take_epoch(results)
    results.store.create_once("epochs/2.json", b"{}\n")
    results.store.put("driver.json", elsewhere(epoch=2, beat=7).to_json())
    assert epoch.lost.wait(timeout=2 * BEAT_INTERVAL_S)
    epoch.give_back()
    assert (read_driver(results).epoch, read_driver(results).beat) == (2, 7)


def test_a_superseded_driver_that_ends_before_its_next_beat_does_not_overwrite_the_new_one(results):
    epoch = take_epoch(results)
    results.store.create_once("epochs/2.json", b"{}\n")
    results.store.put("driver.json", elsewhere(epoch=2, beat=7).to_json())
    epoch.give_back()
    assert read_driver(results).epoch == 2
    assert read_driver(results).ended_at is None


def test_a_driver_elsewhere_whose_beat_moves_is_alive(results):
    driver = elsewhere(epoch=1, beat=0)
    results.store.put("driver.json", driver.to_json())
    moved = driver.model_copy(update={"beat": 1}).to_json()
    mover = threading.Timer(0.3, results.store.put, ("driver.json", moved))
    mover.start()
    start = time.monotonic()
    assert is_alive(results, driver)
    assert time.monotonic() - start < 2 * BEAT_INTERVAL_S
    mover.join()


def test_a_driver_elsewhere_is_taken_over_after_three_intervals_without_a_beat(results):
    results.store.create_once("epochs/1.json", b"{}\n")
    results.store.put("driver.json", elsewhere(epoch=1, beat=5).to_json())
    start = time.monotonic()
    epoch = take_epoch(results)
    assert time.monotonic() - start >= 3 * BEAT_INTERVAL_S
    assert epoch.number == 2
    epoch.give_back()


def test_of_racing_drivers_exactly_one_wins(results, tmp_path):
    for round_ in range(8):
        place = open_results(tmp_path / f"race-{round_}")
        barrier, won, refused = threading.Barrier(8), [], []

        def race(place=place, barrier=barrier, won=won, refused=refused) -> None:
            barrier.wait()
            try:
                won.append(take_epoch(place))
            except UserError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        numbers = [epoch.number for epoch in won]
        for epoch in won:
            epoch._stop.set()  # not given back: that would hide who holds the record
        assert numbers == [1]
        assert len(refused) == 7


class StoreOfASlowStarter(LocalStore):
    """Waits before the first driver.json, which makes the moment after the claim a long one."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def put(self, key: str, data: bytes) -> None:
        if key == "driver.json":
            self.reached.set()
            assert self.go_on.wait(timeout=20)
        super().put(key, data)


def test_a_driver_that_is_just_starting_is_not_overtaken(results, tmp_path):
    store, started = StoreOfASlowStarter(tmp_path / "results"), []
    starter = threading.Thread(target=lambda: started.append(take_epoch(Results(store))))
    starter.start()
    assert store.reached.wait(timeout=20)
    second = None
    try:
        second = take_epoch(results)
    except UserError:
        pass
    finally:
        store.go_on.set()
        starter.join()
        for epoch in (*started, second):
            if epoch is not None:
                epoch._stop.set()
    assert second is None
    assert [epoch.number for epoch in started] == [1]


DIES_AFTER_ITS_CLAIM = """
import os, sys
from pathlib import Path
from isobench_ray.cluster.lease import take_epoch
from isobench_ray.results import Results
from isobench_ray.store import LocalStore
class Deadly(LocalStore):
    def put(self, key, data):
        os.kill(os.getpid(), 9)
take_epoch(Results(Deadly(Path(sys.argv[1]))))
"""


def test_a_driver_that_was_killed_before_its_first_record_does_not_hold_the_results(results):
    argv = [sys.executable, "-c", DIES_AFTER_ITS_CLAIM, results.uri]
    assert subprocess.run(argv, check=False).returncode == -9
    assert results.store.list("epochs/") == ["epochs/1.json"]
    epoch = take_epoch(results)
    assert epoch.number == 2
    epoch.give_back()
