"""`python -m minigrad` in a pipe.  (tests/test_gpu_setup.py checks what it prints.)"""

import os
import subprocess
import sys


def test_a_reader_that_has_left():
    """A closed pipe, as of `python -m minigrad | head -1`, is no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "minigrad"], stdout=pipe, stderr=subprocess.PIPE, timeout=120
        )
    assert done.returncode == 1 and done.stderr == b""
