from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runtime.errors import InputError, ProtocolError
from runtime.sampling import Sampler, Sampling

CLEAR = 1e-5
"""So far from a threshold, rounding decides nothing."""


def expected_probabilities(
    sampling: Sampling, logits: torch.Tensor, seen: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    """What ``transformers`` draws from, and whether no token lies so near to a threshold that rounding decides."""
    clear = True
    processors: list[Any] = []
    if sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1.0:
        before = LogitsProcessorList(processors)(seen, logits).softmax(-1).double()
        ordered = before.sort(-1, descending=True).values
        reached = ordered.cumsum(-1)
        clear &= bool(((reached - sampling.top_p).abs() > CLEAR).all())
        clear &= _distinct_at(ordered, (reached < sampling.top_p).sum(-1))
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        before = LogitsProcessorList(processors)(seen, logits).softmax(-1)
        shares = before / before.amax(-1, keepdim=True)
        clear &= bool(((shares - sampling.min_p).abs() > CLEAR).all()) or sampling.min_p in (0, 1)
        processors.append(MinPLogitsWarper(sampling.min_p))
    scores: torch.Tensor = LogitsProcessorList(processors)(seen, logits)
    return scores.softmax(-1).double(), clear


def _distinct_at(ordered: torch.Tensor, last: torch.Tensor) -> bool:
    """Whether the last token that is kept is more likely than the next one, in every row."""
    padded = torch.nn.functional.pad(ordered, (0, 1))
    kept = padded.gather(-1, last[:, None])
    return bool((kept > padded.gather(-1, last[:, None] + 1)).all())


def logits_of(seed: int, batch: int, vocabulary: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, vocabulary), generator=generator) * spread


samplings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 4.0),
    top_k=st.none() | st.integers(0, 2000),
    top_p=st.none() | st.floats(0.0, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    repetition_penalty=st.just(1.0) | st.floats(0.5, 2.0),
)


@settings(deadline=None)  # others use the machine
@given(
    samplings,
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(2, 1500),
    st.sampled_from((0.01, 1.0, 5.0)),
)
def test_the_distribution_is_that_of_transformers(
    sampling: Sampling, seed: int, batch: int, vocabulary: int, spread: float
) -> None:
    logits = logits_of(seed, batch, vocabulary, spread)
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randint(vocabulary, (batch, 20), generator=generator)
    expected, clear = expected_probabilities(sampling, logits.clone(), seen)
    assume(clear)
    given_logits, given_seen = logits.clone(), seen.clone()

    found = Sampler(sampling).probabilities(given_logits, given_seen)

    assert torch.equal(found > 1e-30, expected > 1e-30)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)
    assert torch.equal(given_logits, logits)
    assert torch.equal(given_seen, seen)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0.5, 2.0))
def test_greedy_is_the_most_likely_token_after_the_penalty(seed: int, penalty: float) -> None:
    logits = logits_of(seed, 2, 50, 3.0)
    seen = torch.tensor([[1, 2, 3, 3], [4, 5, 49, 0]])
    scores = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone())
    sampler = Sampler(Sampling(repetition_penalty=penalty, top_k=1, seed=seed))
    assert torch.equal(sampler.choose(logits, seen), scores.argmax(-1))


def test_all_of_equally_likely_tokens_at_the_end_of_top_k_are_kept() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0]])
    found = Sampler(Sampling(temperature=1.0, top_k=2)).probabilities(logits, logits[:, :0].long())
    assert (found > 0).tolist() == [[True, False, True, True, True, False]]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    sampling = Sampling(temperature=0.8, top_k=6, top_p=0.95, repetition_penalty=1.3, seed=7)
    logits = logits_of(1, 1, 12, 2.0)
    seen = torch.tensor([[3, 5, 3]])
    (expected,), clear = expected_probabilities(sampling, logits.clone(), seen)
    assert clear
    draws = 20_000
    sampler = Sampler(sampling)

    chosen = sampler.choose(logits.expand(draws, -1), seen.expand(draws, -1))

    found = torch.bincount(chosen, minlength=12).double() / draws
    # Five standard deviations, and with this seed the same ones in every run.
    bound = 5 * (expected * (1 - expected) / draws).sqrt()
    assert bool(((found - expected).abs() <= bound).all())
    assert found[expected == 0].sum() == 0


def test_equal_seeds_choose_equally_and_others_do_not() -> None:
    logits, seen = logits_of(0, 2, 400, 1.0), torch.zeros((2, 1), dtype=torch.int64)

    def chosen(seed: int | None) -> list[list[int]]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(logits, seen).tolist() for _ in range(20)]

    assert chosen(5) == chosen(5)
    assert chosen(5) != chosen(6)
    assert chosen(None) != chosen(None)


def test_almost_equal_logits_choose_equally() -> None:
    """As those of two stages of one dtype are, whose order among the unlikely differs."""
    seen = torch.zeros((1, 1), dtype=torch.int64)
    first = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=3))
    second = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=3))
    for step in range(50):
        logits = logits_of(step, 1, 1000, 0.001)
        moved = logits + 1e-6 * logits_of(1000 + step, 1, 1000, 1.0)
        assert first.choose(logits, seen).tolist() == second.choose(moved, seen).tolist()


def test_torchs_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    Sampler(Sampling(temperature=1.0)).choose(
        torch.zeros(1, 9), torch.zeros(1, 1, dtype=torch.int64)
    )
    Sampler(Sampling(temperature=1.0, seed=1)).choose(
        torch.zeros(1, 9), torch.zeros(1, 1, dtype=torch.int64)
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logit_that_is_no_number_is_refused(wrong: float, temperature: float) -> None:
    logits = torch.zeros(2, 50)
    logits[1, 30] = wrong
    sampler = Sampler(Sampling(temperature=temperature, top_p=0.5))
    with pytest.raises(ProtocolError, match="finite") as caught:
        sampler.choose(logits, torch.zeros(2, 1, dtype=torch.int64))
    assert caught.value.field == "outputs[0]"


@settings(deadline=None)  # others use the machine
@given(
    st.builds(
        Sampling,
        temperature=st.floats(1e-5, 1e5) | st.just(0.0),
        top_k=st.none() | st.integers(0, 20),
        top_p=st.none() | st.floats(0.0, 1.0),
        min_p=st.none() | st.floats(0.0, 1.0),
        repetition_penalty=st.floats(0.01, 100.0),
        seed=st.integers(0, 2**64 - 1),
    ),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9),
)
def test_any_finite_logits_give_a_token(sampling: Sampling, logits: list[float]) -> None:
    """A hostile worker may send the largest numbers that there are."""
    scores = torch.tensor([logits])
    seen = torch.tensor([[0, len(logits) - 1]])
    (token,) = Sampler(sampling).choose(scores, seen).tolist()
    assert 0 <= token < len(logits)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 1e-9),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", None),
        ("temperature", False),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("min_p", math.nan),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("repetition_penalty", None),
        ("repetition_penalty", math.inf),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 0.5),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{field}: must be .*, got "):
        Sampling(**{field: value})
