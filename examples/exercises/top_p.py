"""Exercise: write top_p.

Check it with `python -m minigrad.exercises FOLDER top_p`.
FOLDER is where this file is.  For a hint add `--hint top_p`.
"""

import numpy as np


def top_p(probabilities, p):
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p.

    Shapes      probabilities (V,), which sum to 1   out (V,): those kept, scaled up to sum to 1,
                and 0 for the others

    Sums are rounded: 0.4 + 0.3 + 0.2 should reach 0.9.  Of tokens that are equally likely, those
    with the smaller ids are kept.
    """
    raise NotImplementedError  # return out
