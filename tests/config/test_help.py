"""Pages and topics of `--help`."""

import shlex

import pytest
from support.golden_help import GOLDEN, PAGES

from targetsft_jax.config.help import ALL, GENERAL, TRAIN, WIDTH, topic_help
from targetsft_jax.config.load import keys, parse
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.targets.methods import METHODS

SCREEN_AND_A_HALF = 54
"""Lines of one and a half windows of 36 lines."""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_its_golden_text(name):
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert PAGES[name].text() == text, "python -m tests.support.golden_help --write"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_screen_and_a_half(name):
    lines = PAGES[name].text().splitlines()
    assert len(lines) <= SCREEN_AND_A_HALF
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith(f"usage: targetsft {name} ")
    assert len(PAGES[name].examples) == 3
    assert 9 <= len(PAGES[name].common) <= 12


def test_the_page_of_train_lists_the_methods_and_the_sections():
    text = " ".join(TRAIN.text().split())
    assert f"one of {', '.join(METHODS)}." in text
    for section in ("student", "target", "data", "train", "evaluation", "log"):
        assert f"\n  {section} " in TRAIN.text()


def test_the_examples_of_train_parse():
    for example in TRAIN.examples:
        program, command, *arguments = shlex.split(example)
        assert (program, command) == ("targetsft", "train")
        parse(arguments)


def test_all_has_every_key_once_and_the_target_by_method():
    words = topic_help(Config, ALL).split()
    shared = [key for m in METHODS.values() for key in m.hyper]
    for path in keys():
        if ".mixture." in path or ".others." in path:
            continue  # Keys of an entry of a list.
        is_key = f"--{path}" in words
        is_section = f"{path}:" in words
        assert is_key != is_section, path
        name = path.removeprefix("target.")
        expected = shared.count(name) if name != path and name in shared else 1
        assert words.count(f"--{path}") == (expected if is_key else 0), path


@pytest.mark.parametrize("name", METHODS)
def test_the_topic_target_lists_the_hyper_parameters_under_their_method(name):
    paragraphs = topic_help(Config, "target").split("\n\n")
    (paragraph,) = [p for p in paragraphs if p.startswith(f"{name}: ")]
    found = {w for w in paragraph.split() if w.startswith("--target.")}
    assert found == {f"--target.{key}" for key in METHODS[name].hyper}


def test_a_section_has_its_keys_and_nested_sections():
    text = topic_help(Config, "student")
    assert "--student.path" in text and "--student.build.data.digits" in text
    assert "--teacher" not in text
    assert "--run_dir" in topic_help(Config, GENERAL)
    assert "--student" not in topic_help(Config, GENERAL)


def test_a_key_is_a_topic():
    first = topic_help(Config, "train.steps").splitlines()[0]
    assert first.split()[0] == "--train.steps"
    assert topic_help(Config, "--train.steps") == topic_help(Config, "train.steps")


def test_an_unknown_topic_lists_the_topics():
    with pytest.raises(ConfigError, match="Did you mean train"):
        topic_help(Config, "trian")
