"""A folder that one process writes to: held open, locked, and its files whole."""

import errno
import os
import shutil
import stat
import sys
import threading

import pytest
from command import FILES, example, snapshot
from faulty_os import Os
from test_power import TOKENIZER, Session
from test_resume import assert_same_run

import gpt_numpy.folder
from gpt_numpy.app import resume
from gpt_numpy.app.run_folder import RunFolder
from gpt_numpy.folder import Folder, Lock, make, opened, write_whole
from gpt_numpy.hf.tensors import bytes_of

train_shakespeare = example("train_shakespeare")
pytestmark = pytest.mark.usefixtures("no_figures")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows opens no folders")


# ---- the folder ----------------------------------------------------------------------------------


@posix
def test_a_folder_that_is_renamed_stays_the_same(tmp_path):
    """What is written goes where the folder is, not where another one has its name."""
    with Folder(tmp_path / "a", create=True) as folder:
        folder.write("x", b"1", b"2")
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a").mkdir()
        assert not folder.is_at(tmp_path / "a") and folder.is_at(tmp_path / "b")
        folder.write("x", b"3", keep="older")
        folder.append("y", b"4")
        folder.append("y", b"5")
        folder.truncate("y", 1)
        folder.rename("y", "z")
        assert folder.read("z") == b"4" and folder.stat("y") is None
        assert sorted(folder.names()) == ["older", "x", "z"]
        folder.remove("z")
        if sys.platform == "linux":
            assert folder.where() == tmp_path / "b"
    assert snapshot(tmp_path / "a") == {}
    assert {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()} == {
        "x": b"3",
        "older": b"12",
    }


def test_the_same_by_paths(tmp_path, monkeypatch):
    """As on Windows, where no folder is opened: a run begins, goes on, and is whole."""
    monkeypatch.setattr(gpt_numpy.folder, "HAS_DIR_FD", False)
    session = Session(tmp_path / "deep/run")
    session.begin()
    session.resume()
    assert session.saves == [0, 2, 3, 4]
    assert resume.load_state(tmp_path / "deep/run")[0].step == 4


def test_folders_are_made_with_those_above_them(tmp_path):
    """And where a file is in the way, nothing is."""
    make(tmp_path / "a/b/c")
    make(tmp_path / "a/b/c")
    (tmp_path / "file").touch()
    for path in ("file", "file/a", "file/a/b"):
        with pytest.raises(OSError):
            make(tmp_path / path)
    with opened(tmp_path / "a") as folder, opened(folder) as same:
        assert same is folder


# ---- rights and links ----------------------------------------------------------------------------


@posix
def test_a_files_rights_are_kept(tmp_path):
    """Mode and owner of the file that is replaced; a new one has what the umask lets it have."""
    path = tmp_path / "file"
    before = os.umask(0o027)
    try:
        write_whole(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(path, 12345, 23456)
        write_whole(path, b"newer")
    finally:
        os.umask(before)
    about = path.stat()
    assert stat.S_IMODE(about.st_mode) == 0o600 and path.read_bytes() == b"newer"
    assert os.geteuid() != 0 or (about.st_uid, about.st_gid) == (12345, 23456)


@posix
def test_no_link_is_written_through(tmp_path, monkeypatch):
    """A link in a file's place is replaced; one with a temporary file's name is an error."""
    (tmp_path / "theirs").write_bytes(b"theirs")
    folder = Folder(tmp_path / "a", create=True)
    for name in ("x", "y", f"x.{os.getpid()}.tmp", "z.planted.tmp"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "theirs")
    folder.write("x", b"ours")
    assert not (tmp_path / "a/x").is_symlink() and folder.read("x") == b"ours"
    for write in (lambda: folder.append("y", b"ours"), lambda: folder.truncate("y", 0)):
        with pytest.raises(OSError):
            write()
    monkeypatch.setattr(gpt_numpy.folder.secrets, "token_hex", lambda n: "planted")
    with pytest.raises(FileExistsError):
        folder.write("z", b"ours")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


@posix
def test_the_names_of_temporary_files_cannot_be_guessed(tmp_path):
    """64 random bits each."""
    folder, seen = Folder(tmp_path), set()
    for _ in range(20):
        with folder.replacing("x"):
            seen |= {*folder.names()} - {"x"}
    assert len(seen) == 20 and all(len(name) == len("x.0123456789abcdef.tmp") for name in seen)


@posix
def test_a_link_as_out_leads_to_where_it_led(train, tmp_path):
    """A second run moves the first aside on the disk on which it is."""
    disk = tmp_path / "disk"
    (disk / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(disk / "run")
    first, second = train("link"), train("link", "--seed", "2")
    assert first.status == second.status == 0
    assert (tmp_path / "link").is_symlink() and {p.name for p in disk.iterdir()} == {"run", "run-1"}
    assert f"the earlier run in {first.folder} was renamed to {disk / 'run-1'}" in second.lines
    assert train("link", "--resume").status == 0


@posix
def test_a_link_in_a_run_is_not_cut_off(train, tmp_path):
    """--resume puts the link aside; what it leads to stays as it is, and the curve as it was."""
    run = train("run")
    theirs = (run.folder / "metrics.csv").rename(tmp_path / "theirs")
    content = theirs.read_bytes() + b"7,1,,,,,\r\n"
    theirs.write_bytes(content)
    (run.folder / "metrics.csv").symlink_to(theirs)
    again = train("run", "--resume")
    assert again.status == 0 and "metrics.csv has changed since" in again.err
    assert theirs.read_bytes() == content and (run.folder / "metrics-1.csv").is_symlink()
    assert content.startswith((run.folder / "metrics.csv").read_bytes())
    assert {p.name for p in run.folder.iterdir()} == FILES | {"metrics-1.csv"}


# ---- locks ---------------------------------------------------------------------------------------


def test_a_lock_is_of_one_run(tmp_path):
    """Another thread does not get it, and no close() of another descriptor drops it."""
    folder, taken = Folder(tmp_path), []
    lock = Lock(folder)

    def take():
        with open(tmp_path / ".lock"):
            pass
        try:
            taken.append(Lock(Folder(tmp_path)))
        except BlockingIOError as error:
            taken.append(str(error))

    for _ in range(2):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert taken == ["this process is writing to it"] * 2
    lock.close()
    take()
    assert isinstance(taken[-1], Lock)
    taken[-1].close()


def test_a_lock_whose_close_fails(tmp_path, monkeypatch):
    """As on a network: nothing was written by way of it, so it is no error, and it is released."""

    def close(descriptor):
        os.close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    folder, system = Folder(tmp_path), Os()
    lock, system.close = Lock(folder), close
    with monkeypatch.context() as patch:
        patch.setattr(gpt_numpy.folder, "os", system)
        lock.close()
        folder.close()
    Lock(Folder(tmp_path)).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork()")
@pytest.mark.parametrize("closes", [True, False])
def test_a_lock_is_of_one_process(tmp_path, closes):
    """Another process is refused; what fork() makes of ours neither holds the lock nor drops it."""
    lock = Lock(Folder(tmp_path))
    end, start = os.pipe()
    child = os.fork()
    if not child:
        try:
            Lock(Folder(tmp_path))
        except BlockingIOError as error:
            os.write(start, str(error).encode())
            os.read(end, 0)
        if not closes:
            del lock
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(end, 100) == b"another process is writing to it"
    with pytest.raises(BlockingIOError):
        Lock(Folder(tmp_path))
    lock.close()
    Lock(Folder(tmp_path)).close()
    os.close(end)
    os.close(start)


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_run_without_locks_warns(no_locks, train):
    """In a line, also where all else is quiet."""
    run = train("run", "--quiet")
    assert run.status == 0 and run.err.endswith(
        f"{run.folder} is on a file system without locks: start no other run in it\n"
    )
    assert run.err.count("\n") == 1


def test_two_runs_without_locks(no_locks, tmp_path, monkeypatch):
    """The one that saves second notices that the other one has saved, and writes no more."""
    Session(tmp_path / "run").begin()
    monkeypatch.setattr(gpt_numpy.folder, "_held", type("Nobody", (set,), {"add": id})())
    first, second = Session(tmp_path / "run"), Session(tmp_path / "run")
    folder = RunFolder.of_saved(tmp_path / "run")
    folder.truncate_to(folder.saved[0])
    second.resume()
    for write in (lambda: folder.save_model(None), lambda: first.go_on(folder, [3])):
        with pytest.raises(OSError, match="another run has saved in this folder"):
            write()
    assert resume.load_state(tmp_path / "run")[0].step == 4


@posix
def test_a_run_whose_folder_is_renamed(tmp_path):
    """And another one in its old place: both are whole, and both go on."""
    sessions = [Session(tmp_path / "run"), Session(tmp_path / "run")]
    first = RunFolder(tmp_path / "run", sessions[0].settings, TOKENIZER)
    (tmp_path / "run").rename(tmp_path / "old")
    second = RunFolder(tmp_path / "run", sessions[1].settings | {"steps": 8}, TOKENIZER)
    sessions[0].go_on(first, [0, 2])
    sessions[1].go_on(second, [0, 1])
    for name, step, steps in (("old", 2, 9), ("run", 1, 8)):
        session = Session(tmp_path / name)
        progress, _ = resume.load_state(tmp_path / name)
        assert (progress.step, progress.settings["steps"]) == (step, steps)
        session.resume()
        rows = (tmp_path / name / "metrics.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in rows[1:]] == [
            str(n) for n in (0, step, step + 1, step + 2)
        ]


@posix
def test_a_whole_run_whose_folder_is_renamed(train, tmp_path, monkeypatch):
    """In the middle of it; the last lines say where it is now."""
    right = train("right")
    evaluate, n = train_shakespeare.evaluate, []

    def renaming(*arguments, **options):
        n.append(1)
        if len(n) == 2:
            (tmp_path / "run").rename(tmp_path / "moved")
            Session(tmp_path / "run").begin()
        return evaluate(*arguments, **options)

    monkeypatch.setattr(train_shakespeare, "evaluate", renaming)
    run = train("run")
    assert (run.status, run.err, run.lines[-1]) == (0, "", right.lines[-1])
    assert_same_run(tmp_path / "moved", right.folder)
    assert {p.name for p in (tmp_path / "moved").iterdir()} == FILES
    assert resume.load_state(tmp_path / "run")[0].step == 2


@posix
def test_a_folder_that_is_renamed_while_it_is_read(train, tmp_path, monkeypatch):
    """Another run's files are not taken for those of the one that is locked."""
    train("run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    of_saved = RunFolder.of_saved.__func__

    def renaming(cls, path):
        folder = of_saved(cls, path)
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "copy").rename(tmp_path / "run")
        return folder

    monkeypatch.setattr(RunFolder, "of_saved", classmethod(renaming))
    run = train("run", "--resume")
    assert run.status == 2 and "was renamed while it was read: start again" in run.err


def test_bytes_of_any_array():
    """Row by row, whatever the dtype and the layout."""
    import ml_dtypes
    import numpy as np

    array = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    assert bytes(bytes_of(array.T)) == np.ascontiguousarray(array.T).tobytes()
    assert bytes(bytes_of(np.float64(2))) == np.float64(2).tobytes()
