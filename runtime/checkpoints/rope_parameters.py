"""The RoPE settings of a configuration, old style or new, in ``transformers``' present form.

The formulas are in ``runtime.rope``; here is only which settings each kind needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.checkpoints.fields import flag, number, present, refuse, whole
from runtime.errors import CheckpointError

Check = Callable[[str, object], Any]

# LlamaConfig's own, where a configuration does not say.
DEFAULT_THETA = 10_000.0


def _positive(name: str, value: object) -> float:
    return number(name, value)


def _at_least_one(name: str, value: object) -> float:
    return number(name, value, least=1.0)


def _share(name: str, value: object) -> float:
    share = number(name, value, least=0.0)
    if share > 1.0:
        raise refuse(name, value, "a number from 0 to 1")
    return share


def _positions(name: str, value: object) -> int:
    # Two, because a logarithm of it divides.
    return whole(name, value, least=2)


def _factors(name: str, value: object) -> list[float]:
    if not isinstance(value, list):
        raise refuse(name, value, "a list of numbers")
    return [number(f"{name}[{index}]", item) for index, item in enumerate(value)]


@dataclass(frozen=True, slots=True)
class RopeKind:
    """Which settings one kind of RoPE reads; others are ignored, as ``transformers`` does."""

    required: Mapping[str, Check] = field(default_factory=dict)
    optional: Mapping[str, Check] = field(default_factory=dict)

    @property
    def has_original_length(self) -> bool:
        """Whether it needs to know how long the prompts were that the model was trained on."""
        return "original_max_position_embeddings" in self.required


_FACTOR: Mapping[str, Check] = {"factor": _at_least_one}
_ORIGINAL: Mapping[str, Check] = {"original_max_position_embeddings": _positions}

ROPE_KINDS: Mapping[str, RopeKind] = {
    "default": RopeKind(),
    "linear": RopeKind({"factor": _positive}),
    "dynamic": RopeKind(_FACTOR),
    "yarn": RopeKind(
        {**_FACTOR, **_ORIGINAL},
        {
            "attention_factor": _positive,
            "beta_fast": _positive,
            "beta_slow": _positive,
            "mscale": _positive,
            "mscale_all_dim": _positive,
            "truncate": flag,
        },
    ),
    "longrope": RopeKind(
        {**_ORIGINAL, "short_factor": _factors, "long_factor": _factors},
        {**_FACTOR, "attention_factor": _positive},
    ),
    "llama3": RopeKind(
        {**_FACTOR, **_ORIGINAL, "low_freq_factor": _positive, "high_freq_factor": _positive}
    ),
    "proportional": RopeKind({}, {**_FACTOR, "partial_rotary_factor": _share}),
}


def parse_rope(fields: Mapping[str, Any], *, head_dim: int, max_positions: int) -> dict[str, Any]:
    """``rope_parameters`` of a configuration, as plain JSON values.

    ``fields`` is the whole configuration: ``rope_scaling`` and ``rope_theta`` at its top level, and
    the key ``type`` for ``rope_type``, are the older spelling. Raises CheckpointError.
    """
    origin = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    given = present(fields, origin, {})
    if not isinstance(given, Mapping):
        raise refuse(origin, given, "an object")
    for name, value in given.items():
        if isinstance(value, Mapping):
            raise refuse(
                f"{origin}.{name}", value, "absent: settings per kind of layer are not supported"
            )
    rope_type = present(given, "rope_type", present(given, "type", "default"))
    kind = ROPE_KINDS.get(rope_type) if isinstance(rope_type, str) else None
    if kind is None:
        raise refuse(f"{origin}.rope_type", rope_type, f"one of {', '.join(ROPE_KINDS)}")

    _refuse_partial_rotation(fields, given, origin, kind)
    theta = present(given, "rope_theta", present(fields, "rope_theta", DEFAULT_THETA))
    # Yarn divides by its logarithm, and no model uses less.
    rope: dict[str, Any] = {
        "rope_type": rope_type,
        "rope_theta": number(f"{origin}.rope_theta", theta, above=1.0),
    }
    given = _with_original_length(fields, given, kind, max_positions)
    for name, check in kind.required.items():
        if given.get(name) is None:
            raise CheckpointError(
                f"config field '{origin}.{name}' is missing; rope_type {rope_type!r} needs it"
            )
        rope[name] = check(f"{origin}.{name}", given[name])
    for name, check in kind.optional.items():
        if given.get(name) is not None:
            rope[name] = check(f"{origin}.{name}", given[name])
    _check_together(rope, origin, head_dim)
    return rope


def _refuse_partial_rotation(
    fields: Mapping[str, Any], given: Mapping[str, Any], origin: str, kind: RopeKind
) -> None:
    places: dict[str, object] = {"partial_rotary_factor": fields.get("partial_rotary_factor")}
    if "partial_rotary_factor" not in kind.optional:
        places[f"{origin}.partial_rotary_factor"] = given.get("partial_rotary_factor")
    for name, value in places.items():
        if value is not None and value != 1.0:
            raise refuse(name, value, "1, or absent: heads are rotated whole")


def _with_original_length(
    fields: Mapping[str, Any], given: Mapping[str, Any], kind: RopeKind, max_positions: int
) -> Mapping[str, Any]:
    """``given`` with the original length from where ``transformers`` would take it."""
    if not kind.has_original_length:
        return given
    name = "original_max_position_embeddings"
    return {**given, name: present(fields, name, present(given, name, max_positions))}


def _check_together(rope: Mapping[str, Any], origin: str, head_dim: int) -> None:
    """The conditions that concern two settings at once."""
    for name in ("short_factor", "long_factor"):
        if name in rope and len(rope[name]) != head_dim // 2:
            raise refuse(
                f"{origin}.{name}", rope[name], f"a list of head_dim / 2 = {head_dim // 2} numbers"
            )
    if rope["rope_type"] == "llama3" and rope["high_freq_factor"] <= rope["low_freq_factor"]:
        raise refuse(
            f"{origin}.high_freq_factor", rope["high_freq_factor"], "greater than low_freq_factor"
        )
    if rope["rope_type"] == "dynamic" and head_dim < 4:
        raise refuse("head_dim", head_dim, "at least 4 where rope_type is 'dynamic'")
