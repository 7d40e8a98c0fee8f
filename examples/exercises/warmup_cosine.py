"""Exercise: write warmup_cosine.

Check it with `python -m minigrad.exercises FOLDER warmup_cosine`.
FOLDER is where this file is.  For a hint add `--hint warmup_cosine`.
"""

import math


def warmup_cosine(step, warmup_steps, max_steps, max_lr, min_lr):
    """Return the learning rate at `step`: a straight line up, then half a cosine down.

    min_lr                                        from max_steps on, else
    max_lr · step / warmup_steps                  while step < warmup_steps, else
    min_lr + ½ (1 + cos πz) (max_lr − min_lr)     z = (step − warmup_steps)
                                                      / (max_steps − warmup_steps)
    """
    raise NotImplementedError  # return lr
