"""no_grad, plain and detect_anomaly: by `with`, and as decorators of functions and generators."""

import threading

import numpy as np
import pytest

import minigrad as mg
from minigrad.internals.hooks import this_thread

IS_INSIDE = {  # context -> whether this thread is inside of it
    mg.no_grad: lambda: not this_thread.recording,
    mg.plain: lambda: this_thread.plain,
    mg.detect_anomaly: lambda: this_thread.hook is not None,
}


@pytest.fixture(params=IS_INSIDE, ids=lambda context: context.__name__)
def context(request, monkeypatch):
    """Each of the three; afterwards this thread must be outside of it."""
    for state in (type(this_thread), this_thread):  # other threads and this one: the tests hold
        monkeypatch.setattr(state, "plain", False)  # with MINIGRAD_PLAIN=1 too
    yield request.param
    assert not IS_INSIDE[request.param]()


@pytest.fixture
def inside(context):
    """inside(): whether this thread is inside of the context."""
    return IS_INSIDE[context]


# ---- with ----------------------------------------------------------------------------------------


def test_with(context, inside):
    """Inside of the block and not after it, nested too."""
    assert not inside()
    with context():
        assert inside()
        with context():
            assert inside()
        assert inside()
    assert not inside()


def test_an_error_passes_and_ends_it(context, inside):
    """An exception in the block is not swallowed."""
    with pytest.raises(KeyError), context():
        assert inside()
        raise KeyError
    assert not inside()


def test_one_object_many_times(context, inside):
    """One after the other, and inside of itself."""
    reusable = context()
    for _ in range(2):
        with reusable:
            with reusable:
                assert inside()
            assert inside()
        assert not inside()


def test_one_object_in_two_threads(context, inside):
    """The thread that enters first leaves first: each is inside as long as its own block lasts."""
    reusable, seen = context(), []
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def second():
        first_is_in.wait(10)
        seen.append(inside())
        with reusable:
            second_is_in.set()
            first_is_out.wait(10)
            seen.append(inside())
        seen.append(inside())

    thread = threading.Thread(target=second)
    thread.start()
    with reusable:
        first_is_in.set()
        assert second_is_in.wait(10)
    assert not inside()
    first_is_out.set()
    thread.join()
    assert seen == [False, True, False]


# ---- functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parentheses", [True, False])
def test_a_function(context, inside, parentheses):
    """Inside during the call alone; arguments, result, name and docstring are the function's."""

    def function(x, *, y=1):
        """Return x, y and where it runs."""
        return x, y, inside()

    decorated = (context() if parentheses else context)(function)
    assert decorated(2, y=3) == (2, 3, True)
    assert decorated.__name__ == "function" and decorated.__doc__ == function.__doc__
    assert not inside()


def test_a_function_that_raises(context, inside):
    """The error passes; so does a StopIteration, which contextlib could confuse with its own."""
    for error in (KeyError("a"), StopIteration(1)):

        @context()
        def function(error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            function()
        assert caught.value is error and not inside()


def test_recursion(context, inside):
    """The inner calls' ends do not end the outer one's."""

    @context()
    def down(n):
        below = down(n - 1) if n else []
        return [*below, inside()]

    assert down(3) == [True] * 4


def test_a_method(context, inside):
    """`self` arrives."""

    class Model:
        size = 3

        @context()
        def method(self, n):
            return self.size + n, inside()

    assert Model().method(1) == (4, True)


def test_a_decorated_function_in_two_threads(context, inside):
    """The second call begins and ends while the first one is running."""

    @context()
    def function(inner=None):
        if inner:
            inner.start()
            inner.join()
        seen.append(inside())

    seen: list[bool] = []
    function(threading.Thread(target=function))
    assert seen == [True, True]


def test_an_async_function_is_refused(context):
    """Its body runs in pieces, between which other code runs: in words, when it is decorated."""

    async def coroutine():
        pass

    async def generator():
        yield

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match=f"{function.__name__} is asynchronous: use `with`"):
            context()(function)
        with pytest.raises(TypeError, match="asynchronous"):
            context(function)


# ---- generators ----------------------------------------------------------------------------------


def test_a_generator(context, inside):
    """Inside whenever its body runs, and never while its consumer runs."""

    @context
    def count(n):
        """Count."""
        for i in range(n):
            assert inside()
            yield i
            assert inside()
        return "the end"

    seen = []
    numbers = count(3)
    while True:
        assert not inside()
        try:
            seen.append(next(numbers))
        except StopIteration as stop:
            assert stop.value == "the end"
            break
    assert seen == [0, 1, 2] and not inside()
    assert (count.__name__, count.__doc__) == ("count", "Count.")


def test_a_consumer_inside(context, inside):
    """A generator that runs out does not take its consumer out of the consumer's own block."""

    @context()
    def two():
        yield 1
        yield 2

    with context():
        for _ in two():
            assert inside()
        assert inside()


def test_two_generators_in_turns(context, inside):
    """They end in another order than a stack would have it."""

    @context()
    def generator(n):
        for _ in range(n):
            yield inside()

    first, second = generator(2), generator(3)
    seen = [next(first), next(second), next(first), next(second)]
    assert next(first, "over") == "over" and not inside()
    assert [*seen, next(second)] == [True] * 5
    assert next(second, "over") == "over"


def test_send(context, inside):
    """What is sent arrives, and None for next()."""

    @context()
    def total():
        sum = 0
        while True:
            sent = yield sum
            assert inside()
            if sent is None:
                return sum
            sum += sent

    totals = total()
    assert [next(totals), totals.send(2), totals.send(3)] == [0, 2, 5]
    with pytest.raises(StopIteration) as stop:
        next(totals)
    assert stop.value.value == 5


def test_throw(context, inside):
    """An exception arrives where the body waits: caught there, or passed on as the same object."""

    @context()
    def patient():
        while True:
            try:
                yield "waiting"
            except KeyError as error:
                assert inside()
                yield error

    generator, error = patient(), KeyError("a")
    next(generator)
    assert generator.throw(error) is error and not inside()
    assert next(generator) == "waiting"
    other = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        generator.throw(other)
    assert caught.value is other and not inside()
    assert next(generator, "over") == "over"


def test_close(context, inside):
    """The body's clean-up runs inside; so it does if the generator is dropped unfinished."""
    cleaned_up = []

    @context()
    def generator():
        try:
            yield 1
        finally:
            cleaned_up.append(inside())

    closed = generator()
    next(closed)
    closed.close()
    assert cleaned_up == [True] and not inside()
    assert next(closed, "over") == "over"

    dropped = generator()
    next(dropped)
    del dropped
    assert cleaned_up == [True, True] and not inside()

    generator().close()  # not begun, so there is nothing to clean up
    assert cleaned_up == [True, True]


def test_a_generator_that_refuses_to_close(context):
    """It is told so, as one without a decorator is."""

    @context()
    def stubborn():
        try:
            yield 1
        except GeneratorExit:
            yield 2

    generator = stubborn()
    next(generator)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()


def test_a_generator_that_raises(context, inside):
    """Its error reaches the consumer, and ends it."""

    @context()
    def broken():
        yield 1
        raise ZeroDivisionError

    generator = broken()
    next(generator)
    with pytest.raises(ZeroDivisionError):
        next(generator)
    assert not inside() and next(generator, "over") == "over"


def test_an_unfinished_generator_leaves_nothing_behind(context, inside):
    """Suspended, it is outside: a loop that is broken off goes on as before."""

    @context()
    def forever():
        while True:
            yield inside()

    generator = forever()
    for value in generator:
        assert value
        break
    assert not inside()
    with context():
        next(generator)
        assert inside()
    assert not inside()
    generator.close()


def test_a_generator_that_changes_threads(context, inside):
    """It is inside in whichever thread resumes it."""

    @context()
    def generator():
        while True:
            yield inside()

    shared, seen = generator(), []
    seen.append(next(shared))
    thread = threading.Thread(target=lambda: seen.extend([next(shared), inside()]))
    thread.start()
    thread.join()
    assert seen == [True, True, False] and next(shared)


# ---- what it is for ------------------------------------------------------------------------------


def test_a_generator_under_no_grad_records_nothing():
    """Its own ops are not recorded; those of the training loop between its values are."""
    w = mg.Tensor(np.ones(2), requires_grad=True)

    @mg.no_grad()
    def evaluations():
        while True:
            yield (w * 2.0).sum()

    evaluation = evaluations()
    for n in range(1, 4):
        assert not next(evaluation).requires_grad
        (w * 3.0).sum().backward()
        np.testing.assert_array_equal(w.grad, [3.0 * n] * 2)


def test_a_generator_under_detect_anomaly():
    """Its own ops are checked; its consumer's are not."""
    zero = mg.Tensor([0.0])

    @mg.detect_anomaly
    def logarithms():
        yield 1
        yield mg.ops.log(zero)

    generator = logarithms()
    next(generator)
    with np.errstate(divide="ignore"):
        assert np.isinf(mg.ops.log(zero).data)
    with pytest.raises(FloatingPointError, match="log, forward: Inf in out"):
        next(generator)
