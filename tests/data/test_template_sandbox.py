"""Templates render as in transformers, and none hangs or takes the memory."""

import time

import pytest
from support.chats import REWRITING, TEMPLATES, marked, record
from transformers.utils.chat_template_utils import render_jinja_template

from targetsft_jax.data.bundled_templates import _FOLDER, names
from targetsft_jax.data.template_sandbox import has_generation_block, render

TURNS = record(" Hi <b> é ", "ok\n", "again", "yes", system="Be brief.").messages
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
# Tags, filters, functions and operators that templates of public models use.
FEATURES = """\
{%- set ns = namespace(x=0, seen=false) -%}
{%- for m in messages if m.role != 'system' -%}
{%- set ns.x = ns.x + 1 -%}{{ m|tojson(indent=2) ~ loop.index ~ loop.length }}
{%- if loop.index > 2 -%}{%- break -%}{%- endif -%}{{ loop.nextitem is defined }}
{%- endfor -%}{{ ns.x }}{{ messages|map(attribute='role')|join(', ') }}
{{- '%s-%d'|format('a', 3) }}{{ '{:>5}|{a}'.format('x', a=2) }}
{{- dict(a=1).items()|list }}{{ range(3)|list }}{{ 'a,b'.split(',')|join(';') }}
{%- macro f(x, y=2) -%}[{{ x }}{{ y }}{{ caller() if caller }}]{%- endmacro -%}
{{- f(1) }}{% call f(3) %}in{% endcall %}{{ 'a' ~ none ~ undefined_thing }}
{%- for k, v in {'a': 1, 'b': [1, (2, 3)]}.items() -%}{{ k, v }}{%- endfor -%}
{%- for x in [1, [2, [3]]] recursive -%}{{ loop(x) if x is iterable else x }}
{%- endfor -%}{{ 2**10 }}{{ 7 % 4 }}{{ 'a' * 3 }}{{ [1] * 2 }}{{ tools is none }}
{%- set z %}block{{ 1 }}{% endset %}{{ z|upper }}{% filter upper %}abc{% endfilter %}
{{- messages|selectattr('role', 'equalto', 'user')|list|length }}
{{- messages[-1].content[:5]|replace('y', 'zz') }}{{ messages[::-1]|first }}
{{- bos_token + eos_token }}{{ strftime_now('%Y') }}{{ 'x'.join(['a', 'b']) }}
{{- 'a b'|title }}{{ ' a '|trim }}{{ [3, 1]|sort }}{{ 'a'|default('b') }}
"""
ENDLESS = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}"
    "{% endfor %}",
    "text in a loop": "{% for a in range(9999) %}" + "y" * 9999 + "{% endfor %}",
    "output in a loop": "{% set x = 'a' * 9999 %}{% set y %}{% for i in range(9999) %}"
    "{{ x }}{% endfor %}{% endset %}",
    "times": "{{ 'a' * 10**10 }}",
    "times, swapped": "{{ 10**10 * 'a' }}",
    "list": "{{ [1] * 10**10 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "square": "{% set n = namespace(x=7) %}{% for i in range(99) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}",
    "center": "{{ 'a'|center(10**9) }}",
    "rjust": "{{ 'a'.rjust(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**9) }}",
    "to_bytes": "{{ (5).to_bytes(10**10, 'big') }}",
    "percent": "{{ '%0999999999d' % 5 }}",
    "percent star": "{{ '%*d' % (10**9, 5) }}",
    "format": "{{ '{:>999999999}'.format('a') }}",
    "nested format": "{{ '{:>{w}}'.format('a', w=999999999) }}",
    "format as a value": "{% set f = '{:>999999999}'.format %}{{ f('a') }}",
    "format filter": "{{ '%999999999s'|format('a') }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "join": "{{ (['a' * 99999] * 99999)|join }}",
    "join method": "{{ ('a' * 99999).join(['b'] * 99999) }}",
    "concatenation": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "addition": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "indent": "{{ 'a\\nb'|indent(10**9) }}",
    "wordwrap": "{{ ('a ' * 99999)|wordwrap(1, wrapstring='y' * 99999) }}",
    "tojson": "{{ {'a': [1]}|tojson(indent=10**9) }}",
    "batch": "{{ [1]|batch(10**9, 'x')|list }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "fromkeys": "{{ dict.fromkeys(range(9999), 'a' * 99999)|string }}",
    "sum": "{{ (range(20000)|batch(1)|list)|sum(start=[]) }}",
}
# Containers within containers: their text would be endless, their parts are few.
NESTED = {
    "list": "[n.x, n.x]",
    "tuple": "(n.x, n.x)",
    "object": "{'a': n.x, 'b': n.x}",
    "dict": "dict(a=n.x, b=n.x)",
}
FAULTS = {
    "{{ 1/0 }}": "fails: ZeroDivisionError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself without end",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}"
    "{{ a() }}": "calls itself without end",
    "{% block a %}{{ self.a() }}{% endblock %}": "calls itself without end",
    "{{ '\\ud800' }}": "an unpaired surrogate",
    "{{ '%c' % 55296 }}": "an unpaired surrogate",
    "{{ none.x.y }}": "refuses it: 'None' has no attribute 'x'",
    "{{ messages[99].content }}": "refuses it: list object has no element 99",
    "{{ 'a' + 1 }}": "fails: TypeError",
    "{{ raise_exception('no') }}": "refuses it: no",
    "{{ raise_exception('n\\no' * 999) }}": "refuses it: n on o",
    "{{ 'a'|nofilter }}": "refuses it: No filter",
    "{{ [1, 2]|random }}": "refuses it: No filter",
    "{{ lipsum(n=10**6) }}": "refuses it: 'lipsum' is undefined",
    "{% include 'x' %}": "fails: TypeError",
    "{{": "refuses it: unexpected 'end of template'",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "nests too deeply",
    "{{ " + "9" * 5000 + " }}": "fails: ValueError",
    "{% for a in [1] %}" * 60 + "{% endfor %}" * 60: "too many statically nested",
    "{% break %}": "fails: SyntaxError",
    "{{ 10.0 ** 400 }}": "fails: OverflowError",
    "{{ range(10**12) }}": "fails: OverflowError",
    "{{ [3, 'a']|sort }}": "fails: TypeError",
    "{{ [1].append(2) }}": "refuses it: access to attribute 'append'",
    "{{ messages.__class__.mro() }}": "refuses it",
    "{% set n = namespace() %}{% set n._x = 1 %}": "no attribute '_x'",
    "x" * 1_000_001: "1,000,001 characters; expected at most 1,000,000",
}


@pytest.mark.parametrize("prompt", [False, True])
def test_texts_and_marks_are_those_of_transformers(prompt):
    templates = {
        name: tokenizer.chat_template for name, (tokenizer, _) in TEMPLATES.items()
    }
    templates |= {name: (_FOLDER / f"{name}.jinja").read_text() for name in names()}
    templates |= {"features": FEATURES, "rewriting": REWRITING}
    for name, template in templates.items():
        marks = has_generation_block(template)
        texts, spans = render_jinja_template(
            [TURNS],
            chat_template=template,
            add_generation_prompt=prompt,
            return_assistant_tokens_mask=marks,
            **VARIABLES,
        )
        ours, our_spans = render(template, TURNS, VARIABLES, prompt=prompt)
        assert ours == texts[0], name
        assert our_spans == ([tuple(span) for span in spans[0]] if marks else []), name


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_end_is_refused_within_its_limits(template):
    start = time.perf_counter()
    with pytest.raises(ValueError, match="the chat template exceeds its limits: it"):
        render(template, TURNS, {})
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize("container", NESTED.values(), ids=NESTED)
def test_containers_in_containers_are_refused(container):
    template = (
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = "
        + container
        + " %}{% endfor %}{{ n.x }}"
    )
    with pytest.raises(ValueError, match="loops or makes text without end"):
        render(template, TURNS, {})


@pytest.mark.parametrize("template", FAULTS, ids=range(len(FAULTS)))
def test_a_template_that_fails_is_refused_in_one_line(template):
    with pytest.raises(ValueError, match="^the chat template ") as refused:
        render(template, TURNS, {})
    assert FAULTS[template] in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_the_time_of_slow_operations_is_limited(monkeypatch):
    monkeypatch.setattr("targetsft_jax.data.template_limits._SECONDS", 0.0)
    with pytest.raises(ValueError, match="takes more than 0 seconds"):
        render("{% for m in messages %}{{ m.content }}{% endfor %}", TURNS, {})


def test_long_conversations_are_within_the_limits():
    """A budget grows with the conversation; this one has 300 turns and 6 MB."""
    long = record(*(["word " * 4000] * 300)).messages
    for template in (FEATURES, marked("m['content'] + '<|im_end|>'")):
        assert render(template, long, VARIABLES)[0]
