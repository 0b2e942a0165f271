"""Thread functions: compiled once per kind of arguments, called by address.

One compiled engine serves every task because all thread functions look alike to it: three integers in (start,
end, address of the packed arguments), an error code out. This file makes that common entry from a function
that a person wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cfunc, int64, njit, typeof, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.types import Integer
from numba.extending import intrinsic

from ktask.engine.task import Ctl


@lru_cache(maxsize=256)
def _loader(kind: types.Type):
    """Return an intrinsic that reads a value of type `kind` from an address."""

    @intrinsic
    def load_args(typingctx, address):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], context.get_value_type(kind).as_pointer())
            return builder.load(pointer, align=8)

        return kind(int64), codegen

    return load_args


def _borrowed(context, builder, kind: types.Type, value):
    """Return `value` with its arrays owned by nobody.

    What owns an array inside compiled code ends with the call that packs it; a packed pointer to it would
    dangle. The caller's Python objects keep the memory alive instead.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for k, item in enumerate(kind.types):
            part = _borrowed(context, builder, item, builder.extract_value(value, k))
            value = builder.insert_value(value, part, k)
        return value
    return value  # a number: `_require_plain` has let nothing else in


def _require_plain(args: tuple, name: str) -> None:
    """Raise TypeError unless `args` holds only what can be handed to other threads as it is."""
    for value in args:
        if isinstance(value, tuple):
            _require_plain(value, name)
        elif not isinstance(value, int | float | complex | np.number | np.bool_ | np.ndarray):
            raise TypeError(
                f"thread function {name} got {value!r} of type {type(value).__name__} in Ctl.args; "
                "use NumPy arrays, numbers, and tuples of them"
            )


@lru_cache(maxsize=256)
def _packer(kind: types.Type) -> Callable[[tuple, np.ndarray], None]:
    """Return a compiled function that writes a value of type `kind` into a buffer."""

    @intrinsic
    def store_args(typingctx, value, address):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[1], args[0].type.as_pointer())
            builder.store(_borrowed(context, builder, value, args[0]), pointer, align=8)
            return context.get_dummy_value()

        return types.void(value, int64), codegen

    @njit
    def pack(value, buffer):
        store_args(value, buffer.ctypes.data)

    return pack


def _pack(args: tuple, kind: types.Type) -> np.ndarray:
    """Return `args` as the memory image that `_loader(kind)` reads."""
    if all(type(a) is int for a in args):  # the common case of the workloads: no compiling
        return np.array(args or (0,), dtype=np.int64)
    context = cpu_target.target_context
    n_bytes = context.get_abi_sizeof(context.get_value_type(kind))
    buffer = np.zeros(max(n_bytes + 7, 8) // 8, dtype=np.int64)
    _packer(kind)(args, buffer)
    return buffer


class ThreadFunc:
    """A compiled `(start, end, *args) -> int` that helper threads can call.

    Also an ordinary function: calling it runs the compiled code in the caller's thread.
    """

    def __init__(self, function: Callable, cache: bool = False):
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.signature = inspect.signature(function)
        self.dispatcher = njit(nogil=True, cache=cache)(function)
        self._entries: dict[types.Type, Any] = {}

    def __call__(self, *args):
        """Run the function here and now."""
        return self.dispatcher(*args)

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<thread_func {self.__name__}{self.signature}>"

    def bind(self, args: tuple) -> tuple[int, int, np.ndarray]:
        """Return the addresses of the entry and of the packed arguments, and these; compile if need be.

        Raises
        ------
        TypeError
            If the function cannot be called as `(start, end, *args)` or does not return an integer.
        """
        try:
            self.signature.bind(0, 0, *args)
        except TypeError as error:
            raise TypeError(
                f"thread function {self.__name__}{self.signature} cannot be called with (start, end) and "
                f"{len(args)} args: {error}; Ctl.args must match what follows start and end"
            ) from None
        _require_plain(args, self.__name__)
        kind = typeof(args)
        if kind not in self._entries:
            self._entries[kind] = self._compile(kind)
        packed = _pack(args, kind)
        return self._entries[kind].address, packed.ctypes.data, packed

    def _compile(self, kind: types.Type):
        signature = (int64, int64, *self._as_parameters(kind.types))
        self.dispatcher.compile(signature)
        returned = self.dispatcher.overloads[signature].signature.return_type
        if not isinstance(returned, Integer | types.Boolean):
            raise TypeError(
                f"thread function {self.__name__}{self.signature} returns {returned}; "
                "return 0 for success or an integer error code"
            )
        call, load_args = self.dispatcher, _loader(kind)

        @cfunc(int64(int64, int64, int64))
        def entry(start, end, address):
            return call(start, end, *load_args(address))

        return entry

    def _as_parameters(self, kinds: tuple[types.Type, ...]) -> tuple[types.Type, ...]:
        """Return the types as numba counts them: whatever `*args` takes is one tuple."""
        parameters = list(self.signature.parameters.values())
        if parameters[-1].kind is not inspect.Parameter.VAR_POSITIONAL:
            return kinds
        fixed = max(len(parameters) - 3, 0)
        return (*kinds[:fixed], types.StarArgTuple.from_types(kinds[fixed:]))


def thread_func(function: Callable | None = None, *, cache: bool = False):
    """Mark `(start, end, *args) -> int` as a thread function.

    Parameters
    ----------
    function
        Nopython numba code. It returns 0, or an error code that ends the task.
    cache
        Keep the compiled function on disk (numba's cache; the file must be importable).

    Examples
    --------
    >>> @ktask.thread_func
    ... def zero(start, end, buf):
    ...     buf[start:end] = 0
    ...     return 0
    """
    if function is None:
        return lambda f: ThreadFunc(f, cache=cache)
    return ThreadFunc(function, cache=cache)


def require_thread_func(function: Any, what: str = "thread_func") -> ThreadFunc:
    """Return `function` if it was marked, else raise a TypeError that says how to."""
    if isinstance(function, ThreadFunc):
        return function
    raise TypeError(f"{what}={function!r} is not a thread function; put @ktask.thread_func above its def")


Bound = tuple[int, int, np.ndarray]  # addresses of a thread function and its packed arguments; these


def bound(ctl: Ctl) -> tuple[Bound, Bound | None]:
    """Return thread and undo function of `ctl`, compiled and with their arguments; made once per `ctl`."""
    if "_bound" not in ctl.__dict__:
        entry = require_thread_func(ctl.thread_func).bind(ctl.args)
        undo = require_thread_func(ctl.undo_func, "undo_func").bind(ctl.args) if ctl.undo_func else None
        ctl.__dict__["_bound"] = entry, undo
    return ctl.__dict__["_bound"]
