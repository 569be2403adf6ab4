"""What llama.cpp is given: the checkpoint's own weights, rounded once, in its format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perfsuite.errors import UnsplitError
from perfsuite.llama.beside_llama_cpp import write_gguf
from perfsuite.llama.cost_model import token_bytes
from runtime.checkpoints import load_checkpoint
from tests.runtime.models import rope_kinds, small_config, temporary_model


@pytest.mark.parametrize("tied", [False, True])
def test_the_file_reads_as_the_checkpoint_that_it_was_made_from(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the way back, which ``test_gguf.py`` holds: heads' rows lie otherwise there."""
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    with temporary_model(small_config(tie_word_embeddings=tied)) as checkpoint:
        write_gguf(checkpoint, file)
        found = load_checkpoint(file, progress=False)
        assert found.config.num_layers == checkpoint.config.num_layers
        assert found.config.tie_word_embeddings is tied
        for name in checkpoint.expected_shapes():
            wanted = checkpoint.tensor(name)
            rounded = wanted if wanted.dim() == 1 else wanted.bfloat16().float()
            assert torch.equal(found.tensor(name).float(), rounded), name


@pytest.mark.parametrize(
    "fields",
    [{"attention_bias": True}, {"mlp_bias": True}, {"rope_parameters": rope_kinds(16)["linear"]}],
    ids=["attention", "mlp", "positions"],
)
def test_a_model_that_needs_more_is_refused(fields: dict[str, object], tmp_path: Path) -> None:
    with (
        temporary_model(small_config(**fields)) as checkpoint,
        pytest.raises(UnsplitError, match="only models without"),
    ):
        write_gguf(checkpoint, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_of_the_embedding_a_token_reads_one_row_unless_it_is_the_head_too() -> None:
    found, whole = [], 0
    for tied in (False, True):
        with temporary_model(small_config(tie_word_embeddings=tied)) as checkpoint:
            found.append(token_bytes(checkpoint.config, torch.bfloat16, 0))
            whole = sum(
                torch.Size(shape).numel() for shape in checkpoint.expected_shapes().values()
            )
    assert found[0] == found[1] == 2 * whole
