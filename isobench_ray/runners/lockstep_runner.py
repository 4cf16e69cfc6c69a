"""One arm of a python workload: lockstep_runner.py WORKLOAD_FILE SEED CPU, started in its tree.

Speaks lines over its original standard output: `ready`, then for each `prepare N` from standard
input `prepared`, and for each `run` `done NANOSECONDS`. What the workload itself prints goes to
standard error. Between those lines the process waits, so that only one arm runs at a time.
"""

import gc
import importlib.util
import os
import sys
from pathlib import Path
from time import perf_counter_ns


def main() -> None:
    """Serve the harness until it closes standard input."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    workload_file, seed = sys.argv[1], int(sys.argv[2])
    sys.path[0] = str(Path.cwd())
    spec = importlib.util.spec_from_file_location("workload", workload_file)
    assert spec is not None
    assert spec.loader is not None
    workload = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(workload)
    state = workload.setup(seed)
    prepare = getattr(workload, "prepare", lambda state, _: state)
    os.sched_setaffinity(0, {int(sys.argv[3])})  # after the start-up, which may use all cores
    run, clock, collect = workload.run, perf_counter_ns, gc.collect
    replies.write("ready\n")
    inputs = None
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "prepare":
            inputs = prepare(state, int(argument))
            collect()
            gc.disable()
            replies.write("prepared\n")
        elif command == "run":
            start = clock()
            run(inputs)
            elapsed_ns = clock() - start
            gc.enable()
            inputs = None
            replies.write(f"done {elapsed_ns}\n")


if __name__ == "__main__":
    main()
