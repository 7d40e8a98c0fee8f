"""Exercises: every op with an empty `backward`, some forward passes, and a checker.

    python -m minigrad.exercises --new FOLDER           a folder of your own, with nothing solved
    python -m minigrad.exercises [FOLDER]               check what you wrote in FOLDER, by default
                                                        in examples/exercises
    python -m minigrad.exercises FOLDER add softmax     check only these two
    python -m minigrad.exercises --hint softmax         a hint

The solutions are the pages of minigrad/ops/.  make.py makes the files from them, and check.py runs
the cases and checks that prove the pages themselves (minigrad/testing/).
"""
