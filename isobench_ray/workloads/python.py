"""python workloads in lockstep: one living process per arm, and all arms alternate pass by pass.

On a small shared machine, single runs of a fresh process vary by more than ten percent, because
the machine itself does. Passes that alternate within milliseconds meet the same machine, so their
ratio varies far less. Processes are fresh in every block; a block's sample is the median of its
passes; the raw passes are kept. Only one arm runs at any time. All arms of a block run on one core
(another one in another block): two cores of a shared machine can differ by half for seconds.
"""

from __future__ import annotations

import os
import random
import select
import statistics
import subprocess
import time

from isobench_ray.process import Drain, end_process, spawn, tail
from isobench_ray.workloads.block import ArmBlock, ArmSource, BlockConditions, contain_arm

PASS_MS = "pass_ms"
LINE_LIMIT_BYTES = 100_000
ENDED_EARLY = "the workload ended early"


def measure_python_block(conditions: BlockConditions, arms: list[ArmSource]) -> list[ArmBlock]:
    """Start one process per arm, alternate warm-up and timed passes, and end the processes."""
    workload, order = conditions.workload, conditions.shuffled(arms)
    draw = random.Random(conditions.seed)
    cpu = draw.choice(sorted(os.sched_getaffinity(0)))
    running: list[_ArmProcess] = []
    try:
        running = [_ArmProcess(conditions, arm, cpu) for arm in order]
        for arm in running:
            arm.expect("ready")
        for index in range(workload.warmup_passes + workload.passes):
            turn = list(running)
            draw.shuffle(turn)
            for arm in turn:
                arm.run_pass(index, timed=index >= workload.warmup_passes)
    finally:
        for arm in running:
            arm.close()
    return [arm.block(position) for position, arm in enumerate(running)]


class _ArmProcess:
    """The runner of one arm; after its first problem it takes no further part in the block."""

    def __init__(self, conditions: BlockConditions, arm: ArmSource, cpu: int) -> None:
        measuring, scratch = conditions.measuring, conditions.scratch / arm.name
        self.name = arm.name
        self.problem: str | None = None
        self._pass_ns: list[int] = []
        self._received = b""
        self._outside_s = 0.0
        self._left_s = self._limit_s = conditions.timeout_s
        self._ledger = measuring.ledger
        script = ["{HARNESS}/lockstep_runner.py", f"{{TASK}}/{conditions.workload.entry}"]
        argv = [measuring.environment.python, *script, str(conditions.seed), str(cpu)]
        env = {"PYTHONHASHSEED": str(conditions.seed % 2**32)}
        contained = contain_arm(measuring, argv, arm, scratch, env)
        self._stderr = scratch / "stderr.log"
        self._process = spawn(
            contained.argv,
            cwd=contained.cwd,
            env=contained.env,
            ledger=self._ledger,
            stdin=subprocess.PIPE,
        )
        limit = measuring.output_limit_bytes
        self._drain = Drain(self._process.stderr, self._stderr, limit)

    def run_pass(self, index: int, timed: bool) -> None:
        """One pass: prepare untimed, then run; kept when it is a timed one."""
        self._send(f"prepare {index}")
        self.expect("prepared")
        start = time.monotonic()
        self._send("run")
        elapsed_ns = self.expect("done")
        if elapsed_ns == 0:
            self.problem = "a pass took no time at all"
        if timed and elapsed_ns:
            self._outside_s += time.monotonic() - start
            self._pass_ns.append(elapsed_ns)

    def expect(self, word: str) -> int | None:
        """Wait for a reply of the runner; the number behind its word, if there is one."""
        if self.problem is not None:
            return None
        line = self._read_line()
        if line is None:
            return None
        said, _, number = line.partition(b" ")
        if said.decode(errors="replace") != word or (number and not number.isdigit()):
            self.problem = f"the workload spoke in the runner's place: {line[:80]!r}"
            return None
        return int(number) if number else None

    def _read_line(self) -> bytes | None:
        """The next line, within what is left of the time limit; None after a problem."""
        assert self._process.stdout is not None
        descriptor, start = self._process.stdout.fileno(), time.monotonic()
        while b"\n" not in self._received:
            left_s = self._left_s - (time.monotonic() - start)
            if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
                self.problem = f"the workload took more than {self._limit_s:g} s"
                return None
            chunk = os.read(descriptor, 4096)
            self._received += chunk
            if not chunk or len(self._received) > LINE_LIMIT_BYTES:
                self.problem = ENDED_EARLY
                return None
        self._left_s -= time.monotonic() - start
        line, _, self._received = self._received.partition(b"\n")
        return line

    def close(self) -> None:
        """End the process; say how it ended if it ended early."""
        end_process(self._process, self._ledger)
        self._drain.finish()
        if self.problem == ENDED_EARLY:
            words = tail(self._stderr)
            self.problem = f"the workload ended with status {self._process.returncode}: {words}"
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def block(self, position: int) -> ArmBlock:
        """What this arm yielded."""
        passes = tuple(ns / 1e6 for ns in self._pass_ns)
        metrics = {} if self.problem else {PASS_MS: statistics.median(passes)}
        return ArmBlock(self.name, position, metrics, passes, self._outside_s, self.problem)

    def _send(self, line: str) -> None:
        if self.problem is not None:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self.problem = ENDED_EARLY
