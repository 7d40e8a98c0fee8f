"""Sampling: each knob against numbers worked out apart from it, and the text that comes of them."""

import math

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, RepetitionPenaltyLogitsProcessor

from gpt_numpy import GPT, GPTConfig
from gpt_numpy.sample import generate, penalized, probabilities, sample
from gpt_numpy.scale.decoder import Decoder
from minigrad import Tensor, manual_seed

V, BLOCK = 7, 6
SCORES = [2.0, 1.0, 0.1, -1.0]  # the lesson's example of temperature
LIKELY = [0.40, 0.30, 0.20, 0.05, 0.03, 0.02]  # its example of top-p


@pytest.fixture(scope="module")
def model():
    """A small GPT whose weights are large, so that what it says depends on what it reads."""
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=V, block_size=BLOCK, n_layer=1, n_head=2, n_embd=8))
    for p in model.parameters():
        p.data = p.data * (15 if p.ndim == 2 else 1)
    return model


def speaker(scores):
    """A GPT that gives these scores to the next token, whatever it has read."""
    V = len(scores)
    model = GPT(GPTConfig(vocab_size=V, block_size=BLOCK, n_layer=1, n_head=1, n_embd=2))
    model.to(dtype=np.float64)
    for p in model.parameters():
        p.data = np.zeros_like(p.data)
    model.ln_f.bias.data[0] = 1  # so that this is what comes out of the last norm
    model.wte.weight.data[:, 0] = scores
    return model


def knobs(logits, **options):
    """The probabilities (V,) of one row of logits."""
    return probabilities(np.asarray(logits)[None], **options)[0]


def kept(logits, **options):
    """The ids that keep a probability."""
    return np.flatnonzero(knobs(logits, **options)).tolist()


def new_tokens(model, prompt, n, **options):
    return model.generate(prompt, n, **options).numpy()[:, np.shape(prompt)[1] :]


# ---- temperature ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "temperature, by_hand",
    [
        (1.0, [0.6381, 0.2347, 0.0954, 0.0318]),
        (0.5, [0.8619, 0.1166, 0.0193, 0.0021]),
        (1.5, [0.5180, 0.2659, 0.1460, 0.0701]),
    ],
)
def test_temperature_divides_the_scores(temperature, by_hand):
    """The lesson's scores: 0.5 sharpens, 1.5 flattens, 1 is the softmax itself."""
    p = knobs(SCORES, temperature=temperature)
    exact = [math.exp(score / temperature) for score in SCORES]
    np.testing.assert_allclose(p, np.array(exact) / sum(exact), rtol=1e-14)
    np.testing.assert_allclose(p, by_hand, atol=5e-5)


def test_temperature_0_takes_the_likeliest():
    """All probability on it, the smaller id at a tie, whatever the other knobs say."""
    assert knobs([0.0, 3.0, 3.0, 1.0], temperature=0).tolist() == [0, 1, 0, 0]
    assert knobs(SCORES, temperature=0, top_k=3, top_p=0.99).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_extreme_scores_make_no_overflow(scale, temperature):
    """The largest score is subtracted first, so that e^score is at most 1."""
    p = knobs(np.array(SCORES) * scale + 1e5, temperature=temperature)
    assert np.isfinite(p).all() and p.sum() == pytest.approx(1, rel=1e-12)


# ---- top-k ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_keeps_k(k):
    """The k likeliest, with their ratios, summing to 1."""
    p = knobs(SCORES, top_k=k)
    exact = [math.exp(score) for score in SCORES[:k]]
    np.testing.assert_allclose(p[:k], np.array(exact) / sum(exact), rtol=1e-14)
    assert p[k:].tolist() == [0] * (4 - k)


@pytest.mark.parametrize(
    "logits, k, ids",
    [
        ([1, 1, 1, 1], 2, [0, 1]),
        ([0, 2, 1, 1, 1], 3, [1, 2, 3]),
        ([5, 1, 5, 5], 1, [0]),
        ([5, 1, 5, 5], 2, [0, 2]),
    ],
)
def test_top_k_keeps_k_at_a_tie(logits, k, ids):
    """Not more: of equals the smaller ids stay."""
    assert kept(logits, top_k=k) == ids


@pytest.mark.parametrize("k", [4, 5, 1000])
def test_top_k_above_the_vocabulary_keeps_all(k):
    """There is nothing to cut."""
    np.testing.assert_array_equal(knobs(SCORES, top_k=k), knobs(SCORES))


# ---- top-p ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", [range(6), [3, 0, 5, 2, 4, 1]])
def test_top_p_keeps_exactly_the_first_three(dtype, order):
    """The lesson's example: 0.9 keeps 0.40, 0.30, 0.20, though rounded they fall short."""
    order = list(order)
    p = knobs(np.log(np.array(LIKELY, dtype))[order], top_p=0.9)
    expected = np.array([4 / 9, 3 / 9, 2 / 9, 0, 0, 0])[order]
    np.testing.assert_allclose(p, expected, rtol=1e-6)
    assert (p > 0).sum() == 3


@pytest.mark.parametrize(
    "top_p, n", [(1e-9, 1), (0.4, 1), (0.41, 2), (0.7, 2), (0.71, 3), (0.91, 4), (0.98, 5), (1, 6)]
)
def test_top_p_keeps_the_fewest_that_suffice(top_p, n):
    """Never none, and one more only when those before it fall short."""
    assert kept(np.log(LIKELY), top_p=top_p) == list(range(n))


@pytest.mark.parametrize("logits", [SCORES, [0.0, -12.0, -14.0, -16.0], [20.0, 0.0, 0.0, 0.0]])
def test_top_p_1_keeps_all(logits):
    """Also the tokens so unlikely that the rest sums to nearly 1."""
    np.testing.assert_array_equal(knobs(logits, top_p=1.0), knobs(logits))


# ---- all together --------------------------------------------------------------------------------


def test_top_k_comes_before_top_p():
    """0.4 alone is short of 0.5, but is 4/7 of the two that top-k leaves."""
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    assert kept(logits, top_p=0.5) == [0, 1]
    assert kept(logits, top_k=2, top_p=0.5) == [0]


def test_temperature_comes_before_top_p():
    """0.81 suffices for 0.7; flattened to its root it is 0.5625, and a second must help."""
    logits = np.log([0.81, 0.09, 0.09, 0.01])
    assert kept(logits, top_p=0.7) == [0]
    assert kept(logits, temperature=2.0, top_p=0.7) == [0, 1]


def test_rows_have_their_own_distributions():
    """Each row of a batch is cut by itself, and the logits stay as they were."""
    logits = np.array([SCORES, SCORES[::-1], [0.0, 9.0, 0.0, 0.0]], np.float32)
    before = logits.copy()
    options = {"temperature": 0.7, "top_k": 3, "top_p": 0.8}
    together = probabilities(logits, **options)
    for row, p in zip(logits, together, strict=True):
        np.testing.assert_array_equal(p, knobs(row, **options))
    np.testing.assert_array_equal(logits, before)
    assert together.dtype == np.float64


# ---- drawing -------------------------------------------------------------------------------------

P = np.array([0.0, 0.5, 0.25, 0.0, 0.125, 0.1, 0.025, 0.0])
# What chi-squared exceeds once in a thousand, for 1, 2, ... degrees of freedom.
LIMITS = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32]


def chi_squared(ids, p):
    """How far the counts of `ids` are from the probabilities p, in units of its limit."""
    n, p = len(ids), np.asarray(p)
    counts = np.bincount(ids, minlength=len(p))
    assert counts[p == 0].sum() == 0, "a token came that has no probability"
    possible = p[p > 0]
    if len(possible) == 1:
        return 0
    squares = (counts[p > 0] - n * possible) ** 2 / (n * possible)
    return squares.sum() / LIMITS[len(possible) - 2]


def spoken(scores, **options):
    """100,000 tokens of a model that gives these scores, through all of generate()."""
    ids = speaker(scores).generate(np.zeros((1000, 1), int), 100, seed=0, **options)
    return ids.numpy()[:, 1:].ravel()


def test_draw_follows_the_distribution():
    """100,000 draws of five tokens of which the rarest has 2.5 %; those without any never come."""
    u = np.random.default_rng(0).random(100_000)
    assert chi_squared(sample(np.tile(P, (len(u), 1)), u), P) < 1


E, LN = math.exp, np.log(LIKELY)
DRAWS = {  # scores, options, the weights of the tokens, which need not sum to 1
    "as they are": (SCORES, {}, [E(2), E(1), E(0.1), E(-1)]),
    "temperature 0.5": (SCORES, {"temperature": 0.5}, [E(4), E(2), E(0.2), E(-2)]),
    "temperature 1.5": (SCORES, {"temperature": 1.5}, [E(s / 1.5) for s in SCORES]),
    "temperature 1e9": (SCORES, {"temperature": 1e9}, [1, 1, 1, 1]),
    "temperature 1e-9": (SCORES, {"temperature": 1e-9}, [1, 0, 0, 0]),
    "temperature 0": (SCORES[::-1], {"temperature": 0}, [0, 0, 0, 1]),
    "temperature 0, a tie": ([1.0, 2.0, 2.0], {"temperature": 0}, [0, 1, 0]),
    "a tie": ([1.0, 2.0, 2.0], {}, [1, E(1), E(1)]),
    "top_k 1": (SCORES, {"top_k": 1}, [1, 0, 0, 0]),
    "top_k 2": (SCORES, {"top_k": 2}, [E(2), E(1), 0, 0]),
    "top_k 2 of a tie": ([1.0, 2.0, 2.0, 2.0], {"top_k": 2}, [0, 1, 1, 0]),
    "top_k 3, a tie at the edge": ([2.0, 1.0, 1.0, 1.0], {"top_k": 3}, [E(1), 1, 1, 0]),
    "top_k V": (SCORES, {"top_k": 4}, [E(2), E(1), E(0.1), E(-1)]),
    "top_k above V": (SCORES, {"top_k": 999}, [E(2), E(1), E(0.1), E(-1)]),
    "top_p 0.9": (LN, {"top_p": 0.9}, [4, 3, 2, 0, 0, 0]),
    "top_p 0.9, unsorted": (LN[[3, 1, 5, 0, 2, 4]], {"top_p": 0.9}, [0, 3, 0, 4, 2, 0]),
    "top_p 0.95": (LN, {"top_p": 0.95}, [8, 6, 4, 1, 0, 0]),
    "top_p to 0": (LN, {"top_p": 1e-12}, [1, 0, 0, 0, 0, 0]),
    "top_p 1": (LN, {"top_p": 1.0}, LIKELY),
    "top_p 0.5 of a tie": ([0.0] * 4, {"top_p": 0.5}, [1, 1, 0, 0]),
    "all three": (LN, {"temperature": 0.5, "top_k": 3, "top_p": 0.8}, [16, 9, 0, 0, 0, 0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWS)
def test_what_is_spoken_follows_the_distribution(name):
    """100,000 tokens against weights written down by hand: scores, knobs, generators, draw."""
    scores, options, weights = DRAWS[name]
    p = np.array(weights) / np.sum(weights)
    assert chi_squared(spoken(scores, **options), p) < 1


@pytest.mark.parametrize("name", ["as they are", "top_k 2", "top_p 0.9"])
def test_a_wrong_distribution_is_caught(name):
    """One token that is a twentieth too likely is enough."""
    scores, options, weights = DRAWS[name]
    wrong = np.array(weights) * np.where(np.arange(len(weights)) == 1, 1.05, 1)
    assert chi_squared(spoken(scores, **options), wrong / wrong.sum()) > 1


def test_scores_that_are_no_numbers_are_refused():
    """A model whose weights were spoiled says so, instead of writing one token for ever."""
    for bad in (math.nan, math.inf):
        with pytest.raises(FloatingPointError, match="not all finite numbers"):
            probabilities(np.array([[0.0, bad]]), temperature=0.5)


@pytest.mark.parametrize("scale", [1.0, 1 - 2**-53, 1 + 2**-52, 0.1, 0.7])
@pytest.mark.parametrize("u, token", [(0.0, 1), (1 - 2**-53, 6)])
def test_the_ends_of_the_staircase(u, token, scale):
    """The least and greatest numbers a generator gives never fall on a token without probability.

    Nor where rounding has left the probabilities a little below or above 1 in sum.
    """
    assert sample(P[None] * scale, np.array([u])).tolist() == [token]


def test_the_stairs_are_as_high_as_the_probabilities():
    """u at a stair's edge belongs to the next one."""
    u = np.array([0.0, 0.499, 0.5, 0.749, 0.75, 0.999])
    assert sample(np.tile([0.5, 0.25, 0.25], (6, 1)), u).tolist() == [0, 0, 1, 1, 2, 2]


# ---- generating ----------------------------------------------------------------------------------

PROMPT = np.array([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("n", [0, 1, 20])
@pytest.mark.parametrize("prompt", [PROMPT, PROMPT.tolist(), Tensor(PROMPT)])
def test_generate_continues_the_prompt(model, prompt, n):
    """(B, T + n) integers within the vocabulary, the prompt first, also past block_size."""
    out = model.generate(prompt, n, seed=0)
    assert isinstance(out, Tensor) and out.shape == (2, 3 + n)
    assert np.issubdtype(out.dtype, np.integer)
    np.testing.assert_array_equal(out.numpy()[:, :3], PROMPT)
    assert ((out.numpy() >= 0) & (out.numpy() < V)).all()


def test_stream_yields_what_generate_returns(model):
    """A column (B,) at a time, as many as asked for; the method and the function agree."""
    columns = list(model.stream(PROMPT, 9, temperature=0.8, top_k=5, top_p=0.9, seed=3))
    assert [column.shape for column in columns] == [(2,)] * 9
    out = generate(model, PROMPT, 9, temperature=0.8, top_k=5, top_p=0.9, seed=3).numpy()
    np.testing.assert_array_equal(np.stack(columns, 1), out[:, 3:])


def test_a_seed_fixes_the_text(model):
    """The same seed, the same text, whatever else was drawn; another seed, another text."""
    first = new_tokens(model, PROMPT, 30, seed=5)
    manual_seed(99)
    np.testing.assert_array_equal(first, new_tokens(model, PROMPT, 30, seed=5))
    assert (first != new_tokens(model, PROMPT, 30, seed=6)).any()


def test_a_longer_text_begins_like_a_shorter_one(model):
    """What is drawn at a position does not depend on how many follow."""
    longer = new_tokens(model, PROMPT, 30, seed=5)
    np.testing.assert_array_equal(new_tokens(model, PROMPT, 10, seed=5), longer[:, :10])


def test_without_a_seed_manual_seed_decides(model):
    """It is a running place: a second text differs from the first, and both can be had again."""

    def texts():
        manual_seed(7)
        return [new_tokens(model, PROMPT, 30) for _ in range(2)]

    first, second = texts()
    assert (first != second).any()
    np.testing.assert_array_equal([first, second], texts())


def test_a_row_does_not_depend_on_the_others(model):
    """Row 1 is the same among other rows, row 0 also alone; equal prompts differ by their row."""
    a, b, c = [1, 2], [3, 4], [5, 6]
    among = new_tokens(model, [a, b, c], 30, seed=1)
    np.testing.assert_array_equal(among[1], new_tokens(model, [c, b], 30, seed=1)[1])
    np.testing.assert_array_equal(among[0], new_tokens(model, [a], 30, seed=1)[0])
    same = new_tokens(model, [a, a], 30, seed=1)
    assert (same[0] != same[1]).any()


def uncached(model, prompt, n):
    """The likeliest token again and again, the whole window read for each.

    What the window is, is told here as the docstring of stream() tells it: it grows to BLOCK
    tokens, and then goes on from its last half.
    """
    ids, window = prompt, prompt[:, -BLOCK:]
    for _ in range(n):
        if window.shape[1] > BLOCK:
            window = window[:, -(BLOCK // 2) :]
        new = model(window).numpy()[:, -1].argmax(-1)[:, None]
        ids, window = np.hstack([ids, new]), np.hstack([window, new])
    return ids


@pytest.mark.parametrize("T", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_greedy_text_is_what_the_whole_model_would_write(model, T):
    """Token by token, far past the window, from prompts shorter and longer than it; any seed."""
    prompt = np.random.default_rng(T).integers(V, size=(3, T))
    expected = uncached(model, prompt, 30)
    for seed in (None, 1, 2):
        out = model.generate(prompt, 30, temperature=0, seed=seed).numpy()
        np.testing.assert_array_equal(out, expected)


def test_the_window_slides_by_its_last_half(model, monkeypatch):
    """How many tokens are read, one call after another, from a prompt of 2 on: BLOCK is 6."""
    forward, lengths = Decoder.forward, []

    def counted(decoder, ids):
        lengths.append(ids.shape[1])
        return forward(decoder, ids)

    monkeypatch.setattr(Decoder, "forward", counted)
    model.generate([[1, 2]], 13, seed=0)
    assert lengths == [2, 1, 1, 1, 1, 3, 1, 1, 1, 3, 1, 1, 1]


def test_a_window_of_one_token():
    """There is no half of it: the new token alone is read."""
    manual_seed(0)
    shape = {"vocab_size": V, "n_layer": 1, "n_head": 1, "n_embd": 4}
    model = GPT(GPTConfig(block_size=1, **shape))
    assert model.generate([[1, 2]], 5, seed=0).shape == (1, 7)


def test_a_prompt_may_be_longer_than_block_size(model):
    """Of it the model sees the last block_size tokens; all of it is returned."""
    prompt = np.arange(2 * 17).reshape(2, 17) % V
    out = model.generate(prompt, 12, seed=4).numpy()
    np.testing.assert_array_equal(out[:, :17], prompt)
    seen = prompt[:, -BLOCK:]
    np.testing.assert_array_equal(out[:, 17:], new_tokens(model, seen, 12, seed=4))


# ---- prompts of different lengths ---------------------------------------------------------------

RAGGED = [[1, 2, 3], [4], [5, 6, 0], list(range(7)) * 2, [2, 1]]


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"repetition_penalty": 1.3}])
def test_each_prompt_goes_on_as_it_would_alone(model, options):
    """Whatever the lengths of the others, beyond the window too: its row in a batch of its own."""
    together = model.generate(RAGGED, 15, seed=3, **options)
    assert [len(row.numpy()) for row in together] == [len(prompt) + 15 for prompt in RAGGED]
    for row, (prompt, out) in enumerate(zip(RAGGED, together, strict=True)):
        alone = model.generate([prompt] * (row + 1), 15, seed=3, **options).numpy()[row]
        np.testing.assert_array_equal(out.numpy(), alone)


def test_a_stream_of_prompts_of_different_lengths(model):
    """A column (B,) at a time, in the order of the prompts; arrays do as well as lists."""
    columns = np.stack([*model.stream([np.array(p) for p in RAGGED], 9, seed=3)], 1)
    assert columns.shape == (5, 9)
    for new, out in zip(columns, model.generate(RAGGED, 9, seed=3), strict=True):
        np.testing.assert_array_equal(new, out.numpy()[-9:])
    assert [row.numpy().tolist() for row in model.generate(RAGGED, 0)] == RAGGED


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
def test_ids_without_a_sign(model, dtype):
    """They become integers that have one, as all ids that come out."""
    text = model.generate(np.array([[1]], dtype), 2, seed=1)
    assert text.dtype == np.int64
    np.testing.assert_array_equal(text.data, model.generate([[1]], 2, seed=1).data)


def test_prompts_of_one_length_are_a_batch(model):
    """A list of lists, as before, is a Tensor (B, T)."""
    assert model.generate([[1, 2], [3, 4]], 5, seed=0).shape == (2, 7)


# ---- the repetition penalty ----------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 10.0])
def test_the_penalty_is_that_of_transformers(penalty):
    """For scores of both signs and 0, and tokens that occur several times or never."""
    rng = np.random.default_rng(0)
    logits, text = rng.standard_normal((4, 9)).round(1), rng.integers(7, size=(4, 12))
    text[1] = 3
    logits[2, text[2, 0]] = 0
    theirs = RepetitionPenaltyLogitsProcessor(penalty)
    expected = theirs(torch.from_numpy(text), torch.from_numpy(logits.copy())).numpy()
    before = logits.copy()
    np.testing.assert_allclose(penalized(logits, text, penalty), expected, rtol=1e-14)
    np.testing.assert_array_equal(logits, before)


def test_by_hand():
    """2 / 1.25 and −1 · 1.25; the others stay."""
    out = penalized(np.array([SCORES]), np.array([[0, 3, 0]]), 1.25)
    np.testing.assert_allclose(out, [[1.6, 1.0, 0.1, -1.25]], rtol=1e-14)


def test_a_penalty_ends_a_loop():
    """The likeliest token comes once; then all others, in the order of their scores, come first."""
    scores = [5.0, 4.0, 3.0, 2.0]
    plain = speaker(scores).generate([[3]], 4, temperature=0).numpy()[0]
    assert plain.tolist() == [3, 0, 0, 0, 0]
    out = speaker(scores).generate([[3]], 4, temperature=0, repetition_penalty=4.0).numpy()[0]
    assert out.tolist() == [3, 0, 1, 2, 0]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0, "seed": 9}])
def test_greedy_text_with_a_penalty_is_that_of_transformers(tmp_path, model, options):
    """All of generate, the prompt counted in, up to the end of the window."""
    model.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    expected = theirs.generate(
        torch.tensor([[1, 2]]), max_new_tokens=4, do_sample=False, repetition_penalty=1.7,
        pad_token_id=0, attention_mask=torch.ones(1, 2, dtype=torch.long),
    )  # fmt: skip
    out = model.generate([[1, 2]], 4, repetition_penalty=1.7, **options).numpy()
    np.testing.assert_array_equal(out, expected.numpy())


@pytest.mark.parametrize("prompts", [[[1], []], [[1], [[2, 3]]], [[1, 2], 3]])
def test_a_prompt_among_others_is_refused(model, prompts):
    """One that is empty, is no row, or has ids that are none."""
    with pytest.raises(ValueError, match="with at least one token, not \\["):
        model.stream(prompts, 5)
    with pytest.raises(ValueError, match=f"id {V} is outside the vocabulary"):
        model.stream([[1, 2], [V]], 5)


@pytest.mark.parametrize("prompts", [[[1, [2]], [3]], [[[1], 2], [[3]]]])
def test_a_prompt_of_lists_is_refused(model, prompts):
    """NumPy would speak of inhomogeneous shapes."""
    with pytest.raises(ValueError, match="a prompt must be a list of ids, not \\[\\["):
        model.generate(prompts, 5)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        model.stream([[1]], 2.5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_stays(model, training):
    """Training goes on where it was, between two tokens and after an error."""
    model.train(training)
    modes = []
    for _ in model.stream(PROMPT, 3, seed=0):
        modes += [m.training for m in (model, model.h[0].attn.dropout)]
    assert modes == [training] * 6
    with pytest.raises(ValueError, match=f"id {V} is outside the vocabulary"):
        model.stream([[V]], 1, seed=0)
    assert model.training is training


def test_a_stream_keeps_to_the_weights_of_its_call(model):
    """Training may go on between two of its tokens."""
    expected = new_tokens(model, PROMPT, 9, seed=3)
    stream = model.stream(PROMPT, 9, seed=3)
    saved = model.state_dict()
    for p in model.parameters():
        p.data = p.data * -2
    np.testing.assert_array_equal(np.stack(list(stream), 1), expected)
    model.load_state_dict(saved)


def test_generating_leaves_dropout_off_and_no_tape():
    """With dropout in the model the text is the same as without, and no gradient is recorded."""
    texts = []
    for dropout in (0.0, 0.5):
        manual_seed(0)
        shape = {"vocab_size": V, "block_size": BLOCK, "n_layer": 1, "n_head": 2, "n_embd": 8}
        out = GPT(GPTConfig(**shape, dropout=dropout)).generate(PROMPT, 9, seed=0)
        assert not out.requires_grad
        texts.append(out.numpy())
    np.testing.assert_array_equal(*texts)


BAD = {
    "temperature": [-1, -1e-9, math.nan],
    "top_k": [0, -1],
    "top_p": [0, -0.5, 1.5, math.nan],
    "seed": [-1, 2**64],
    "repetition_penalty": [0, -1.0, math.nan, math.inf],
}


@pytest.mark.parametrize("name, value", [(name, v) for name in BAD for v in BAD[name]])
def test_a_bad_option_is_refused_at_the_call(model, name, value):
    """By stream itself, before a token is asked for, in one line that names it and its value."""
    with pytest.raises(ValueError) as error:
        model.stream(PROMPT, 5, **{name: value})
    message = str(error.value)
    assert name in message and message.endswith(f"not {value}") and "\n" not in message
    with pytest.raises(ValueError):
        model.generate(PROMPT, 0, **{name: value})


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[]], np.zeros((2, 0), int), [[[1]]], 1, []])
def test_a_prompt_of_another_shape_is_refused_at_the_call(model, prompt):
    """It must be rows (B, T) of at least one token, and the message says what it was."""
    with pytest.raises(ValueError, match=r"\(B, T\) with at least one token") as error:
        model.stream(prompt, 5)
    assert str(error.value).endswith(str(np.shape(prompt)))
