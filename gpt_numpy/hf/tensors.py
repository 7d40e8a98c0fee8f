"""Arrays in a file, in the format safetensors: an 8-byte length, a header of JSON, the bytes.

The header says of every tensor its dtype, its shape, and where its bytes are.  It is checked before
any of them is read, so that a file that is small on the disk cannot ask for all of the memory.

The library of the same name maps a file into memory.  If the disk then fails, or another program
cuts the file off, the system ends the process.  Here that is an error like any other.

Source      github.com/huggingface/safetensors, section "Format"
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gpt_numpy.files import opened, printable, quoted, unreadable
from gpt_numpy.folder import Folder

State = dict[str, np.ndarray]  # name -> array
MOST = 2**21  # bytes of a header; that of GPT-2 XL has 65,000
DTYPES = {  # the format's name -> NumPy's
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"U{n}": f"uint{n}" for n in (8, 16, 32, 64)},
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Tensor(NamedTuple):
    """What a header says of a tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of its bytes, counted from the end of the header
    stop: int


class Header(NamedTuple):
    """What a file says of itself."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(path: Path | str, dir_fd: int | None = None) -> Header:
    """The Header of a file of safetensors; OSError or ValueError names file and fault."""
    return _read(path, lambda file, header: header, dir_fd)


def read_arrays(
    path: Path, expected: Header | None = None, without: tuple[str, ...] = ()
) -> tuple[State, dict[str, str]]:
    """(arrays, metadata) of a file of safetensors; OSError or ValueError names file and fault.

    expected    what read_header() has found, if it was called
    without     arrays whose names end in one of these are left out
    """

    def arrays(file, header):
        if expected not in (None, header):
            raise ValueError("it was changed while it was read")
        start, found = file.tell(), {}
        for name, tensor in sorted(header.tensors.items(), key=lambda item: item[1][2:]):
            if not name.endswith(without):
                file.seek(start + tensor.start)
                found[name] = read_tensor(file, tensor)
        return found, header.metadata

    return _read(path, arrays)


def _read(path, use, dir_fd=None):
    try:
        with opened(path, dir_fd) as (file, size):
            return use(file, parse(file, size))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {printable(error)}") from error


def parse(file: BinaryIO, size: int) -> Header:
    """Read the header of an open file of `size` bytes; ValueError unless it describes all of it."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MOST, size - 8):
        raise ValueError(f"its header cannot have {length} bytes")
    entries = json.loads(file.read(length).decode(), object_pairs_hook=without_doubles)
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not texts")
    tensors = {name: described(name, entry) for name, entry in entries.items()}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.start != end:
            raise ValueError(f"the bytes of {quoted(name)} do not follow those of another tensor")
        end = tensor.stop
    if end != size - 8 - length:
        raise ValueError(f"it should have {8 + length + end:,} bytes, and has {size:,}")
    return Header(tensors, metadata)


def without_doubles(pairs):
    """The dict of these pairs; ValueError if a key comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in its header")
    return found


def described(name: str, entry: Any) -> Tensor:
    """The Tensor of an entry of the header; ValueError if that contradicts itself."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]}:
            if dtype not in DTYPES:
                raise ValueError(f"{quoted(name)} has the dtype {quoted(dtype)}, not read here")
            if dtype == "BF16":
                import ml_dtypes  # noqa: F401, by which NumPy comes to know bfloat16
            kind = np.dtype(DTYPES[dtype])
            numbers = (*shape, start, stop)
            whole = all(type(n) is int and 0 <= n < 2**48 for n in numbers) and len(shape) <= 32
            if whole and stop - start == math.prod(shape) * kind.itemsize:
                return Tensor(kind, tuple(shape), start, stop)
    raise ValueError(f"what its header says of {quoted(name)} cannot be")


def read_tensor(file: BinaryIO, tensor: Tensor) -> np.ndarray:
    """Read the array whose bytes come next in the file."""
    content = np.empty(tensor.stop - tensor.start, np.uint8)
    if file.readinto(content.data) < len(content):  # type: ignore[attr-defined]
        raise ValueError("it became shorter while it was read")
    return content.view(tensor.dtype).reshape(tensor.shape)


def write_arrays(
    folder: Folder, name: str, arrays: State, metadata: dict[str, str], keep: str | None = None
) -> None:
    """Replace a file of safetensors: the same arrays and metadata make the same bytes.

    keep        a name that the old file gets
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    contents, start = [], 0
    for key, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        content = bytes_of(array)
        stop = start + len(content)
        header[key] = {
            "dtype": NAMES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [start, stop],
        }
        contents.append(content)
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # so that numbers begin at multiples of 8 bytes
    if len(text) > MOST:
        raise OSError(f"its header would have {len(text):,} bytes; at most {MOST:,} can be read")
    folder.write(name, len(text).to_bytes(8, "little"), text, *contents, keep=keep)


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array, row by row, without a copy if that is how they lie."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def checksum(about: str, arrays: State) -> str:
    """The SHA-256 of a text and of arrays: their names, dtypes, shapes and every entry."""
    digest = hashlib.sha256(about.encode("utf-8", "surrogatepass"))
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode("utf-8", "surrogatepass"))
        digest.update(bytes_of(array))
    return digest.hexdigest()
