"""Picture of the README: one token with a wrong label, and the targets of four losses.

Bars of the student's p, the teacher's π, and Q of SFT, distillation, DFT and
Target-SFT; the part of a bar that is γ has the label's colour. The numbers are those of
`targetsft_jax.target`. Written by `generated_docs.py`.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TOKENS = ("56", "54", "63", "49", "48")
LABEL = 1
STUDENT = (0.62, 0.14, 0.12, 0.07, 0.05)
TEACHER = (0.90, 0.02, 0.04, 0.03, 0.01)

WIDTH, HEIGHT = 552, 364
LEFT, TOP = 34, 78
PANEL, GAP, ROW = 130, 46, 22
BLOCK = 166
"""Height of a row of panels, in pixels as all of these."""

COLOURS = {
    "light": {
        "ink": "#1E2227",
        "muted": "#5C6269",
        "line": "#C9C5BC",
        "student": "#0072B2",
        "teacher": "#009E73",
        "target": "#882255",
        "label": "#B45F06",
    },
    "dark": {
        "ink": "#E8E6E1",
        "muted": "#A3A8AE",
        "line": "#4A4F55",
        "student": "#5AAFE8",
        "teacher": "#3CC49A",
        "target": "#E07BAF",
        "label": "#F0B43C",
    },
}
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Panel:
    """Bars of one distribution: titles, colour, probabilities, and γ of a target."""

    title: str
    remark: str
    colour: str
    values: tuple[float, ...]
    gamma: float = 0.0


def panels() -> list[Panel]:
    """The six panels, row by row."""
    import jax.numpy as jnp

    import targetsft_jax as tsft

    logits, teacher = jnp.log(jnp.array([STUDENT])), jnp.log(jnp.array([TEACHER]))

    def target(method: str, title: str, remark: str) -> Panel:
        q = tsft.target(method, logits, jnp.array([LABEL]), teacher_logits=teacher)
        values = tuple(map(float, q.induced()[0]))
        return Panel(f"{title} teaches", remark, "target", values, float(q.gamma[0]))

    return [
        Panel("the model believes", "p", "student", STUDENT),
        Panel("a teacher believes", "π", "teacher", TEACHER),
        target("sft", "SFT", "γ = 1"),
        target("kd", "distillation", "γ = 0, rest: π"),
        target("dft", "DFT", "γ = p(54), rest: p"),
        target("target_sft", "Target-SFT", "γ = p(54), rest: p and π"),
    ]


def draw(theme: str) -> str:
    """The picture as SVG."""
    colours = COLOURS[theme]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" font-family="{FONT}">',
        "<title>One token with a wrong label, under four losses</title>",
        f'<text x="{LEFT}" y="26" font-size="15" fill="{colours["muted"]}">'
        f'<tspan fill="{colours["ink"]}" font-weight="600">7 × 8 = ?</tspan>'
        '<tspan dx="14">The data says</tspan>'
        f'<tspan dx="6" fill="{colours["label"]}" font-weight="600">54</tspan>'
        '<tspan dx="6">(wrong). What does each loss teach?</tspan></text>',
    ]
    for index, panel in enumerate(panels()):
        x = LEFT + (index % 3) * (PANEL + GAP)
        y = TOP + (index // 3) * BLOCK
        lines += _panel(x, y, panel, colours)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(x: int, y: int, panel: Panel, colours: dict[str, str]) -> list[str]:
    lines = [
        text(x, y - 20, panel.title, colours[panel.colour], 14, bold=True),
        text(x, y - 4, panel.remark, colours["muted"], 12),
    ]
    scale = PANEL - 34
    for row, (token, value) in enumerate(zip(TOKENS, panel.values, strict=True)):
        top, is_label = y + 6 + row * ROW, row == LABEL
        ink = colours["label"] if is_label else colours["ink"]
        lines.append(text(x - 8, top + 13, token, ink, 13, bold=is_label, anchor="end"))
        lines.append(bar(x, top, max(value * scale, 1), colours[panel.colour]))
        if is_label and panel.gamma > 0:
            lines.append(bar(x, top, panel.gamma * scale, colours["label"]))
        end = x + value * scale + 6
        lines.append(text(end, top + 13, f"{value:.2f}", colours["muted"], 12))
    lines.append(
        f'<line x1="{x}" y1="{y + 2}" x2="{x}" y2="{y + len(TOKENS) * ROW + 4}" '
        f'stroke="{colours["line"]}"/>'
    )
    return lines


def bar(x: int, y: int, width: float, colour: str) -> str:
    """A bar as SVG."""
    return (
        f'<rect x="{x}" y="{y}" width="{width:.1f}" height="16" rx="2" '
        f'fill="{colour}"/>'
    )


def text(
    x: float,
    y: float,
    content: str,
    colour: str,
    size: int,
    *,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    """A line of text as SVG."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{colour}" font-size="{size}"'
        f'{weight} text-anchor="{anchor}">{escape(content)}</text>'
    )


def figures() -> dict[Path, str]:
    """Path and text of the picture in both themes."""
    folder = ROOT / "docs" / "figures"
    return {folder / f"targets_{theme}.svg": draw(theme) for theme in COLOURS}
