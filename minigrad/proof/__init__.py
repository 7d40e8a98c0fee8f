"""The proof that every derivative is right: cases.py says what is tried, judges.py who decides.

`python -m minigrad.gradcheck` prints the verdicts as a table; the tests hold them to their
tolerances, and plant errors to see that the judges notice.
"""
