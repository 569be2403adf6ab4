"""Text to token ids and back: a file's tokenizer, bytes where there is none, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from runtime.checkpoints import load_checkpoint
from runtime.checkpoints.tokenizer import ByteTokenizer, FileTokenizer, open_tokenizer
from runtime.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_text_without_a_tokenizer_is_bytes(model_directory: Path) -> None:
    tokenizer = load_checkpoint(model_directory).tokenizer()
    assert tokenizer.encode("Aä") == [65, 0xC3 % 96, 0xA4 % 96]  # a vocabulary of 96
    assert tokenizer.decode([72, 105, 400]) == "Hi<400>"
    assert tokenizer.decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"


def test_a_damaged_tokenizer_is_named(model_directory: Path) -> None:
    (model_directory / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        load_checkpoint(model_directory).tokenizer()


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json"]
)
def test_a_tokenizer_of_another_form_is_refused(model_directory: Path, name: str) -> None:
    (model_directory / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_checkpoint(model_directory).tokenizer()


@given(st.text())
def test_bytes_give_back_any_text(text: str) -> None:
    tokenizer = ByteTokenizer(256)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_file_adds_no_token_and_writes_special_ones_out(tmp_path: Path) -> None:
    words = {"<s>": 0, "a": 1, "b": 2, "?": 3}
    written = Tokenizer(models.WordLevel(words, unk_token="?"))  # noqa: S106 - of text
    written.pre_tokenizer = pre_tokenizers.Whitespace()
    written.add_special_tokens(["<s>"])
    written.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path, vocab_size=4)
    assert isinstance(tokenizer, FileTokenizer)
    assert tokenizer.encode("a b c") == [1, 2, 3]
    assert tokenizer.decode([0, 1, 2]) == "<s> a b"


def test_a_tokenizer_that_could_not_be_rebuilt_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "no-tokenizer.txt").write_text("of no known kind\x1b[2J" + "x" * 1000)
    with pytest.raises(CheckpointError, match=r"of no known kind.*give token ids") as caught:
        open_tokenizer(tmp_path, vocab_size=4)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500
