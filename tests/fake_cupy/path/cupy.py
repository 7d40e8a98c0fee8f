"""With this folder and tests/ on PYTHONPATH, `import cupy` gives the fake: for whole programs."""

import sys

import fake_cupy

sys.modules["cupy"] = fake_cupy
