"""Continuous batching: which requests take part in the next step.

Waiting requests are admitted by priority, then arrival, and only in that order: one that does not
fit holds up those behind it. When running requests outgrow the cache, the least important is sent
back to the waiting ones and keeps its arrival.
"""

from minserve.request import Request


def rank(request: Request) -> tuple[int, int]:
    return (request.priority, request.arrival)


class Scheduler:
    """Limits: `max_running` requests at once, `max_cached_tokens` tokens over all of them."""

    def __init__(self, max_running: int, max_cached_tokens: int) -> None:
        self._max_running = max_running
        self._max_cached_tokens = max_cached_tokens
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._arrivals = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, request: Request) -> None:
        request.arrival = self._arrivals
        self._arrivals += 1
        self._waiting.append(request)

    def schedule(self) -> list[Request]:
        """Requests of the next step, in order of admission."""
        cached_tokens = sum(len(request.token_ids) for request in self._running)
        while cached_tokens > self._max_cached_tokens and len(self._running) > 1:
            victim = max(self._running, key=rank)
            self._running.remove(victim)
            self._waiting.append(victim)
            cached_tokens -= len(victim.token_ids)
        self._waiting.sort(key=rank)
        while self._waiting and len(self._running) < self._max_running:
            needed_tokens = len(self._waiting[0].token_ids)
            if self._running and cached_tokens + needed_tokens > self._max_cached_tokens:
                break
            self._running.append(self._waiting.pop(0))
            cached_tokens += needed_tokens
        return list(self._running)

    def finish(self, request: Request) -> None:
        """Takes a running request out."""
        self._running.remove(request)

    def abort(self, request_id: str) -> bool:
        """Drops a request wherever it is; False when there is none of that id."""
        for requests in (self._running, self._waiting):
            for request in requests:
                if request.request_id == request_id:
                    requests.remove(request)
                    return True
        return False
