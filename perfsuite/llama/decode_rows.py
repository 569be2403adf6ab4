"""Generation on the ladder: time to first token, time per output token, and what each further token moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from perfsuite import statistics
from perfsuite.llama.results import PHASES, Generated
from perfsuite.llama.rows import BUDGETS, latency_of, unsplit_name
from perfsuite.schema import Interval

if TYPE_CHECKING:
    import torch

    from runtime import SplitLlama
    from runtime.stages import Stage

P95 = 0.95


@dataclass(frozen=True)
class Answer:
    """One timed answer: seconds to its first token and to each further one, and the tokens.

    ``totals`` are the sums over the calls of the further tokens, None for a model that has none.
    """

    ttft_s: float
    token_s: Sequence[float]
    tokens: Sequence[int]
    totals: Mapping[str, Any] | None

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first: the median over this answer's."""
        return statistics.median(self.token_s).value


def answer_of(llama: SplitLlama, input_ids: torch.Tensor, new_tokens: int) -> Answer:
    """Have ``llama`` continue ``input_ids`` (1, tokens) greedily by exactly ``new_tokens``, and time it."""
    with llama.open_context(1, input_ids.shape[1] + new_tokens - 1) as context:
        generation = llama.generate(
            input_ids, new_tokens, ignore_eos=True, context=context, stream=True
        )
        tokens = [int(token) for token in generation]
    return Answer(generation.ttft_s, generation.token_s, tokens, generation.token_totals)


def unsplit_generated(answers: Sequence[Answer]) -> Generated:
    """What the unsplit model in one dtype took, from its answers, one per round."""
    each = sorted(seconds for answer in answers for seconds in answer.token_s)
    tpot = latency_of([answer.tpot_s for answer in answers])
    return Generated(
        new_tokens=len(answers[0].tokens),
        ttft_s=latency_of([answer.ttft_s for answer in answers]),
        tpot_s=tpot,
        tpot_p95_s=each[min(len(each) - 1, int(P95 * len(each)))],
        tokens_per_s=1.0 / tpot.median,
        samples_s=[answer.tpot_s for answer in answers],
        tokens=list(answers[-1].tokens),
    )


def stage_generated(
    stage: Stage, answers: Mapping[str, Sequence[Answer]], *, seed: int
) -> Generated:
    """What ``stage`` took, from the answers of all benchmarks, one per round each."""
    own = answers[stage.name]
    tpot = [answer.tpot_s for answer in own]
    unsplit = [answer.tpot_s for answer in answers[unsplit_name(stage.dtype)]]
    ratio = statistics.paired_ratio(tpot, unsplit, seed=seed)
    totals = [answer.totals for answer in own if answer.totals]
    further = len(own[0].token_s)
    each = {f"{name}_per_token": _per_token(totals, name, further) for name in BUDGETS}
    return replace(
        unsplit_generated(own),
        vs_unsplit=ratio.value,
        vs_unsplit_interval=Interval.of(ratio),
        phases_s={phase: _per_token(totals, f"{phase}_s", further) for phase in PHASES},
        **each,
    )


def _per_token(totals: Sequence[Mapping[str, Any]], name: str, further: int) -> float:
    """Return the median over the rounds of a sum's share of each further token."""
    return statistics.median([total[name] / further for total in totals]).value
