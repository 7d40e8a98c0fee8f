"""Does the fake run CUDA as a GPU would, and does it notice what a GPU would not say?

Small kernels, right ones and wrong ones, by fake_cupy.RawModule: see fake_cupy/cuda_source.py.
"""

import os
import subprocess

import fake_cupy
import numpy as np
import pytest
from fake_cupy import cuda_source
from fake_cupy.cuda_source import CompileException

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        cuda_source.unavailable() is not None, reason=str(cuda_source.unavailable())
    ),
]


def run(body, *arguments, grid=1, block=32, parameters="float *x", shared=0, before="", options=()):
    """Run a kernel with this body, and return its first argument as a NumPy array."""
    code = f'{before}\nextern "C" __global__ void f({parameters})\n{{\n{body}\n}}\n'
    kernel = fake_cupy.RawModule(code=code, options=options).get_function("f")
    shape = [n if isinstance(n, tuple) else (n,) for n in (grid, block)]
    kernel(*shape, arguments, shared_mem=shared)
    return arguments[0].get()


def device(array, dtype=np.float32):
    return fake_cupy.asarray(np.asarray(array, dtype))


def fresh(*shape, dtype=np.float32):
    return fake_cupy.empty(shape, dtype)


def fails(words, body, *arguments, **options):
    """Check that a kernel raises an AssertionError with these words."""
    with pytest.raises(AssertionError, match=words):
        run(body, *arguments or [fresh(64)], **options)


# ---- what CUDA promises --------------------------------------------------------------------------


def test_every_thread_runs_once():
    """In all blocks, with indices in three directions."""
    body = """
    unsigned int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    x[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1 + block + 100 * thread;"""
    x = run(body, device(np.zeros(24 * 30)), grid=(2, 3, 4), block=(5, 3, 2))
    right = 1 + np.arange(24)[:, None] + 100 * np.arange(30)
    np.testing.assert_array_equal(x, right.ravel())


REVERSE = """
    __shared__ float shared[64];
    shared[threadIdx.x] = x[threadIdx.x];
    BARRIER
    x[threadIdx.x] = shared[63 - threadIdx.x];"""


def test_threads_of_a_block_meet_at_a_barrier():
    """Each reads what another has written; without the barrier that is noticed."""
    x = run(REVERSE.replace("BARRIER", "__syncthreads();"), device(np.arange(64)), block=64)
    np.testing.assert_array_equal(x, np.arange(63, -1, -1))
    fails("depends on the order", REVERSE.replace("BARRIER", ""), device(np.ones(64)), block=64)


def test_a_second_barrier_that_is_missing_is_noticed():
    """Shared memory is overwritten before all have read it."""
    body = """
    __shared__ float shared[64];
    for (int i = 0; i < 2; i++) {
        shared[threadIdx.x] = x[threadIdx.x] + i;
        __syncthreads();
        x[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
        BARRIER
    }"""
    x = run(body.replace("BARRIER", "__syncthreads();"), device(np.arange(64)), block=64)
    np.testing.assert_array_equal(x, (np.arange(64) + 2) % 64 + 1)
    fails("depends on the order", body.replace("BARRIER", ""), device(np.arange(64)), block=64)


def test_a_warp_without_syncwarp_is_noticed():
    """Lanes do not run in step: they have to meet."""
    body = """
    __shared__ float shared[32];
    shared[threadIdx.x] = threadIdx.x;
    BARRIER
    x[threadIdx.x] = shared[threadIdx.x ^ 1];"""
    x = run(body.replace("BARRIER", "__syncwarp();"), fresh(32))
    np.testing.assert_array_equal(x, np.arange(32) ^ 1)
    fails("depends on the order", body.replace("BARRIER", ""), fresh(32))


def test_barriers_that_count():
    """How many threads, whether any, whether all."""
    body = """
    x[threadIdx.x] = __syncthreads_count(threadIdx.x < 7) + 100 * __syncthreads_or(threadIdx.x == 3)
        + 1000 * __syncthreads_or(false) + 10000 * __syncthreads_and(threadIdx.x < 96)
        + 100000 * __syncthreads_and(threadIdx.x < 95);"""
    np.testing.assert_array_equal(run(body, fresh(96), block=96), 10107)


LANES = np.arange(32)
FIRST = LANES // 8 * 8  # lane 0 of every 8


CALLS = {  # what a lane computes -> the value for each lane
    "__shfl_sync(-1u, v, 5)": np.full(32, 5),
    "__shfl_sync(-1u, v, lane + 1)": (LANES + 1) % 32,
    "__shfl_sync(-1u, v, 2, 8)": FIRST + 2,
    "__shfl_xor_sync(-1u, v, 16)": LANES ^ 16,
    "__shfl_xor_sync(-1u, v, 3, 8)": LANES ^ 3,
    "__shfl_down_sync(-1u, v, 4)": np.where(LANES < 28, LANES + 4, LANES),
    "__shfl_down_sync(-1u, v, 1, 8)": np.where(LANES % 8 < 7, LANES + 1, LANES),
    "__shfl_up_sync(-1u, v, 4)": np.where(LANES >= 4, LANES - 4, LANES),
    "__shfl_up_sync(-1u, v, 1, 8)": np.where(LANES % 8 > 0, LANES - 1, LANES),
    "__popc(__ballot_sync(-1u, lane % 3 == 0))": np.full(32, 11),
    "__any_sync(-1u, lane == 9) + 2 * __any_sync(-1u, 0)": np.ones(32),
    "__all_sync(-1u, lane < 32) + 2 * __all_sync(-1u, lane)": np.ones(32),
}


@pytest.mark.parametrize("type", ["float", "double", "int"])
def test_lanes_read_each_other(type):
    """By CUDA C++ Programming Guide, "Warp Shuffle Functions" and "Warp Vote Functions"."""
    lines = [f"x[{64 * i} + threadIdx.x] = {call};" for i, call in enumerate(CALLS)]
    body = "\n".join([f"int lane = threadIdx.x % 32; {type} v = lane;", *lines])
    rows = run(body, fresh(64 * len(CALLS)), block=64).reshape(-1, 64)
    for (call, right), x in zip(CALLS.items(), rows, strict=True):
        np.testing.assert_array_equal(x, [*right, *right], err_msg=call)


def test_half_a_warp_can_meet_alone():
    """A mask names who takes part."""
    body = """
    int lane = threadIdx.x;
    if (lane < 16) x[lane] = __shfl_xor_sync(0xffffu, (float)lane, 1);
    else x[lane] = -1;"""
    np.testing.assert_array_equal(run(body, fresh(32)), [*(np.arange(16) ^ 1), *[-1] * 16])


def test_dynamic_shared_memory():
    """As much as the launch asks for."""
    body = """
    extern __shared__ float shared[];
    shared[threadIdx.x] = threadIdx.x;
    __syncthreads();
    x[threadIdx.x] = shared[31 - threadIdx.x];"""
    np.testing.assert_array_equal(run(body, fresh(32), shared=128), np.arange(31, -1, -1))
    with pytest.raises(AssertionError, match="shared memory"):
        run(body, fresh(32), shared=49 * 1024)


def test_options_define_constants():
    """As they do for CuPy."""
    body = "x[threadIdx.x] = C;"
    np.testing.assert_array_equal(run(body, fresh(32), options=("-DC=384",)), 384)
    np.testing.assert_array_equal(run(body, fresh(32), options=("-DC=2",)), 2)


@pytest.mark.parametrize(
    "value, right",
    [
        ("__umul64hi(0xD2E7470EE14C6C93ull, 1ull << 32)", 0xD2E7470E),
        ("__float_as_int(__int_as_float(1234567))", 1234567),
        ("rsqrtf(0.25f) + rsqrt(4.0)", 2.5),
        ("fmaf(2, 3, 4)", 10),
        ("max(3, min(7, 5))", 5),
        ("__ldg(x) * 0 + 1", 1),
        ("__clz(1) + __ffs(8) + __popc(7u)", 38),
    ],
)
def test_functions_of_cuda(value, right):
    """Those that kernels use."""
    x = run(f"if (threadIdx.x == 0) x[0] = {value};", device([0, 0]))
    assert x[0] == np.float32(right)


# ---- what a GPU does not say ---------------------------------------------------------------------


def test_shared_memory_begins_as_nan():
    """In every block, also after another block has written there."""
    body = """
    __shared__ float shared[32];
    x[blockIdx.x * 32 + threadIdx.x] = shared[threadIdx.x];
    shared[threadIdx.x] = 1;"""
    assert np.isnan(run(body, fresh(96), grid=3)).all()


DIVERGENT = [
    ("if (threadIdx.x < 5) __syncthreads(); x[0] = 0;", 32),
    ("if (threadIdx.x == 31) return; __syncthreads(); x[0] = 0;", 32),
    ("if (threadIdx.x < 32)\n __syncthreads();\n else\n __syncthreads(); x[0] = 0;", 64),
    ("x[0] = __shfl_xor_sync(-1u, 1.0f, 16);", 16),  # lanes that do not exist
    ("if (threadIdx.x == 3) return; x[0] = __shfl_xor_sync(-1u, 1.0f, 1);", 32),
    ("if (threadIdx.x < 16) __syncwarp();\n else __syncthreads(); x[0] = 0;", 32),
]


@pytest.mark.parametrize("body, block", DIVERGENT)
def test_waiting_for_a_thread_that_does_not_come_is_an_error(body, block):
    """A GPU hangs, or goes on with whatever it has."""
    fails("waits in vain", body, fresh(32), block=block)


def test_reading_a_lane_that_is_absent_is_an_error():
    """One outside of the mask; and a thread that is not in its own mask."""
    fails(
        "lane 0 reads lane 16",
        "if (threadIdx.x < 16) x[0] = __shfl_xor_sync(0xffffu, 1.0f, 16);",
    )
    fails("lane 16 is not in its mask", "x[0] = __shfl_sync(0xffffu, 1.0f, 0);")


@pytest.mark.parametrize(
    "body",
    [
        "x[64] = 1;", "x[-1] = 1;", "x[100000] = 1;", "x[-3000] = 1;", "x[1] = x[64];",
        "if (x[64] > 100) x[0] = 1;", "x[1 << 23] = 0;", "x[-(1 << 23)] = 0;",
    ],
)  # fmt: skip
def test_an_address_outside_of_an_array_is_an_error(body):
    """On either side of it; also where it is only read, just beyond its end."""
    fails("outside of the arguments|written beside", body, device(np.zeros(64)), block=1)


def test_a_read_in_front_of_an_array_is_nan():
    """It cannot be refused, but shows in the result."""
    assert np.isnan(run("x[0] = x[-1];", device(np.zeros(64)), block=1)[0])


@pytest.mark.parametrize(
    "words, body",
    [
        ("beyond its array", "__shared__ float s[8]; s[threadIdx.x] = 0; x[0] = s[0];"),
        ("beyond its array", "float s[8]; for (int i = 0; i < n; i++) s[i] = i; x[0] = s[0];"),
        ("misaligned", "float4 v = *(float4 *)(x + 1); x[0] = v.x;"),
        ("integer overflows", "x[0] = n * 1000000000;"),
        ("division by 0", "x[0] = 1 / (n - 9);"),
        ("too many bits", "x[0] = 1 << (n + 30);"),
        ("null", "x = (float *)(size_t)(n - 9); x[0] = 1;"),
    ],
)
def test_undefined_behaviour_is_an_error(words, body):
    """With the line of the source."""
    body = f"if (threadIdx.x < n) {{\n{body} }}"
    fails(rf"^f: .*:5: .*{words}", body, fresh(64), np.int32(9), parameters="float *x, int n")


def test_blocks_that_depend_on_each_other_are_noticed():
    """On a GPU they run in any order."""
    fails("depends on the order", "if (threadIdx.x == 0) x[0] = 2 * x[0] + blockIdx.x;",
          device(np.ones(1)), grid=3)  # fmt: skip


def test_after_an_error_all_is_as_before():
    """The process lives, and the next kernel runs."""
    for _ in range(3):
        fails("outside of the arguments", "x[100000] = 1;")
        np.testing.assert_array_equal(run("x[threadIdx.x] = 1;", fresh(32)), 1)


def test_what_does_not_compile_is_an_error():
    """With the compiler's message."""
    with pytest.raises(CompileException, match="threadIndex"):
        run("x[threadIndex.x] = 1;", fresh(32))


# ---- arguments -----------------------------------------------------------------------------------

TWO = "const float *x, unsigned long long n"


@pytest.mark.parametrize(
    "arguments",
    [
        (fake_cupy.ones(4, np.float32),),
        (fake_cupy.ones(4), np.uint64(4)),
        (np.ones(4, np.float32), np.uint64(4)),
        (fake_cupy.ones(4, np.float32), 4),
        (fake_cupy.ones(4, np.float32), np.int64(4)),
        (fake_cupy.ones(4, np.float32), np.float64(4)),
        (fake_cupy.ones(4, np.float32), None),
        (fake_cupy.ones(4, np.float32), np.uint64(4), np.uint64(4)),
    ],
)
def test_a_kernel_checks_its_arguments(arguments):
    """Their number and their types: CUDA checks neither."""
    run("(void)x, (void)n;", fake_cupy.ones(4, np.float32), np.uint64(4), parameters=TWO)
    with pytest.raises(AssertionError, match="^f: "):
        run("(void)x, (void)n;", *arguments, parameters=TWO)


def test_types_may_have_names():
    """By a typedef, which an option may choose."""
    before = "#ifdef DOUBLE\ntypedef double real;\n#else\ntypedef float real;\n#endif"
    for dtype, options in ((np.float32, ()), (np.float64, ("-DDOUBLE",))):
        x = run("x[threadIdx.x] = 1.0 / 3;", fresh(32, dtype=dtype), before=before,
                parameters="real *x", options=options)  # fmt: skip
        np.testing.assert_array_equal(x, dtype(1) / dtype(3))


def test_null_is_a_number():
    """A pointer may be missing.  For None, CuPy would give CUDA nothing to read."""
    body, both = "x[threadIdx.x] = y ? 1 : 2;", "float *x, const float *y"
    for y, right in ((np.uint64(0), 2), (device([1]), 1)):
        np.testing.assert_array_equal(run(body, fresh(32), y, parameters=both), right)
    for y in (None, np.uint64(1), np.int64(0), 0):
        fails("^f: y, a const float", body, fresh(32), y, parameters=both)


def test_arguments_may_share_memory():
    """In place, as neighbours in one vector, and as interleaved columns of one matrix."""
    both = "float *x, float *y, int step"
    x = device(np.arange(32))
    run("y[threadIdx.x] = x[threadIdx.x] + step;", x, x, np.int32(1), parameters=both)
    np.testing.assert_array_equal(x.get(), np.arange(32) + 1)
    vector = device(np.arange(64))
    run("y[threadIdx.x] = x[threadIdx.x] + step;", vector[:32], vector[32:], np.int32(1),
        parameters=both)  # fmt: skip
    np.testing.assert_array_equal(vector.get(), [*range(32), *range(1, 33)])
    matrix = device(np.arange(64).reshape(32, 2))
    run("y[threadIdx.x * step] = x[threadIdx.x * step];", matrix[:, 0], matrix[:, 1], np.int32(2),
        parameters=both)  # fmt: skip
    np.testing.assert_array_equal(matrix.get(), np.repeat(np.arange(0, 64, 2), 2).reshape(32, 2))


@pytest.mark.parametrize("grid, block", [(0, 32), (1, 0), (1, 1025), ((1, 2**16), 1), (-1, 32)])
def test_impossible_sizes_are_refused(grid, block):
    """CuPy checks none, and clamps a grid of 0 to 1."""
    with pytest.raises(AssertionError):
        run("x[0] = 0;", fresh(1), grid=grid, block=block)


def test_launches_are_counted():
    """By name, with the bytes of their arrays."""
    before = fake_cupy.ledger.launches["f"], fake_cupy.ledger.bytes
    run("x[threadIdx.x] = 0;", fresh(32))
    assert (fake_cupy.ledger.launches["f"], fake_cupy.ledger.bytes) == (
        before[0] + 1,
        before[1] + 128,
    )


def test_a_library_is_compiled_once(monkeypatch):
    """It is kept on disk, in a folder of this user alone."""
    run("x[threadIdx.x] = 17;", fresh(32))
    cuda_source.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)
    np.testing.assert_array_equal(run("x[threadIdx.x] = 17;", fresh(32)), 17)
    assert cuda_source.cache().stat().st_mode & 0o077 == 0


def test_another_users_folder_is_refused(monkeypatch, tmp_path):
    """Somebody else could put a library there."""
    monkeypatch.setattr(cuda_source.tempfile, "gettempdir", lambda: str(tmp_path))
    cuda_source.cache().chmod(0o777)
    with pytest.raises(AssertionError, match="whose is it"):
        cuda_source.cache()
    os.rmdir(tmp_path / f"minigrad-cuda-on-cpu-{os.getuid()}")
    (tmp_path / "other").mkdir()
    os.symlink(tmp_path / "other", tmp_path / f"minigrad-cuda-on-cpu-{os.getuid()}")
    with pytest.raises(AssertionError, match="whose is it"):
        cuda_source.cache()
