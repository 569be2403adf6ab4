"""Options that several commands have, and what they say of the runtime's tables without importing them."""

from __future__ import annotations

from typing import get_args

import pytest
import typer

from perfsuite.errors import UsageError
from perfsuite.llama import options
from perfsuite.llama.options import check_length, check_positive
from runtime import STAGES
from runtime.checkpoints import PRESETS
from tests.runtime.models import small_config


def help_of(annotated: object) -> str:
    (found,) = (one for one in get_args(annotated) if isinstance(one, typer.models.OptionInfo))
    return str(found.help)


def test_help_names_every_preset_and_every_stage() -> None:
    """Importing the tables would make help wait for torch; so they are named twice, and held here."""
    for preset in PRESETS:
        assert preset in help_of(options.Model)
    for stage in STAGES:
        assert stage in help_of(options.Stages)
    assert options.MODEL in PRESETS


@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_one_is_refused_by_the_option_s_name(value: int) -> None:
    with pytest.raises(UsageError, match=f"--rounds {value}: must be at least 1"):
        check_positive(tokens=None, rounds=value)
    check_positive(tokens=None, rounds=1)


def test_a_prompt_longer_than_the_model_is_refused_with_its_length() -> None:
    config = small_config(max_position_embeddings=64)
    check_length("small", config, 64)
    check_length("small", config, None)
    with pytest.raises(UsageError, match="--tokens 65: small has 64 positions"):
        check_length("small", config, 65)
