"""Displays of results: plain and HTML."""

import re
import xml.etree.ElementTree as ElementTree

TEXT = "<b>&\n\tx" + "y" * 60


def test_plain(model):
    table = model.target("dft", TEXT)
    title, heads, *lines = repr(table).splitlines()
    assert title.startswith("dft: 66 tokens, means γ ")
    assert heads.split() == "token γ p_y Q_y A Q<0 largest of Q".split()
    assert len(lines) == 41 and lines[-1].startswith("… and 26 more tokens")
    assert lines[3].startswith(r"'\n'")
    gamma = re.search(r"'b' +(\d\.\d{3})", lines[0])
    assert gamma is not None and float(gamma[1]) == round(float(table.gamma[0]), 3)
    columns = {line.find(" · ") > 0 for line in lines[:-1]}
    assert columns == {True}
    eta = repr(model.target("target_sft", "abc", teacher=model, eta=0.25))
    assert eta.startswith("target_sft (eta=0.25): 2 tokens")


def test_html(model):
    page = model.logprobs(TEXT)._repr_html_()
    assert "<script" not in page and "<b>&\n" not in page and "&lt;" in page
    tree = ElementTree.fromstring(page.replace("&nbsp;", " "))
    spans = [x for x in tree.iter("span") if "title" in x.attrib]
    assert len(spans) == 66
    assert "".join(x.text or "" for x in spans).replace("↵", "") == TEXT[1:]
    assert all("p_y 0." in x.attrib["title"] for x in spans)
    rows = list(tree.iter("tr"))
    assert len(rows) == 11
    scores = [float(list(row)[1].text) for row in rows[1:]]
    assert scores == sorted(scores)


def test_the_context_of_messages_is_shown(model):
    chat = [
        {"role": "user", "content": "a <question>"},
        {"role": "assistant", "content": "yes"},
    ]
    page = model.target("sft", chat)._repr_html_()
    tree = ElementTree.fromstring(page.replace("&nbsp;", " "))
    first = next(tree.iter("span"))
    assert first.text == "<|user|>a <question><|assistant|>"
    assert "background" not in first.attrib["style"]
