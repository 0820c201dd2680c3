"""The page in a browser: numbers against the library, controls, keyboard, layout."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.pages import page_data, random_logits

import targetsft_jax as tsft
from targetsft_jax import palette
from targetsft_jax.inspection.page import render, render_curve

PAGE = page_data()
HTML = render(PAGE)
TOKEN, LABELS, LOGITS = random_logits()
TRAINED = np.flatnonzero(PAGE.arrays["trained"])
METHODS = [m for m in PAGE.header["methods"] if m["refusal"] is None]
ROOT = Path(__file__).resolve().parents[2]
VIEWS = ("text", "compare", "curves", "about")


def _target(method, label, **hyper):
    """The library's target at one label."""
    return tsft.target(
        method["name"],
        LOGITS["student"][label],
        LABELS[label],
        **method["hyper"] | hyper,
        teacher_logits=LOGITS["teacher"][label],
    )


def _number(locator):
    return float(locator.get_attribute("title"))


def _columns(page):
    """Distributions of the panel: column -> candidate text -> value."""
    page.locator("[data-more]").click()
    return page.evaluate(
        """() => Object.fromEntries(["student", "teacher", "before", "target"].map(
          (key) => [key, Object.fromEntries(
            [...document.querySelectorAll(`.distributions td.${key}`)].map((cell) => [
              cell.parentElement.classList.contains("label") ? "label"
                : cell.parentElement.firstChild.textContent,
              Number(cell.querySelector(".number").title),
            ]))]))"""
    )


def _shown(text):
    return text.replace(" ", "␣").replace("\n", "⏎")


def _with_texts(**entries):
    return render(replace(PAGE, header={**PAGE.header, **entries}))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["name"])
def test_numbers_are_those_of_the_library(show, method) -> None:
    label = 7
    page = show(HTML, f"#method={method['name']}&token={TRAINED[label]}")
    expected = _target(method, label)
    b = expected.alternative_weight
    values = {
        "gamma": expected.gamma,
        "b": 0 if b is None else b,
        "strength": expected.strength,
        "worth": expected.induced()[LABELS[label]]
        - np.exp(
            tsft.target("sft", LOGITS["student"][label], LABELS[label]).rows.log_prob
        ),
    }
    for key, value in values.items():
        shown = _number(page.locator(f"[data-value={key}]"))
        assert shown == pytest.approx(float(value), abs=2e-5), key
    shown = _columns(page)
    distributions = {
        "target": np.asarray(expected.induced()),
        **{
            column: _softmax(LOGITS[column][label])
            for column in ("student", "teacher", "before")
        },
    }
    candidates = [k for k in PAGE.arrays["candidate"][label] if k >= 0]
    for column, values in distributions.items():
        numbers = dict(shown[column])
        assert len(numbers) == len(candidates) + 1
        for place, k in enumerate(candidates):
            name = "label" if place == 0 else _shown(PAGE.header["texts"][k])
            assert numbers.pop(name) == pytest.approx(values[k], abs=2e-5)
        rest = values.sum() - values[candidates].sum()
        assert numbers.popitem()[1] == pytest.approx(rest, abs=1e-4)
    gradient = np.asarray(expected.logit_gradient())
    largest = page.locator(".pushes .number").first
    if np.abs(gradient).max() > 1e-6:
        inside = max(np.abs(gradient[candidates]).max(), abs(gradient.sum()))
        assert abs(_number(largest)) == pytest.approx(inside, abs=2e-5)


def _softmax(logits):
    p = np.exp(logits.astype(np.float64) - logits.max())
    return p / p.sum()


def test_the_slider_steps_on_exact_stops(show) -> None:
    label = 11
    page = show(HTML, f"#method=target_sft&token={TRAINED[label]}")
    (method,) = [m for m in METHODS if m["name"] == "target_sft"]
    slider = page.locator("#eta")
    for stop in (0, 7, 20):
        slider.fill(str(stop))
        eta = PAGE.header["eta_stops"][stop]
        assert page.locator("#eta-value").inner_text() == f"{eta:.2f}"
        expected = _target(method, label, eta=eta).induced()
        cell = page.locator("tr.label td.target .number")
        assert _number(cell) == pytest.approx(float(expected[LABELS[label]]), abs=2e-5)
        if eta != PAGE.header["default_eta"]:
            assert f"eta={eta:g}" in page.url
    page.locator("#method").select_option("dft")
    assert slider.is_disabled()


def test_the_menu_recolours_the_text(show) -> None:
    page = show(HTML)

    def levels():
        return page.evaluate(
            """() => [...document.querySelectorAll("#rows [data-n]")].map(
              (span) => Number(/v(\\d+)/.exec(span.className)[1]))"""
        )

    for name in ("sft", "dft", "kd"):
        page.locator("#method").select_option(name)
        expected = np.clip(PAGE.arrays[f"a_{name}"], 0, 1) * (palette.LEVELS - 1)
        np.testing.assert_allclose(levels(), expected, atol=0.501)
        assert name in page.locator("#formula").inner_text()
    page.locator("#colour").select_option("probability")
    p = np.exp(PAGE.arrays["logprob_student"][:, 0])
    np.testing.assert_allclose(levels(), p * (palette.LEVELS - 1), atol=0.501)
    assert page.locator("#rows").get_attribute("data-ramp") == "probability"


def test_the_documentation_has_every_colour(show) -> None:
    page = show(HTML)
    names = page.locator("#colour option").all_text_contents()
    text = (ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")
    assert names[0].startswith("γ") and len(names) == 8
    assert not [name for name in names[1:] if f"| {name} |" not in text]


def test_a_refused_method_is_disabled_with_its_reason(show) -> None:
    page = show(HTML, "#method=cft&view=about")
    option = page.locator("#method option[value=cft]")
    assert option.is_disabled()
    assert "the rows have no critical_mask" in option.inner_text()
    assert "the rows have no critical_mask" in page.locator("#about").inner_text()
    assert page.locator("#method").input_value() == "target_sft"


def test_disagreement_has_the_two_parts_of_the_chain_rule(show) -> None:
    page = show(HTML, "#colour=on_support")
    top = PAGE.header["top"]
    on, total = [], []
    for student, teacher in zip(LOGITS["student"], LOGITS["teacher"]):
        p, t = _softmax(student), _softmax(teacher)
        support = np.argsort(-p)[:top]
        share = t[support] / t[support].sum()
        on.append((t[support] * np.log(share * p[support].sum() / p[support])).sum())
        total.append((t * np.log(t / p)).sum())
    label = page.locator("#legend").get_attribute("aria-label")
    assert f"labels {np.mean(on):.3f}" in label
    page.locator("#colour").select_option("off_support")
    label = page.locator("#legend").get_attribute("aria-label")
    assert f"labels {np.mean(total) - np.mean(on):.3f}" in label


def test_keys_move_the_pinned_token(show) -> None:
    page = show(HTML)
    first = page.locator("#rows [data-n]").nth(2)
    first.click()
    pinned = page.locator("#rows .pinned")

    def index():
        return list(TRAINED).index(int(pinned.get_attribute("data-n")))

    assert index() == 2
    assert "target_sft" in page.locator("#sentence").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert index() == 4
    page.keyboard.press("ArrowLeft")
    assert index() == 3
    here = pinned.bounding_box()
    page.keyboard.press("ArrowDown")
    assert pinned.bounding_box()["y"] > here["y"] - 1
    assert index() > 3
    page.keyboard.press("ArrowUp")
    assert index() < 6
    page.keyboard.press("Escape")
    assert pinned.count() == 0
    assert "token" not in page.url


def test_the_panel_is_announced(show) -> None:
    page = show(HTML, f"#token={TRAINED[0]}")
    status = page.locator("#sentence")
    assert status.get_attribute("aria-live") == "polite"
    assert "Q" in status.inner_text()
    for selector in ("#method", "#eta", "#colour"):
        name = page.evaluate(
            """(s) => { const e = document.querySelector(s);
              return e.getAttribute("aria-label") || e.labels[0].textContent; }""",
            selector,
        )
        assert name.strip()


def test_the_hash_keeps_every_choice(show) -> None:
    choices = f"#method=kd&colour=entropy&token={TRAINED[5]}&view=curves&log=true"
    page = show(HTML, choices)
    assert page.locator("#method").input_value() == "kd"
    assert page.locator("#colour").input_value() == "entropy"
    assert page.locator("#log").is_checked()
    assert page.locator("#curve-view").is_visible()
    assert page.locator("#detail-body dl").is_visible()
    page.locator("#method").select_option("dft")
    assert "method=dft" in page.url and "view=curves" in page.url


@pytest.mark.parametrize(
    "fragment", ["#method=none&token=0&eta=0.123", "#token=99999999&view=x", "#&=&==%"]
)
def test_a_wrong_hash_is_left_out(show, fragment) -> None:
    page = show(HTML, fragment)
    assert page.locator("#method").input_value() == "target_sft"
    assert page.locator(".pinned").count() == 0


@pytest.mark.parametrize("scheme", palette.THEMES)
def test_a_narrow_window_does_not_scroll_sideways(show, scheme) -> None:
    page = show(HTML, width=390, height=844, color_scheme=scheme)
    for view, token in itertools.product(VIEWS, ("", f"&token={TRAINED[3]}")):
        page.evaluate("(hash) => { location.hash = hash; }", f"view={view}{token}")
        page.wait_for_function("(v) => document.body.dataset.view === v", arg=view)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, (view, token)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    paper = palette.variable("paper", scheme)
    channels = [int(paper[n : n + 2], 16) for n in (1, 3, 5)]
    assert colour == f"rgb({', '.join(map(str, channels))})"


def test_a_list_goes_to_its_token(show) -> None:
    page = show(HTML)
    p = np.exp(PAGE.arrays["logprob_student"][:, 0])
    t = np.exp(PAGE.arrays["logprob_teacher"])
    t[PAGE.arrays["candidate"] < 0] = 0
    order = np.argsort(-(1 - p) * t[:, 1:].max(axis=1))
    buttons = page.locator(".found button")
    shown = [int(b.get_attribute("data-go")) for b in buttons.all()]
    assert shown == [int(TRAINED[m]) for m in order[: len(shown)]]
    buttons.nth(1).click()
    pinned = page.locator("#rows .pinned")
    assert int(pinned.get_attribute("data-n")) == shown[1]
    page.locator("[data-tab=changed]").click()
    change = np.abs(p - np.exp(PAGE.arrays["logprob_before"][:, 0]))
    first = int(page.locator(".found button").first.get_attribute("data-go"))
    assert first == TRAINED[np.argmax(change)]


def test_before_and_after_have_one_scale(show) -> None:
    page = show(HTML, f"#view=compare&token={TRAINED[2]}")
    for root, role in (("#earlier-rows", "before"), ("#rows", "student")):
        levels = page.evaluate(
            """(root) => [...document.querySelectorAll(`${root} [data-n]`)].map(
              (span) => Number(/v(\\d+)/.exec(span.className)[1]))""",
            root,
        )
        p = np.exp(PAGE.arrays[f"logprob_{role}"][:, 0])
        np.testing.assert_allclose(levels, p * (palette.LEVELS - 1), atol=0.501)
        assert page.locator(f"{root} .pinned").count() == 1


def test_colours_without_an_earlier_value_are_disabled_beside_it(show) -> None:
    page = show(HTML, "#view=compare&colour=trust")
    assert page.locator("#colour").input_value() == "probability"
    assert page.locator("#colour option[value=trust]").is_disabled()
    page.locator("[data-tab=text]").click()
    assert page.locator("#colour").input_value() == "trust"
    assert page.locator("#colour option[value=trust]").is_enabled()


def test_the_pointer_shows_the_number_of_a_token(show) -> None:
    page = show(HTML, "#method=dft")
    assert page.locator("#tip").is_hidden()
    page.locator("#rows [data-n]").nth(6).hover()
    gamma = float(PAGE.arrays["a_dft"][6])
    name, shown = page.locator("#tip").inner_text().split()
    assert name == "γ" and float(shown) == pytest.approx(gamma, abs=6e-4)
    # The mark on the legend is at the same value.
    left = page.evaluate("document.querySelector('.legend .mark').style.left")
    assert float(left.rstrip("%")) == pytest.approx(100 * gamma, abs=0.01)


def test_a_pinned_token_far_below_is_in_view(show) -> None:
    data = page_data(rows=40, length=60)
    token = int(np.flatnonzero(data.arrays["trained"])[-200])
    page = show(render(data), f"#token={token}")
    page.wait_for_timeout(100)
    box = page.locator("#rows .pinned").bounding_box()
    assert 100 < box["y"] < 700
    assert box == page.locator(f"#rows [data-n='{token}']").bounding_box()


def test_paper_has_the_colours_and_no_controls(show) -> None:
    page = show(HTML, f"#token={TRAINED[0]}", color_scheme="dark")
    page.emulate_media(media="print")
    for hidden in ("#method", ".look", "#release"):
        assert page.locator(hidden).is_hidden()
    for shown in ("#rows", "#legend", "#detail"):
        assert page.locator(shown).is_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(252, 251, 248)"


def test_negative_mass_is_visible(show) -> None:
    (gem,) = [m for m in METHODS if m["name"] == "gem"]
    label = next(
        m for m in range(len(LABELS)) if _target(gem, m).induced().min() < -0.01
    )
    page = show(HTML, f"#method=gem&token={TRAINED[label]}")
    cell = page.locator("td.target.negative").first
    assert cell.locator(".number").inner_text().startswith("−")
    bar, zero = cell.locator("u").bounding_box(), cell.locator(".track").bounding_box()
    assert bar["width"] > 1 and bar["x"] >= zero["x"] - 0.5


def test_text_is_copied_unchanged(show) -> None:
    page = show(HTML)
    for number, row in enumerate(PAGE.header["rows"]):
        tokens = PAGE.arrays["token"][row["first"] : row["first"] + row["count"]]
        expected = "".join(PAGE.header["texts"][token] for token in tokens)
        chunks = page.locator(".row").nth(number).locator(".chunk")
        assert "".join(chunks.all_text_contents()) == expected


def test_hostile_text_stays_text(show) -> None:
    hostile = "</script><img src=x onerror=alert(1)><style>*{display:none}"
    texts = [f"{hostile}{n}" for n, _ in enumerate(PAGE.header["texts"])]
    rows = [{**row, "source": hostile} for row in PAGE.header["rows"]]
    provenance = {"config": hostile, "versions": {hostile: hostile}}
    html = _with_texts(texts=texts, rows=rows, title=hostile, provenance=provenance)
    page = show(html, f"#token={TRAINED[0]}&view=about")
    assert page.locator("img").count() == 0
    assert page.locator("style").count() == 1
    assert page.locator("h1").inner_text() == hostile
    assert hostile in page.locator("#token-text").text_content().replace("␣", " ")


def test_a_page_without_teacher_and_before(show) -> None:
    data = page_data(roles=("student",))
    page = show(render(data), f"#token={TRAINED[0]}")
    assert page.locator("#eta").is_disabled()
    assert page.locator("[data-tab=compare]").count() == 0
    columns = page.locator(".distributions thead th").all_text_contents()
    assert columns == ["p", "Q"]
    colours = page.locator("#colour option").all()
    keys = [option.get_attribute("value") for option in colours]
    assert keys == ["trust", "strength", "moved", "probability", "entropy"]


def test_the_curve_has_its_values_and_the_pinned_token(show) -> None:
    label = 4
    page = show(HTML, f"#view=curves&method=dft&token={TRAINED[label]}")
    curve = PAGE.header["curve"]
    plot = page.locator("[data-plot=gradient]")
    plot.focus()
    for _ in range(200):
        page.keyboard.press("PageUp")
        if plot.get_attribute("aria-valuenow") == "1":
            break
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert float(plot.get_attribute("aria-valuenow")) == curve["p"][70]
    cells = page.locator("[data-values=dft] td").all_text_contents()
    lines = curve["methods"]["dft"]
    names = ("label_gradient", "other_gradient", "label_target", "other_target")
    for text, name in zip(cells, names):
        shown = float(text.replace("−", "-"))
        assert shown == pytest.approx(lines[name][70], abs=6e-4)
    assert page.locator("circle.mark").count() == 2
    # Linear axes: the mark is where p_y and g are.
    circle = page.locator("[data-plot=target] circle.mark")
    p = math.exp(PAGE.arrays["logprob_student"][label, 0])
    x = float(circle.get_attribute("cx"))
    assert x == pytest.approx(38 + p * (340 - 38 - 10), abs=0.05)


def test_the_curve_stands_alone(show) -> None:
    curve = PAGE.header["curve"]
    page = show(render_curve(curve), width=390)
    assert page.locator("svg").count() == 2
    names = [
        chip.get_attribute("data-curve") for chip in page.locator("[data-curve]").all()
    ]
    assert names == list(curve["methods"])
    chip = page.locator("[data-curve=dft]")
    assert chip.get_attribute("aria-pressed") == "true"
    chip.click()
    assert page.locator("[data-values=dft]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_is_one_file() -> None:
    lowered = HTML.lower()
    for mark in ("src=", "@import", "url(", "<link", "fetch("):
        assert mark not in lowered
    assert json.dumps(PAGE.header["title"])[1:-1] in HTML
