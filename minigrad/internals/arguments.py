"""The arguments of an op: put in order, and turned from Tensors, lists and numbers into arrays."""

import inspect

import numpy as np

from minigrad.backend import as_array, is_array

PLAIN = {
    bool,
    int,
    float,
    str,
    tuple,
    type(None),
}  # types of options that are passed on as they are
INTEGERS = ("ids", "targets")  # inputs of these names stay what they are, also as lists and numbers


class Arguments:
    """What the signature of a page says: the names of its inputs, and how many there are."""

    def __init__(self, page):
        self.op, self.signature = page.__name__, inspect.signature(page)
        kinds = [parameter.kind for parameter in self.signature.parameters.values()]
        self.take_a_list = inspect.Parameter.VAR_POSITIONAL in kinds
        self.n_inputs = len(kinds) - kinds.count(inspect.Parameter.KEYWORD_ONLY)
        self.names = [*self.signature.parameters][: self.n_inputs]

    def in_order(self, inputs, options):
        """Return (inputs, options) in which the inputs are complete and in order."""
        for value in options.values():
            if type(value) not in PLAIN:
                options = {
                    name: value if name in self.names else option(value)
                    for name, value in options.items()
                }
                break
        if self.take_a_list:
            match inputs:
                case [[_, *_] as inputs]:  # a single list, with something in it
                    return inputs, options
            raise TypeError(f"{self.op}: give one list of tensors, {self.op}([x, y, ...])")
        if len(inputs) == self.n_inputs:
            return inputs, options
        bound = self.bind(inputs, options)  # some were given by name, or left out
        return bound.args, bound.kwargs

    def bind(self, inputs, options):
        """Return the bound arguments, defaults included; TypeError if they do not fit."""
        try:
            bound = self.signature.bind(*inputs, **options)
        except TypeError as error:
            raise TypeError(f"{self.op}{self.signature}: {error}") from None
        bound.apply_defaults()
        return bound

    def arrays(self, inputs):
        """Return what the page computes with: arrays, Python numbers and None."""
        if self.take_a_list:
            if any(x is None for x in inputs):
                raise TypeError(f"{self.op}: the list has None in it, where an array should be")
            return with_one_dtype([operand(x, "") for x in inputs])
        arrays = []
        only_numbers = True
        for x, name in zip(inputs, self.names, strict=False):
            if hasattr(x, "node"):  # a Tensor has a node, or None
                arrays.append(x.data)
                only_numbers = False
            else:
                arrays.append(operand(x, name))
                only_numbers = only_numbers and not is_array(arrays[-1])
        if not only_numbers:
            return arrays
        # Numbers alone become what Tensor(x) makes of them.
        return [x if x is None else as_array(x) for x in arrays]


def option(value):
    """Return the value of an option: a Tensor as an array, a NumPy number as a plain one."""
    if hasattr(value, "node"):
        return value.data
    return value.item() if isinstance(value, np.generic) else value


def operand(x, name):
    """Return an input as an array, a Python number or None."""
    if hasattr(x, "node"):  # a Tensor
        return x.data
    if name in INTEGERS:
        array = x if is_array(x) else np.asarray(x)
        return array if array.size or array is x else array.astype(int)  # of an empty list
    if is_array(x):
        # A single entry is a number and brings no dtype.  (One on the GPU is waited for.)
        return as_array(x) if x.ndim else x.item()
    return x if x is None or isinstance(x, int | float) else as_array(x)


def with_one_dtype(arrays):
    """Return a list of arrays in which numbers have become arrays, of the dtype of the others."""
    if all(map(is_array, arrays)):
        return arrays
    dtype = np.result_type(*arrays)  # in which Python's numbers are weak
    if dtype == np.float64 and not any(is_array(x) and x.dtype == dtype for x in arrays):
        dtype = np.dtype(np.float32)
    return [x if is_array(x) else np.asarray(x, dtype) for x in arrays]
