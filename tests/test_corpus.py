"""Each source of text, and what happens when one fails. No test here uses the network."""

import gzip
import hashlib
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
import regex
import requests
from command import peak_below

from gpt_numpy.corpus import grammar, load_corpus, reading, sources
from gpt_numpy.files import fingerprint

SHAKESPEARE = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of the user's cache, and a verse that costs no time."""
    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path))
    monkeypatch.setattr(grammar, "generate", lambda *_: "a verse\n")
    monkeypatch.setattr(grammar, "entropy_per_character", lambda: 1.5)
    return tmp_path


@pytest.fixture
def server(monkeypatch):
    """A web server in place of GitHub; `server.answer = (status, content)` sets what it sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            status, content = self.server.answer
            self.send_response(status)
            self.send_header("Content-Length", str(self.server.announce or len(content)))
            self.end_headers()

        def do_GET(self):
            self.server.downloads += 1
            self.do_HEAD()
            self.wfile.write(self.server.answer[1])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.downloads, server.announce = 0, None
    monkeypatch.setattr(sources, "URL", f"http://127.0.0.1:{server.server_port}/input.txt")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def assert_verse(found, folder, name, reason):
    """Check that the verse stands in and says why, and that nothing half-written is left."""
    assert found.text == "a verse\n" and found.entropy == 1.5
    assert found.name == f"verse (built in: {name})"
    assert reason in found.reason and "\n" not in found.reason
    assert list(folder.iterdir()) == []


def user_error(path):
    """Return the error that loading `path` raises, after checking that it is one line."""
    with pytest.raises((OSError, ValueError)) as error:
        load_corpus(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return error.value


# A file of the user's


def test_a_users_file(tmp_path):
    """A file's text is read as it is and goes by the file's name; the verse's facts are absent."""
    path = tmp_path / "story.txt"
    path.write_bytes("Käse & 😀\n".encode())
    for given in (path, str(path)):
        assert load_corpus(given) == sources.Corpus("Käse & 😀\n", "story.txt", None, None)


def test_newlines_and_byte_order_mark(tmp_path):
    """Windows' and old Macs' line ends become \\n, and a leading byte-order mark goes."""
    path = tmp_path / "story.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\n")
    assert load_corpus(path).text == "one\ntwo\nthree\n\n"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"abc\0def", "is binary: byte 3 is NUL"),
        ("Windows".encode("utf-16-le"), "looks like UTF-16 without a byte-order mark"),
        ("Windows".encode("utf-16") + b"\x00\xdc", "is not UTF-16: illegal encoding at byte 16"),
        ("Win\0dows".encode("utf-16"), "is binary"),
        (b"caf\xc3", "is not UTF-8: unexpected end of data at byte 3"),
        (b"\xef\xbb\xbfcaf\xe9 noir", "is not UTF-8: invalid continuation byte at byte 6"),
        (b"caf\xe9 noir", "is not UTF-8: invalid continuation byte at byte 3"),
    ],
)
def test_a_file_without_text(tmp_path, content, fault):
    """An empty or binary file, or one in another encoding, is refused by name and fault."""
    path = tmp_path / "story.txt"
    path.write_bytes(content)
    error = user_error(path)
    assert isinstance(error, ValueError) and fault in str(error) and "; " in str(error)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    """A missing and a forbidden file are refused with the system's reason."""
    assert "name too long" in str(user_error(tmp_path / ("a" * 300)))
    missing = user_error(tmp_path / "nowhere.txt")
    assert isinstance(missing, FileNotFoundError) and "No such file" in str(missing)
    assert "give the path of a text file" in str(missing)

    def forbid(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading, "open_regular", forbid)  # root may read every real file
    assert "Permission denied" in str(user_error(tmp_path / "secret.txt"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("size", [1, 3, 2**20])
def test_a_file_read_in_pieces(tmp_path, monkeypatch, encoding, size):
    """However the pieces cut characters, line ends and the byte-order mark."""
    monkeypatch.setattr(reading, "BYTES", max(size, 4 * encoding.startswith("utf-")))
    path = tmp_path / "story.txt"
    path.write_bytes("Käse\r\n& 😀\r\r\n中\ufeff\r".encode(encoding))
    assert load_corpus(path).text == "Käse\n& 😀\n\n中\ufeff\n"


def test_a_fault_in_a_later_piece_is_named_by_its_place(tmp_path, monkeypatch):
    """Counted from the beginning of the file, bytes of the character before it included."""
    monkeypatch.setattr(reading, "BYTES", 4)
    path = tmp_path / "story.txt"
    for content, fault in [
        (b"12345678\xe4\xb8x", "invalid continuation byte at byte 8"),
        (b"123456\xe4\xb8x", "invalid continuation byte at byte 6"),
        (b"123456\xe4", "unexpected end of data at byte 6"),
        (b"123456\0", "byte 6 is NUL"),
    ]:
        path.write_bytes(content)
        assert fault in str(user_error(path))


def test_several_files(tmp_path):
    """In the order given, with a line end between two of them unless there is one."""
    for name, text in {"a": "one", "b": "two\n", "c": "", "d": "three"}.items():
        (tmp_path / name).write_text(text)
    found = load_corpus([tmp_path / name for name in "abcd"])
    assert (found.text, found.name) == ("one\ntwo\nthree", "a and 3 more")


def test_a_folder(tmp_path):
    """All .txt files inside, those of folders inside too, in the order of their names."""
    for name in ("b.txt", "a.txt", "notes.md", "c/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    found = load_corpus(tmp_path)
    assert (found.text, found.name) == ("a.txt\nb.txt\nc/a.txt\n", f"{tmp_path.name} (3 files)")
    (tmp_path / "empty").mkdir()
    assert "has no file *.txt; give" in str(user_error(tmp_path / "empty"))


def test_a_compressed_file(tmp_path):
    """It is known by its first bytes; one that is cut off is refused."""
    content = gzip.compress(b"one\r\ntwo\n")
    for name in ("a.gz", "b.txt"):
        (tmp_path / name).write_bytes(content)
        assert load_corpus(tmp_path / name).text == "one\ntwo\n"
    (tmp_path / "c.gz").write_bytes(content[:-9])
    assert "is a damaged gzip file" in str(user_error(tmp_path / "c.gz"))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_lines_of_json(tmp_path, compress):
    """The field `text` of every line; a line end between two of them; empty lines do not count."""
    lines = [
        '{"text": "one\\r\\n"}',
        "",
        '{"n": 2, "text": "two"}',
        '{"text": "three \\u00e4"}',
        "",
    ]
    path = tmp_path / ("a.jsonl" + ".gz" * (compress is not bytes))
    path.write_bytes(compress("\n".join(lines).encode()))
    assert load_corpus(path).text == "one\ntwo\nthree ä"


def test_names_in_capitals_and_hidden_files(tmp_path):
    """A.JSONL is read as a.jsonl is; a file that systems hide is no text of a folder."""
    (tmp_path / "A.JSONL").write_text('{"text": "one"}')
    assert load_corpus(tmp_path / "A.JSONL").text == "one"
    (tmp_path / "B.TXT").write_text("two")
    (tmp_path / "._B.txt").write_bytes(bytes(9))
    assert load_corpus(tmp_path).text == "two"


def test_standard_input_is_one_text():
    """It cannot be the validation text as well."""
    with pytest.raises(ValueError, match="standard input can be read once"):
        load_corpus("-", "-")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"txt": "one"}', "line 2 of {} has no field `text`; give"),
        ("one", "line 2 of {} is no JSON object with a field `text`: Expecting value"),
        ('["text"]', "line 2 of {} is no JSON object"),
        ('{"text": 3}', "line 2 of {} is no JSON object with a field `text`: `text` is not a str"),
        (
            r'{"text": "\ud800"}',
            "line 2 of {} is no JSON object with a field `text`: 'utf-8' codec",
        ),
        pytest.param("[" * 100_000, "line 2 of {} is no JSON object", id="nested"),
    ],
)
def test_a_line_without_text(tmp_path, line, fault):
    """The line and the fault are named."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    assert fault.format(path) in str(user_error(path))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_line_that_does_not_end(tmp_path, monkeypatch, compress):
    """Of a line longer than LONGEST_LINE no more is read than that."""
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    path = tmp_path / "a.jsonl.gz"
    fits = b'{"text": "' + b"a" * 987 + b'"}'
    path.write_bytes(compress(b"%b\n%b\n" % (fits[:-3] + fits[-2:], fits)))
    assert len(load_corpus(path).text) == 986 + 1 + 987
    path.write_bytes(compress(fits[:-3] + fits[-2:] + b"\n" + fits.replace(b"a", b"aa")))
    fault = "line 2 of {} has more than 1,000 bytes: "
    assert fault.format(path) in str(user_error(path))
    path.write_bytes(compress(bytes(10**7)))
    with peak_below(10**6):
        assert "line 1 of" in str(user_error(path))


@pytest.mark.parametrize("n", [1, 5, 100])
@pytest.mark.parametrize("text", [" ", "\n", "a", " \t", "a\t\n\n"])
def test_a_text_without_a_place_to_cut_is_searched_once(monkeypatch, text, n):
    """Not all that came before with every piece: 32 MB of spaces took 48 s."""
    searched, search = [], regex.search

    def counted(pattern, string):
        searched.append(len(string))
        return search(pattern, string)

    monkeypatch.setattr(regex, "search", counted)
    monkeypatch.setattr(reading, "PIECE", 100)
    whole = text * 10_000
    parts = [whole[i : i + n] for i in range(0, len(whole), n)]
    assert "".join(reading.recut(parts)) == whole
    assert sum(searched) <= 3 * len(whole)


@pytest.mark.parametrize(
    "content", [b"one\r\ntwo", gzip.compress(b"one\ntwo")], ids=["plain", "compressed"]
)
def test_standard_input(tmp_path, monkeypatch, content):
    """- is standard input, which may be compressed; a pipe with a name is read as well."""
    (tmp_path / "input").write_bytes(content)
    with open(tmp_path / "input") as file:
        monkeypatch.setattr("sys.stdin", file)
        found = load_corpus("-")
    assert (found.text, found.name) == ("one\ntwo", "standard input")
    if not hasattr(os, "mkfifo"):
        return
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    writer.start()
    assert load_corpus(tmp_path / "pipe").text == "one\ntwo"
    writer.join()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match="standard input is closed; give"):
        load_corpus("-")


def test_another_text_to_validate_on(tmp_path):
    """Both are named, both count for fingerprint and alphabet; of one text they are as ever."""
    (tmp_path / "a").write_text("abc\n")
    (tmp_path / "b").write_text("bd")
    alone, both = load_corpus(tmp_path / "a"), load_corpus(tmp_path / "a", tmp_path / "b")
    assert (both.text, both.validation) == ("abc\n", "bd")
    assert both.name == "a, validated on b" and both.entropy is None
    assert (alone.alphabet(), both.alphabet()) == ("\nabc", "\nabcd")
    assert alone.fingerprint() == fingerprint("abc\n") != both.fingerprint()
    assert (alone.prompt(), sources.Corpus("bca", "").prompt()) == ("\n", "b")


# Tiny Shakespeare


def test_the_download_is_kept(folder, server, monkeypatch, caplog):
    """The first call downloads and checks the file, the second reads it; neither logs."""
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    monkeypatch.setattr(sources, "SHA256", hashlib.sha256(SHAKESPEARE).hexdigest())
    server.answer = (200, SHAKESPEARE)
    for _ in range(2):
        found = load_corpus()
        assert found == sources.Corpus(SHAKESPEARE.decode(), "tiny Shakespeare", None, None)
    assert server.downloads == 1
    assert [path.name for path in folder.iterdir()] == ["tinyshakespeare.txt"]
    assert caplog.records == []


def test_a_damaged_cache_is_downloaded_again(folder, server, monkeypatch):
    """A file with a wrong checksum in the cache is replaced, not trusted."""
    monkeypatch.setattr(sources, "SHA256", hashlib.sha256(SHAKESPEARE).hexdigest())
    server.answer = (200, SHAKESPEARE)
    (folder / "tinyshakespeare.txt").write_bytes(SHAKESPEARE[:20])
    assert load_corpus().text == SHAKESPEARE.decode()
    assert (folder / "tinyshakespeare.txt").read_bytes() == SHAKESPEARE


def test_the_progress_bar_needs_a_terminal(folder, server, monkeypatch):
    """pooch is asked for its bar where stderr is a terminal, and only there."""
    asked = []

    class Downloader(pooch.HTTPDownloader):
        def __init__(self, progressbar, timeout):
            asked.append(progressbar)
            super().__init__(progressbar=False, timeout=timeout)

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    server.answer = (404, b"")
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda answer=terminal: answer)
        load_corpus()
    assert asked == [True, False]


def test_tiny_shakespeare_itself():
    """The file of 1,115,394 characters in GPT_NUMPY_DATA has the checksum that we ask for."""
    named = os.environ.get("GPT_NUMPY_DATA")
    if not (named and (Path(named) / "tinyshakespeare.txt").is_file()):
        pytest.skip("needs tinyshakespeare.txt in the folder that GPT_NUMPY_DATA names")
    found = load_corpus()
    assert found.name == "tiny Shakespeare" and found.reason is None
    assert len(found.text) == 1_115_394 and found.text.startswith("First Citizen:\n")


# The verse in its place


def test_a_wrong_checksum(folder, server):
    """Anything but the right file, such as a hotel's log-in page, is thrown away."""
    server.answer = (200, b"<html>Welcome to our hotel!</html>")
    assert_verse(load_corpus(), folder, "no download", "does not match the known hash")


def test_a_file_that_has_moved(folder, server):
    """An HTTP error is reported as such, not as a missing network."""
    server.answer = (404, b"gone")
    assert_verse(load_corpus(), folder, "no download", "404 Client Error")


def test_a_download_that_breaks_off(folder, server):
    """A connection that closes half-way leaves no half file."""
    server.answer, server.announce = (200, SHAKESPEARE), 10_000
    assert_verse(load_corpus(), folder, "no download", "IncompleteRead")


def test_a_refused_connection(folder, server):
    """No server at the address: the reason is the system's few words, not requests' many."""
    server.shutdown()
    server.server_close()
    found = load_corpus()
    assert_verse(found, folder, "no network", "refused")
    assert len(found.reason) < 100


def test_a_network_that_never_answers(folder, monkeypatch):
    """A firewall that swallows packets costs SECONDS, however many addresses the host has."""
    over = threading.Event()

    def hang(*_, **__):
        over.wait(60)
        raise requests.ConnectTimeout

    monkeypatch.setattr(requests, "head", hang)
    monkeypatch.setattr(sources, "SECONDS", 0.05)
    start = time.monotonic()
    found = load_corpus()
    over.set()
    assert time.monotonic() - start < 5
    assert_verse(found, folder, "no network", "no answer within 0.05 s")


def test_a_server_that_falls_silent(folder, server, monkeypatch):
    """A server that takes the connection and then says nothing counts as no network."""
    monkeypatch.setattr(sources, "SECONDS", 0.05)
    over = threading.Event()
    monkeypatch.setattr(server.RequestHandlerClass, "do_HEAD", lambda _: over.wait(60))
    found = load_corpus()
    over.set()
    assert_verse(found, folder, "no network", "")


def test_a_cache_that_cannot_be_written(folder, monkeypatch):
    """A file where the folder should be costs the download, not the run."""
    (folder / "file").write_text("in the way")
    monkeypatch.setenv("GPT_NUMPY_DATA", str(folder / "file" / "cache"))
    found = load_corpus()
    (folder / "file").unlink()
    assert_verse(found, folder, "no download", "Not a directory")


def test_the_verse_is_the_built_in_one(tmp_path, server, monkeypatch):
    """The stand-in is grammar.generate() with its entropy in nats per character."""
    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path))
    server.answer = (404, b"")
    found = load_corpus()
    assert found.text == grammar.generate()
    assert found.entropy == grammar.entropy_per_character()
