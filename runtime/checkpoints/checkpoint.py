"""A model on disk: its configuration, its tensors, its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from runtime.checkpoints.cache import Cache
from runtime.checkpoints.chat_template import ChatTemplate, Message, open_chat_template
from runtime.checkpoints.config import ModelConfig
from runtime.checkpoints.digest import content_digest, remembered
from runtime.checkpoints.end_tokens import read_end_tokens
from runtime.checkpoints.files import SteadyFile, is_there
from runtime.checkpoints.layout import EMBEDDING, LM_HEAD, tensor_shapes
from runtime.checkpoints.tokenizer import Tokenizer, open_tokenizer
from runtime.checkpoints.weights import LARGEST_JSON, WeightFiles, parse_json
from runtime.errors import CheckpointError

CONFIG_FILE = "config.json"


class Checkpoint:
    """A LLaMA in the Hugging Face layout, opened and checked, no weight read yet.

    ``source`` is what another process gives to ``load_checkpoint`` to load the very same model: a
    preset's name or an absolute path. ``directory`` holds ``config.json`` and the safetensors.
    """

    def __init__(self, source: str, directory: Path, cache: Cache) -> None:
        """Reads and checks the configuration and the headers of the files.

        Raises CheckpointError for an unsupported field, and for a file or a tensor that is missing,
        unknown, damaged or of another shape than the configuration implies.
        """
        if not is_there(directory / CONFIG_FILE):
            raise CheckpointError(
                f"{directory} has no {CONFIG_FILE}; a checkpoint is a directory with one and its "
                "safetensors files"
            )
        self.source = source
        self.directory = directory
        self._config_file = SteadyFile(directory / CONFIG_FILE, most=LARGEST_JSON)
        self.config = ModelConfig.from_hf(parse_json(self._config_file))
        self._cache = cache
        self._weights = WeightFiles(directory)
        self._shapes = tensor_shapes(self.config)
        self._check_tensors()

    def __repr__(self) -> str:
        return f"Checkpoint({self.source!r})"

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every stored tensor by its name, as the configuration implies it.

        ``lm_head.weight`` is among them only where the embeddings are not tied.
        """
        return dict(self._shapes)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that Hugging Face name in its stored dtype, in memory of the caller's own.

        With tied embeddings ``lm_head.weight`` answers the embedding. Raises CheckpointError, also if the file
        was replaced or written to since this checkpoint was opened.
        """
        if name == LM_HEAD and self.config.tie_word_embeddings:
            name = EMBEDDING
        if name not in self._shapes:
            raise CheckpointError(f"{self.source} has no tensor {name!r}")
        return self._weights.tensor(name)

    @cached_property
    def digest(self) -> str:
        """sha256 in hexadecimal over configuration and weights; hashed once, then remembered.

        Raises CheckpointError, as ``check_unchanged``.
        """
        return remembered(
            self._cache,
            "checkpoint",
            self._files,
            lambda: content_digest(self.config, self._weights, self._shapes),
        )

    def check_unchanged(self) -> None:
        """Raises CheckpointError if a file was replaced or written to since this checkpoint was opened."""
        for file in self._files:
            file.check()

    @property
    def _files(self) -> tuple[SteadyFile, ...]:
        return (self._config_file, *self._weights.files)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer, none or several. Raises CheckpointError for what is no token."""
        return read_end_tokens(self.directory / CONFIG_FILE)

    def tokenizer(self) -> Tokenizer:
        """The directory's ``tokenizer.json``, or one of bytes where there is none.

        Raises CheckpointError if the file is damaged.
        """
        return open_tokenizer(self.directory, self.config.vocab_size)

    def chat_template(self) -> ChatTemplate | None:
        """What makes one prompt of a conversation; None where the checkpoint has none, as of a base model.

        Raises CheckpointError if its file is damaged.
        """
        return open_chat_template(self.directory)

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The text of a conversation, to be encoded as it is: see ``ChatTemplate.render``.

        Raises CheckpointError where there is no template, or none that can be used; InputError for the messages.
        """
        template = self.chat_template()
        if template is None:
            raise CheckpointError(f"{self.source} has no chat template; give it a plain prompt")
        return template.render(messages, add_generation_prompt=add_generation_prompt, **variables)

    def _check_tensors(self) -> None:
        missing = [name for name in self._shapes if name not in self._weights]
        if missing:
            raise CheckpointError(f"{self.directory} lacks {_named(missing)}")
        unknown = [
            name for name in self._weights if name not in self._shapes and not self._is_spare(name)
        ]
        if unknown:
            raise CheckpointError(
                f"{self.directory} holds {_named(unknown)} that a LLaMA of its config.json has not"
            )
        for name, shape in self._shapes.items():
            self._weights.check(name, shape)

    def _is_spare(self, name: str) -> bool:
        """Whether a tensor outside the layout only repeats what is derived, as in older files."""
        if name == LM_HEAD:
            # Tied. Where the two differ ``transformers`` unties them: the configuration is wrong.
            return self._weights.equal(LM_HEAD, EMBEDDING)
        return name.endswith(".self_attn.rotary_emb.inv_freq")


def _named(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {listed}{more}"
