"""The exercises: solved from the pages they are done, and small mistakes are refused."""

import ast
import inspect
import re
import subprocess
import sys

import pytest
from command import EXAMPLES, exit_status
from mutants import mutants_in

import minigrad.ops as F
from minigrad.exercises.__main__ import hints, main
from minigrad.exercises.check import DONE, OPEN, WRONG, check
from minigrad.exercises.hints import FORWARD, HINTS
from minigrad.exercises.make import backward_exercise, exercises
from minigrad.optim import AdamW
from minigrad.tensor import OPS

FOLDER = EXAMPLES / "exercises"
TOP_P = """
from gpt_numpy import sample
import numpy as np

def top_p(probabilities, p):
    return sample.probabilities(np.log(probabilities)[None], top_p=p)[0]
"""


def page_of_adamw():
    """The lines of AdamW.update, in the form of the exercise."""
    lines = inspect.getsource(AdamW.update).splitlines()
    body = "\n".join(
        lines[
            lines.index('        """Return the new w: the formulas above, line by line."""') + 2 :
        ]
    )
    body = re.sub(r"^    ", "", body, flags=re.M)
    return (
        "from minigrad.backend import array_module\n"
        "def adamw(w, g, m, v, t, lr, beta1, beta2, eps, weight_decay):\n"
        "    state = {'step': t - 1, 'exp_avg': m, 'exp_avg_sq': v}\n"
        + re.sub(r"return (.*)", r"w = \1", body)
        + "\n    return w, m, v\n"
    )


def solutions():
    """{exercise: its solution, which is the page}."""
    texts = {name: backward_exercise(name, solved=True) for name in HINTS}
    for name, (signature, _) in FORWARD.items():
        arguments = signature.replace("*, ", "").replace("=None", "").split(", ")
        call = ", ".join(
            f"{a.partition('=')[0]}={a.partition('=')[0]}" if "=" in a else a for a in arguments
        )
        call = f"{name}.__wrapped__({call})[0]"
        texts[f"{name}_forward"] = (
            f"import minigrad.ops as F\ndef {name}({signature}):\n    return F.{call}\n"
        )
    texts["warmup_cosine"] = "from minigrad.schedule import warmup_cosine\n"
    return texts | {"adamw": page_of_adamw(), "top_p": TOP_P}


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A folder with all solutions."""
    folder = tmp_path_factory.mktemp("solved")
    for name, text in solutions().items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def verdict(folder, name, text):
    """The verdict on an exercise with this text."""
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return check(folder, name)


def test_every_op_is_an_exercise():
    """Its file is what --new writes: formula and shapes, forward, an empty backward."""
    assert HINTS.keys() == {*F.__all__} and len(hints()) == len({*hints().values()})
    written = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert written == exercises()
    for name in HINTS:
        text, formula = written[name], inspect.getdoc(OPS[name]).partition("\n")[0]
        assert text.count(f'"""{formula}\n') == 1 and "Derivation" not in text, name
        assert text.count("raise NotImplementedError") == text.count("def backward(dout)") == 1


def test_the_pages_solve_all(solved, capsys):
    """All are done, and the command says so."""
    assert main([str(solved)]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"\n{len(hints())} done, 0 wrong, 0 open, of {len(hints())}\n")
    assert re.findall(r"^(\w+) +done$", out, re.M) == [*hints()]


def test_an_empty_folder_is_open(capsys):
    """As it is in the repository; each line says how to get a hint."""
    assert main([str(FOLDER)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"0 done, 0 wrong, {len(hints())} open, of {len(hints())}"
    assert [line.split() for line in lines[:-2]] == [[n, OPEN, "--hint", n] for n in hints()]


def mutant_of(name):
    """The solution of an op with a small mistake in its backward: the last of them."""
    text = backward_exercise(name, solved=True)
    function = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef))
    backward = next(n for n in function.body if isinstance(n, ast.FunctionDef))
    right = ast.get_source_segment(text, backward)
    *_, (*_, wrong) = mutants_in(ast.Module([backward], []))
    return text.replace(right, wrong.replace("\n", "\n    "))


@pytest.mark.parametrize("name", HINTS)
def test_a_small_mistake_is_refused(name, tmp_path):
    """One mutant of each op; the op itself is unharmed."""
    before = OPS[name]
    state, remark = verdict(tmp_path, name, mutant_of(name))
    assert state == WRONG and remark and OPS[name] is before


MISTAKES = {  # exercise -> what is changed in its solution, and what the checker says
    "softmax": ("dout - average", "average - dout", "input 0 (x), entry (", "off by"),
    "layer_norm": (" - along_ones", "", "input 0 (x), entry (", "yours"),
    "linear": ("accurate_sum(dout, 0)", "dout[0]", "input 2 (bias), entry (", "x (2, 3, 5)"),
    "mul": ("unbroadcast(dout * y, shape_of(x))", "dout * y", "input 0 (x): its", "(3, 1)"),
    "exp": ("(dout * out,)", "(dout / zero,)", "exp.py, line ", "NameError: name 'zero'"),
    "tanh": ("return (dout", "dout *= 2; return (dout", "tanh.py, line ", "read-only"),
    "log": ("(dout / x,)", "(None,)", "input 0 (x): its gradient is None, called with x (2, 3, 5)"),
    "sqrt": (
        "array_module(x).sqrt",
        "2 * array_module(x).sqrt",
        "out, entry (",
        ": yours ",
    ),
    "neg": ("return -x, backward", "return (-x, backward", "SyntaxError", "neg.py, line"),
    "adamw": ("1 - beta2**t", "1", "w, entry (", "in step t = 1"),
    "warmup_cosine": ("import warmup_cosine", "import warmup_cosine as other", "defines no", "w"),
    "top_p": ("top_p=p", "top_p=p * 0.99", "out, entry (", "probabilities"),
    "softmax_forward": ("[0]", "[0] + 1e-9", "out, entry (", "off by 1e-09"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_it_says_of_a_mistake(name, tmp_path):
    """Which input, which entry, by how much, in which case; or the line that failed."""
    right, wrong, *parts = MISTAKES[name]
    text = solutions()[name]
    assert text.count(right) >= 1, text
    state, remark = verdict(tmp_path, name, text.replace(right, wrong, 1))
    assert state == WRONG and "\n" not in remark
    assert [part for part in parts if part not in remark] == [], remark


def test_it_names_the_entry_and_the_numbers(tmp_path):
    """The numbers are those of the arrays: here 1 and 2 times the same gradient."""
    text = solutions()["sqrt"].replace("dout / (2 * out)", "dout / out")
    _, remark = verdict(tmp_path, "sqrt", text)
    found = re.fullmatch(
        r"input 0 \(x\), entry \((\d), (\d), (\d)\): yours (\S+), right (\S+), off by (\S+), "
        r"called with x \(2, 3, 5\)",
        remark,
    )
    yours, right, off = map(float, found.groups()[3:])
    assert yours == pytest.approx(2 * right, rel=1e-5) and off == pytest.approx(abs(right), rel=0.1)


RETURNED = {  # a backward of exp, and what the checker says of it
    "return dout * out": "backward returned one array, not a tuple of gradients: (dx,)",
    "dout * out": "backward returned nothing, not a tuple of gradients: (dx,)",
    "return (1 / 0,)": "ZeroDivisionError: division by zero, called with x (2, 3, 5)",
}


def test_what_it_says_of_inputs_without_a_gradient(tmp_path):
    """The tuple that it names is that of the file's reminder."""
    for name, names in (("cross_entropy", "dlogits, None"), ("where", "None, dx, dy")):
        text = exercises()[name]
        assert f"# return {names}\n" in text
        text = text.replace("raise NotImplementedError", "dout")
        assert verdict(tmp_path, name, text).remark.endswith(f"a tuple of gradients: ({names})")
    text = exercises()["mul"].replace("raise NotImplementedError", "return (dout,)")
    assert "backward returned a tuple of 1, not of 2: (dx, dy), called with x (" in (
        verdict(tmp_path, "mul", text).remark
    )


def test_it_names_an_input_whose_gradient_has_another_shape(tmp_path):
    """Both shapes, and neither the module that the checker makes of a file nor its op."""
    text = exercises()["add"].replace("raise NotImplementedError", "return dout, dout")
    assert verdict(tmp_path, "add", text).remark == (
        "input 1 (y): its gradient has shape (2, 3, 5), not (5,), called with x (2, 3, 5), y (5,)"
    )
    text = exercises()["exp"].replace("raise NotImplementedError", "return (2,)")
    assert verdict(tmp_path, "exp", text).remark.startswith("exp: backward returned a int")


@pytest.mark.parametrize("body", RETURNED)
def test_what_it_says_of_what_backward_returns(body, tmp_path):
    """Not what Python says of it."""
    text = solutions()["exp"].replace("return (dout * out,)", body)
    state, remark = verdict(tmp_path, "exp", text)
    assert state == WRONG and remark.endswith(RETURNED[body]), remark


def test_right_solutions_of_another_kind(tmp_path):
    """A loop over targets with reshape, and AdamW in place, are right too."""
    text = """
import numpy as np
def cross_entropy(logits, targets):
    V = logits.shape[-1]
    rows, t = logits.reshape(-1, V), targets.reshape(-1)
    shifted = rows - rows.max(-1, keepdims=True)
    return (np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(t)), t]).mean()
"""
    assert verdict(tmp_path, "cross_entropy_forward", text).state == DONE
    text = """
import numpy as np
def adamw(w, g, m, v, t, *, lr, beta1, beta2, eps, weight_decay):
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    w = w - lr * weight_decay * w
    return w - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps), m, v
"""
    assert verdict(tmp_path, "adamw", text).state == DONE


def test_a_sum_of_the_output_does_not_fool_it(tmp_path):
    """A softmax whose backward returns 0 has the right gradient of out.sum(), and is refused."""
    text = solutions()["softmax"].replace("out * (dout - average)", "0 * dout")
    assert verdict(tmp_path, "softmax", text).state == WRONG


def test_the_command(tmp_path, capsys):
    """Hints, new folders, and what it refuses; in a process of its own without PyTorch."""
    assert main(["--hint", "gelu"]) == 0 and capsys.readouterr().out == HINTS["gelu"] + "\n"
    new = tmp_path / "mine"
    assert main([str(new), "--new"]) == 0
    assert len([*new.glob("*.py")]) == len(hints())
    assert exit_status(main, new, "--new") == f"{new} is not empty: name a new folder"
    capsys.readouterr()
    for arguments in (["--hint", "gelo"], [tmp_path / "nowhere"]):
        assert exit_status(main, *arguments) == 2
        assert "error: there is no" in capsys.readouterr().err
    (new / "exp.py").unlink()
    (new / "log.py").write_text("def log(x):\n    return x, lambda dout: (dout,)\n")
    code = "import sys; from minigrad.exercises.__main__ import main; status = main(); "
    code += "assert 'torch' not in sys.modules; sys.exit(status)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(new)], capture_output=True, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"^exp +open +there is no exp.py$", done.stdout, re.M)
    assert re.search(r"^log +wrong +out, entry \(", done.stdout, re.M)
    assert f"0 done, 1 wrong, {len(hints()) - 1} open" in done.stdout
    (new / "neg.py").write_text("def neg(x):\n    return -x, lambda dout: (-dout,)\n")
    assert main([str(new), "neg"]) == 0 and main([str(new), "neg", "exp"]) == 1
    assert capsys.readouterr().out.endswith("\n1 done, 0 wrong, 1 open, of 2\n")
    assert exit_status(main, new, "nex") == exit_status(main, tmp_path / "x", "neg", "--new") == 2
    assert "error: there is no exercise 'nex'" in capsys.readouterr().err
