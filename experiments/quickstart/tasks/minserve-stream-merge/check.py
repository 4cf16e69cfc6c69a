"""Order, promptness, look-ahead, errors and leaving early, each on the project's own loop."""

import os
import random
import sys

sys.path.insert(0, os.getcwd())

from minserve.loop import Loop, Pause, Queue
from minserve.streams import merge


class Counted:
    """A stream of 0, 1, 2, ... with a pause before each; counts how often it was asked."""

    def __init__(self, length: int, pauses: int = 0, error: Exception | None = None) -> None:
        self.length, self.pauses, self.error = length, pauses, error
        self.asked = 0

    def __aiter__(self) -> "Counted":
        return self

    async def __anext__(self) -> int:
        self.asked += 1
        number = self.asked - 1
        for _ in range(self.pauses):
            await Pause()
        if number >= self.length:
            raise self.error or StopAsyncIteration
        return number


async def generated(length: int, pauses: int):
    for number in range(length):
        for _ in range(pauses):
            await Pause()
        yield number


def check_order() -> None:
    rng = random.Random(7)
    for count in (0, 1, 2, 5, 40):
        lengths = [rng.randint(0, 9) for _ in range(count)]
        for make in (Counted, generated):
            loop = Loop()
            streams = [make(length, rng.randint(0, 5)) for length in lengths]
            items = loop.run(collect(loop, streams))
            for index, length in enumerate(lengths):
                got = [item for stream, item in items if stream == index]
                expect(got, list(range(length)), f"items of stream {index} of {count}")
            expect(len(items), sum(lengths), f"number of items of {count} streams")


async def collect(loop: Loop, streams: list) -> list[tuple[int, int]]:
    return [pair async for pair in merge(loop, streams)]


def check_promptness() -> None:
    loop = Loop()
    silent, lively = Queue(), Queue()
    seen = []

    async def feed() -> None:
        for number in range(20):
            lively.put(number)
            for _ in range(50):
                await Pause()
            expect(seen, [(1, item) for item in range(number + 1)], "while stream 0 is silent")
        lively.close()
        silent.put("last")
        silent.close()

    async def read() -> None:
        task = loop.spawn(feed())
        async for pair in merge(loop, [silent, lively]):
            seen.append(pair)  # noqa: PERF401 - what came so far is looked at
        await task

    loop.run(read())
    expect(seen[-1], (0, "last"), "last item")


def check_lookahead_and_leaving() -> None:
    loop = Loop()
    streams = [Counted(100), Counted(100, pauses=3), Queue()]

    async def read() -> None:
        taken = [0, 0]
        merged = merge(loop, streams)
        async for index, _ in merged:
            taken[index] += 1
            for _ in range(20):
                await Pause()
            for stream in range(2):
                ahead = streams[stream].asked - taken[stream]
                if ahead > 2:
                    sys.exit(f"stream {stream} was asked {ahead} items ahead of the reader")
            if sum(taken) == 30:
                break
        await merged.aclose()
        before = [stream.asked for stream in streams[:2]]
        for _ in range(50):
            await Pause()
        expect([stream.asked for stream in streams[:2]], before, "asked after the reader left")

    loop.run(read())


def check_error() -> None:
    loop = Loop()
    failing, other = Counted(3, pauses=2, error=ValueError("broken")), Counted(1000, pauses=1)
    seen = []

    async def read() -> None:
        try:
            async for pair in merge(loop, [other, failing]):
                seen.append(pair)  # noqa: PERF401 - what came so far is looked at
        except ValueError as error:
            expect(str(error), "broken", "error")
        else:
            sys.exit("the error of a stream did not reach the reader")
        expect([item for index, item in seen if index == 1], [0, 1, 2], "items before the error")
        before = other.asked
        for _ in range(50):
            await Pause()
        expect(other.asked, before, "asked after the error")

    loop.run(read())


def expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        sys.exit(f"{what}: got {str(got)[:80]}, expected {str(wanted)[:80]}")


if __name__ == "__main__":
    check_order()
    check_promptness()
    check_lookahead_and_leaving()
    check_error()
