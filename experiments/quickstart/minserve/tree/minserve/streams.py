"""Merges the output streams of many requests into one, in the order in which items come."""

from minserve.loop import Future, Loop


async def wait_any(futures: list[Future]) -> list[Future]:
    """Waits until at least one is done; returns those that are."""
    done = [future for future in futures if future.is_done]
    if done:
        return done
    first = Future()

    def wake(future: Future) -> None:
        if not first.is_done:
            first.set_result()

    for future in futures:
        future.add_callback(wake)
    try:
        await first
    finally:
        for future in futures:
            future.remove_callback(wake)
    return [future for future in futures if future.is_done]


async def merge(loop: Loop, streams: list):
    """Yields (index of the stream, item) until all streams have ended.

    A stream that has nothing yet does not hold up the others. Of each stream at most one item is
    taken ahead of what the reader has asked for. An error in a stream reaches the reader. When
    the reader leaves early, or a stream fails, no stream is read any more.
    """
    pending = {}
    try:
        for index, stream in enumerate(streams):
            pending[loop.spawn(stream.__anext__())] = index
        while pending:
            for task in await wait_any(list(pending)):
                index = pending.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                pending[loop.spawn(streams[index].__anext__())] = index
                yield index, item
    finally:
        for task in pending:
            task.cancel()
