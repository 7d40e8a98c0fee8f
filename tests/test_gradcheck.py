"""gradcheck must pass what is right and catch what is wrong, and say where.

It is the tool for a reader's own ops, and a tool that always says yes is worse than none.  So most
of these tests give it an error of a kind that is made in practice.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import minigrad.ops as F
from minigrad import OPS, Tensor
from minigrad.gradcheck import directional_derivative, gradcheck
from minigrad.internals.hooks import this_thread
from minigrad.tensor import TWINS, op
from minigrad.testing import table
from minigrad.testing.cases import CASES

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
Y = np.array([[1.0, 2.0, -1.0], [0.5, -2.0, 3.0]])


@pytest.fixture
def product(monkeypatch):
    """Return a function that makes an op x·y with the backward (dout, x, y) -> (dx, dy)."""

    def make(gradients):
        monkeypatch.setitem(OPS, "product", None)  # takes the name out again afterwards

        @op
        def product(x, y):
            return x * y, lambda dout: gradients(dout, x, y)

        return product

    return make


RIGHT = {
    "polynomial": (lambda x, y: x * x * y - y / 2, [X, Y]),
    "0-d result": (lambda x: (x**3).sum(), [X]),
    "0-d input": (lambda x: x * x, [1.5]),
    "number and array": (lambda x, y: F.exp(x) * y, [0.5, Y]),
    "softmax": (F.softmax, [X]),
    "layer_norm": (F.layer_norm, [X, np.array([0.3, -2.0, 1.0]), np.array([1.0, 2.0, 3.0])]),
    "gelu": (F.gelu, [X]),
    "attention": (F.attention, [a.reshape(1, 1, 3, 2) for a in (X, Y, X - Y)]),
    "matmul": (lambda x, y: x @ y.T, [X, Y]),
    "one input unused": (lambda x, y: x * 2, [X, Y]),
    "a gradient of zero": (lambda x: x * 0, [X]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_pass(name):
    """With an error far below the tolerance of 10⁻⁶, returned as a number."""
    error = gradcheck(*RIGHT[name])
    assert isinstance(error, float) and 0 <= error < 1e-8


@pytest.mark.parametrize(
    "gradients, i",
    [
        (lambda dout, x, y: (dout * y * 1.001, dout * x), 0),
        (lambda dout, x, y: (dout * y, dout * x * 0.999), 1),
        (lambda dout, x, y: (dout * y, -dout * x), 1),
        (lambda dout, x, y: (dout * x, dout * y), 0),
        (lambda dout, x, y: (dout * 0, dout * x), 0),
        (lambda dout, x, y: (dout * y, dout * x + 1e-3), 1),
        (lambda dout, x, y: (dout * y, dout * x * np.nan), 1),
        (lambda dout, x, y: (dout * y, dout * x * np.inf), 1),
    ],
    ids=["factor", "factor of y", "sign", "swapped", "missing", "one term more", "NaN", "infinite"],
)
def test_wrong_gradients_are_caught(product, gradients, i):
    """The error names the input, the entry and both values, in one line."""
    with pytest.raises(AssertionError) as caught, np.errstate(invalid="ignore"):
        gradcheck(product(gradients), [X, Y])
    place = rf"gradcheck: input {i}, entry \(\d, \d\): "
    values = r"backward gives (\S+), finite differences (\S+)"
    found = re.fullmatch(place + values, str(caught.value))
    assert found, caught.value
    assert float(found[1]) != float(found[2])


def test_the_right_entry_is_named(product):
    """One wrong entry among many, with the value that was returned and the one that is right."""
    wrong = np.ones_like(X)
    wrong[1, 2] = -1
    with pytest.raises(AssertionError) as caught:
        gradcheck(product(lambda dout, x, y: (dout * y * wrong, dout * x)), [X, Y])
    message = str(caught.value)
    assert "input 0, entry (1, 2)" in message
    given, right = (float(v) for v in re.findall(r"(?:gives|differences) ([-+.e\d]+)", message))
    assert given == pytest.approx(-right, rel=1e-6)  # what finite differences can tell


def test_a_missing_term_is_caught():
    """detach cuts a path: x·detach(x) claims the derivative x where it is 2x."""
    with pytest.raises(AssertionError, match="input 0, entry"):
        gradcheck(lambda x: x * x.detach(), [X])


def test_float32_is_checked_in_float64():
    """With steps of 10⁻⁶ float32 would see nothing but rounding."""
    seen = []

    def square(x):
        seen.append(x.dtype)
        return x * x

    assert gradcheck(square, [Tensor(X.astype(np.float32))]) < 1e-8
    assert set(seen) == {np.dtype(np.float64)}


def test_integers_pass_through():
    """Ids and targets are passed on as they are, and not differentiated."""
    ids = np.array([2, 0, 2])

    def loss(weight, ids):
        assert ids.dtype == np.int64
        return F.cross_entropy(F.embedding(ids, weight), ids)

    assert gradcheck(loss, [np.arange(9.0).reshape(3, 3) / 4, ids]) < 1e-8
    assert gradcheck(lambda ids, w: F.embedding(ids, w), [Tensor(ids), X.T]) < 1e-8


def test_inputs_are_left_as_they_are(product):
    """Neither values nor gradients of the caller's inputs change, passed or failed."""
    x, y = Tensor(X.copy(), requires_grad=True), Y.copy()
    gradcheck(lambda x, y: x * y, [x, y])
    with pytest.raises(AssertionError):
        gradcheck(product(lambda dout, x, y: (dout * y, dout)), [x, y])
    np.testing.assert_array_equal(x.data, X)
    np.testing.assert_array_equal(y, Y)
    assert x.grad is None


@pytest.mark.parametrize("fn", [lambda x: Tensor(np.ones(2)), lambda x: x.detach() * 2])
def test_a_result_without_a_gradient_is_an_error(fn):
    """There is nothing to check, which is not the same as being right."""
    with pytest.raises(AssertionError, match="does not depend on any"):
        gradcheck(fn, [X])


@pytest.mark.parametrize(
    "backward",
    [
        lambda dout: np.negative(dout, out=dout),
        lambda dout: np.multiply(dout, 2, out=dout),
        lambda dout: np.copyto(dout, 0),
    ],
)
def test_a_backward_that_writes_into_dout_is_caught(monkeypatch, backward):
    """The loss that it is compared with would be spoiled too, and both would agree."""
    monkeypatch.setitem(OPS, "same", None)  # takes the name out again afterwards

    @op
    def same(x):
        return x * 1, lambda dout: (backward(dout),)

    with pytest.raises(ValueError, match="read-only"):
        gradcheck(same, [X])


def test_the_entry_with_nan_is_named():
    """Not the first one, which is right."""
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=r"entry \(1,\): .* -inf,"):
        gradcheck(F.sqrt, [np.array([4.0, 0.0])])


def test_inputs_without_entries_are_an_error():
    """Nothing was checked, so nothing may pass."""
    with pytest.raises(AssertionError, match="no entries"):
        gradcheck(lambda x: x * 2, [np.zeros((0, 3))])


def test_the_tolerance_counts():
    """An error above the default tolerance passes if the caller allows it.

    The planted error is 1e-4 of the right value; it is measured against 1.0001 times that.
    """
    bad = [lambda x: x * 1.0001 - x.detach() * 0.0001, [X]]
    assert gradcheck(*bad, tolerance=1e-3) == pytest.approx(1e-4 / 1.0001, rel=1e-5)
    with pytest.raises(AssertionError):
        gradcheck(*bad)


@pytest.mark.parametrize("step", [1e-2, 1e-3])
def test_a_central_difference_is_off_by_the_square_of_the_step(step):
    """(x³)' at 2 along the direction 3 is 36; the formula adds h² loss'''/6 = h² 3³."""
    x = Tensor(np.array(2.0))
    seen = directional_derivative(lambda: (x**3).item(), x, np.array(3.0), step)
    assert seen - 36 == pytest.approx(27 * step**2, rel=1e-5)
    assert x.data == 2


# ---- python -m minigrad.gradcheck ----------------------------------------------------------------


@pytest.fixture(autouse=True)
def twins_on(monkeypatch):
    """Let twins run, also under MINIGRAD_PLAIN=1."""
    monkeypatch.setattr(this_thread, "plain", False)
    monkeypatch.delenv("MINIGRAD_PLAIN", raising=False)  # for subprocesses


def rows(out):
    """Return {name: the other columns} of the table."""
    lines = out.split("seconds\n")[1].split("\n\n")[0].splitlines()
    return {line.split()[0].removeprefix("nn."): line.split()[1:] for line in lines}


def run_command(*options, **environment):
    """Run `python -m minigrad.gradcheck` as a process of its own."""
    return subprocess.run(
        [sys.executable, *options, "-m", "minigrad.gradcheck"],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.slow
def test_the_command_prints_every_op_and_module():
    """As its own process: no error, below 10⁻¹² against PyTorch, and the exit status is 0."""
    run = run_command()
    assert (run.returncode, run.stderr) == (0, "")
    table = rows(run.stdout)
    assert list(table) == [*CASES, "all"]
    for name in CASES:
        *errors, n_trials, n_twins, _ = table[name]
        assert int(n_trials) == 3 * len(CASES[name])
        page, twin = errors[:2], errors[2:]
        assert 0 < float(page[0]) < 1e-7 and 0 <= float(page[1]) < 1e-12
        if int(n_twins):
            assert 0 < float(twin[0]) < 1e-7
            assert all(0 <= float(error) < 1e-12 for error in twin[1:])
        else:
            assert twin == ["-"] * 3 and (name, "cpu") not in TWINS
    for column, total in ((-3, table["all"][0]), (-2, table["all"][1])):
        assert int(total) == sum(int(table[name][column]) for name in CASES)
    assert run.stdout.endswith(f"\nAll {len(CASES)} ops and modules agree.\n")
    assert max(map(len, run.stdout.splitlines())) <= 100


@pytest.mark.slow
def test_pages_are_checked_alone():
    """With MINIGRAD_PLAIN=1 no twin is tried, and the table says so."""
    run = run_command(MINIGRAD_PLAIN="1")
    assert (run.returncode, run.stderr) == (0, "")
    assert "MINIGRAD_PLAIN is set: no twin runs." in run.stdout
    table = rows(run.stdout)
    for name in CASES:
        assert table[name][2:5] == ["-"] * 3 and table[name][6] == "0"
        assert int(table[name][5]) == 3 * len(CASES[name])


@pytest.mark.slow
def test_a_reader_may_leave():
    """`python -m minigrad.gradcheck | head` ends without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "minigrad.gradcheck"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_it_works_without_pytorch(monkeypatch, capsys):
    """With NumPy alone finite differences and the pages remain, and the table says so."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(table, "CASES", {name: CASES[name] for name in ("neg", "Linear")})
    assert table.main() == 0
    out = capsys.readouterr().out
    assert "PyTorch, which is not installed" in out
    assert [rows(out)[name][1] for name in ("neg", "Linear")] == ["-", "-"]
    assert rows(out)["Linear"][3] == "-" and float(rows(out)["Linear"][4]) < 1e-12


def test_it_works_beside_a_broken_pytorch(monkeypatch, capsys, tmp_path):
    """Installed, but without a library that it needs: the head of the table says so."""
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: no such file')")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(table, "CASES", {"neg": CASES["neg"]})
    assert table.main() == 0
    out = capsys.readouterr().out
    assert "PyTorch, which does not start here (libtorch_cpu.so: no such file)" in out
    assert rows(out)["neg"][1] == "-"


@pytest.mark.slow
def test_it_needs_no_assert(tmp_path):
    """`python -O` takes assert statements out: a wrong gradient is found all the same."""
    script = tmp_path / "wrong.py"
    script.write_text(
        "from minigrad.testing import table\n"
        "from minigrad.tensor import OPS, op\n"
        "def neg(x):\n"
        "    return -x, lambda dout: (dout * float('nan'),)\n"
        "OPS['neg'] = op(neg)\n"
        "table.CASES = {'neg': table.CASES['neg']}\n"
        "raise SystemExit(table.main())\n"
    )
    run = subprocess.run(
        [sys.executable, "-O", script], capture_output=True, encoding="utf-8", check=False
    )
    assert run.returncode == 1 and rows(run.stdout)["neg"][:2] == ["wrong", "wrong"], run


def test_it_reports_what_is_wrong(monkeypatch, capsys):
    """Every row is printed, also after an op that fails; then the failures, with their cases."""

    def neg(x):
        return -x, lambda dout: (dout,)

    def exp(x):
        raise ZeroDivisionError("oh")

    for wrong in (neg, exp):
        monkeypatch.setitem(OPS, wrong.__name__, OPS[wrong.__name__])  # to be put back
        OPS[wrong.__name__] = op(wrong)
    names = ("neg", "exp", "tanh")
    monkeypatch.setattr(table, "CASES", {name: CASES[name] for name in names})
    assert table.main() == 1
    out = capsys.readouterr().out
    assert rows(out)["neg"][:2] == rows(out)["exp"][:2] == ["wrong", "wrong"]
    assert "wrong" not in rows(out)["tanh"]
    assert "neg, page, contiguous case 0: AssertionError('neg: d0: along a random direction" in out
    assert "Case(inputs=[(2, 3, 5)]" in out and "ZeroDivisionError('oh')" in out
    assert "agree" not in out


def test_it_reports_which_twin_is_wrong(monkeypatch, capsys):
    """The columns of the page stay right, those of the twin do not; an error counts as wrong."""
    right = TWINS["gelu", "cpu"]

    def gelu(x):
        out, backward = right(x)
        return out, lambda dout: (1.001 * backward(dout)[0],)

    def linear(x, weight, bias=None):
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(TWINS, ("gelu", "cpu"), gelu)
    monkeypatch.setitem(TWINS, ("linear", "cpu"), linear)
    names = ("gelu", "linear", "Sequential", "embedding")
    monkeypatch.setattr(table, "CASES", {name: CASES[name] for name in names})
    assert table.main() == 1
    out = capsys.readouterr().out
    for name in ("gelu", "linear", "Sequential"):
        assert "wrong" not in rows(out)[name][:2]
        assert rows(out)[name][2:5] == ["wrong"] * 3
    assert "wrong" not in rows(out)["embedding"]
    assert "gelu, twin, contiguous case 0: AssertionError('gelu: d0: " in out
    assert "linear, twin, strided case 0: ZeroDivisionError('oh')" in out


def test_a_twin_that_declines_everything_is_reported(monkeypatch, capsys):
    """It would be a twin that nothing checks."""
    monkeypatch.setitem(TWINS, ("gelu", "cpu"), lambda x: NotImplemented)
    monkeypatch.setattr(table, "CASES", {"gelu": CASES["gelu"]})
    assert table.main() == 1
    out = capsys.readouterr().out
    assert "gelu: its twin declined every case, so it was not checked" in out
    assert rows(out)["gelu"][2:5] == ["-"] * 3
