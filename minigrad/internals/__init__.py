"""What keeps the engine safe and comfortable; no page of the textbook needs it.

arguments.py  put the arguments of an op in order, as arrays
contexts.py   context managers that also decorate generators
gpu.py        find CuPy and a GPU, and say in one sentence why there is none
guards.py     refuse what would make a gradient wrong: overwritten arrays, a second backward
hooks.py      what watches the tape: anomaly detection, profiler, drawing; the stack of modules
operators.py  x + y, x.sum(), x == y and the other methods of a Tensor, each a call of an op
errors.py     what to say when shapes do not fit
half.py       float16 is computed in float32, and rounded once
malloc.py     keep freed memory for the next step
"""
