"""The backend: which library owns an array, and moving arrays between devices."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend
from minigrad.backend import (
    accurate_sum,
    add_up,
    array_module,
    as_array,
    device_of,
    is_array,
    synchronize,
    to_device,
    to_numpy,
)
from minigrad.fast.arrays import CHUNK, chunks
from minigrad.fast.gpu import add_up as on_gpu
from minigrad.internals import gpu

# ---- arrays follow their device ------------------------------------------------------------------


def test_arrays_know_their_library(fake_gpu):
    """One CuPy array among numbers is enough; NumPy owns everything else."""
    x, y = np.ones(2), fake_gpu.ones(2)
    assert array_module(x) is array_module(1.0) is array_module() is np
    assert array_module(y) is array_module(1.0, y) is array_module(y, None) is fake_gpu
    assert (device_of(x), device_of(y)) == ("cpu", "gpu")
    assert as_array(y) is y and as_array(x) is x and as_array([1, 2]).dtype == np.float32
    assert is_array(x) and is_array(y) and is_array(np.float32(1)) and is_array(y[0])
    assert not is_array(1.0) and not is_array([1.0]) and not is_array(None)


def test_arrays_move(fake_gpu):
    """Up and down; an array that is there already is returned itself."""
    x = np.arange(3.0)
    y = to_device(x, "gpu")
    assert device_of(y) == "gpu" and to_device(y, "gpu") is y and to_device(x, "cpu") is x
    assert to_numpy(x) is x and to_numpy(y).tolist() == to_device(y, "cpu").tolist() == [0, 1, 2]


def test_synchronize_waits_for_a_gpu_only(fake_gpu, monkeypatch):
    """A CPU has finished an array when NumPy returns it."""
    waits = []
    monkeypatch.setattr(fake_gpu.cuda.runtime, "deviceSynchronize", lambda: waits.append(1))
    synchronize(np.ones(2))
    assert not waits
    synchronize(fake_gpu.ones(2))
    assert len(waits) == 1


def test_the_gpu_is_opened_once(fake_gpu, monkeypatch):
    """Later calls return the library that has passed its self-tests, without testing it again."""
    monkeypatch.setattr(gpu, "self_test", None)  # calling it would raise a TypeError
    assert gpu.init_gpu() is gpu.init_gpu() is backend.cupy is fake_gpu


@pytest.mark.parametrize("name", ["tpu", "cuda", "GPU", ""])
def test_other_devices_are_unknown(name):
    """The error names the two that exist."""
    with pytest.raises(ValueError, match=f"no device '{name}': arrays live on 'cpu' or 'gpu'"):
        mg.Tensor([1.0]).to(name)


@pytest.mark.parametrize("length", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_cover_an_array(length, fake_gpu):
    """Each entry once and in order: short chunks on a CPU, a single one on a GPU."""
    for xp in (np, fake_gpu):
        array = xp.zeros(length)
        parts = chunks(array)
        covered = [i for part in parts for i in range(part.start, part.stop)]
        assert covered == list(range(length))
        assert len(parts) == (-(-length // CHUNK) if xp is np else min(length, 1))
    assert chunks(np.zeros(9), 2, 5) == [slice(2, 5)]


# ---- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_add_up_adds_to_an_entry_twice(dtype, fake_gpu):
    """As np.add.at does, on both devices; and so does the version for a GPU."""
    index, values = np.array([3, 0, 3, 3]), np.array([1.5, -2.0, 0.25, -8.0], dtype)
    expected = [-2.0, 0.0, 0.0, 1.5 + 0.25 - 8.0]
    for xp, function in ((np, add_up), (fake_gpu, add_up), (fake_gpu, on_gpu.add_up)):
        total = function(xp.asarray(values), index, (4,))
        assert total.dtype == dtype and to_numpy(total).tolist() == expected


def test_float32_is_added_up_in_float64(gpu):
    """2²⁴ + 1 + 1 + 1 is 2²⁴ + 4 in float32, the nearest number; added one by one it is 2²⁴."""
    values = np.array([2.0**24, 1, 1, 1], np.float32)
    there = to_device(values, "gpu")
    for x in (values, there):
        total = accurate_sum(x)
        assert total.dtype == np.float32 and total.item() == 2**24 + 4
        assert to_numpy(add_up(x, np.zeros(4, int), (1,))).tolist() == [2**24 + 4]
        assert accurate_sum(x.reshape(2, 2), 1, keepdims=True).shape == (2, 1)
    assert accurate_sum(to_device(values.astype(np.float64), "gpu")).dtype == np.float64


def test_what_is_no_number_is_named():
    """In the dtype that NumPy gives it."""
    with pytest.raises(TypeError, match=r"real numbers or booleans, not <U3$"):
        as_array(["one", "two"])


@pytest.mark.parametrize("kind", [list, tuple])
def test_tensors_in_a_list_keep_their_gradients(kind):
    """Or rather, the list is refused: as an array it would have none."""
    x = mg.Tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match="a list of Tensors would lose their gradients"):
        as_array(kind([x, x]))
