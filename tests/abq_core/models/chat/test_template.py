"""Chat templates: equal to transformers, in a sandbox, within limits of time, memory and output."""

import json
import time
from pathlib import Path

import pytest
from tiny_tokenizers import CHAT_TEMPLATE, CHAT_TOKENS, END_OF_TURN, chat_folder, chat_tokenizer
from transformers import PreTrainedTokenizerFast

from abq_core.models.chat.template import render_chats, tokenizer_template
from abq_core.models.errors import ChatTemplateError, ModelError
from abq_core.models.files import CHAT_TEMPLATE as TEMPLATE_FILE
from abq_core.models.files import TOKENIZER_CONFIG, chat_template, check_settings
from abq_core.models.tokenizer import load_tokenizer

CONVERSATIONS = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": 'Be <brief> & "kind".'}, {"role": "user", "content": "  é → 漢字 {{ 1 + 1 }}\n"}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ],
]
# Constructs of the templates of LLaMA 3, Mistral, Gemma, Qwen 3 and Phi.
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "blocks": "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.last %}{% continue %}{% endif %}{{ m }}{% break %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "json": "{{ messages | tojson(indent=2) }}{{ messages[0] | tojson }}",
    "macro": "{% macro turn(m) %}[{{ m['role'] }}] {{ m['content'].strip() }}{% endmacro %}{{ turn(messages[0]) }}",
    "generation": "{% generation %}{% set t = messages[0].content %}{{ t }}{% endgeneration %}|{{ t is defined }}",
    "slices": "{{ (messages[::-1] | first).content }}{{ messages[-1]['content'][1:] }}{{ dict(a=1)['a'] }}",
    "optional": "{% if tools %}tools{% endif %}{{ date_string if date_string is defined else eos_token }}",
    "unknown names": "{{ enable_thinking }}|{{ messages[0].name }}|{{ add_generation_prompt }}",
}  # fmt: skip

HOSTILE = {
    "endless loop": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "seconds"),
    "endless number": ("{{ 9 ** (9 ** 9) }}", "seconds|memory"),
    "huge output": ("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "more than 100,208 characters"),
    "huge text": ("{{ ('x' * 10 ** 12) | length }}", "memory"),
    "double": ("{% set n = namespace(t=9) %}{% for a in [0]*99 %}{% set n.t = n.t~n.t %}{% endfor %}", "memory|second"),
    "wide format": ("{{ '%99999999999d' % 1 }}", "memory|Error"),
    "range": ("{{ range(10 ** 9) | list | length }}", "OverflowError"),
    "class": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "globals": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
    "globals of a function": ("{{ raise_exception.__globals__.json }}", "SecurityError"),
    "attribute filter": ("{{ (messages | attr('__class__')).__mro__ }}", "SecurityError|UndefinedError"),
    "format": ("{{ '{0.__class__.__mro__}'.format(messages) }}", "SecurityError"),
    "mutation": ("{{ messages.append(1) }}", "SecurityError"),
    "namespace attribute": ("{% set ns = namespace(__class__=1) %}", "SecurityError"),
    "import": ("{% import 'os' as os %}{{ os }}", "TypeError|no loader"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError|memory"),
    "deep nesting": ("{{ " + "(" * 50_000 + ")" * 50_000 + " }}", "Error|memory"),
    "syntax": ("{% for %}", "TemplateSyntaxError"),
    "refusal": ("{{ raise_exception('System role not supported') }}", "conversation: System role not supported"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return chat_tokenizer()


def with_template(tokenizer: PreTrainedTokenizerFast, template: object) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_rendered_as_transformers_does(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    with_template(tokenizer, TEMPLATES[name])
    expected = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in CONVERSATIONS]
    assert render_chats(tokenizer, CONVERSATIONS).texts == expected


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_a_named_error_within_seconds(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    template, words = HOSTILE[name]
    before = time.process_time()
    with pytest.raises(ChatTemplateError, match=words) as caught:
        render_chats(with_template(tokenizer, template), CONVERSATIONS[:1])
    assert len(str(caught.value)) < 600 and time.process_time() - before < 1, "the work is that of another process"


def test_the_end_of_a_turn_is_the_special_token_that_follows_an_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    def ends(template: str) -> frozenset[int]:
        return render_chats(with_template(tokenizer, template), CONVERSATIONS[:1]).ends

    assert ends(CHAT_TEMPLATE) == {CHAT_TOKENS.index(END_OF_TURN)}
    assert ends("{% for m in messages %}{{ m.content + ' <s>' }}{% endfor %}") == {CHAT_TOKENS.index("<s>")}
    assert ends("{% for m in messages %}{{ m.content }} and text{% endfor %}") == frozenset()
    assert ends("{% for m in messages %}{{ m.content }}{% endfor %}") == frozenset()
    assert ends("{{ raise_exception('no') if messages[1] is defined else 'ok' }}") == frozenset()


def test_a_model_without_a_template_cannot_chat(tokenizer: PreTrainedTokenizerFast) -> None:
    for none in (None, {"tool_use": "x"}):
        assert tokenizer_template(with_template(tokenizer, none)) is None
        with pytest.raises(ChatTemplateError, match=r"no chat template.*plain prompt"):
            render_chats(tokenizer, CONVERSATIONS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_folder("llama", tmp_path_factory.mktemp("chat"))


def test_the_template_of_a_folder_is_that_of_its_loaded_tokenizer(saved: Path, tiny_llama: Path) -> None:
    settings = saved / TOKENIZER_CONFIG
    original = json.loads(settings.read_text("utf-8"))

    def both(declared: object) -> str | None:
        settings.write_text(json.dumps(original | {"chat_template": declared}), "utf-8")
        found = chat_template(saved)
        assert found == tokenizer_template(load_tokenizer(saved))
        return found

    assert both("not read: the file decides") == CHAT_TEMPLATE
    (saved / TEMPLATE_FILE).unlink()
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "the default"}]
    assert both("text") == "text" and both(named) == "the default" and both(named[:1]) is None
    assert chat_template(tiny_llama) is None


@pytest.mark.parametrize("declared", [5, [{"name": "default"}], ["text"], [{"name": "default", "template": 5}]])
def test_a_template_of_another_type_is_refused(saved: Path, declared: object) -> None:
    (saved / TEMPLATE_FILE).unlink(missing_ok=True)
    settings = saved / TOKENIZER_CONFIG
    settings.write_text(json.dumps(json.loads(settings.read_text("utf-8")) | {"chat_template": declared}), "utf-8")
    with pytest.raises(ModelError, match="chat_template that is neither"):
        check_settings(saved)


def test_a_template_file_that_is_not_text_is_refused(saved: Path) -> None:
    (saved / TEMPLATE_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="not UTF-8"):
        check_settings(saved)
    (saved / TEMPLATE_FILE).unlink()
