"""A loaded model against the functions that it is made of, in float64."""

import dataclasses

import jax
import numpy as np
import pytest
from support import rig

import targetsft_jax as tsft
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.generation.generate import generate
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models.decoder import apply, head
from targetsft_jax.parallel.mesh import make_mesh

TEXT = "Two and two are four, été; " * 12  # more tokens than a chunk
QUESTION = [{"role": "user", "content": "1+1=?"}]
CHAT = [*QUESTION, {"role": "assistant", "content": "2 é"}]
FEW = {"max_new_tokens": 8}


def full_logits(model, ids):
    """[L, 264] of one product in float64."""
    hidden = jax.jit(apply, static_argnums=0)(
        model.stored.config, model.params, np.asarray(ids)[None]
    )[0]
    return np.asarray(hidden, "f8") @ np.asarray(head(model.params), "f8")[:264].T


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_it_names_itself(model, paths):
    assert repr(model) == f"Model({paths['student']}, llama, 0.0 M parameters, float32)"


def test_generate_is_the_sampler(model):
    ids = list(b"<answer>")
    settings = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, **FEW}
    rows = generate(
        model.stored.config,
        model.params,
        [ids, [1, 2]],
        samples=2,
        stop_ids=[257],
        key=jax.random.key(7),
        vocab_size=264,
        **settings,
    )
    expected = [
        [model.tokenizer.decode(x.tokens, skip_special_tokens=True) for x in row]
        for row in rows
    ]
    texts = model.generate(["<answer>", "\1\2"], samples=2, seed=7, **settings)
    assert texts == expected
    assert model.generate("<answer>", seed=7, **settings) == expected[0][0]
    assert model.generate(["<answer>"], seed=7, **settings) == [expected[0][0]]


@pytest.mark.parametrize("prompt", ["Once", QUESTION])
def test_the_streamed_text_is_the_whole_text(model, prompt):
    whole = model.generate(prompt, seed=3, **FEW)
    stream = model.stream(prompt, seed=3, **FEW)
    assert stream.finished is None
    assert "".join(stream) == whole and stream.finished is False
    assert "max_new_tokens, 8" in stream.limit_reached


def test_messages_are_rendered_by_the_template(model):
    rendered = "<|user|>1+1=?<|assistant|>"
    assert model.generate(QUESTION, temperature=0, **FEW) == model.generate(
        rendered, temperature=0, **FEW
    )


def test_logprobs_of_a_text(model):
    ids = np.asarray(list(TEXT.encode()))
    expected = log_softmax(full_logits(model, ids))
    scores = model.logprobs(TEXT, top=3)
    assert len(scores) == len(ids) - 1 > 256
    np.testing.assert_array_equal(scores.ids, ids[1:])
    own = expected[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(scores.logprob, own, atol=2e-5)
    np.testing.assert_allclose(scores.total, own.sum(), rtol=1e-5)
    entropy = -(np.exp(expected) * expected).sum(-1)[:-1]
    np.testing.assert_allclose(scores.entropy, entropy, atol=2e-5)
    order = np.argsort(-expected, axis=-1)[:-1, :3]
    assert [[x.id for x in row] for row in scores.top] == order.tolist()
    assert scores.top[5][0].prob == pytest.approx(np.exp(expected[5].max()), rel=1e-4)
    assert scores.tokens[:3] == ["w", "o", " "] and scores.context[0] == "T"


def test_logprobs_of_messages_are_of_what_is_trained(model):
    scores = model.logprobs(CHAT)
    ids = [259, *b"1+1=?", 260, *"2 é".encode(), 257]
    assert scores.tokens == ["2", " ", "⟨C3⟩", "⟨A9⟩", "<|end|>"]
    expected = log_softmax(full_logits(model, ids))
    own = [expected[p - 1, ids[p]] for p in range(7, 12)]
    np.testing.assert_allclose(scores.logprob, own, atol=2e-5)
    assert scores.context == ["<|user|>1+1=?<|assistant|>", "", "", "", "", ""]
    row = next(scores.rows())
    assert row["token"] == "2" and row["logprob"] == pytest.approx(own[0], abs=2e-5)


COLUMN = np.linspace(-3, -0.1, 5)
CASES = {
    "sft": {},
    "alpha": {"alpha": -0.5},
    "gem": {},
    "asft": {"kl_weight": 0.3},
    "kd": {},
    "target_sft": {"eta": 0.3},
    "target_sft gamma": {"gamma": np.linspace(0, 1, 5)},
    "psft": {"old_logprob": COLUMN},
    "iw_sft": {"trajectory_weight": 0.7},
}


@pytest.mark.parametrize("case", CASES)
def test_target_is_that_of_the_full_logits(case, model, teacher):
    name, inputs = case.split()[0], CASES[case]
    role = {"kd": "teacher", "target_sft": "teacher", "asft": "reference"}.get(name)
    models = {role: teacher} if role else {}
    table = model.target(name, CHAT, top=4, **models, **inputs)
    ids = [259, *b"1+1=?", 260, *"2 é".encode(), 257]
    rows = slice(6, 11)
    with jax.enable_x64(True):
        logits = full_logits(model, ids)[rows]
        dense = {f"{role}_logits": full_logits(teacher, ids)[rows]} if role else {}
        arrays = {
            key: np.full(5, x) if key == "trajectory_weight" else x
            for key, x in inputs.items()
        }
        q = tsft.target(name, logits, np.asarray(ids[7:]), **dense, **arrays)
        induced, p = np.asarray(q.induced()), np.exp(log_softmax(logits))
        close = {"rtol": 2e-5, "atol": 2e-5}
        np.testing.assert_allclose(table.gamma, q.gamma, **close)
        np.testing.assert_allclose(table.strength, q.strength, **close)
        np.testing.assert_allclose(table.negative_mass, q.negative_mass(), **close)
    labels = (np.arange(5), ids[7:])
    np.testing.assert_allclose(table.label_prob, p[labels], **close)
    np.testing.assert_allclose(table.label_target, induced[labels], **close)
    for row, entries in enumerate(table.top):
        top = [x.id for x in entries]
        assert len(set(top)) == 4
        masses = [x.mass for x in entries]
        np.testing.assert_allclose(masses, induced[row, top], **close)
        np.testing.assert_allclose(masses, -np.sort(-induced[row])[:4], **close)
        np.testing.assert_allclose([x.prob for x in entries], p[row, top], **close)


def test_columns_fit_texts_of_several_chunks(model):
    old = model.logprobs(TEXT).logprob
    table = model.target("psft", TEXT, old_logprob=old)
    # A policy equal to the student: every ratio is 1.
    np.testing.assert_allclose(table.gamma, 1, atol=1e-5)
    with pytest.raises(ValueError, match="old_logprob .*differs from labels"):
        model.target("psft", TEXT, old_logprob=old[:-1])


def test_programs_are_shared_by_texts(model):
    from targetsft_jax.interactive import measure

    model.target("dft", "one text")
    before = measure._target._cache_size()
    model.target("dft", "another text of more tokens")
    assert measure._target._cache_size() == before


@pytest.mark.parametrize(
    "method, inputs, message",
    [
        ("kd", {}, "needs teacher_logits; pass teacher=tsft.load"),
        ("kl", {}, "needs reference_logits; pass reference=tsft.load"),
        ("psft", {}, "needs old_logprob; pass old_logprob=OLD.logprobs"),
        ("cft", {}, "needs critical_mask; pass critical_mask as one number per"),
        ("iw_sft", {}, "trajectory_weight; pass trajectory_weight as a number"),
        ("dtf", {}, "no method 'dtf'"),
        ("dft", {"eta": 1}, "eta"),
        ("psft", {"old_logprob": np.nan}, "old_logprob"),
    ],
)
def test_refused_targets(method, inputs, message, model):
    with pytest.raises(ValueError, match=message):
        model.target(method, CHAT, **inputs)


def test_a_teacher_with_another_tokenizer_is_refused(model, tmp_path):
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    save_pretrained(
        tmp_path / "other", rig.STUDENT, rig.params_of(rig.STUDENT), tokenizer=other
    )
    with pytest.raises(ValueError, match="the student .* and the teacher .* differ"):
        model.target("kd", CHAT, teacher=tsft.load(tmp_path / "other"))


def test_refused_texts(model):
    for text, message in (
        ("", "has 0 token"),
        ("a", "expected at least two"),
        (QUESTION, "no assistant turn"),
        ([{"role": "assistant", "content": "2"}], "the first speaker is assistant"),
        ("x" * 2000, "2,000 tokens; expected at most 960"),
    ):
        with pytest.raises(ValueError, match=message):
            model.logprobs(text)
    for prompt, message in (
        ("", "the prompt is empty"),
        (CHAT, "does not end in a user turn"),
        ([*QUESTION, {"role": "user"}], "content is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(prompt)
    with pytest.raises(TypeError, match="expected text, a list of messages"):
        model.generate(3)
    with pytest.raises(ValueError, match="temperature is -1"):
        model.generate("a", temperature=-1.0)


def test_a_base_model_without_a_template_names_what_to_set(model):
    bare = byte_tokenizer()
    bare.chat_template = None
    base = dataclasses.replace(model, tokenizer=bare)
    for call in (base.generate, base.logprobs, base.stream):
        with pytest.raises(ValueError, match="set chat_template to the one .*qwen_"):
            call(QUESTION)
    assert base.generate("1+1=", temperature=0, **FEW) == model.generate(
        "1+1=", temperature=0, **FEW
    )


def test_a_path_that_is_no_model_lists_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError) as error:
        tsft.load(tmp_path)
    for part in ("config.json", "adapter_config.json", "checkpoints", "notes.txt"):
        assert part in str(error.value)


@pytest.mark.slow
def test_on_a_mesh(paths, model):
    sharded = tsft.load(paths["student"], mesh=make_mesh(1, 2, 4))
    assert sharded.generate(["ab", "c"], seed=1, **FEW) == model.generate(
        ["ab", "c"], seed=1, **FEW
    )
    np.testing.assert_allclose(
        sharded.logprobs("some text").logprob,
        model.logprobs("some text").logprob,
        atol=1e-4,
    )
