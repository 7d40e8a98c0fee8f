"""The proof that every derivative is right: cases.py says what is tried, judges.py who decides.

`python -m minigrad.gradcheck` prints the verdicts (table.py; pytorch.py holds PyTorch's side).  The
tests ask for the same verdicts, and plant errors to see that the judges notice.
"""
