"""The proof that every derivative is right: cases.py has the cases, checks.py the checks.

`python -m minigrad.gradcheck` prints the results (table.py; pytorch.py holds PyTorch's side).  The
tests run the same checks, and plant errors to see that the checks notice them.
"""
