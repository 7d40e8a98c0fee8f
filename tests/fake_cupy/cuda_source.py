"""RawModule of the fake: compiles CUDA C with g++ (cuda_on_cpu.h) and runs it on NumPy's memory.

CUDA checks nothing of what this checks:

* The arguments are as many as the kernel declares, and of the declared types.
* Every array is copied for a launch, and put between locked pages of memory.  An access beyond it
  is an error, also for a read whose value is then dropped.
* A kernel runs twice, on two copies: its threads and blocks in order, and in reverse.  The results
  must be the same bits; otherwise a barrier is missing, or blocks depend on each other.
"""

import ctypes
import functools
import hashlib
import math
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
PAGE = mmap.PAGESIZE
LOCKED = 1 << 26  # bytes on either side of an array; what cannot be accessed costs no memory
CHECKS = "bounds,alignment,null,object-size,pointer-overflow,signed-integer-overflow,shift"
CHECKS += ",integer-divide-by-zero,bool,float-cast-overflow"
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-Wall"]
FLAGS += ["-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-sign-compare"]
FLAGS += [
    "-Wno-clobbered",
    "-Wno-maybe-uninitialized",
    f"-fsanitize={CHECKS}",
    "-fno-sanitize-recover=all",
]

TYPES = {
    "bool": np.bool_, "char": np.int8, "unsigned char": np.uint8, "unsigned short": np.uint16,
    "int": np.int32, "unsigned int": np.uint32, "unsigned": np.uint32, "long long": np.int64,
    "unsigned long long": np.uint64, "uint64": np.uint64, "float": np.float32, "float2": np.float32,
    "float4": np.float32, "double": np.float64, "double2": np.float64,
}  # fmt: skip
DECLARATION = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\((.*?)\)\s*{',
    re.DOTALL,
)
PARAMETER = re.compile(  # its type, the type without const and pointer, the pointer, its name
    r"\s*((?:const )?((?:unsigned |long )*\w+)(?: ?(\*)(?: ?__restrict__)?| )) ?(\w+)\s*"
)


def unavailable():
    """Return why kernels cannot run on this machine, or None."""
    if sys.platform == "linux" and shutil.which("g++"):
        return None
    return "CUDA sources are compiled for the CPU by g++, on Linux: apt-get install g++"


class Parameter(NamedTuple):
    declared: str  # its type, as it is written
    dtype: np.dtype
    is_array: bool
    name: str


def parameters(code, options=()):
    """Return {kernel: its Parameters} of a CUDA source."""
    text = re.sub(r"//.*", "", code)
    kernels = {}
    for name, listed in DECLARATION.findall(text):
        found = [PARAMETER.fullmatch(part) for part in listed.split(",")]
        assert all(found), f"{name}: its parameters cannot be read"
        kernels[name] = [
            Parameter(m[1], np.dtype(dtype_of(m[2], text, options)), bool(m[3]), m[4])
            for m in found
            if m
        ]
    return kernels


def dtype_of(declared, text, options):
    """Return the dtype of a type in C, through the typedefs of the source and their #ifdefs."""
    if declared in TYPES:
        return TYPES[declared]
    for condition, inside in re.findall(r"#(?:el)?if(?:def)? *(.*)\n((?:[^#].*\n|\n)*)", text):
        name = re.sub(r"defined|[()\s]", "", condition)
        typedef = re.search(rf"typedef ([\w ]+) {declared};", inside)
        if typedef and any(option.partition("=")[0] == f"-D{name}" for option in options):
            return TYPES[typedef[1]]
    default = re.findall(rf"typedef ([\w ]+) {declared};", text)
    assert default, f"there is no type {declared} in the source"
    return TYPES[default[-1]]  # in the #else


RUN = """
static void cuda_call_NAME() { NAME(ARGUMENTS); }
extern "C" const char *run_NAME(
    const unsigned int *n, size_t shared, bool reversed, void **arguments)
{
    cuda_arguments = arguments;
    return run_grid({n[0], n[1], n[2]}, {n[3], n[4], n[5]}, shared, reversed, cuda_call_NAME);
}"""


def program(code, options):
    """Return the C++ of a library with a function run_<kernel> for every kernel of a source."""
    extern = re.compile(r"extern __shared__ (\w+) (\w+)\[\];")
    parts = [
        f'#include "{HEADER.name}"',
        "#line 1",
        extern.sub(r"\1 *\2 = (\1 *)dynamic_shared;", code),
    ]
    parts.append("static void **cuda_arguments;")
    for name, listed in parameters(code, options).items():
        arguments = [f"*({p.declared} *)cuda_arguments[{i}]" for i, p in enumerate(listed)]
        parts.append(RUN.replace("NAME", name).replace("ARGUMENTS", ", ".join(arguments)))
    return "\n".join(parts) + "\n"


def cache():
    """Return the folder of compiled kernels, which belongs to this user alone."""
    folder = Path(tempfile.gettempdir(), f"minigrad-cuda-on-cpu-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    assert status.st_uid == os.getuid() and not status.st_mode & 0o077, f"{folder}: whose is it?"
    return folder


@functools.cache
def library(code, options):
    """Compile a source, unless that was done before, and load it."""
    text = program(code, options)
    recipe = [text, HEADER.read_text(encoding="utf-8"), *FLAGS, *options]
    path = cache() / f"{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            source, made = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
            source.write_text(text, encoding="utf-8")
            object_file = source.with_suffix(".o")
            compiler = ["g++", *FLAGS, *options, f"-I{HEADER.parent}", "-c", "-o", object_file]
            done = subprocess.run([*compiler, source], capture_output=True, encoding="utf-8")
            if done.returncode:
                raise CompileException(done.stderr)
            # Linked by itself, so that the checks call the functions of the header.
            subprocess.run(["g++", "-shared", "-o", made, object_file, "-lm"], check=True)
            os.replace(made, path)  # in one act: another process may want the same
    return ctypes.PyDLL(str(path))  # PyDLL keeps Python's lock: the header is for one thread


class CompileException(Exception):
    """What CuPy raises, with the compiler's messages."""


libc = ctypes.CDLL(None)


class Guarded:
    """A copy of memory that ends where locked pages begin; what is left of its own pages is NaN."""

    def __init__(self, pointer, size):
        self.pointer, self.size = pointer, size
        pages = -(-(size + 15) // PAGE) * PAGE or PAGE
        self.map = mmap.mmap(-1, pages + 2 * LOCKED)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for locked in (begin, begin + LOCKED + pages):
            assert libc.mprotect(ctypes.c_void_p(locked), ctypes.c_size_t(LOCKED), 0) == 0
        self.inside = np.frombuffer(self.map, np.uint8, pages, LOCKED)
        self.inside[:] = 255
        # As well aligned as the original, and no better.
        self.offset = (pages - size - pointer % 16) // 16 * 16 + pointer % 16
        self.address = begin + LOCKED + self.offset
        self.bytes = self.inside[self.offset : self.offset + size]
        ctypes.memmove(self.address, pointer, size)

    def intact(self):
        """Return whether nothing was written around the copy."""
        around = self.inside[: self.offset], self.inside[self.offset + self.size :]
        return all((part == 255).all() for part in around)

    def copy_back(self):
        ctypes.memmove(self.pointer, self.address, self.size)


def extent(array):
    """Return (first, last + 1), the addresses of the memory between which all entries lie."""
    first = last = array.ctypes.data
    if not array.size:
        return first, first
    for n, stride in zip(array.shape, array.strides, strict=True):
        first, last = first + min(0, (n - 1) * stride), last + max(0, (n - 1) * stride)
    return first, last + array.itemsize


def regions(arrays):
    """Return the extents of arrays, in order, those that overlap joined into one."""
    found: list[tuple[int, int]] = []
    for first, stop in sorted(extent(x) for x in arrays):
        if found and first < found[-1][1]:
            first, stop = found[-1][0], max(stop, found.pop()[1])
        found.append((first, stop))
    return found


def call(function, name, shape, shared, arguments, reversed_order, address=None):
    """Run a compiled kernel on its arrays; `address` says where an array is, if not at home."""
    pointers, keep = (ctypes.c_void_p * max(1, len(arguments)))(), []
    for i, x in enumerate(arguments):
        if isinstance(x, np.ndarray):
            value = ctypes.c_void_p(address(x) if address else x.ctypes.data)
        elif x is None:
            value = ctypes.c_void_p(None)
        else:
            value = ctypes.create_string_buffer(x.tobytes(), x.itemsize)
        keep.append(value)
        pointers[i] = ctypes.addressof(value)
    error = function((ctypes.c_uint * 6)(*shape), ctypes.c_size_t(shared), reversed_order, pointers)
    assert error is None, f"{name}: {error.decode()}"


def run(function, name, shape, shared, arguments, reversed_order):
    """Run a compiled kernel on copies of its arrays, and return the copies."""
    arrays = [x for x in arguments if isinstance(x, np.ndarray)]
    copies = [Guarded(first, stop - first) for first, stop in regions(arrays)]

    def address(x):
        first, stop = x.ctypes.data, extent(x)[1]
        copy = next(c for c in copies if c.pointer <= first and stop <= c.pointer + c.size)
        return copy.address + first - copy.pointer

    call(function, name, shape, shared, arguments, reversed_order, address)
    assert all(copy.intact() for copy in copies), f"{name}: it has written beside an array"
    return copies


thorough = True  # False: run every kernel once, on the arrays themselves, which is quicker


class Function:
    """A kernel of a RawModule."""

    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, name, declared, function, launch, device_array):
        self.name, self.declared, self.launch = name, declared, launch
        self.device_array, self.function = device_array, function
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool, ctypes.c_void_p]

    def __call__(self, grid, block, args, *, shared_mem=0):
        shape = [*grid, 1, 1][:3] + [*block, 1, 1][:3]
        assert all(type(n) is int and n > 0 for n in shape), f"{self.name}: CUDA refuses {shape}"
        assert math.prod(shape[3:]) <= 1024 and max(shape[1:3]) < 2**16 and shape[0] < 2**31, shape
        assert shared_mem <= self.max_dynamic_shared_size_bytes, f"{self.name}: shared memory"
        assert len(args) == len(self.declared), (
            f"{self.name}: {len(args)} arguments for {len(self.declared)} parameters"
        )
        arguments = [self.inside(p, x) for p, x in zip(self.declared, args, strict=True)]
        arrays = [x for x in args if isinstance(x, self.device_array)]
        n_bytes = sum(x.nbytes for x in arguments if isinstance(x, np.ndarray))
        run = functools.partial(self.in_both_orders, shape, shared_mem, arguments)
        self.launch(self.name, run, arrays, n_bytes)

    def in_both_orders(self, shape, shared_mem, arguments):
        """Run the threads in their order, and in reverse."""
        options = self.function, self.name, shape, shared_mem, arguments
        if not thorough:
            call(*options, False)
            return
        in_order, in_reverse = run(*options, False), run(*options, True)
        for one, other in zip(in_order, in_reverse, strict=True):
            same = np.array_equal(one.bytes, other.bytes)
            assert same, f"{self.name}: the result depends on the order in which threads run"
            one.copy_back()

    def inside(self, parameter, x):
        """Return the NumPy array or number of an argument, which is of the declared type."""
        where = f"{self.name}: {parameter.name}, a {parameter.declared}"
        if parameter.is_array and type(x) is np.uint64 and x == 0:
            return None  # NULL; CuPy would pass no argument at all for None
        kind = self.device_array if parameter.is_array else np.generic
        assert isinstance(x, kind), f"{where}, is given a {type(x).__name__}"
        assert x.dtype == parameter.dtype, f"{where}, is given {x.dtype}"
        return x._array if parameter.is_array else x
