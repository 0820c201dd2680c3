"""The command `generate`, as a user calls it."""

import io
import json
import signal
import sys

import pytest

from targetsft_jax.generate import main
from targetsft_jax.interactive import chat as chat_module
from targetsft_jax.interactive.chat import Chat

SETTINGS = ["--max_new_tokens", "8", "--temperature", "0"]


@pytest.fixture
def run(paths, monkeypatch, capsys, tmp_path):
    """Call the command; returns exit code, standard output and error."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))

    def call(*arguments, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        command = ["--model", str(paths["student"]), *SETTINGS, *map(str, arguments)]
        code = main(command)
        return code, *capsys.readouterr()

    return call


def test_a_prompt_is_a_message_unless_raw(run, model):
    options = {"max_new_tokens": 8, "temperature": 0}
    question = [{"role": "user", "content": "7+8"}]
    code, out, error = run("--prompt", "7+8")
    assert code == 0 and out == model.generate(question, **options) + "\n"
    assert "reached max_new_tokens, 8" in error
    assert run("--prompt", "7+8", "--raw")[1] == model.generate("7+8", **options) + "\n"
    system = [{"role": "system", "content": "Short."}, *question]
    code, out, _ = run("--prompt", "7+8", "--system", "Short.")
    assert out == model.generate(system, **options) + "\n"


def test_a_file_of_rows(run, model, tmp_path):
    chat = [{"role": "user", "content": "a"}]
    rows = [
        {"messages": [*chat, {"role": "assistant", "content": "left out"}]},
        {"prompt": "plain"},
        {"prompt": chat},
    ]
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    file.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    options = ["--samples", "2", "--batch_size", "1", "--temperature", "1"]
    code, printed, error = run("--file", file, "--out", out, *options)
    assert code == 0 and printed == f"6 completions written to {out}\n"
    assert "6 of 6 completions reached --max_new_tokens 8" in error
    written = [json.loads(line) for line in out.read_text().splitlines()]
    plain = [{"role": "user", "content": "plain"}]
    expected = model.generate([chat, plain, chat], samples=2, max_new_tokens=8)
    assert [row["completion"] for row in written] == sum(expected, [])
    assert [row["sample"] for row in written] == [0, 1] * 3
    assert written[0]["messages"] == chat and written[2]["messages"] == plain
    assert run("--file", file, "--out", out)[0] == 2  # it exists


def test_lines_of_a_text_file_and_of_standard_input(run, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("eins\n\nzwei é\n", encoding="utf-8")
    expected = model.generate(["eins", "zwei é"], max_new_tokens=8, temperature=0)
    for arguments in (["--file", tmp_path / "prompts.txt"], ["--file", "-"]):
        code, out, _ = run(*arguments, "--raw", stdin="eins\n\nzwei é\n")
        rows = [json.loads(line) for line in out.splitlines()]
        assert code == 0 and [row["completion"] for row in rows] == expected
        assert [row["prompt"] for row in rows] == ["eins", "zwei é"]


def test_chat_on_a_pipe(run, model):
    first = [{"role": "user", "content": "one"}]
    options = {"max_new_tokens": 8, "temperature": 0}
    answer = model.generate(first, **options)
    second = [*first, {"role": "assistant", "content": answer}]
    second.append({"role": "user", "content": "two"})
    lines = "one\ntwo\n\n/reset\none\n/help\n/frobnicate\n/quit\nnever read\n"
    code, out, error = run("--chat", stdin=lines)
    assert code == 0
    expected = [answer, model.generate(second, **options), answer]
    assert out == "".join(f"{text}\n" for text in expected)
    assert "/frobnicate is not a command; expected /reset, /quit, /help" in error
    # The end of the pipe is an end, too; a control token is refused, not sent.
    code, out, error = run("--chat", stdin="<|end|>\none\n")
    assert code == 0 and out == f"{answer}\n" and "left out" in error


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def interruptible():
    """Handler of SIGINT, which a suite in the background of a shell ignores."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_ctrl_c_stops_the_answer_only(model, monkeypatch, capsys, interruptible):
    monkeypatch.setattr(sys, "stdin", Terminal())
    lines = iter(["one", "two", KeyboardInterrupt, "/quit"])

    def read(prompt):
        line = next(lines)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr("builtins.input", read)
    chat = Chat(model, {"max_new_tokens": 6, "temperature": 0}, None)
    pieces = []
    real = type(model).stream

    def interrupted(self, messages, **settings):
        stream = real(self, messages, **settings)
        for number, piece in enumerate(stream):
            pieces.append(piece)
            yield piece
            if number == 2 and len(messages) == 1:
                signal.raise_signal(signal.SIGINT)

    class Stream:
        def __init__(self, *arguments, **settings):
            self._pieces, self.finished = interrupted(*arguments, **settings), True

        def __iter__(self):
            return self._pieces

    monkeypatch.setattr(
        type(model), "stream", lambda self, *a, **k: Stream(self, *a, **k)
    )
    chat.run()
    messages = chat._messages
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"] == "".join(pieces[:3])
    error = capsys.readouterr().err
    assert "stopped" in error and "/quit or Ctrl-D ends the conversation" in error
    assert chat_module.COMMANDS.keys() == {"/reset", "/quit", "/help"}


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([], 2, "expected one of --prompt TEXT, --file FILE and --chat; got none"),
        (["--prompt", "a", "--chat"], 2, "got --prompt and --chat"),
        (["--chat", "--raw"], 2, "omit --raw"),
        (["--prompt", "a", "--top_p", "0"], 2, "top_p is 0"),
        (["--prompt", "a", "--raw", "--system", "b"], 1, "--raw continues text"),
        (["--file", "absent.txt"], 1, "absent.txt"),
    ],
)
def test_refusals(arguments, code, message, run):
    status, out, error = run(*arguments)
    assert (status, out) == (code, "") and message in error


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"prompt": "a"}\n{"question": "b"}', "rows.jsonl:2: the row has question"),
        ("{", "rows.jsonl:1: not JSON"),
        ('{"prompt": ""}', "rows.jsonl:1"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content is missing"),
        ("\n", "has no prompt"),
    ],
)
def test_refused_rows(content, message, run, tmp_path):
    (tmp_path / "rows.jsonl").write_text(content)
    status, out, error = run("--file", tmp_path / "rows.jsonl")
    assert (status, out) == (1, "") and message in error
