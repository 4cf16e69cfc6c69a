"""The right to be the driver of some Results: epochs, the beat, and taking over from the dead.

Each driver holds an epoch, created once as epochs/<n>.json, and renews the beat in driver.json. A
second driver refuses while the first lives. One that died on this boot of this machine is taken
over at once; one elsewhere when its beat has not moved during three intervals of our own clock. No
clocks of two machines are compared. A driver that finds a newer epoch stops by itself.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from isobench_ray.errors import UserError
from isobench_ray.process import boot_id, start_ticks
from isobench_ray.results import Results
from isobench_ray.schema import RECORD_SCHEMA_VERSION, RecordModel, utc_now

BEAT_INTERVAL_S = 2.0
BEATS_TO_MISS = 3
"""So many beats without a move, and a driver elsewhere is taken for dead; so does it itself."""


class DriverRecord(RecordModel):
    """driver.json: the living driver, or the last one."""

    schema_version: int = RECORD_SCHEMA_VERSION
    """Version of this record's form."""
    epoch: int
    """Its epoch."""
    beat: int
    """Counter that a living driver moves."""
    hostname: str
    """Its machine."""
    boot_id: str
    """The machine's boot id."""
    pid_namespace: str | None = None
    """The PID namespace in which its process id means something."""
    pid: int
    """Its process."""
    start_ticks: int
    """Start time of that process in clock ticks since boot."""
    started_at: datetime
    """When it took the epoch."""
    nonce: str | None = None
    """In epochs/<n>.json: unique, so who reads it sees the same Results."""
    ended_at: datetime | None = None
    """When it gave it back; null while it lives, and after a kill."""


def read_driver(results: Results) -> DriverRecord | None:
    """The last driver of Results; None where there was none.

    A driver exists from its claim of an epoch on, a moment before it writes driver.json.
    """
    newest = latest_epoch(results)
    driver = _read(results, "driver.json")
    claim = _read(results, epoch_key(newest))
    if claim is not None and (driver is None or driver.epoch < claim.epoch):
        return claim
    return driver


def is_alive(results: Results, driver: DriverRecord) -> bool:
    """Whether a driver lives. For one of another machine or boot this takes three intervals."""
    if driver.ended_at is not None:
        return False
    if (driver.boot_id, driver.pid_namespace) == (boot_id(), _pid_namespace()):
        return start_ticks(driver.pid) == driver.start_ticks
    deadline = time.monotonic() + BEATS_TO_MISS * BEAT_INTERVAL_S
    while time.monotonic() < deadline:
        time.sleep(BEAT_INTERVAL_S / 2)
        now = read_driver(results)
        if now is not None and (now.epoch, now.beat) != (driver.epoch, driver.beat):
            return now.ended_at is None
    return False


def refuse_second_driver(results: Results) -> None:
    """Refuse Results that a living driver holds.

    Raises:
        UserError: with who it is.
    """
    driver = read_driver(results)
    if driver is not None and is_alive(results, driver):
        raise UserError(
            f"{results.uri}: another `isobench-ray run` is working on these Results (pid "
            f"{driver.pid} on {driver.hostname}, since {driver.started_at:%Y-%m-%d %H:%M:%S} UTC); "
            f"watch it with `isobench-ray status {results.uri}`, or stop it first"
        )


class Epoch:
    """A held epoch; beats in a thread until it is given back or lost."""

    def __init__(self, results: Results, record: DriverRecord) -> None:
        self._results, self._record = results, record
        self.claim = record.to_json()
        """Content of epochs/<n>.json."""
        self._stop = threading.Event()
        self.lost = threading.Event()
        self.error: OSError | None = None
        """Why the beat could not be written any more; the driver must stop then."""
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """The epoch."""
        return self._record.epoch

    @property
    def claim_key(self) -> str:
        """Where the claim lies."""
        return epoch_key(self.number)

    def give_back(self) -> None:
        """Stop beating; if the epoch was not lost, say that this driver ended."""
        self._stop.set()
        self._thread.join()
        if not self._is_lost():
            ended = self._record.model_copy(update={"ended_at": utc_now()})
            self._results.store.put("driver.json", ended.to_json())

    def _is_lost(self) -> bool:
        """Look whether there is a newer epoch."""
        if self._results.store.get(epoch_key(self.number + 1)) is not None:
            self.lost.set()
        return self.lost.is_set()

    def _beat(self) -> None:
        failed = 0
        while not self._stop.wait(BEAT_INTERVAL_S):
            self._record = self._record.model_copy(update={"beat": self._record.beat + 1})
            try:
                if self._is_lost():
                    return
                self._results.store.put("driver.json", self._record.to_json())
                failed = 0
            except OSError as error:
                failed += 1
                if failed == BEATS_TO_MISS:
                    self.error = error


def take_epoch(results: Results) -> Epoch:
    """Become the driver.

    Raises:
        UserError: another driver lives, or took the epoch first.
    """
    last = latest_epoch(results)  # read before the look at its driver: who comes between wins
    refuse_second_driver(results)
    ticks = start_ticks(os.getpid())
    assert ticks is not None, "a running process has a start time"
    record = DriverRecord(
        epoch=last + 1,
        beat=0,
        hostname=socket.gethostname(),
        boot_id=boot_id(),
        pid_namespace=_pid_namespace(),
        pid=os.getpid(),
        start_ticks=ticks,
        started_at=utc_now(),
        nonce=uuid.uuid4().hex,
    )
    if not results.store.create_once(epoch_key(record.epoch), record.to_json()):
        raise UserError(f"{results.uri}: another `isobench-ray run` started at the same moment")
    results.store.put("driver.json", record.to_json())
    return Epoch(results, record)


def latest_epoch(results: Results) -> int:
    """Number of the last epoch; 0 where there was none."""
    return max(_epochs(results), default=0)


def _pid_namespace() -> str:
    """Two containers of one machine share its boot id, but not the meaning of process ids."""
    return str(Path("/proc/self/ns/pid").readlink())


def _epochs(results: Results) -> list[int]:
    names = [key.rsplit("/", 1)[1] for key in results.store.list("epochs/")]
    return [int(name.removesuffix(".json")) for name in names]


def _read(results: Results, key: str) -> DriverRecord | None:
    data = results.store.get(key)
    try:
        return None if data is None else DriverRecord.model_validate_json(data)
    except ValidationError:
        return None  # not of this program's making; it can neither live nor be waited for


def epoch_key(number: int) -> str:
    """Where the claim of an epoch lies."""
    return f"epochs/{number}.json"
