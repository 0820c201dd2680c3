r"""Strict verdicts on answers, by hand: each line is a boxed answer, a gold answer."""

import json

import pytest

from targetsft_jax.evaluation.graders.maths import check_gold, grade_math

EQUAL = r"""
42 | 42
42. | 42
**73** | 73
\text{13} | 13
\boxed{42} | 42
\frac34 | 0.75
\cfrac{3}{4} | \frac{3}{4}
3/4 | \frac34
-\frac{3}{4} | \frac{-3}{4}
-\frac{3}{4} | \frac{3}{-4}
\frac{6}{8} | \frac{3}{4}
2\frac{1}{2} | \frac{5}{2}
2 \frac{1}{2} | 2.5
2 1/2 | \frac{5}{2}
-1\frac{1}{2} | -1.5
0.\overline{3} | \frac{1}{3}
0.1\overline{6} | \frac16
1\,000\,000 | 1000000
1{,}000 | 1000
12,345,678 | 12345678
1 000 000 | 1000000
10\ 000 | 10000
1.5e3 | 1500
1.5 \times 10^3 | 1500
2.5E-2 | 0.025
10^-3 | 0.001
007 | 7
+5 | 5
7.0 | 7
\frac{10!}{8!} | 90
\binom{6}{2} | 15
{6 \choose 2} | 15
2^{-99} | \frac{1}{2^{99}}
e^{i\pi} | -1
\mathrm{e}^2 | e^2
\ln e^3 | 3
\log_2 8 | 3
\sin\frac{\pi}{6} | \frac12
\sqrt{12} | 2\sqrt3
\sqrt[3]{27} | 3
\frac{2}{\sqrt2} | \sqrt{2}
3*sqrt(13) | 3\sqrt{13}
14/3 | \frac{14}{3}
pi/2 | \frac{\pi}{2}
2π | 2\pi
6-5i | 6 - 5i
\sqrt{3+2\sqrt2} | 1+\sqrt2
twenty-one | 21
\text{six} | 6
two hundred five | 205
50\% | \frac12
50\% | 50
0.5 | 50\%
12.5\% | 0.125
60% | 0.6
5\text{ cm} | 5
5 \text{ cm}^2 | 5
5\,\mathrm{cm}^2 | 5 \text{ cm}^2
5 \text{ square centimeters} | 5 \text{ cm}^2
5 cm | 5
5 m | 5 \text{ m}
12 \text{ meters} | 12\text{ m}
42 apples | 42
\$18.90 | 18.9
\$5 | 5\text{ dollars}
5\text{ million} | 5{,}000{,}000
90° | 90
90^{\circ} | 90\text{ degrees}
90 \text{ degrees} | 90^\circ
3:30 | 3:30 \text{ PM}
25\text{ mph} | 25 \text{ miles per hour}
(1, 2) | (1,2)
\left(1,\frac92\right) | (1,4.5)
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | (1,2)
\begin{pmatrix} 1 & 2 \end{pmatrix} | (1,2)
\langle 1,2 \rangle | (1,2)
(x,y)=(1,2) | (1,2)
x=1,\ y=2 | (1,2)
1, 2, 3 | 3,2,1
\{1,2\} | 2, 1
\{1,1,2\} | \{2,1\}
1 \text{ or } 2 | 1,2
1 \text{ and } 2 | 1,2
x=1 \text{ or } x=2 | 1,2
x = 1, 2 | 1, 2
\pm 2 | 2,-2
x=\pm 2 | -2,2
1\pm\sqrt2 | 1+\sqrt2, 1-\sqrt2
(2,1),(3,1) | (3,1),(2,1)
1,000, 2,000 | 1000, 2000
\emptyset | \varnothing
\text{no solution} | \emptyset
1,3,5,\ldots,2n-1 | 1,3,5,\dots,2n-1
1:2:3 | 1:2:3
3:4 | \frac{3}{4}
2:4 | 1:2
(0, 1] | \left(0,1\right]
(3,\infty)\cup(-\infty,2) | (-\infty,2)\cup(3,\infty)
x>3 | (3,\infty)
3<x | (3,\infty)
x \ge 3 | [3,\infty)
1<x<2 | (1,2)
-2 \le x \leq 7 | [-2,7]
x<1 \text{ or } x>3 | (-\infty,1)\cup(3,\infty)
x>1 \text{ and } x<3 | (1,3)
x \neq 0 | (-\infty,0)\cup(0,\infty)
\mathbb{R} \setminus \{0\} | (-\infty,0)\cup(0,\infty)
x\in(-\infty,2] | (-\infty,2]
\{x \mid x>3\} | (3,\infty)
\mathbb{R} | (-\infty,\infty)
x > 3 | 3 < x
2x>6 | x>3
(x+1)^2 | x^2+2x+1
(x-1)(x+1) | x^2-1
\frac{a+b}{2} | \frac a2+\frac b2
y=2x+3 | 2x+3
f(x)=2x+3 | 2x+3
y=2x+3 | 2x-y+3=0
2x+2y=4 | x+y=2
x=5 | 5
5 | x=5
x=2+3=5 | 5
x \approx 2.5 | 2.5
\pi \approx 3.14 | \pi
\frac{n!}{k!(n-k)!} | \frac{(n-1)!}{k!} \frac{n}{(n-k)!}
\overline{AB} | AB
I_{\max} | I_{max}
v^2_0 | v_0^2
\mathrm{Monday} | \text{Monday}
\textbf{No} | \text{no}
Evelyn | \text{Evelyn}
\text{(C)} | C
(C) | C
1001_{2} | 1001_2
1001_{\text{two}} | 1001_2
(1001)_2 | 1001_2
\left[\begin{matrix}1&2\\3&4\end{matrix}\right] | \begin{pmatrix}1&2\\3&4\end{pmatrix}
"""

DIFFERENT = r"""
43 | 42
1/2004! | 1/2006!
2^{-99} | 2^{-98}
\frac{2^{2005}+1}{3\cdot 2^{2006}} | \frac{1}{3\cdot 2^{2006}}
\frac{2^{2005}+1}{3\cdot 2^{2006}} | \frac16
1-\frac1{\mathrm{e}} | 1+\frac1{\mathrm{e}}
1,2,\ldots,n | 1,3,5,\ldots,2n-1
1,2,...,n | 1,2,...,m
1:2:3:\ldots | 1:4:9:\ldots
1:2:3 | 1:4:9
3x-y+13=0 | 3x+4y+14=0
4 | 4\sqrt(2)
4\sqrt(2) | 4
(1,2) | \{1,2\}
\{1,2\} | (1,2)
(1,2) | (2,1)
(1,2) | [1,2]
[0,1] | (0,1)
(0,1] | [0,1)
(0,1] | (0,1)
1,2 | 1,-2
1 | 1,2
1,2,3 | 1,2
1,1,2 | 1,2
\pm 2 | 2
2 | \pm 2
B, C | C
0.333 | \frac13
0.3333333 | \frac13
3.14 | \pi
3.14159265 | \pi
2.718 | e
100.0001 | 100
1000001 | 1000000
12346 | 12345
0.05 | 5
500 | 5
0.5 | 5\%
1/2 | 50
1001 | 1001_2
1001_3 | 1001_2
9 | 1001_2
5 \text{ km} | 5 \text{ m}
5 km | 5 \text{ m}
5 \text{ cm}^2 | 5 \text{ cm}^3
5 \text{ dollars} | 5 \text{ cents}
3:30 \text{ AM} | 3:30 \text{ PM}
\frac{\pi}{2} | 90^\circ
\text{east} | \text{west}
\text{even} | \text{odd}
yes | no
Evelyn | Nylevet
(x+1)^2 | (x+1)^3
(x+1)(x-2) | (x+1)(x-3)
(1)^7 | (1)^8x
x^2+1 | x^2-1
\frac{1+\sqrt5}{2} | \frac{1-\sqrt5}{2}
|x| | x
\sqrt{x^2} | x
x | y
x=2 | y=2
R | r^2
x_1 | x_2
x>3 | x \ge 3
x>3 | x<3
x>3 | y>3
-2x>6 | x>3
x+y=2 | x+y=3
y=2x | y=3x
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | (2,1)
\begin{pmatrix}1&2\\3&5\end{pmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
(-\infty,2)\cup(3,\infty) | (-\infty,2]\cup(3,\infty)
5 \text{ or } 6 | 5
1 2 | 3
1 2 | 12
9^{9^{9}} | 9
10^{10} | 10^{10^{10^{10}}}
0.64 | 0.64N
42 \text{ is wrong} | 42
-5 | 5
-\frac12 | \frac12
2\frac12 | 1
\sqrt{2} | 2
2\pi | 2
\infty | -\infty
6-5i | 6+5i
"""


def _pairs(table):
    return [tuple(line.split(" | ")) for line in table.strip().splitlines()]


@pytest.mark.parametrize("stated, gold", _pairs(EQUAL))
def test_equal_answers(stated, gold):
    grade = grade_math(rf"so $\boxed{{{stated}}}$.", gold)
    assert grade.correct, grade
    assert grade.how == "boxed"


@pytest.mark.parametrize("stated, gold", _pairs(DIFFERENT))
def test_different_answers(stated, gold):
    grade = grade_math(rf"so $\boxed{{{stated}}}$.", gold)
    assert not grade.correct, grade


@pytest.mark.parametrize(
    "output, gold, correct, how",
    [
        (r"\boxed{41} no, \boxed{42}", "42", True, "boxed"),
        (r"\boxed{42}. But wait, \boxed{43}", "42", False, "boxed"),
        (r"\boxed{42} \boxed{43}", "42", False, "several answers"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2", True, "boxed"),
        (r"\boxed{42", "42", False, "no answer"),
        (r"\fbox{42}", "42", True, "boxed"),
        (r"\boxed 7", "7", True, "boxed"),
        ("6+6=12\n#### 12", "12", True, "marker"),
        (
            "The final answer is $\\frac12$. I hope it is correct.",
            "0.5",
            True,
            "statement",
        ),
        ("**Answer:** 42", "42", True, "statement"),
        ("**Final answer: 42**", "42", True, "statement"),
        ("The answer is 42 apples.", "42", True, "statement"),
        ("The answer is 5 or 6.", "5", False, "statement"),
        ("We get 42 after 3 steps", "42", False, "no answer"),
        ("the value of x is 42", "42", False, "no answer"),
        ("42", "42", False, "no answer"),
        ("", "42", False, "no answer"),
        (r"\boxed{}", "42", False, "no answer"),
        (r"\boxed{\frac{1}{}", "42", False, "no answer"),
        (r"\boxed{3 + + ]}", "42", False, "unparsed"),
        (r"\boxed{" + "1" * 3000 + "}", "42", False, "too long"),
    ],
)
def test_stated_answer(output, gold, correct, how):
    grade = grade_math(output, gold)
    assert (grade.correct, grade.how) == (correct, how), grade


@pytest.mark.parametrize("gold", ["", "  ", "3 + + ]", r"\frac{1}{", "1 2 = = 3"])
def test_gold_answers_that_cannot_be_parsed(gold):
    with pytest.raises(ValueError, match="gold answer"):
        check_gold(gold)


def test_unknown_mode():
    with pytest.raises(ValueError, match="expected one of strict, reference"):
        grade_math("", "1", mode="lenient")


def test_edge_cases_without_a_false_match(shared):
    text = (shared / "data/edge_cases/edge_cases.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    rows = [row for row in rows if row["kind"] == "math"]
    correct = [grade_math(row["output"], row["gold"]).correct for row in rows]
    right = [c == row["should_match"] for c, row in zip(correct, rows)]
    assert not any(c and not row["should_match"] for c, row in zip(correct, rows))
    assert sum(right) >= 0.95 * len(rows)
