"""With this folder and tests/ on PYTHONPATH, `import cupy` gives the fake: for whole programs."""

import sys

import fake_cupy
import fake_cupy.cublas
import fake_cupy.nccl

from minigrad.internals import cublas

sys.modules["cupy"] = fake_cupy
sys.modules["cupy.cuda"] = fake_cupy.cuda
fake_cupy.cuda.nccl = fake_cupy.nccl
cublas.load = fake_cupy.cublas.Library
