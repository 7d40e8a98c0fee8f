"""Context managers that also decorate functions and generators, as torch.no_grad does."""

import contextlib
import functools
import inspect
import threading


def also_for_generators(make_context):
    """Decorate a function without arguments that returns a context manager.

    What it returns can then be entered any number of times, by `with` or as a decorator, also one
    without parentheses: `@no_grad()` and `@no_grad` are the same.
    """

    @functools.wraps(make_context)
    def context(function=None):
        reusable = Context(make_context)
        return reusable if function is None else reusable(function)

    return context


def reusable(generator):
    """Do the same for a generator function with arguments, as contextlib.contextmanager does."""
    make_context = contextlib.contextmanager(generator)

    @functools.wraps(generator)
    def context(*arguments):
        return Context(functools.partial(make_context, *arguments))

    return context


class Context(threading.local):
    """A context manager that makes a new one of make() each time it is entered.

    It is local to a thread because another thread that uses the same object must not leave the
    context that this one has entered.
    """

    def __init__(self, make):
        self.make, self.entered = make, []

    def __enter__(self):
        self.entered.append(self.make())
        return self.entered[-1].__enter__()

    def __exit__(self, *error):
        return self.entered.pop().__exit__(*error)

    def __call__(self, function):
        """Decorate a function; a generator is inside the context only while its own code runs."""
        make = self.make
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is asynchronous: use `with` inside it")

        @functools.wraps(function)
        def plain_function(*args, **options):
            with make():
                return function(*args, **options)

        @functools.wraps(function)
        def generator(*args, **options):
            inner = function(*args, **options)
            resume = functools.partial(next, inner)
            while True:
                try:
                    with make():
                        value = resume()
                except StopIteration as stop:
                    return stop.value
                try:
                    resume = functools.partial(inner.send, (yield value))
                except GeneratorExit:
                    with make():
                        inner.close()
                    raise
                except BaseException as error:
                    resume = functools.partial(inner.throw, error)

        return generator if inspect.isgeneratorfunction(function) else plain_function
