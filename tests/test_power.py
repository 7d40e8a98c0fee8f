"""Power cuts and failing disks: whatever they leave, the last save, or the one before, is whole.

    pytest -m kill tests/test_power.py -s      5,000 states of a disk, more than 1,000 errors

faulty_os.py records what a run does with files, and makes of that what a disk may hold.
"""

import contextlib
import errno
import gc
import hashlib
import os
import pickle
import random
import shutil
import stat

import numpy as np
import psutil
import pytest
from command import FILES, TINY, example, snapshot
from faulty_os import Failing, Os, PowerCut, Recorder, read_disk, write_disk
from test_resume import assert_same_run

import gpt_numpy.files
import gpt_numpy.folder
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.app import report, resume
from gpt_numpy.app.run_folder import RunFolder
from gpt_numpy.files import read_json
from gpt_numpy.hf import checkpoint
from gpt_numpy.tokenizer import CharTokenizer, load
from gpt_numpy.train import TrainConfig, adamw

train_shakespeare = example("train_shakespeare")
FLAGS = "--steps 6 --eval-every 2 --log-every 1 --workers 1 --dropout 0.1 --quiet".split()


# ---- power cuts ----------------------------------------------------------------------------------


class Recording:
    """A run that was recorded; `saves` is a list of (Progress, arrays), in order."""

    def __init__(self, root, monkeypatch, run):
        self.recorder, self.saves = Recorder(root), []
        self.before = read_disk(self.recorder, root)
        save = RunFolder.save

        def marking(folder, model, optimizer, step, **facts):
            self.recorder.note("mark", "save")
            save(folder, model, optimizer, step, **facts)
            self.saves.append(resume.load_state(folder.path))
            self.recorder.note("mark", "saved")

        with monkeypatch.context() as patch:
            patch.setattr(gpt_numpy.folder, "os", self.recorder)
            patch.setattr(RunFolder, "save", marking)
            patch.setattr(report, "loss_figure", lambda *_, **__: None)  # it takes most of the time
            run()
        marks = [event[1] for event in self.recorder.events if event[0] == "mark"]
        assert marks == ["save", "saved"] * len(self.saves)

    def saved_before(self, n):
        """(how many saves were over, how many had begun) before event number n."""
        marks = [event[1] for event in self.recorder.events[:n] if event[0] == "mark"]
        return marks.count("saved"), marks.count("save")

    def disks(self, draw):
        """Yield (number of an event, a disk that is possible before it), for ever."""
        n = len(self.recorder.events)
        risky = [i for i, event in enumerate(self.recorder.events) if event[0] == "rename"]
        while True:
            moment = draw.choice(
                [draw.randint(0, n), min(n, draw.choice(risky) + draw.randint(0, 4))]
            )
            yield moment, PowerCut(self.recorder, moment, *self.before).disk(draw)


def is_one_of(saves, progress, arrays):
    """Whether this is one of the saves, to the bit."""
    return any(
        progress == right and all(np.array_equal(arrays[k], v) for k, v in expected.items())
        for right, expected in saves
    )


def check_disk(out, possible, is_sure):
    """Go on with what is in the folder `out`, as far as to its first step.

    possible    the saves that may be found, in order; of an older run too
    is_sure     whether one has to be found
    """
    try:
        folder = RunFolder.of_saved(out)
    except (ValueError, OSError) as error:
        assert not is_sure, error
        assert "\n" not in str(error)
        return False
    progress, arrays = folder.saved
    assert is_one_of(possible, progress, arrays)
    if is_sure:
        assert read_json(out / "train_config.json") == progress.settings
        assert load(out / "tokenizer.json").fingerprint() == progress.tokenizer
        checkpoint.check_run(out, progress.run)
        folder.truncate_to(progress)
        assert folder.extents() == progress.files
        assert all(resume.FILE in warning for warning in folder.warnings)
        assert {row["step"] for row in folder.rows} <= {*range(progress.step + 1)}
        assert not list(out.glob("*.tmp"))
        assert resume.load_state(out)[0] == progress
    folder.close()
    return True


@pytest.fixture(scope="module")
def recording(text_file, tmp_path_factory):
    """A run, from the making of its folder to its end, and the folder that it leaves."""
    root = tmp_path_factory.mktemp("power")
    with pytest.MonkeyPatch.context() as patch:
        flags = ["--data", text_file, *TINY, *FLAGS, "--out", root / "run"]
        return Recording(root, patch, lambda: train_shakespeare.main([*map(str, flags)])), root


def cut_many_times(n, recording, root, tmp_path, seed):
    """Check n distinct disks of a recording; how many had a run to go on with."""
    draw, seen, n_found = random.Random(seed), set(), 0
    for moment, disk in recording.disks(draw):
        key = hashlib.sha256(pickle.dumps(disk)).digest()
        if key in seen:
            continue
        seen.add(key)
        done, begun = recording.saved_before(moment)
        folder = tmp_path / str(len(seen))
        write_disk(disk, folder)
        n_found += check_disk(folder / "run", recording.saves[max(0, done - 1) : begun], done > 0)
        shutil.rmtree(folder)
        if len(seen) == n:
            return n_found


@pytest.mark.slow
def test_no_power_cut_loses_a_save(recording, tmp_path):
    """500 disks: the last save that was over is found, or one that was under way, to the bit."""
    assert cut_many_times(500, *recording, tmp_path, seed=0) > 300


@pytest.mark.kill
def test_no_power_cut_of_many_loses_a_save(recording, tmp_path, capsys):
    """5,000."""
    n_found = cut_many_times(5000, *recording, tmp_path, seed=1)
    with capsys.disabled():
        print(f"\n5000 disks after power cuts: {n_found} of them with a run to go on, each whole")


def test_after_a_power_cut_a_run_goes_on(recording, tmp_path, no_figures):
    """To the same end, from some of these disks."""
    recording, root = recording
    draw, n = random.Random(2), 0
    for moment, disk in recording.disks(draw):
        done, begun = recording.saved_before(moment)
        if not 0 < done < len(recording.saves):
            continue
        folder = tmp_path / str(n)
        write_disk(disk, folder)
        assert train_shakespeare.main(["--resume", "--quiet", "--out", str(folder / "run")]) == 0
        assert_same_run(folder / "run", root / "run")
        assert {path.name for path in (folder / "run").iterdir()} == FILES
        n += 1
        if n == 2:
            return


def test_a_power_cut_loses_no_older_run(recording, text_file, tmp_path, monkeypatch):
    """While a new one takes its place: the older one is whole, here or where it was moved."""
    old, root = recording
    shutil.copytree(root, tmp_path / "root")
    flags = ["--data", text_file, *TINY, *FLAGS, "--seed", "9", "--out", tmp_path / "root/run"]
    arguments = [*map(str, flags), "--steps", "1"]
    new = Recording(tmp_path / "root", monkeypatch, lambda: train_shakespeare.main(arguments))
    assert (tmp_path / "root/run-1").is_dir()
    draw = random.Random(3)
    for n, (moment, disk) in zip(range(40), new.disks(draw), strict=False):
        folder = tmp_path / str(n)
        write_disk(disk, folder)
        assert sum(name in disk for name in ("run", "run-1")) >= 1
        is_moved = "run-1" in disk
        check_disk(folder / ("run-1" if is_moved else "run"), old.saves[-1:], True)
        done, begun = new.saved_before(moment)
        if is_moved and "run" in disk:
            check_disk(folder / "run", new.saves[max(0, done - 1) : begun], done > 0)
        assert is_moved or not done


def test_a_power_cut_while_the_save_before_is_taken(recording, tmp_path, monkeypatch):
    """The last one is damaged; the one before stays whole until there is a new one."""
    old, root = recording
    shutil.copytree(root, tmp_path / "root")
    out = tmp_path / "root/run"
    with open(out / resume.FILE, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    older = resume.load_state(out, resume.BEFORE)
    arguments = ["--resume", "--quiet", "--out", str(out)]
    new = Recording(tmp_path / "root", monkeypatch, lambda: train_shakespeare.main(arguments))
    draw = random.Random(4)
    for n, (moment, disk) in zip(range(40), new.disks(draw), strict=False):
        folder = tmp_path / str(n)
        write_disk(disk, folder)
        done, begun = new.saved_before(moment)
        saves = [older, *new.saves]
        run = RunFolder.of_saved(folder / "run")
        assert is_one_of(saves[done : begun + 1], *run.saved)
        run.close()


# ---- errors --------------------------------------------------------------------------------------

ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS]
TOKENIZER = CharTokenizer("abc")


class Session:
    """What a run does with its folder, with a model that is not trained."""

    def __init__(self, out):
        self.out, self.saves = out, []
        config = TrainConfig(block_size=4, n_layer=1, n_head=1, n_embd=4, workers=1)
        self.model = GPT(config.model(3))
        self.optimizer = adamw(self.model, config)
        self.settings = vars(config) | {"steps": 9, "text": "", "ranks": 1}

    def begin(self):
        """A new run, with its first evaluation."""
        self.go_on(RunFolder(self.out, self.settings, TOKENIZER), [0, 2])

    def resume(self):
        """The same run, later."""
        folder = RunFolder.of_saved(self.out)
        progress, arrays = folder.saved
        resume.restore(self.model, self.optimizer, progress, arrays, self.out)
        folder.truncate_to(progress)
        self.go_on(folder, range(progress.step + 1, progress.step + 3))

    def go_on(self, folder, steps):
        """An evaluation at each of these steps."""
        try:
            for step in steps:
                self.optimizer.flat.data[...] = step + 1
                folder.log(step=step, val_loss=1.0)
                folder.sample(step, 1.0, 1.0, "abc")
                folder.save_model(self.model, tokenizer="", run="")
                facts = {"best": 1.0, "val_loss": 1.0, "text": "", "tokenizer": "", "run": ""}
                facts |= {"files": folder.extents()}
                self.optimizer.steps[:] = [step] * len(self.optimizer.steps)
                folder.save(self.model, self.optimizer, step, **facts)
                self.saves.append(step)
        finally:
            folder.close()


def check_session(out, saves):
    """What is found after an error: a save that is whole, the last that was over or a later one."""
    try:
        folder = RunFolder.of_saved(out)
    except ValueError:
        assert not saves
        return
    progress, arrays = folder.saved
    assert progress.step >= max(saves, default=0)
    assert all((v == progress.step + 1).all() for k, v in arrays.items() if k[:6] == "weight")
    checkpoint.check_run(out, "")
    assert (GPT.from_pretrained(out).wte.weight.data > progress.step).all()
    folder.truncate_to(progress)
    assert all(resume.FILE in warning for warning in folder.warnings)
    assert [row["step"] for row in folder.rows][-1] == progress.step
    folder.close()


def failing(session, task, module, monkeypatch, *error):
    """Do a task of a Session while a call fails: the OSError or ValueError, and how many calls."""
    calls = Failing(*error)
    with monkeypatch.context() as patch:
        patch.setattr(module, "os", calls)
        try:
            getattr(session, task)()
        except (OSError, ValueError) as failure:
            assert "\n" not in str(failure)
            return failure, calls.n_calls
    return None, calls.n_calls


def fail_at_every_call(task, module, numbers, tmp_path, monkeypatch, every=1, lasts=False):
    """Let calls of a task fail in turn, other ones with each number; how many errors that made.

    lasts       whether all later calls fail too
    """
    begun = tmp_path / f"begun-{task}-{module.__name__}"
    if task == "resume":
        Session(begun).begin()
    _, n_calls = failing(
        Session(tmp_path / "none" if task == "begin" else shutil.copytree(begun, tmp_path / "all")),
        task, module, monkeypatch,
    )  # fmt: skip
    assert n_calls > (20 if module is gpt_numpy.folder else 5)
    n_errors = 0
    for i, number in enumerate(numbers):
        for n in range(1 + i % every, n_calls + 1, every):
            out = tmp_path / f"{task}{module.__name__}{number}{n}"
            if task == "resume":
                shutil.copytree(begun, out)
            session = Session(out)
            before = [2] if task == "resume" else []
            failing(session, task, module, monkeypatch, n, number, lasts)
            check_session(out, before + session.saves)
            shutil.rmtree(out, ignore_errors=True)
            n_errors += 1
    for name in ("none", "all"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    return n_errors


@pytest.mark.parametrize("task", ["begin", "resume"])
def test_an_error_of_the_disk_loses_no_save(task, tmp_path, monkeypatch):
    """At every ninth call that writes, and at every second call that reads."""
    fail_at_every_call(task, gpt_numpy.folder, [errno.EIO], tmp_path, monkeypatch, every=9)
    if task == "resume":
        fail_at_every_call(task, gpt_numpy.files, [errno.EIO], tmp_path, monkeypatch, every=2)


@pytest.mark.kill
def test_errors_at_every_call(tmp_path, monkeypatch, capsys):
    """Each call fails with two of the four errors; on a full disk all later calls fail."""
    n = fail_at_every_call("resume", gpt_numpy.files, ERRORS, tmp_path, monkeypatch)
    for task in ("begin", "resume"):
        n += fail_at_every_call(task, gpt_numpy.folder, ERRORS, tmp_path, monkeypatch, 2)
        n += fail_at_every_call(
            task, gpt_numpy.folder, [errno.ENOSPC], tmp_path, monkeypatch, 4, True
        )
    with capsys.disabled():
        print(f"\n{n} errors of a disk (EIO, ENOSPC, EDQUOT, EROFS): no save was lost")
    assert n >= 1000


@pytest.mark.parametrize("name", ["fsync", "write", "replace"])
def test_an_error_of_the_disk_is_one_line(name, train, monkeypatch):
    """Of the whole command: status 1, and the way to go on from the last save."""

    class Broken(Os):
        pass

    def fail(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    def breaking(*_, **__):
        setattr(broken, name, fail)

    broken = Broken()
    monkeypatch.setattr(gpt_numpy.folder, "os", broken)
    monkeypatch.setattr(report, "page", breaking)  # after the first evaluation: before its save
    run = train("run")
    assert run.status == 1 and "Nothing was saved yet." in run.err.splitlines()[-1]
    assert f"cannot write to {run.folder}: Input/output error" in run.err
    assert GPTConfig and "Traceback" not in run.err


def held(tmp_path):
    """(session, folder) of a run that has begun and goes on."""
    session = Session(tmp_path / "run")
    session.begin()
    folder = RunFolder.of_saved(session.out)
    folder.truncate_to(folder.saved[0])
    return session, folder


def test_no_handle_is_left(tmp_path):
    """While no file can be opened nothing is saved, and nothing is lost; then the run goes on."""
    resource = pytest.importorskip("resource")
    session, folder = held(tmp_path)
    before, limits = snapshot(session.out), resource.getrlimit(resource.RLIMIT_NOFILE)
    handles = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(handles[0] + 9, 64), limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                handles.append(os.dup(0))
        facts = vars(folder.saved[0]) | {"step": 3}
        del facts["settings"]
        for write in (
            lambda: folder.save_model(session.model),
            lambda: folder.save(session.model, session.optimizer, **facts),
        ):
            with pytest.raises(OSError, match="Too many open files"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for handle in handles:
            os.close(handle)
    assert snapshot(session.out) == before
    session.go_on(folder, [3])
    check_session(session.out, [3])


@pytest.mark.slow
def test_many_saves_leave_nothing(tmp_path):
    """No handle, no file, and no object but a row and a sample each."""
    pytest.importorskip("resource")  # Windows counts no handles
    session, folder = held(tmp_path)
    close, folder.close = folder.close, lambda: None

    def after(steps):
        session.go_on(folder, steps)
        gc.collect()
        return {*snapshot(session.out)}, psutil.Process().num_fds(), len(gc.get_objects())

    files, handles, n = after(range(3, 6))
    files_then, handles_then, n_then = after(range(6, 26))
    close()
    assert (files_then, handles_then) == (files, handles) and abs(n_then - n) < 20 * 3
    assert psutil.Process().num_fds() == handles - 2  # the folder, and its lock


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synced(number, tmp_path, monkeypatch):
    """As on some network file systems: files are synced, and the run goes on; EIO is an error."""
    system = Os()

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "no")
        os.fsync(descriptor)

    system.fsync = fsync
    monkeypatch.setattr(gpt_numpy.folder, "os", system)
    session = Session(tmp_path / "run")
    session.begin()
    assert session.saves == [0, 2]
    monkeypatch.setattr(gpt_numpy.folder, "NOT_HERE", ())
    with pytest.raises(OSError, match="no"):
        session.resume()
