"""Models and tokenizers of others, in many variations: right, or refused in one line; never
silently other.

`transformers` and `tokenizers` write each of them here; what they compute from the same folder is
the reference.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from gpt_numpy import GPT, GPTConfig
from gpt_numpy.corpus import grammar
from gpt_numpy.hf.tokenizer_json import from_folder, load_model, of_content
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer, special_token
from minigrad import manual_seed

SMALL = {
    "vocab_size": 20, "n_positions": 12, "n_embd": 8, "n_layer": 2, "n_head": 2,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
IDS = np.random.default_rng(0).integers(20, size=(2, 12))


def make_theirs(folder, **changes):
    """A GPT2LMHeadModel with random weights and biases, saved by transformers."""
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**SMALL | changes))
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.3 * torch.randn(p.shape)
    theirs.save_pretrained(folder)


def rewrite(path, change):
    """Replace the JSON in a file by what `change` makes of it, without the keys that are ... ."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content = {key: value for key, value in change(content).items() if value is not ...}
    path.write_text(json.dumps(content), encoding="utf-8")


def edited(**fields):
    """A change of config.json by hand."""
    return lambda folder: rewrite(folder / "config.json", lambda config: config | fields)


def renamed(name):
    """A change of the names of tensors."""

    def change(folder):
        path = folder / "model.safetensors"
        arrays = safetensors.numpy.load_file(path)
        arrays = {name(key): array for key, array in arrays.items()}
        safetensors.numpy.save_file(arrays, path, {"format": "pt"})

    return change


def retyped(dtype, only=""):
    """A change of the dtype of tensors."""

    def change(folder):
        path = folder / "model.safetensors"
        arrays = safetensors.numpy.load_file(path)
        arrays = {k: a.astype(dtype) if only in k else a for k, a in arrays.items()}
        safetensors.numpy.save_file(arrays, path, {"format": "pt"})

    return change


def plus(**tensors):
    """A change: more tensors."""

    def change(folder):
        path = folder / "model.safetensors"
        arrays = safetensors.numpy.load_file(path)
        arrays |= {name.replace("__", "."): array for name, array in tensors.items()}
        safetensors.numpy.save_file(arrays, path, {"format": "pt"})

    return change


def logits_of(folder):
    """What transformers computes from this folder."""
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        return theirs(torch.from_numpy(IDS)).logits.numpy()


def agrees(folder, reference):
    """Whether we compute the same at 1e-5; False for a refusal in one line; else it fails."""
    try:
        ours = GPT.from_pretrained(folder)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and str(folder) in str(error), error
        assert "flag" not in str(error) and "--" not in str(error), error
        return False
    logits = ours.to(dtype=np.float64)(IDS).numpy()
    assert abs(logits - reference).max() <= 1e-5 * abs(reference).max()
    return True


# What GPT2Config is given: True where we compute the same, False where we have to refuse it.
CONFIGS = [
    ({}, True),
    ({"n_layer": 1}, True),
    ({"n_head": 1}, True),
    ({"n_head": 4}, True),
    ({"n_head": 8}, True),
    ({"n_embd": 16}, True),
    ({"n_positions": 13}, True),
    ({"vocab_size": 64}, True),
    ({"n_inner": None}, True),
    ({"n_inner": 32}, True),
    ({"n_inner": 16}, False),
    ({"n_inner": 31}, False),
    ({"activation_function": "gelu_new"}, True),
    ({"activation_function": "gelu_pytorch_tanh"}, True),
    ({"activation_function": "gelu_fast"}, True),
    ({"activation_function": "gelu_accurate"}, True),
    ({"activation_function": "gelu"}, False),
    ({"activation_function": "gelu_10"}, False),
    ({"activation_function": "quick_gelu"}, False),
    ({"activation_function": "relu"}, False),
    ({"activation_function": "silu"}, False),
    ({"activation_function": "tanh"}, False),
    ({"layer_norm_epsilon": 1e-5}, True),
    ({"layer_norm_epsilon": 1e-6}, False),
    ({"layer_norm_epsilon": 0.1}, False),
    ({"resid_pdrop": 0.0}, True),
    ({"resid_pdrop": 0.5, "embd_pdrop": 0.4, "attn_pdrop": 0.3}, True),
    ({"resid_pdrop": 1.0}, False),
    ({"scale_attn_weights": False}, False),
    ({"is_causal": False}, False),
    ({"scale_attn_by_inverse_layer_idx": True}, False),
    ({"reorder_and_upcast_attn": True}, True),
    ({"tie_word_embeddings": False}, False),
    ({"add_cross_attention": True}, False),
    ({"initializer_range": 0.5}, True),
    ({"summary_type": "mean", "summary_activation": "tanh"}, True),
    ({"use_cache": False}, True),
    ({"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5}, True),
    ({"eos_token_id": [4, 5]}, True),
    ({"hidden_size": 16}, True),
    ({"num_hidden_layers": 3}, True),
    ({"num_attention_heads": 4}, True),
    ({"max_position_embeddings": 15}, True),
]


@pytest.mark.parametrize("config, ours", CONFIGS, ids=str)
def test_a_config_of_gpt2(tmp_path, config, ours):
    """As transformers writes it."""
    make_theirs(tmp_path, **config)
    assert agrees(tmp_path, logits_of(tmp_path)) == ours


# What is done to the files of a GPT-2 afterwards, and whether we can still read them.  The
# reference is what transformers computed before.
EDITS = {
    "no activation_function": (edited(activation_function=...), True),
    "no n_inner": (edited(n_inner=...), True),
    "no layer_norm_epsilon": (edited(layer_norm_epsilon=...), True),
    "no dropout": (edited(resid_pdrop=..., embd_pdrop=..., attn_pdrop=...), True),
    "no scale_attn_weights": (edited(scale_attn_weights=...), True),
    "no n_embd": (edited(n_embd=...), False),
    "no model_type": (edited(model_type=...), False),
    "other names of the shape": (
        edited(
            n_embd=..., n_layer=..., n_head=..., n_positions=..., hidden_size=8,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=12,
        ),
        True,
    ),
    "two names that contradict": (edited(num_attention_heads=4), False),
    "two names that agree": (edited(num_attention_heads=2, n_ctx=12), True),
    "bias false, biases in the file": (edited(bias=False), True),
    "a prefix of torch.compile": (renamed(lambda name: f"_orig_mod.{name}"), True),
    "a prefix of DataParallel": (renamed(lambda name: f"module.{name}"), True),
    "both": (renamed(lambda name: f"module._orig_mod.{name}"), True),
    "compiled blocks": (renamed(lambda name: name.replace("h.0.", "h.0._orig_mod.")), True),
    "no prefix": (renamed(lambda name: name.removeprefix("transformer.")), True),
    "an unknown prefix": (renamed(lambda name: f"model.{name}"), False),
    "float64": (retyped(np.float64), True),
    "some float64": (retyped(np.float64, only="ln_"), True),
    "integers": (retyped(np.int8, only="mlp.c_fc.weight"), False),
    "masks": (plus(transformer__h__0__attn__bias=np.tri(12, dtype=bool)[None, None]), True),
    "another head": (plus(lm_head__weight=np.ones((20, 8), np.float32)), False),
    "a bias of the head": (plus(lm_head__bias=np.ones(20, np.float32)), False),
    "an adapter": (plus(transformer__h__0__mlp__c_fc__lora_A=np.ones((2, 8))), False),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_files_edited_afterwards(tmp_path, name):
    """By hand, or by the programs that a model has passed through."""
    make_theirs(tmp_path)
    reference = logits_of(tmp_path)
    change, ours = EDITS[name]
    change(tmp_path)
    assert agrees(tmp_path, reference) == ours


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"n_positions": ...}, "it does not say n_positions"),
        ({"n_layer": "two"}, "n_layer must be a whole number above 0, it is 'two'"),
        ({"n_layer": 0}, "n_layer must be a whole number above 0, it is 0"),
        ({"n_head": 3}, "n_embd, 8, is not a multiple of n_head, 3"),
        ({"hidden_size": 9}, "n_embd and hidden_size contradict each other"),
        ({"resid_pdrop": 1}, "resid_pdrop must be at least 0 and below 1, it is 1"),
        ({"activation_function": "gelu"}, "gelu_pytorch_tanh"),
        ({"model_type": ...}, "model_type must be 'gpt2', it is None"),
    ],
)
def test_the_fault_in_a_config_is_said_in_words(tmp_path, fields, fault):
    """The name that the file has for it, what it must be and what it is."""
    make_theirs(tmp_path)
    edited(**fields)(tmp_path)
    with pytest.raises(ValueError) as error:
        GPT.from_pretrained(tmp_path)
    assert fault in str(error.value) and str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value) and "flag" not in str(error.value)


# ---- there and back ------------------------------------------------------------------------------

TEXT = grammar.generate(20_000)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [CharTokenizer.from_text, BPETokenizer.from_text])
def test_there_and_back_again(tmp_path, make, bias):
    """Saved by us, by them, read by us, saved by us and by them once more: nothing changes."""
    tokenizer = make(TEXT)
    manual_seed(0)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8, bias=bias
    )
    model = first = GPT(config).eval()
    ids = np.arange(8)[None]
    for n in range(3):
        mine, their_folder = tmp_path / f"ours{n}", tmp_path / f"theirs{n}"
        model.save_pretrained(mine, tokenizer=tokenizer.fingerprint())
        tokenizer.save(mine / "tokenizer.json")
        AutoModelForCausalLM.from_pretrained(mine).save_pretrained(their_folder)
        theirs = AutoTokenizer.from_pretrained(mine)
        theirs.save_pretrained(their_folder)
        again, state, tokenizer = load_model(their_folder)
        model = GPT.from_state(again, state)
        assert again == config and tokenizer.fingerprint() == make(TEXT).fingerprint()
        assert tokenizer.encode(TEXT[:99]).tolist() == theirs(TEXT[:99]).input_ids
        np.testing.assert_array_equal(model(ids).numpy(), first(ids).numpy())


def test_biases_that_were_trained_elsewhere_are_kept(tmp_path):
    """A model without biases gets some there; config.json still says `bias: false`."""
    model = GPT(GPTConfig(vocab_size=20, block_size=12, n_layer=1, n_head=2, n_embd=8, bias=False))
    model.save_pretrained(tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        theirs.transformer.h[0].mlp.c_fc.bias += 1
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["bias"] is False
    assert agrees(tmp_path, logits_of(tmp_path))
    assert GPT.from_pretrained(tmp_path).config.bias


def test_a_checksum_is_still_a_promise(tmp_path):
    """Weights of ours that were written again without it, the config being ours: it says so."""
    model = GPT(GPTConfig(vocab_size=20, block_size=12, n_layer=1, n_head=2, n_embd=8))
    model.save_pretrained(tmp_path)
    renamed(lambda name: name)(tmp_path)
    with pytest.raises(ValueError, match='has no checksum.*remove "checksum" from config.json'):
        GPT.from_pretrained(tmp_path)
    edited(checksum=...)(tmp_path)
    assert agrees(tmp_path, logits_of(tmp_path))


def test_a_loaded_model_gives_the_same_twice(tmp_path):
    """It is in evaluation mode: dropout is off."""
    make_theirs(tmp_path, resid_pdrop=0.5)
    model = GPT.from_pretrained(tmp_path)
    assert not model.training
    np.testing.assert_array_equal(model(IDS).numpy(), model(IDS).numpy())


# ---- tokenizers ----------------------------------------------------------------------------------

PROBES = [
    TEXT[:500], "foo newword bar", "newwordier", "a<|endoftext|>b", "<|endoftext|><|endoftext|>",
    "a sp ace  sp ace b", "newword", " newword \n\n<pad> x", "<|endoftext|", "azzb zz zzb", "",
    "née Ġthe the", "  newword's 42 \t\n", "newwordnewword", "NEWWORD",
]  # fmt: skip


def trained(specials=(), size=350):
    """A byte-level tokenizer of theirs, as GPT-2's."""
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*specials],
        show_progress=False,
    )
    theirs.train_from_iterator([TEXT], trainer)
    return theirs


def with_parts(specials=(), **parts):
    theirs = trained(specials)
    for name, part in parts.items():
        setattr(theirs, name, part)
    return theirs


def with_added(*tokens, special=False):
    theirs = trained(["<|endoftext|>"])
    (theirs.add_special_tokens if special else theirs.add_tokens)([*tokens])
    return theirs


def byte_level(space=False, **options):
    return pre_tokenizers.ByteLevel(add_prefix_space=space, **options)


def characters():
    """As CharTokenizer.save writes it."""
    vocab = {character: i for i, character in enumerate(sorted(set(TEXT + "".join(PROBES))))}
    theirs = Tokenizer(models.BPE(vocab, []))
    theirs.decoder = decoders.Fuse()
    return theirs


END = processors.TemplateProcessing("$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
TOKENIZERS = {  # name: (how it is made, whether it can be read)
    "bytes alone": (lambda: trained(size=256), True),
    "learned": (trained, True),
    "an end of text": (lambda: trained(["<|endoftext|>", "<pad>"]), True),
    "added words": (lambda: with_added("newword", "newwordier", " sp ace"), True),
    "added special": (lambda: with_added("<pad>", "zz", special=True), True),
    "two kinds of added": (
        lambda: with_added(AddedToken("zz", normalized=False), AddedToken("azzb")),
        True,
    ),
    "added in another script": (lambda: with_added("née", "中"), True),
    "added that is a byte or was learned": (lambda: with_added("é", "Ġthe", "a"), True),
    "a whole word": (lambda: with_added(AddedToken("newword", single_word=True)), False),
    "spaces on the left": (lambda: with_added(AddedToken("newword", lstrip=True)), False),
    "spaces on the right": (lambda: with_added(AddedToken("newword", rstrip=True)), False),
    "offsets": (lambda: with_parts(post_processor=processors.ByteLevel(trim_offsets=False)), True),
    "an end in every text": (lambda: with_parts(["<|endoftext|>"], post_processor=END), False),
    "twice the text": (
        lambda: with_parts(post_processor=processors.TemplateProcessing("$A $A")),
        False,
    ),
    "a space in front": (lambda: with_parts(pre_tokenizer=byte_level(space=True)), False),
    "no pattern": (lambda: with_parts(pre_tokenizer=byte_level(use_regex=False)), False),
    "whitespace": (lambda: with_parts(pre_tokenizer=pre_tokenizers.Whitespace()), False),
    "lower case": (lambda: with_parts(normalizer=normalizers.Lowercase()), False),
    "NFC": (lambda: with_parts(normalizer=normalizers.NFC()), False),
    "characters": (characters, True),
    "characters and more": (lambda: add_to(characters(), "newword"), False),
}  # fmt: skip


def add_to(theirs, word):
    theirs.add_tokens([word])
    return theirs


def check_tokenizer(folder, theirs, readable, vocab_size=1000):
    """The ids of every probe as theirs, and back; or a refusal in one line that names the file."""
    try:
        ours = from_folder(folder, vocab_size)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and str(folder) in str(error), error
        assert not readable, error
        return
    assert readable
    for text in PROBES:
        ids = theirs(text)
        assert ours.encode(text).tolist() == ids, text
        assert ours.decode(ids) == text or {"Ġ", "é"} & {*text}
    ours.save(folder / "again.json")
    again = Tokenizer.from_file(str(folder / "again.json"))
    assert [again.encode(text).ids for text in PROBES] == [theirs(text) for text in PROBES]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer(tmp_path, name):
    """As `tokenizers` writes it; and once more by transformers, which knows it without a class."""
    make, readable = TOKENIZERS[name]
    theirs = make()
    fast = PreTrainedTokenizerFast(tokenizer_object=theirs)
    fast.save_pretrained(tmp_path)
    theirs = Tokenizer.from_str(theirs.to_str())
    theirs.save(str(tmp_path / "tokenizer.json"))
    check_tokenizer(tmp_path, lambda text: theirs.encode(text).ids, readable)
    for _ in range(2):
        fast = AutoTokenizer.from_pretrained(tmp_path)
        fast.save_pretrained(tmp_path := tmp_path / "again")
        check_tokenizer(tmp_path, lambda text, fast=fast: fast(text).input_ids, readable)


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
EOT = "<|endoftext|>"
FULL = {"__type": "AddedToken", "special": True}  # how transformers writes a token with its flags
SETTINGS = {  # tokenizer_config.json, and whether it can be read
    "none": (None, True),
    "a class without tokens": (FAST, True),
    "GPT-2's class": ({"tokenizer_class": "GPT2Tokenizer"}, True),
    "an end": (FAST | {"eos_token": EOT}, True),
    "an end, in full": (FAST | {"eos_token": FULL | {"content": EOT}}, True),
    "a pad": (FAST | {"pad_token": "<pad>", "unk_token": EOT}, True),
    "spaces beside it": (FAST | {"mask_token": FULL | {"content": "<pad>", "lstrip": True}}, False),
    "a list": (FAST | {"extra_special_tokens": ["<pad>", "zz"]}, True),
    "GPT-2's class with a pad": ({"tokenizer_class": "GPT2Tokenizer", "pad_token": "<pad>"}, True),
    "GPT-2's class with another end": (
        {"tokenizer_class": "GPT2Tokenizer", "pad_token": "<pad>", "eos_token": "zz"}, True,
    ),
    "keys in another order": (
        FAST | {"pad_token": "<pad>", "eos_token": "zz", "bos_token": "newword"}, True,
    ),
    "a list and a pad": (FAST | {"extra_special_tokens": ["zz"], "pad_token": "<pad>"}, True),
    "a space in front": ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, False),
    "a beginning": ({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}, False),
    "specials as text": (FAST | {"split_special_tokens": True}, False),
    "another class": ({"tokenizer_class": "BertTokenizer"}, False),
}  # fmt: skip


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_tokenizer_config_adds(tmp_path, name, files):
    """The special tokens that AutoTokenizer takes from there, in both layouts."""
    config, readable = SETTINGS[name]
    content = json.loads(trained([EOT]).to_str()) | {"added_tokens": []}
    make_theirs(tmp_path)  # config.json tells AutoTokenizer which class to take
    if files == "tokenizer.json":
        (tmp_path / files).write_text(json.dumps(content))
    else:
        (tmp_path / files).write_text(json.dumps(content["model"]["vocab"]))
        merges = map(" ".join, content["model"]["merges"])
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        if config is not None and config["tokenizer_class"] == FAST["tokenizer_class"]:
            config = config | {"tokenizer_class": "GPT2Tokenizer"}  # theirs needs the other file
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path) if readable else None
    check_tokenizer(tmp_path, lambda text: theirs(text).input_ids, readable)


@pytest.mark.parametrize("decoder", [True, False])
def test_added_tokens_in_files_of_their_own(tmp_path, decoder):
    """Ten of them behind the vocabulary, in tokenizer_config.json, or as it was before that."""
    content = json.loads(trained([EOT]).to_str())
    words = ["newword", "<pad>", "zz", "azzb", "newwordier", *(f"<{i}>" for i in range(6))]
    files = {
        "vocab.json": content["model"]["vocab"],
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"},
        "special_tokens_map.json": {"pad_token": "<pad>", "eos_token": EOT},
        "added_tokens.json": {word: i + 350 for i, word in enumerate(words)},
    }
    if decoder:
        tokens = {str(i + 350): FULL | {"content": word} for i, word in enumerate(words)}
        tokens = {id: {k: v for k, v in t.items() if k != "__type"} for id, t in tokens.items()}
        files["tokenizer_config.json"]["added_tokens_decoder"] = tokens
    for name, part in files.items():
        (tmp_path / name).write_text(json.dumps(part))
    (tmp_path / "merges.txt").write_text("\n".join(map(" ".join, content["model"]["merges"])))
    make_theirs(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == 361
    check_tokenizer(tmp_path, lambda text: theirs(text).input_ids, True)
    assert from_folder(tmp_path, 361).encode("<5>").tolist() == theirs("<5>").input_ids == [360]


WORDS = st.text(alphabet="ab é<", min_size=1, max_size=4)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    words=st.lists(st.tuples(WORDS, st.booleans(), st.booleans()), max_size=5),
    text=st.text(alphabet="ab é<\n", max_size=30),
)
def test_added_tokens_are_found_where_theirs_are(words, text):
    """Any of them, one the beginning of another, of both kinds, learned ones too."""
    theirs = trained(["<|endoftext|>"], 270)
    for word, normalized, special in words:
        theirs.add_tokens([AddedToken(word, normalized=normalized, special=special)])
    ours = of_content(json.loads(theirs.to_str()), Path("tokenizer.json"))
    ids = theirs.encode(text).ids
    assert ours.encode(text).tolist() == ids
    again = Tokenizer.from_str(json.dumps(ours.document))
    assert again.encode(text).ids == ids


def test_a_token_behind_the_vocabulary(tmp_path):
    """Added with the next id, as `tokenizers` itself lists it, or not at all."""
    ours = BPETokenizer.from_text("ab " * 20, 260)
    path = tmp_path / "tokenizer.json"
    for added in ([], [special_token(ours.vocab_size, EOT)]):
        path.write_text(json.dumps(ours.document | {"added_tokens": added}))
        theirs = Tokenizer.from_file(str(path))
        check_tokenizer(tmp_path, lambda text, t=theirs: t.encode(text).ids, True, 0)


@pytest.mark.parametrize("change", [{"id": 400}, {"content": ""}, {"content": "a"}, {"id": None}])
def test_added_tokens_that_contradict_the_vocabulary(tmp_path, change):
    """`tokenizers` gives them other ids than the file says."""
    ours = BPETokenizer.from_text("ab " * 20, 260)
    token = special_token(ours.vocab_size, "new")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(ours.document | {"added_tokens": [token | change]}))
    with pytest.raises(ValueError) as error:
        from_folder(tmp_path, 1000)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    "rows, fits",
    [
        (261, True),
        (264, True),
        (272, True),
        (288, True),
        (384, True),
        (262, False),
        (260, False),
        (400, False),
    ],
)
def test_rows_for_no_token(tmp_path, rows, fits):
    """A vocabulary rounded up to a multiple of 8 ... 128: without them the rest is the same."""
    tokenizer = BPETokenizer.from_text("abcdefg " * 20, 261)
    assert tokenizer.vocab_size == 261
    make_theirs(tmp_path, vocab_size=rows)
    tokenizer.save(tmp_path / "tokenizer.json")
    if not fits:
        with pytest.raises(ValueError, match="is not the tokenizer of the model beside it"):
            load_model(tmp_path)
        return
    config, state, _ = load_model(tmp_path)
    ours = GPT.from_state(config, state).to(dtype=np.float64)
    reference = logits_of(tmp_path)[..., :261]
    assert config.vocab_size == 261
    assert abs(ours(IDS).numpy() - reference).max() <= 1e-5 * abs(reference).max()
    assert GPT.from_pretrained(tmp_path).config.vocab_size == rows
