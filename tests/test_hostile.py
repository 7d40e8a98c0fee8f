"""Files that were damaged, exchanged or made up: refused in one line, and never believed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import TINY, example
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_numpy import GPT
from gpt_numpy.app import resume
from gpt_numpy.app.cli import prepare
from gpt_numpy.hf import checkpoint
from gpt_numpy.scale.ranks import Ranks
from gpt_numpy.tokenizer import load
from gpt_numpy.train import adamw

pytestmark = pytest.mark.slow

train_shakespeare, speak = example("train_shakespeare"), example("generate")
MANY = settings(
    max_examples=550,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def run_folder(text_file, tmp_path_factory):
    """A run that was stopped at its third step of six."""
    out = tmp_path_factory.mktemp("hostile") / "run"
    flags = ["--data", text_file, *TINY, "--steps", "3", "--out", out, "--quiet"]
    assert train_shakespeare.main([*map(str, flags)]) == 0
    return out


def resumed(folder):
    """What --resume would go on with: progress, settings, weights, moments, rows."""
    job = prepare(["--resume", "--out", str(folder)], Ranks(), None)
    job.folder.close()
    progress, arrays = job.saved
    model = GPT(job.command.model(job.tokenizer.vocab_size))
    optimizer = adamw(model, job.command)
    resume.restore(model, optimizer, progress, arrays, folder / resume.FILE)
    moments = optimizer.state_dict()["state"]
    return (
        [vars(progress), job.folder.settings],
        [*model.state_dict().values(), *(m[k] for m in moments.values() for k in sorted(m))],
    )


def loaded(folder):
    """What examples/generate.py would speak with."""
    tokenizer = load(folder / "tokenizer.json")
    model = GPT.from_pretrained(folder)
    checkpoint.check_tokenizer(folder, tokenizer)
    config = vars(model.config) | {"dropout": None}  # which no checksum covers: it is not used
    return [config, tokenizer.document], [*model.state_dict().values()]


def assert_refused_or_equal(load, folder, right, name):
    """The one thing that must never be: other weights, without a word.

    Beside `right`, what was saved before is right too.
    """
    try:
        facts, arrays = load(folder)
    except (ValueError, OSError) as error:
        message = str(error)
        assert "\n" not in message and len(message) < 600, message
        assert str(folder) in message and "Traceback" not in message, message
        return False
    expected = [each for each in right if each[0] == facts]
    assert expected, f"{name} was damaged and other facts were believed"
    for ours, theirs in zip(arrays, expected[0][1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return True


# ---- what is done to a file ----------------------------------------------------------------------


def flip(draw, content, _):
    """One to three bits."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def flip_early(draw, content, _):
    """A bit of the first bytes, where lengths and names stand."""
    return flip(draw, content[:600], _) + content[600:]


def truncate(draw, content, _):
    return content[: draw(st.integers(0, len(content) - 1))]


def lengthen(draw, content, _):
    return content + draw(st.binary(min_size=1, max_size=50))


def overwrite(draw, content, _):
    """A stretch, with bytes of any kind or with zeros, as a bad disk does."""
    start = draw(st.integers(0, len(content) - 1))
    new = draw(st.one_of(st.binary(min_size=1, max_size=64), st.integers(1, 512).map(bytes)))
    return (content[:start] + new + content[start + len(new) :])[: len(content)]


def exchange(draw, content, others):
    """The content of another file of the run."""
    return draw(st.sampled_from(others))


def invent(draw, content, _):
    """Something else altogether."""
    return draw(
        st.one_of(
            st.binary(max_size=100),
            st.sampled_from([b"", b"[]", b"{}", b"null", b"[" * 100_000, b"\x80\x04." * 20]),
            st.integers(0, 2**64 - 1).map(lambda n: n.to_bytes(8, "little") + b"{}"),
        )
    )


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.just([]), st.just({}), st.just(10**400), st.just("1"),
)  # fmt: skip


def edit(draw, content, _):
    """A value of a JSON document, or of a safetensors header, is another one or is missing."""
    n = 0
    try:
        document = json.loads(content)
    except ValueError:
        n = int.from_bytes(content[:8], "little")
        try:
            document = json.loads(content[8 : 8 + n])
        except ValueError:
            return flip(draw, content, _)
    where = document
    while True:
        key = draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if isinstance(where[key], dict | list) and where[key] and draw(st.booleans()):
            where = where[key]
            continue
        if draw(st.booleans()) and isinstance(where, dict):
            del where[key]
        else:
            where[key] = draw(JSON)
        break
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + n :] if n else text


WAYS = [flip, flip_early, truncate, lengthen, overwrite, exchange, invent, edit]


def damage(data, folder, names, right, load):
    """Spoil one of the files in some way, load, and put it back; whether it was refused."""
    name = data.draw(st.sampled_from(names))
    way = data.draw(st.sampled_from(WAYS))
    path = folder / name
    content = path.read_bytes()
    others = [(folder / other).read_bytes() for other in names if other != name]
    before = {p: p.read_bytes() for p in folder.iterdir()}
    spoiled = way(data.draw, content, others)
    path.write_bytes(spoiled)
    try:
        assert_refused_or_equal(load, folder, right, f"{name} ({way.__name__})")
        now = {p: p.read_bytes() for p in folder.iterdir()}
        assert now == before | {path: spoiled}, "something was written"
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def scratch(run_folder, tmp_path_factory):
    folder = Path(tmp_path_factory.mktemp("scratch")) / "run"
    shutil.copytree(run_folder, folder)
    return folder


RUN = [
    *("model.safetensors", "config.json", "train_config.json", "tokenizer.json"),
    *(resume.BEFORE, resume.FILE),
]
ALONE = [name for name in RUN if name != resume.BEFORE]
MODEL = ["model.safetensors", "config.json", "tokenizer.json"]


@pytest.mark.parametrize("names, load", [(RUN, resumed), (MODEL, loaded)])
def test_nothing_is_taken_for_what_it_is_not(names, load, scratch):
    """More than a thousand ways each to damage what --resume and what generate.py read."""
    right = [load(scratch)]
    if names is RUN:
        (scratch / resume.FILE).rename(scratch / "newest")
        right.append(load(scratch))
        (scratch / "newest").rename(scratch / resume.FILE)
        assert right[0][0] != right[1][0]

    @MANY
    @given(data=st.data())
    def damaged(data):
        damage(data, scratch, names, right, load)

    damaged()


def test_the_whole_command_says_it_in_one_line(scratch, tmp_path, capsys):
    """Both commands, with each of their files in turn full of noise: exit status 2.

    A run that goes on does without a model and without train_config.json; the line is there too.
    """
    noise = np.random.default_rng(0).bytes(3000)
    (scratch / resume.BEFORE).unlink()
    for main, names, mended in (
        (train_shakespeare.main, ALONE, ["config.json", "model.safetensors", "train_config.json"]),
        (speak.main, MODEL, []),
    ):
        for name in names:
            folder = shutil.copytree(scratch, tmp_path / f"{main.__module__} {name}")
            (folder / name).write_bytes(noise)
            flags = ["--resume", "--quiet", "--out", str(folder)]
            status = main(flags if main is train_shakespeare.main else [str(folder)])
            assert status == (0 if name in mended else 2), name
            out, err = capsys.readouterr()
            assert err.count("\n") == 1 and str(folder / name) in err, err
            assert (out == "") is (status == 2)


def test_nothing_that_is_read_is_executed():
    """No pickle, no eval, no NumPy files with objects in what reads a run."""
    source = Path(checkpoint.__file__).parent
    for path in source.glob("*.py"):
        for word in ("pickle", r"(?<!\.)eval\(", r"exec\(", r"np\.load", "marshal", "yaml"):
            assert not re.search(word, path.read_text(encoding="utf-8")), (path, word)
