"""A small cooperative run loop: futures, tasks and queues; no threads, timers or sockets.

Everything runs in the order in which it became ready, so that a run can be repeated exactly.
"""

from collections import deque


class Cancelled(BaseException):
    """Thrown into the coroutine of a task that is cancelled."""


class Future:
    """A result that comes later."""

    __slots__ = ("_callbacks", "_error", "_value", "is_done")

    def __init__(self) -> None:
        self._callbacks = []
        self._error = None
        self._value = None
        self.is_done = False

    def set_result(self, value=None) -> None:
        self._value = value
        self._wake()

    def set_error(self, error: BaseException) -> None:
        self._error = error
        self._wake()

    def result(self):
        if self._error is not None:
            raise self._error
        return self._value

    def add_callback(self, callback) -> None:
        """`callback(future)` is called when the result is there, or at once if it is."""
        if self.is_done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def remove_callback(self, callback) -> None:
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def _wake(self) -> None:
        self.is_done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def __await__(self):
        if not self.is_done:
            yield self
        return self.result()


class Task(Future):
    """A coroutine that the loop drives; its result is that of the coroutine."""

    __slots__ = ("_coroutine", "_loop", "_resume", "_waits_for")

    def __init__(self, loop: "Loop", coroutine) -> None:
        super().__init__()
        self._loop = loop
        self._coroutine = coroutine
        self._waits_for = None
        self._resume = self._on_ready
        loop.ready.append(self)

    def cancel(self) -> None:
        """Ends the coroutine where it waits. Nothing happens to a task that is done."""
        if self.is_done:
            return
        if self._waits_for is not None:
            self._waits_for.remove_callback(self._resume)
        try:
            self._coroutine.throw(Cancelled())
        except (Cancelled, StopIteration, StopAsyncIteration):
            pass
        self.set_error(Cancelled())

    def step(self) -> None:
        if self.is_done:
            return
        self._waits_for = None
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
        except Exception as error:
            self.set_error(error)
        else:
            if waits_for is None:
                self._loop.ready.append(self)
            else:
                self._waits_for = waits_for
                waits_for.add_callback(self._resume)

    def _on_ready(self, future: Future) -> None:
        self._loop.ready.append(self)


class Loop:
    """Runs tasks until the one it was started with is done."""

    def __init__(self) -> None:
        self.ready: deque[Task] = deque()

    def spawn(self, coroutine) -> Task:
        return Task(self, coroutine)

    def run(self, coroutine):
        """The result of `coroutine`. Raises RuntimeError when all tasks wait for ever."""
        main = self.spawn(coroutine)
        ready = self.ready
        while not main.is_done:
            if not ready:
                main.cancel()
                raise RuntimeError("deadlock: every task waits")
            ready.popleft().step()
        return main.result()


class Pause:
    """`await Pause()` lets the other ready tasks run first."""

    __slots__ = ()

    def __await__(self):
        yield None


class Queue:
    """First in, first out; no limit; one reader. An async iterator that ends after `close`."""

    def __init__(self) -> None:
        self._items: deque = deque()
        self._reader = None
        self._is_closed = False

    def put(self, item) -> None:
        self._items.append(item)
        self._wake()

    def close(self) -> None:
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.set_result()

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self._items:
            if self._is_closed:
                raise StopAsyncIteration
            self._reader = Future()
            await self._reader
        return self._items.popleft()
