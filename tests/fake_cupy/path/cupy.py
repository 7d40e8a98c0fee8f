"""With this folder and tests/ on PYTHONPATH, `import cupy` gives the fake: for whole programs."""

import sys

import fake_cupy
import fake_cupy.cublas

from minigrad.internals import cublas

sys.modules["cupy"] = fake_cupy
cublas.load = fake_cupy.cublas.Library
