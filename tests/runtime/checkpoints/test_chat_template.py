"""Chat templates: the text that ``transformers`` renders, and a template that is broken or hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from runtime import load_checkpoint
from runtime.checkpoints.chat_template import ChatTemplate, open_chat_template
from runtime.checkpoints.presets import _smollm2_file
from runtime.errors import CheckpointError, InputError
from tests.runtime.models import small_config, write_model

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

# Each in the manner of a family of models, with the constructs that its templates use.
TEMPLATES = {
    "chatml": """
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "llama-2": """
{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}
    {% set system = messages[0]['content'] %}
{% else %}
    {% set rest = messages %}
    {% set system = false %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('The roles do not take turns') }}
    {% endif %}
    {% if loop.index0 == 0 and system != false %}
        {% set content = '<<SYS>>\\n' + system.strip() + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {{ ' ' + content.strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}
""",
    "llama-3": """
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if tools is not none %}{{- tools | tojson(indent=4) }}{%- endif %}
{%- macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>\n\n{% endmacro %}
{{- header('system') + 'Today is ' + date_string + '\\n' }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- for call in message.tool_calls %}{{- call | tojson }}{%- endfor %}
        {%- continue %}
    {%- endif %}
    {{- header(message['role']) + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- header('assistant') }}{%- endif %}
""",
    "namespaces": """
{%- set state = namespace(last='', turns=0) %}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'user' %}{% set state.turns = state.turns + 1 %}{% endif %}
    {%- if message.content is string %}
        {%- set state.last = message.content %}
    {%- else %}
        {%- set state.last = message.content | map(attribute='text') | join(' ') %}
    {%- endif %}
    {%- if state.turns > 2 %}{% break %}{% endif %}
<|{{ message.role }}|> {% generation %}{{ state.last | upper if loop.last else state.last }}{% endgeneration %}
{{ eos_token if message.role == 'assistant' else unk_token }}
{%- endfor %}
{{- dict(turns=state.turns) | tojson }}
{{- {'kind': '<b>&'} | tojson }}
{{- '' if add_generation_prompt else 'end' }}
""",
}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": ' What is 3 < 5 & "6"?\n'}],
    "system": [
        {"role": "system", "content": "Be brief. Gr\u00fc\u00dfe \U0001f600"},
        {"role": "user", "content": "Hello"},
    ],
    "turns": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi. {{ 7 * 7 }}", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": ""},
    ],
}


def expected_text(template: str, messages: list[dict[str, Any]], **settings: Any) -> str:
    """What ``transformers`` renders."""
    bare = Tokenizer(models.BPE({"<s>": 0, "</s>": 1}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, **TOKENS)
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, **settings
    )
    return text


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with these files, what is no text as JSON."""

    def make(**files: Any) -> Path:
        folder = tmp_path_factory.mktemp("folder")
        for name, content in files.items():
            file = folder / name.replace("__", ".")
            file.write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    return make


def made(template: str) -> ChatTemplate:
    return ChatTemplate(template, TOKENS, Path("model/chat_template.jinja"))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_text_is_that_of_transformers(name: str, conversation: str) -> None:
    template, messages = TEMPLATES[name], CONVERSATIONS[conversation]
    for prompted in (True, False):
        expected = expected_text(template, messages, add_generation_prompt=prompted)
        assert made(template).render(messages, add_generation_prompt=prompted) == expected


def test_further_variables_are_known_to_the_template() -> None:
    messages = CONVERSATIONS["one"]
    known: dict[str, Any] = {
        "date_string": "1 Jan 2000",
        "tools": [{"type": "function", "name": "\u00e9"}],
    }
    expected = expected_text(TEMPLATES["llama-3"], messages, add_generation_prompt=True, **known)
    assert made(TEMPLATES["llama-3"]).render(messages, **known) == expected
    assert "1 Jan 2000" in expected


def test_a_real_model_s_conversation_and_tokens() -> None:
    checkpoint = load_checkpoint("smollm2-135m")
    reference = AutoTokenizer.from_pretrained(checkpoint.directory)
    for messages in CONVERSATIONS.values():
        text = checkpoint.render_chat(messages)
        assert text == reference.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert (
            checkpoint.tokenizer().encode(text)
            == reference.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        )


def test_a_converted_file_keeps_its_template() -> None:
    field = gguf.GGUFReader(_smollm2_file()).fields["tokenizer.chat_template"]
    template = load_checkpoint("smollm2-135m").chat_template()
    assert template is not None
    assert template.source == field.contents()


def test_where_a_template_comes_from(folder_of: Callable[..., Path]) -> None:
    config = {
        "chat_template": "config {{ bos_token }} {{ eos_token }}",
        "bos_token": {"content": "<b>", "lstrip": False},
        "eos_token": None,
    }
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "d"}]
    for files, expected in (
        ({"tokenizer_config__json": config}, "config <b> "),
        (
            {"tokenizer_config__json": config, "chat_template__jinja": "file {{ bos_token }}"},
            "file <b>",
        ),
        ({"tokenizer_config__json": {"chat_template": several}}, "d"),
        (
            {
                "chat_template__jinja": "{{ bos_token }}{{ eos_token }}",
                "special_tokens_map__json": {"bos_token": "<m>", "eos_token": {"content": "</m>"}},
            },
            "<m></m>",
        ),
    ):
        template = open_chat_template(folder_of(**files))
        assert template is not None
        assert template.render(CONVERSATIONS["one"]) == expected


def test_a_base_model_has_none(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    assert open_chat_template(folder_of()) is None
    assert open_chat_template(folder_of(tokenizer_config__json={"bos_token": "<s>"})) is None
    several = [{"name": "tool_use", "template": "x"}]
    assert open_chat_template(folder_of(tokenizer_config__json={"chat_template": several})) is None
    with pytest.raises(CheckpointError, match="no chat template"):
        write_model(tmp_path / "model", small_config()).render_chat(CONVERSATIONS["one"])


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": "{"},
        {"tokenizer_config__json": {"chat_template": 5}},
        {"tokenizer_config__json": {"chat_template": [{"name": "default", "template": 7}]}},
        {"chat_template__jinja": "x" * (5 << 20)},
        {"chat_template__jinja": "x", "special_tokens_map__json": "[]"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_a_damaged_file_is_refused(folder_of: Callable[..., Path], files: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"_template|json|jinja"):
        open_chat_template(folder_of(**files))


def test_a_template_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        open_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for %}", "line 1"),
        ("a\n{{ messages[0].content", "line 2"),
        ("{{ nothing.more }}", "UndefinedError"),
        ("{{ messages[5].role }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'x' | no_such_filter }}", "no_such_filter"),
        ("{% include 'other' %}", "no loader"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ raise_exception.__globals__.keys() }}", "SecurityError"),
        ("{% set n = namespace(__class__=1) %}", "SecurityError"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "SecurityError"),
        ("{{ namespace.__init__.__globals__ }}", "SecurityError|Undefined"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ '{0.__class__.x}'.format(messages) }}", "SecurityError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
        ("{{ 'x' * 10 ** 10 }}", "MemoryError"),
        ("{{ 'x'.ljust(10 ** 10) }}", "MemoryError"),
        ("{{ 'x' * 2 ** 25 }}", "33,554,432 characters"),
    ],
)
def test_a_broken_template_is_an_error_that_says_what(template: str, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as caught:
        made(template).render(CONVERSATIONS["one"])
    assert "model/chat_template.jinja" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
    ],
    ids=["loops", "memory", "arithmetic"],
)
def test_a_template_that_never_ends_is_ended(template: str) -> None:
    with pytest.raises(CheckpointError, match=r"too long|MemoryError"):
        made(template).render(CONVERSATIONS["one"])


def test_what_a_template_refuses_is_the_callers_error() -> None:
    messages = [{"role": "assistant", "content": "I begin"}]
    with pytest.raises(InputError, match=r"^messages: .*The roles do not take turns"):
        made(TEMPLATES["llama-2"]).render(messages)
    with pytest.raises(InputError) as caught:
        made("{{ raise_exception('\\x1b[31m' ~ 'x' * 1000) }}").render(messages)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "Hello",
        {"role": "user", "content": "x"},
        None,
        ["Hello"],
        [{"content": "x"}],
        [{"role": 5, "content": "x"}],
        [{"role": "user", "content": b"x"}],
        [{"role": "user", "content": {1, 2}}],
    ],
    ids=repr,
)
def test_messages_that_are_none_are_refused(messages: Any) -> None:
    with pytest.raises(InputError, match=r"^messages"):
        made(TEMPLATES["chatml"]).render(messages)
