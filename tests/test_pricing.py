"""Prices: published figures, dates, regions, the user's own, and what must stay unknown."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction
from importlib.resources import files
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from isobench_ray.pricing import (
    PROVIDERS,
    Account,
    LongContext,
    Price,
    PriceTable,
    Tokens,
    UserPrice,
    cost_usd,
    most_usd,
    price_of,
    reconcile,
    shipped_table,
    total_usd,
)
from isobench_ray.schema import canonical_json, sha256_hex

NOW = date(2026, 11, 24)
SONNET_45 = "claude-sonnet-4-5-20250929"
SONNET_45_BEDROCK = "anthropic.claude-sonnet-4-5-20250929-v1:0"
PARTS = ("fresh_input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
RATES = (
    "input_usd_per_mtok",
    "cache_write_5m_usd_per_mtok",
    "cache_write_1h_usd_per_mtok",
    "cache_read_usd_per_mtok",
    "output_usd_per_mtok",
)


def used(**parts):
    """Tokens of which the parts that are not named are known to be 0."""
    return Tokens(**(dict.fromkeys(Tokens.model_fields, 0) | parts))


def rates(price):
    return price and tuple(getattr(price, rate) for rate in RATES)


def user_prices(text):
    """The `prices` of an experiment file."""
    return TypeAdapter(dict[str, UserPrice]).validate_python(yaml.safe_load(text))


def table(*rows, changed_on="2026-01-01"):
    return PriceTable.parse(json.dumps({"changed_on": changed_on, "rows": rows}).encode())


def row(model="m", provider="anthropic", since="2025-01-01", until=None, usd=1.0, **more):
    return {
        "model": model,
        "provider": provider,
        "valid_from": since,
        "valid_until": until,
        "price": {"input_usd_per_mtok": usd, "output_usd_per_mtok": usd},
        "source": {"url": "https://example.org", "read_on": "2026-01-01"},
        **more,
    }


counts = st.just(0) | st.integers(0, 10**9)
usd = st.just(0.0) | st.integers(0, 10**9).map(lambda micro: micro / 10**6)
tokens = st.builds(used, **dict.fromkeys(PARTS, counts))
flat_prices = st.builds(Price, **dict.fromkeys(RATES, usd))
long_contexts = st.builds(LongContext, above_prompt_tokens=counts, **dict.fromkeys(RATES, usd))
prices = st.builds(Price, long_context=st.none() | long_contexts, **dict.fromkeys(RATES, usd))


# Published figures


@pytest.mark.parametrize(
    ("model", "parts", "published_usd"),
    [
        ("claude-sonnet-4-5", {"fresh_input": 4000, "output": 200}, 0.015),
        ("claude-sonnet-4-20250514", {"cache_write_5m": 100_000, "cache_read": 50_000}, 0.39),
        ("claude-sonnet-4-6", {"cache_write_1h": 150_000}, 0.9),
        ("claude-opus-4-1", {"fresh_input": 1_000_000, "output": 1_000_000}, 90.0),
        ("claude-opus-4-5", {"fresh_input": 1_000_000, "output": 1_000_000}, 30.0),
        ("claude-opus-4-6", {"fresh_input": 1_000_000, "output": 1_000_000}, 30.0),
        ("claude-haiku-4-5", {"fresh_input": 1_000_000, "cache_read": 1_000_000}, 1.1),
        ("gpt-5", {"fresh_input": 1_000_000, "cache_read": 1_000_000, "output": 100_000}, 2.375),
        ("gpt-5-codex", {"fresh_input": 1_000_000, "output": 1_000_000}, 11.25),
        ("gpt-5-mini", {"fresh_input": 1_000_000, "output": 1_000_000}, 2.25),
        ("gpt-4.1", {"fresh_input": 1_000_000, "cache_read": 1_000_000}, 2.5),
        ("o3", {"fresh_input": 1_000_000, "output": 1_000_000}, 10.0),
        ("o4-mini", {"fresh_input": 1_000_000, "output": 1_000_000}, 5.5),
    ],
)
def test_published_prices_come_out_to_the_last_digit(model, parts, published_usd):
    assert cost_usd(used(**parts), price_of(model, None, NOW)) == published_usd


def test_the_shipped_file_has_no_key_that_the_models_would_ignore():
    raw = json.loads((files("isobench_ray") / "prices.json").read_bytes())

    def unknown(written, parsed):
        if isinstance(written, dict):
            return {k for k in written if k not in parsed} | {
                u for k in written if k in parsed for u in unknown(written[k], parsed[k])
            }
        if isinstance(written, list):
            return {u for w, p in zip(written, parsed, strict=True) for u in unknown(w, p)}
        return set()

    assert not unknown(raw, shipped_table().model_dump(mode="json"))
    raw["rows"][0]["price"]["cache_reed_usd_per_mtok"] = 1
    parsed = PriceTable.parse(json.dumps(raw).encode()).model_dump(mode="json")
    assert unknown(raw, parsed) == {"cache_reed_usd_per_mtok"}


def test_every_shipped_row_has_rates_a_source_and_the_day_it_was_read():
    shipped = shipped_table()
    assert {row.provider for row in shipped.rows} == set(PROVIDERS)
    for entry in shipped.rows:
        assert entry.price.input_usd_per_mtok
        assert entry.price.output_usd_per_mtok
        assert entry.price.cache_read_usd_per_mtok
        assert entry.source.url.startswith("https://")
        assert date(2026, 11, 1) <= entry.source.read_on <= shipped.changed_on
        assert entry.source.as_of is None or entry.source.as_of <= entry.source.read_on
        assert entry.valid_from <= shipped.changed_on
        assert entry.valid_until is None or entry.valid_from < entry.valid_until
        assert bool(entry.regional_factors) == (entry.provider == "bedrock")


def overlaps(price_table):
    """Pairs of rows that hold at one time for one id at one provider."""
    periods = {}
    for entry in price_table.rows:
        for name in entry.ids:
            end = entry.valid_until or date.max
            periods.setdefault((entry.provider, name), []).append((entry.valid_from, end))
    return [
        name
        for name, spans in periods.items()
        for (_, end), (start, _) in pairwise(sorted(spans))
        if start < end
    ]


def test_no_two_shipped_rows_hold_at_one_time_for_one_id():
    assert overlaps(shipped_table()) == []
    first = row(until="2025-06-01")
    assert overlaps(table(first, row(since="2025-06-01"))) == []
    assert overlaps(table(first, row(since="2025-05-31"))) == [("anthropic", "m")]
    assert overlaps(table(row(), row(model="n", aliases=["m"]))) == [("anthropic", "m")]


def test_each_shipped_id_belongs_to_one_provider_so_that_a_bare_id_is_no_guess():
    owners = {}
    for entry in shipped_table().rows:
        for name in entry.ids:
            owners.setdefault(name, set()).add(entry.provider)
    assert [name for name, providers in owners.items() if len(providers) > 1] == []


def test_the_tables_version_is_its_day_and_the_hash_of_what_it_says():
    raw = json.loads((files("isobench_ray") / "prices.json").read_bytes())
    shipped = shipped_table()
    assert shipped.version == f"{raw['changed_on']}+sha256.{sha256_hex(canonical_json(raw))}"
    spaced = PriceTable.parse(json.dumps(raw, indent=7).encode())
    assert spaced.version == shipped.version
    raw["rows"][3]["price"]["output_usd_per_mtok"] += 1
    assert PriceTable.parse(json.dumps(raw).encode()).version != shipped.version


# Ids


@pytest.mark.parametrize(
    ("written", "provider"),
    [
        (SONNET_45, "anthropic"),
        (SONNET_45, None),
        ("claude-sonnet-4-5", "anthropic"),
        ("anthropic/claude-sonnet-4-5", None),
        (f"anthropic/{SONNET_45}", "anthropic"),
        ("claude-sonnet-4-5[1m]", None),
        (SONNET_45_BEDROCK, "bedrock"),
        (f"bedrock/{SONNET_45_BEDROCK}", None),
        (f"bedrock/converse/global.{SONNET_45_BEDROCK}", None),
        (f"bedrock/invoke/{SONNET_45_BEDROCK}", "bedrock"),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET_45_BEDROCK}", None),
        (f"arn:aws:bedrock:us-east-1:1234:inference-profile/global.{SONNET_45_BEDROCK}", "bedrock"),
    ],
)
def test_a_model_has_its_price_under_every_way_in_which_agents_write_its_id(written, provider):
    assert rates(price_of(written, provider, NOW)) == (3.0, 3.75, 6.0, 0.3, 15.0)


@pytest.mark.parametrize(
    ("written", "provider"),
    [
        ("claude-sonnet-4-7", None),
        ("claude-sonnet", None),
        ("claude-sonnet-4-5-latest", None),
        ("claude-sonnet-4-5-20250930", None),
        ("Claude-Sonnet-4-5", None),
        ("sonnet", "anthropic"),
        ("gpt-5-2025-08-08", "openai"),
        ("gpt-5.1-codex-ultra", None),
        ("gpt-5[1m]", "openai"),
        ("openrouter/anthropic/claude-sonnet-4-5", None),
        ("azure/gpt-5", None),
        ("bedrock/us-gov-east-1/" + SONNET_45_BEDROCK, None),
        (f"us-gov.{SONNET_45_BEDROCK}", "bedrock"),
        (f"base.{SONNET_45_BEDROCK}", "bedrock"),
        (f"arn:aws-us-gov:bedrock:us-gov-east-1:1:inference-profile/{SONNET_45_BEDROCK}", None),
        ("arn:aws:bedrock:us-east-1:1234:application-inference-profile/abcdefghi", None),
        ("bedrock/claude-sonnet-4-5", None),
        ("us.claude-sonnet-4-5", "anthropic"),
        ("openai/gpt-5", "bedrock"),
        (f"anthropic/{SONNET_45_BEDROCK}", "bedrock"),
        ("claude-sonnet-4-5", "openai"),
        ("gpt-5", "self-hosted"),
        ("openai/gpt-5", "self-hosted"),
        ("", None),
    ],
)
def test_an_id_that_is_only_similar_has_no_price(written, provider):
    assert price_of(written, provider, NOW) is None


# Regions


@pytest.mark.parametrize("profile", ["us", "eu", "jp", "au"])
def test_a_regional_profile_costs_ten_percent_more_in_every_rate_and_tier(profile):
    price = price_of(f"bedrock/{profile}.{SONNET_45_BEDROCK}", None, NOW)
    assert rates(price) == (3.3, 4.125, 6.6, 0.33, 16.5)
    assert rates(price.long_context) == (6.6, 8.25, 13.2, 0.66, 24.75)
    assert price.long_context.above_prompt_tokens == 200_000


def test_only_profiles_that_a_row_lists_have_a_price_and_older_models_have_no_surcharge():
    sonnet_4 = "anthropic.claude-sonnet-4-20250514-v1:0"
    base = rates(price_of(sonnet_4, "bedrock", NOW))
    assert rates(price_of(f"apac.{sonnet_4}", "bedrock", NOW)) == base
    assert price_of(f"apac.{SONNET_45_BEDROCK}", "bedrock", NOW) is None


def test_users_change_a_profiles_factor_and_keep_the_shipped_rates():
    mine = user_prices(
        f"{SONNET_45_BEDROCK}: {{regional_factors: {{us: 1.0, apac: 1.2, base: 2}}}}"
    )

    def first_rate(model):
        return price_of(model, "bedrock", NOW, overrides=mine).input_usd_per_mtok

    assert first_rate(f"us.{SONNET_45_BEDROCK}") == 3.0
    assert first_rate(f"apac.{SONNET_45_BEDROCK}") == 3.6
    assert first_rate(f"eu.{SONNET_45_BEDROCK}") == 3.3
    assert first_rate(SONNET_45_BEDROCK) == 6.0


# Dates


def test_an_old_run_is_priced_with_the_prices_of_its_time():
    def o3(day):
        return rates(price_of("o3", "openai", day))

    assert o3(date(2025, 4, 15)) is None
    assert o3(date(2025, 6, 9)) == (10, 10, 10, 2.5, 40)
    assert o3(date(2025, 6, 10)) == (2, 2, 2, 0.5, 8)
    assert o3(NOW) == (2, 2, 2, 0.5, 8)


def test_a_price_that_was_not_verified_beyond_a_day_is_unknown_after_it():
    assert rates(price_of("gpt-5.6-luna", None, date(2026, 7, 29))) == (1, 1.25, None, 0.1, 6)
    assert rates(price_of("gpt-5.6-luna", None, date(2026, 8, 21))) == (0.2, 0.25, None, 0.02, 1.2)
    assert price_of("gpt-5.6-luna", None, date(2026, 8, 22)) is None


def test_the_surcharge_on_long_prompts_ended_on_its_day():
    long = used(fresh_input=300_000)
    assert cost_usd(long, price_of("claude-opus-4-6", None, date(2026, 3, 12))) == 3.0
    assert cost_usd(long, price_of("claude-opus-4-6", None, date(2026, 3, 13))) == 1.5


def test_days_begin_and_end_in_utc():
    changes = table(row(until="2026-01-02", usd=1.0), row(since="2026-01-02", usd=2.0))

    def at(when):
        return price_of("m", None, when, table=changes).input_usd_per_mtok

    assert at(datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)) == 1.0
    assert at(datetime(2026, 1, 2, tzinfo=UTC)) == 2.0
    assert at(datetime(2026, 1, 1, 20, tzinfo=timezone(timedelta(hours=-5)))) == 2.0
    with pytest.raises(ValueError, match="no time zone"):
        at(datetime(2026, 1, 1))  # noqa: DTZ001


# The user's prices


def test_a_model_that_nobody_sells_has_the_users_price_at_all_times():
    mine = user_prices("my-model: {input_usd_per_mtok: 0.5, output_usd_per_mtok: 1.5}")
    for written, provider in (
        ("my-model", None),
        ("my-model", "self-hosted"),
        ("openai/my-model", "self-hosted"),
        ("openai/my-model", None),
    ):
        price = price_of(written, provider, date(1999, 1, 1), overrides=mine)
        assert rates(price) == (0.5, 0.5, 0.5, 0.5, 1.5)
    assert price_of("my-model-2", None, NOW, overrides=mine) is None


def test_the_users_price_wins_under_every_id_of_the_model_and_the_nearest_id_wins_first():
    mine = user_prices("claude-sonnet-4-5: {input_usd_per_mtok: 7, output_usd_per_mtok: 8}")
    for written in (SONNET_45, "claude-sonnet-4-5", f"anthropic/{SONNET_45}"):
        assert price_of(written, None, NOW, overrides=mine).input_usd_per_mtok == 7
    assert price_of("claude-sonnet-4-6", None, NOW, overrides=mine).input_usd_per_mtok == 3
    assert price_of(SONNET_45_BEDROCK, None, NOW, overrides=mine).input_usd_per_mtok == 3
    as_written = user_prices("openai/x: {input_usd_per_mtok: 2, output_usd_per_mtok: 2}")
    bare = user_prices("x: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}")
    assert price_of("openai/x", None, NOW, overrides=bare | as_written).input_usd_per_mtok == 2
    assert price_of("x", None, NOW, overrides=as_written | bare).input_usd_per_mtok == 1
    both = mine | user_prices(f"{SONNET_45}: {{input_usd_per_mtok: 9, output_usd_per_mtok: 9}}")
    assert price_of(f"anthropic/{SONNET_45}", None, NOW, overrides=both).input_usd_per_mtok == 9
    assert price_of("claude-sonnet-4-5", None, NOW, overrides=both).input_usd_per_mtok == 7


def test_the_users_price_of_a_base_id_holds_for_a_profile_only_with_a_factor():
    plain = f"{SONNET_45_BEDROCK}: {{input_usd_per_mtok: 2, output_usd_per_mtok: 4"
    us = f"bedrock/us.{SONNET_45_BEDROCK}"
    without = user_prices(plain + "}")
    assert rates(price_of(us, None, NOW, overrides=without))[0] == 3.3
    factor = user_prices(plain + ", regional_factors: {us: 1.5}}")
    assert rates(price_of(us, None, NOW, overrides=factor)) == (3, 3, 3, 3, 6)
    exact = user_prices(f"{us}: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}")
    assert rates(price_of(us, None, NOW, overrides=factor | exact)) == (1, 1, 1, 1, 2)


def test_an_override_with_a_providers_prefix_is_for_that_provider_only():
    mine = user_prices("openai/x: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}")
    assert price_of("x", "openai", NOW, overrides=mine) is not None
    assert price_of("x", "self-hosted", NOW, overrides=mine) is None


def test_free_is_a_price_and_unknown_is_not():
    spent = Tokens(fresh_input=10, output=10)
    mine = user_prices("mine: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}")
    assert cost_usd(spent, price_of("mine", None, NOW, overrides=mine)) == 0.0
    assert cost_usd(spent, price_of("theirs", None, NOW, overrides=mine)) is None


def test_a_cache_rate_that_is_left_out_is_inputs_and_one_written_as_null_is_unknown():
    mine = user_prices(
        "m: {input_usd_per_mtok: 2, output_usd_per_mtok: 4, cache_write_1h_usd_per_mtok: null,"
        " long_context: {above_prompt_tokens: 10, input_usd_per_mtok: 3, output_usd_per_mtok: 5,"
        " cache_read_usd_per_mtok: 1}}"
    )
    price = price_of("m", None, NOW, overrides=mine)
    assert rates(price) == (2, 2, None, 2, 4)
    assert rates(price.long_context) == (3, 3, 3, 1, 5)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{input_usd_per_mtok: 1, output_usd_per_mtok: 1, cached: 1}", "cached"),
        ("{input_usd_per_mtok: 1}", "output_usd_per_mtok must be written"),
        ("{}", "must be written"),
        ("{regional_factors: {}}", "must be written"),
        ("{regional_factors: {us: 0}}", "greater than 0"),
        ("{input_usd_per_mtok: -1, output_usd_per_mtok: 1}", "greater than or equal to 0"),
        ("{input_usd_per_mtok: .inf, output_usd_per_mtok: 1}", "finite"),
        (
            """
            input_usd_per_mtok: 1
            output_usd_per_mtok: 1
            long_context: {above_prompt_tokens: 9, input_usd_per_mtok: 1}
            """,
            "output_usd_per_mtok must be written",
        ),
    ],
)
def test_a_price_that_says_too_little_or_something_unknown_is_refused(entry, complaint):
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(UserPrice).validate_python(yaml.safe_load(entry))


# Costs


@given(tokens, flat_prices)
def test_a_cost_is_the_exact_sum_rounded_once(spent, price):
    exact = sum(
        getattr(spent, part) * Fraction(str(getattr(price, rate)))
        for part, rate in zip(PARTS, RATES, strict=True)
    )
    assert cost_usd(spent, price) == float(exact / 10**6)


@given(tokens, tokens, flat_prices)
def test_without_tiers_the_cost_of_a_sum_is_the_sum_of_the_costs(one, other, price):
    apart = total_usd([cost_usd(one, price), cost_usd(other, price)])
    assert cost_usd(one + other, price) == pytest.approx(apart, rel=1e-15)


@given(tokens, st.sampled_from(PARTS), counts, flat_prices)
def test_more_tokens_never_cost_less(spent, part, more, price):
    grown = spent + used(**{part: more})
    assert cost_usd(grown, price) >= cost_usd(spent, price)


@given(tokens, prices, st.sampled_from(PARTS))
def test_a_lost_rate_makes_the_cost_unknown_exactly_when_there_are_tokens_of_it(spent, price, part):
    lost = {RATES[PARTS.index(part)]: None}
    long = price.long_context and price.long_context.model_copy(update=lost)
    cost = cost_usd(spent, price.model_copy(update={**lost, "long_context": long}))
    assert cost == (None if getattr(spent, part) else cost_usd(spent, price))


@given(tokens, flat_prices, st.sampled_from(PARTS))
def test_a_lost_count_makes_the_cost_unknown_exactly_when_its_rate_is_not_0(spent, price, part):
    cost = cost_usd(spent.model_copy(update={part: None}), price)
    rate = getattr(price, RATES[PARTS.index(part)])
    assert cost == (None if rate else cost_usd(spent, price))


def test_one_unknown_part_makes_the_cost_unknown_and_zero_known_of_it_does_not():
    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
    assert cost_usd(used(fresh_input=5), price) == 5e-6
    assert cost_usd(used(fresh_input=5, cache_read=1), price) is None
    assert cost_usd(Tokens(fresh_input=5, output=5), price) is None
    assert cost_usd(used(fresh_input=5), None) is None


def test_the_long_context_tier_begins_one_token_above_its_threshold_and_holds_for_all_tokens():
    price = price_of("claude-sonnet-4-5", None, NOW)
    at = used(fresh_input=100_000, cache_write_5m=50_000, cache_read=50_000, output=1000)
    above = at + used(cache_read=1)
    assert cost_usd(at, price) == pytest.approx(0.3 + 0.1875 + 0.015 + 0.015, rel=1e-12)
    assert cost_usd(above, price) == pytest.approx(
        0.6 + 0.375 + 50_001 * 0.6e-6 + 0.0225, rel=1e-12
    )


def test_a_prompt_of_unknown_length_has_a_tier_only_when_the_known_part_decides_it():
    free_reads = Price(
        **dict.fromkeys(RATES, 1.0) | {"cache_read_usd_per_mtok": 0.0},
        long_context=LongContext(
            above_prompt_tokens=100,
            **dict.fromkeys(RATES, 2.0) | {"cache_read_usd_per_mtok": 0.0},
        ),
    )
    assert cost_usd(used(fresh_input=101).model_copy(update={"cache_read": None}), free_reads) == (
        202e-6
    )
    assert (
        cost_usd(used(fresh_input=99).model_copy(update={"cache_read": None}), free_reads) is None
    )


def test_a_tier_whose_rates_nobody_verified_leaves_short_prompts_priced():
    price = price_of("anthropic.claude-opus-4-6-v1", "bedrock", date(2026, 4, 1))
    assert cost_usd(used(fresh_input=200_000), price) == 1.0
    assert cost_usd(used(fresh_input=200_001), price) is None
    assert most_usd(price, 200_001, 10) is None


@given(tokens, prices, counts, counts, st.sampled_from(["none", "5m", "1h"]))
def test_no_call_costs_more_than_was_foreseen_from_its_bounds(spent, price, more, room, writes):
    if writes != "1h":
        spent = spent.model_copy(update={"cache_write_1h": 0})
    if writes == "none":
        spent = spent.model_copy(update={"cache_write_5m": 0})
    bound = most_usd(price, spent.prompt + more, spent.output + room, cache_writes=writes)
    assert cost_usd(spent, price) <= bound


@given(counts, counts, flat_prices, st.sampled_from(PARTS[:4]))
def test_the_foreseen_cost_is_reached_by_some_call(prompt, output, price, part):
    calls = [cost_usd(used(**{p: prompt, "output": output}), price) for p in PARTS[:4]]
    assert most_usd(price, prompt, output) == max(calls)


def test_what_a_call_can_cost_is_unknown_when_a_rate_it_may_meet_is():
    price = Price(**dict.fromkeys(RATES, 2.0) | {"cache_write_1h_usd_per_mtok": None})
    assert most_usd(price, 1000, 1000) is None
    assert most_usd(price, 1000, 1000, cache_writes="5m") == 0.004
    assert most_usd(None, 0, 0) is None
    with pytest.raises(ValueError, match="-1"):
        most_usd(price, 10, -1)


def test_a_bound_over_the_threshold_counts_the_dearer_side():
    cheap_when_long = Price(
        **dict.fromkeys(RATES, 10.0),
        long_context=LongContext(above_prompt_tokens=1000, **dict.fromkeys(RATES, 1.0)),
    )
    assert most_usd(cheap_when_long, 1001, 0) == 0.01


def test_sums_of_costs_keep_what_is_unknown():
    assert total_usd([]) == 0.0
    assert total_usd([0.1] * 10) == 1.0
    assert total_usd([0.1, None, 0.2]) is None


# Tokens and accounts


@given(tokens, tokens, st.sampled_from(PARTS))
def test_tokens_add_part_by_part_and_unknown_stays_unknown(one, other, part):
    both = one + other
    for name in PARTS:
        assert getattr(both, name) == getattr(one, name) + getattr(other, name)
    assert one + Tokens.none() == one
    lost = one + other.model_copy(update={part: None})
    assert lost == both.model_copy(update={part: None})
    assert (lost.prompt is None) == (part != "output")


def test_tokens_are_never_negative_and_reasoning_is_part_of_output():
    with pytest.raises(ValidationError):
        Tokens(output=-1)
    with pytest.raises(ValidationError, match="5 reasoning tokens of 4"):
        Tokens(output=4, reasoning=5)
    assert Tokens(reasoning=5).output is None


def test_three_accounts_stand_side_by_side_and_unknown_differences_are_null():
    metered = Account(
        tokens=used(fresh_input=100, cache_write_5m=30, cache_read=900, output=50, reasoning=20),
        cost_usd=0.3,
    )
    agent = Account(
        tokens=Tokens(fresh_input=90, cache_write_5m=30, cache_write_1h=0, output=55), cost_usd=0.1
    )
    found = reconcile(metered, agent_reported=agent)
    assert (found.metered, found.agent_reported) == (metered, agent)
    gap = found.agent_minus_metered
    assert (gap.fresh_input, gap.cache_write, gap.output) == (-10, 0, 5)
    assert gap.cost_usd == -0.2
    assert (gap.cache_read, gap.prompt, gap.reasoning) == (None, None, None)
    assert set(found.vendor_minus_metered.model_dump().values()) == {None}


def test_an_account_agrees_with_itself():
    same = Account(tokens=used(fresh_input=3, output=2), cost_usd=0.1)
    found = reconcile(same, vendor_reported=same)
    assert set(found.vendor_minus_metered.model_dump().values()) == {0}
