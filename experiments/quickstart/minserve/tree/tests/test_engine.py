from itertools import cycle

from minserve.engine import Engine, generate
from minserve.metrics import LatencyHistogram
from minserve.request import Request
from minserve.sampling import SamplingParams, candidates
from minserve.scheduler import Scheduler


def test_requests_are_admitted_by_priority_then_arrival():
    scheduler = Scheduler(max_running=2, max_cached_tokens=100)
    for name, priority in (("a", 1), ("b", 0), ("c", 0)):
        scheduler.add(Request(name, [1, 2, 3], priority=priority))
    assert [request.request_id for request in scheduler.schedule()] == ["b", "c"]


def test_top_k_and_top_p_cut_the_tail():
    params = SamplingParams(top_k=3, top_p=0.5)
    assert candidates([0.0, 1.0, 1.0, -5.0], params) == [(1, 0.5), (2, 0.5)]


def test_a_bucket_holds_its_bound():
    histogram = LatencyHistogram()
    histogram.observe_all([0.25, 0.26])
    assert [count for _, count in histogram.buckets()[:2]] == [1, 2]


def test_the_engine_gives_each_prompt_its_own_text():
    params = SamplingParams(top_k=8)
    together = generate(Engine(cycle([0.3]), params), ["one", "two", "three"])
    alone = [generate(Engine(cycle([0.3]), params), [prompt])[0] for prompt in ("one", "two")]
    assert together[:2] == alone
    assert all(together)
