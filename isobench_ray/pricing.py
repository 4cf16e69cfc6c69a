"""What tokens cost: a dated price table, the user's own prices, and three bills side by side.

Covers list prices of text tokens on demand, in US dollars per million tokens (Mtok): prices.json
has a row for each model, provider and period, with its source, so that a price change is a new row
and an old run is recomputed with the prices of its time. What nobody could verify is not in it,
and unknown is None, never 0. Does not guess by a similar name, and does not know what an id does
not say: batch, flex, priority and fast tiers, data residency asked for in a request, GovCloud,
discounts, fees for tools. Prices of such calls are the user's to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from isobench_ray.schema import RecordModel, UserModel, canonical_json, sha256_hex

PROVIDERS = ("anthropic", "openai", "bedrock")
"""The providers that prices.json knows."""
BASE_PROFILE = "base"
"""Key of `regional_factors` for an id without a regional prefix."""

CacheWrites = Literal["none", "5m", "1h"]
"""The longest-lived prompt cache that a call may write: its most expensive kind of input."""

Count = Annotated[int, Field(ge=0)]
UsdPerMtok = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_RATE_OF_PART = {
    "fresh_input": "input_usd_per_mtok",
    "cache_write_5m": "cache_write_5m_usd_per_mtok",
    "cache_write_1h": "cache_write_1h_usd_per_mtok",
    "cache_read": "cache_read_usd_per_mtok",
    "output": "output_usd_per_mtok",
}
_RATES = tuple(_RATE_OF_PART.values())
_CACHE_RATES = tuple(rate for rate in _RATES if "cache" in rate)
_WRITE_RATES: dict[CacheWrites, tuple[str, ...]] = {
    "none": (),
    "5m": ("cache_write_5m_usd_per_mtok",),
    "1h": ("cache_write_5m_usd_per_mtok", "cache_write_1h_usd_per_mtok"),
}


class Tokens(RecordModel):
    """Tokens by the kinds that are billed apart; a part is null when unknown, and stays so in sums.

    Anthropic's `input_tokens` is `fresh_input`; OpenAI's includes what was read from the cache and,
    where that is billed, written to it: take both away first.
    """

    fresh_input: Count | None = None
    """Input tokens that were neither read from a prompt cache nor written to it."""
    cache_write_5m: Count | None = None
    """Input tokens written to a short-lived cache (Anthropic: 5 minutes; OpenAI: 30 minutes)."""
    cache_write_1h: Count | None = None
    """Input tokens written to a long-lived cache (Anthropic: 1 hour; OpenAI: 12 hours)."""
    cache_read: Count | None = None
    """Input tokens read from a cache."""
    output: Count | None = None
    """Output tokens, reasoning included."""
    reasoning: Count | None = None
    """How many of the output tokens were reasoning; for information, not billed apart."""

    @model_validator(mode="after")
    def _reasoning_is_output(self) -> Self:
        if self.reasoning is not None and self.output is not None and self.reasoning > self.output:
            raise ValueError(f"{self.reasoning} reasoning tokens of {self.output} output tokens")
        return self

    @classmethod
    def none(cls) -> Self:
        """No tokens at all: every part is known to be 0. The start of a sum."""
        return cls(**dict.fromkeys(cls.model_fields, 0))

    def __add__(self, other: Tokens) -> Tokens:
        parts = {name: (getattr(self, name), getattr(other, name)) for name in Tokens.model_fields}
        return Tokens(**{name: _sum(pair) for name, pair in parts.items()})

    @property
    def cache_write(self) -> int | None:
        """Input tokens written to a cache of either kind."""
        return _sum((self.cache_write_5m, self.cache_write_1h))

    @property
    def prompt(self) -> int | None:
        """All input tokens: fresh, written and read."""
        return _sum((self.fresh_input, self.cache_write, self.cache_read))


class Rates(RecordModel):
    """US dollars per million tokens; a rate is null when it could not be verified.

    Where a vendor bills a kind of input like any other, its rate is that of input. OpenAI's models
    before GPT-5.6 are such: nothing is charged for writing to the cache.
    """

    input_usd_per_mtok: UsdPerMtok | None = None
    """Fresh input."""
    cache_write_5m_usd_per_mtok: UsdPerMtok | None = None
    """Writing to a short-lived cache."""
    cache_write_1h_usd_per_mtok: UsdPerMtok | None = None
    """Writing to a long-lived cache."""
    cache_read_usd_per_mtok: UsdPerMtok | None = None
    """Reading from a cache."""
    output_usd_per_mtok: UsdPerMtok | None = None
    """Output, reasoning included."""


class LongContext(Rates):
    """The rates of a whole call, output included, whose prompt is longer than a threshold."""

    above_prompt_tokens: Count
    """A prompt of so many tokens still has the ordinary rates; one more has these."""


class Price(Rates):
    """What a model costs at one time."""

    long_context: LongContext | None = None
    """Other rates for long prompts; null when there are none."""

    def times(self, factor: float) -> Price:
        """Every rate multiplied, exactly: 3 USD by 1.1 is 3.3 USD."""
        long = self.long_context
        return self.model_copy(
            update={
                **_scaled(self, factor),
                "long_context": long and long.model_copy(update=_scaled(long, factor)),
            }
        )


class Source(RecordModel):
    """Where the figures of a row were read."""

    url: str
    """The page or file."""
    read_on: date
    """When it was read."""
    as_of: date | None = None
    """The date of what was read, where it is a dated copy; null for an undated one."""
    note: str | None = None
    """A second source, or what the source leaves open."""


class PriceRow(RecordModel):
    """The price of a model at a provider during a period."""

    model: str
    """The id that the provider's interface takes, without a regional prefix."""
    aliases: tuple[str, ...] = ()
    """Other ids of the very same model."""
    provider: Literal["anthropic", "openai", "bedrock"]
    """Who sends the bill."""
    valid_from: date
    """First day (UTC). For a model's first row: no later than the day it could first be called."""
    valid_until: date | None = None
    """First day (UTC) on which it no longer holds; null when no end is known."""
    price: Price
    """The price of the id without a regional prefix."""
    regional_factors: dict[str, Factor] = Field(default_factory=dict)
    """Bedrock: factor on every rate by inference profile (`us` for `us.<model>`); `base` for the id
    without a prefix. A profile that is not listed has no price."""
    source: Source
    """Where this was read."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The id and its aliases."""
        return (self.model, *self.aliases)

    def holds_on(self, day: date) -> bool:
        """Whether the row is the one for that day (UTC)."""
        return self.valid_from <= day and (self.valid_until is None or day < self.valid_until)


class PriceTable(RecordModel):
    """All rows, with the version that a record of costs names."""

    changed_on: date
    """The day of the newest change (UTC)."""
    rows: tuple[PriceRow, ...]
    """The prices."""
    sha256: str
    """Hash of the canonical JSON of the file."""

    @property
    def version(self) -> str:
        """Date and hash, such as `2026-11-24+sha256.9f86d0...`: what costs were computed with."""
        return f"{self.changed_on.isoformat()}+sha256.{self.sha256}"

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a table from its JSON.

        Raises:
            ValueError: not JSON, or not a price table.
        """
        raw = json.loads(data)
        return cls.model_validate({**raw, "sha256": sha256_hex(canonical_json(raw))})


@cache
def shipped_table() -> PriceTable:
    """The table of this release, prices.json beside this file."""
    return PriceTable.parse((files("isobench_ray") / "prices.json").read_bytes())


class UserRates(UserModel):
    """Rates as users write them: `{input_usd_per_mtok: 0.5, output_usd_per_mtok: 1.5}`.

    A cache rate that is left out is that of input, as vendors bill who have no cache prices; one
    that is written as `null` is unknown, and so is what it would price. 0 is a price.
    """

    input_usd_per_mtok: UsdPerMtok | None = None
    """US dollars per million tokens of fresh input."""
    cache_write_5m_usd_per_mtok: UsdPerMtok | None = None
    """Writing to a short-lived cache; left out: as input."""
    cache_write_1h_usd_per_mtok: UsdPerMtok | None = None
    """Writing to a long-lived cache; left out: as input."""
    cache_read_usd_per_mtok: UsdPerMtok | None = None
    """Reading from a cache; left out: as input."""
    output_usd_per_mtok: UsdPerMtok | None = None
    """Output, reasoning included."""

    def rates(self) -> dict[str, float | None]:
        """All five, those that were left out filled in."""
        as_input = dict.fromkeys(_CACHE_RATES, self.input_usd_per_mtok)
        written = {rate: getattr(self, rate) for rate in _RATES if rate in self.model_fields_set}
        return as_input | written


class UserLongContext(UserRates):
    """Other rates for a call whose prompt is longer than a threshold."""

    above_prompt_tokens: Count
    """A prompt of so many tokens still has the ordinary rates."""


class UserPrice(UserRates):
    """The price of one model in an experiment's `prices`, which wins over the shipped table.

    Either rates, or only `regional_factors`: then the shipped rates hold, times other factors.
    """

    long_context: UserLongContext | None = None
    """Other rates for long prompts."""
    regional_factors: dict[str, Factor] = Field(default_factory=dict)
    """Bedrock: `{us: 1.1, base: 1.0}` prices `us.<model>` at 1.1 times the rates of this entry."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        required = ("input_usd_per_mtok", "output_usd_per_mtok")
        for rates in (self, self.long_context):
            missing = [rate for rate in required if rates and getattr(rates, rate) is None]
            if missing and (rates is not self or not self.only_factors):
                raise ValueError(f"{' and '.join(missing)} must be written; 0 is a price")
        return self

    @property
    def only_factors(self) -> bool:
        """Whether the rates are those of the shipped table."""
        return self.model_fields_set == {"regional_factors"} and bool(self.regional_factors)

    def price(self) -> Price:
        """The same as a Price, for the id without a regional prefix."""
        long = self.long_context
        return Price.model_validate(
            {
                **self.rates(),
                "long_context": long
                and {**long.rates(), "above_prompt_tokens": long.above_prompt_tokens},
            }
        )


class _ModelId(NamedTuple):
    """An id as an agent writes it, without what only says where to send it."""

    provider: str | None
    model: str


def price_of(
    model: str,
    provider: str | None,
    when: date | datetime,
    *,
    overrides: Mapping[str, UserPrice] | None = None,
    table: PriceTable | None = None,
) -> Price | None:
    """The price of a model on a day (UTC), or None where none is known.

    An id matches when it is the id of a row or one of its aliases, after prefixes that name the
    provider (`anthropic/`, `openai/`, `bedrock/`, `bedrock/converse/`, `bedrock/invoke/`), Claude
    Code's suffix `[1m]`, or Bedrock's ARN of a model or inference profile. The provider is the one
    given, else that of the prefix, else any that has the id; two that differ match nothing, and a
    provider that is not one of PROVIDERS (a server of one's own) has only the user's prices. A
    Bedrock profile (`us.anthropic...`) has its row's factor, where listed.

    `overrides` are the user's prices by id, and win: the id as written, then any id of the same
    model, then the base id of a profile that lists its factor. They hold at all times, and for any
    provider that their own prefix does not exclude.

    Raises:
        ValueError: `when` is a time without a zone.
    """
    table = table or shipped_table()
    overrides = overrides or {}
    asked = _parse_id(model, provider)
    mine = _override(model, asked, overrides, table)
    if mine is not None:
        user, profile = mine
        if not user.only_factors:
            return user.price().times(user.regional_factors.get(profile, 1.0))
    if asked is None:
        return None
    found = _row(asked, _utc_day(when), table, mine[0].regional_factors if mine else {})
    return found and found[0].price.times(found[1])


def cost_usd(tokens: Tokens, price: Price | None) -> float | None:
    """US dollars of one call, or None as soon as a part that matters is unknown.

    A part matters unless its tokens or its rate are known to be 0. The sum is exact and rounded
    once, to the nearest float. Where long prompts cost more, the whole prompt (fresh, written,
    read) decides, call by call: add the costs of calls (`total_usd`), not their tokens.
    """
    rates = price and _rates_for(tokens, price)
    if rates is None:
        return None
    costs = [
        _exact_cost(getattr(tokens, part), getattr(rates, rate))
        for part, rate in _RATE_OF_PART.items()
    ]
    return _usd(costs)


def most_usd(
    price: Price | None,
    prompt_tokens: int,
    output_tokens: int,
    *,
    cache_writes: CacheWrites = "1h",
) -> float | None:
    """The most US dollars that one more call can cost, or None when that is unknown.

    For a look at the budget before a call is forwarded: `prompt_tokens` and `output_tokens` are
    upper bounds (the length of the request, and its `max_tokens`), and any of the prompt may turn
    out to be fresh, read or written to a cache, up to the longest-lived one of `cache_writes`.

    Raises:
        ValueError: a negative number of tokens.
    """
    if prompt_tokens < 0 or output_tokens < 0:
        raise ValueError(f"a bound of {prompt_tokens} and {output_tokens} tokens")
    if price is None:
        return None
    kinds = ("input_usd_per_mtok", "cache_read_usd_per_mtok", *_WRITE_RATES[cache_writes])
    prompts: list[tuple[Rates, int]] = [(price, prompt_tokens)]
    long = price.long_context
    if long is not None and prompt_tokens > long.above_prompt_tokens:
        prompts = [(price, long.above_prompt_tokens), (long, prompt_tokens)]
    totals = []
    for rates, prompt in prompts:
        inputs = [_exact_cost(prompt, getattr(rates, kind)) for kind in kinds]
        known = [cost for cost in inputs if cost is not None]
        most_input = max(known) if len(known) == len(inputs) else None
        totals.append(_usd([most_input, _exact_cost(output_tokens, rates.output_usd_per_mtok)]))
    known_totals = [total for total in totals if total is not None]
    return max(known_totals) if len(known_totals) == len(totals) else None


def total_usd(costs: Iterable[float | None]) -> float | None:
    """The sum of costs, rounded once; None as soon as one of them is unknown, 0.0 for none."""
    return _usd(None if cost is None else Fraction(str(cost)) * 1_000_000 for cost in costs)


class Account(RecordModel):
    """What one party says was used."""

    tokens: Tokens = Tokens()
    """By kind; null parts are those that the party does not tell."""
    cost_usd: float | None = None
    """US dollars; null when it does not tell."""


class Difference(RecordModel):
    """What a party says, minus what was metered; null where either does not know."""

    fresh_input: int | None
    """Tokens."""
    cache_write_5m: int | None
    """Tokens."""
    cache_write_1h: int | None
    """Tokens."""
    cache_write: int | None
    """Tokens of both kinds of writes together."""
    cache_read: int | None
    """Tokens."""
    prompt: int | None
    """Tokens of all kinds of input together."""
    output: int | None
    """Tokens."""
    reasoning: int | None
    """Tokens."""
    cost_usd: float | None
    """US dollars."""


class Reconciliation(RecordModel):
    """Three accounts of the same calls, side by side."""

    metered: Account
    """What the gateway counted, priced with a price table."""
    agent_reported: Account
    """What the agent's own output says."""
    vendor_reported: Account
    """What the vendor's answers or invoice say."""
    agent_minus_metered: Difference
    """How far the agent's account is off."""
    vendor_minus_metered: Difference
    """How far the vendor's account is off."""


def reconcile(
    metered: Account,
    agent_reported: Account | None = None,
    vendor_reported: Account | None = None,
) -> Reconciliation:
    """Put the accounts side by side with their differences; no account is one of unknowns."""
    agent, vendor = agent_reported or Account(), vendor_reported or Account()
    return Reconciliation(
        metered=metered,
        agent_reported=agent,
        vendor_reported=vendor,
        agent_minus_metered=_difference(agent, metered),
        vendor_minus_metered=_difference(vendor, metered),
    )


def _difference(account: Account, metered: Account) -> Difference:
    names = [name for name in Difference.model_fields if name != "cost_usd"]
    said = {name: getattr(account.tokens, name) for name in names}
    counted = {name: getattr(metered.tokens, name) for name in names}
    tokens = {
        name: None if said[name] is None or counted[name] is None else said[name] - counted[name]
        for name in names
    }
    cost = metered.cost_usd
    minus = None if cost is None else -cost
    return Difference(**tokens, cost_usd=total_usd((account.cost_usd, minus)))


_ROUTE = re.compile(r"(anthropic|openai|bedrock)/(?:(?<=bedrock/)(?:converse|invoke)/)?(.+)")
_ARN = re.compile(
    r"arn:aws:bedrock:[a-z0-9-]*:[0-9]*:(?:inference-profile|foundation-model)/([^/]+)"
)


def _parse_id(model: str, provider: str | None) -> _ModelId | None:
    """Provider and bare id; None when the id names a provider other than the one given."""
    found, route = provider, _ROUTE.fullmatch(model)
    if route:
        named, model = route.groups()
        if provider in PROVIDERS and provider != named:
            return None
        found = provider or named
    if arn := _ARN.fullmatch(model):
        if found not in {None, "bedrock"}:
            return None
        found, model = "bedrock", arn.group(1)
    if found != "openai":
        model = model.removesuffix("[1m]")
    return _ModelId(found, model)


def _split_profile(model: str) -> tuple[str, str]:
    profile, _, base = model.partition(".")
    return ("", model) if profile == BASE_PROFILE else (profile, base)


def _row(
    asked: _ModelId, day: date, table: PriceTable, other_factors: Mapping[str, float]
) -> tuple[PriceRow, float] | None:
    profile, base = _split_profile(asked.model)
    for row in table.rows:
        if asked.provider not in {None, row.provider} or not row.holds_on(day):
            continue
        factors = {**row.regional_factors, **other_factors}
        if asked.model in row.ids:
            return row, factors.get(BASE_PROFILE, 1.0)
        if base in row.ids and profile in factors:
            return row, factors[profile]
    return None


def _override(
    model: str, asked: _ModelId | None, overrides: Mapping[str, UserPrice], table: PriceTable
) -> tuple[UserPrice, str] | None:
    """The user's price for an id, and under which profile its factor stands."""
    if model in overrides:
        return overrides[model], BASE_PROFILE
    if asked is None:
        return None
    keys = [(_parse_id(key, None), user) for key, user in overrides.items()]
    profile, base = _split_profile(asked.model)
    for wanted, which in ((asked, BASE_PROFILE), (asked._replace(model=base), profile)):
        same = [
            (key.model != wanted.model, user)
            for key, user in keys
            if key
            and _same_model(key, wanted, table)
            and (which == BASE_PROFILE or which in user.regional_factors)
        ]
        if same:
            return min(same, key=lambda pair: pair[0])[1], which
    return None


def _same_model(one: _ModelId, other: _ModelId, table: PriceTable) -> bool:
    providers = {one.provider, other.provider} - {None}
    if len(providers) > 1:
        return False
    return one.model == other.model or any(
        one.model in row.ids and other.model in row.ids and providers <= {row.provider}
        for row in table.rows
    )


def _rates_for(tokens: Tokens, price: Price) -> Rates | None:
    """The rates of a call, or None where its prompt may be on either side of the threshold."""
    long = price.long_context
    if long is None:
        return price
    parts = (tokens.fresh_input, tokens.cache_write_5m, tokens.cache_write_1h, tokens.cache_read)
    if sum(part or 0 for part in parts) > long.above_prompt_tokens:
        return long
    return None if tokens.prompt is None else price


def _exact_cost(count: int | None, usd_per_mtok: float | None) -> Fraction | None:
    """Micro-dollars, exactly; 0 as soon as one of both is known to be 0."""
    if count == 0 or usd_per_mtok == 0:
        return Fraction(0)
    if count is None or usd_per_mtok is None:
        return None
    return count * Fraction(str(usd_per_mtok))


def _usd(micro_usd: Iterable[Fraction | None]) -> float | None:
    total = Fraction(0)
    for part in micro_usd:
        if part is None:
            return None
        total += part
    return float(total / 1_000_000)


def _sum(parts: Iterable[int | None]) -> int | None:
    total = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total


def _scaled(rates: Rates, factor: float) -> dict[str, float | None]:
    values = {rate: getattr(rates, rate) for rate in _RATES}
    return {
        rate: None if value is None else float(Fraction(str(value)) * Fraction(str(factor)))
        for rate, value in values.items()
    }


def _utc_day(when: date | datetime) -> date:
    if not isinstance(when, datetime):
        return when
    if when.tzinfo is None:
        raise ValueError(f"{when} has no time zone; prices change on days in UTC")
    return when.astimezone(UTC).date()
