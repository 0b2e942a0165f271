"""The kinds of stores that zero memory, compiled: addresses are multiples of 64."""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import njit, types
from numba.core.types import int64
from numba.extending import intrinsic

from ktask.engine import native
from ktask.host import kernel_files

# By the numbers that `zero_range` takes.
STORES = ("stores", "rep_stosb", "memset", "nontemporal", "clzero")
IS_X86 = platform.machine() == "x86_64"
_I64 = ir.IntType(64)
_LINE = ir.VectorType(_I64, 8)


def available() -> list[str]:
    """Return the kinds that this CPU has; clzero is AMD's."""
    cpuinfo = kernel_files.read_text(kernel_files.ROOT / "proc/cpuinfo") or ""
    has = {"rep_stosb": IS_X86, "clzero": IS_X86 and "clzero" in cpuinfo.split()}
    return [kind for kind in STORES if has.get(kind, True)]


def _store_line(builder, address):
    pointer = builder.inttoptr(address, _LINE.as_pointer())
    return builder.store(ir.Constant(_LINE, [0] * 8), pointer, align=64)


@intrinsic
def _zero_line(typingctx, address):
    """Zero a line by the widest ordinary stores.

    The empty assembly behind it keeps the compiler from turning a loop of these into a call of memset.
    """

    def codegen(context, builder, signature, args):
        _store_line(builder, args[0])
        builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)
        return context.get_dummy_value()

    return types.void(int64), codegen


@intrinsic
def _zero_line_streaming(typingctx, address):
    """Zero a line by one store that bypasses the caches.

    Pays beyond the last-level cache, because no line is read before it is overwritten, and loses inside it.
    """

    def codegen(context, builder, signature, args):
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        _store_line(builder, args[0]).set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(int64), codegen


@intrinsic
def _clzero(typingctx, address):
    """Zero a line by AMD's instruction for it, in bytes because not every assembler knows it."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_I64])
        builder.asm(kind, ".byte 0x0f, 0x01, 0xfc", "{ax},~{memory}", [args[0]], True)
        return context.get_dummy_value()

    return types.void(int64), codegen


@intrinsic
def _rep_stosb(typingctx, start, size):
    def codegen(context, builder, signature, args):
        pair = ir.LiteralStructType([_I64, _I64])
        kind = ir.FunctionType(pair, [ir.IntType(8), _I64, _I64])
        constraint = "={di},={cx},{al},0,1,~{memory},~{dirflag},~{fpsr},~{flags}"
        builder.asm(kind, "rep stosb", constraint, [ir.Constant(ir.IntType(8), 0), *args], True)
        return context.get_dummy_value()

    return types.void(int64, int64), codegen


@intrinsic
def _fence(typingctx):
    """Order stores that bypass the caches before whatever follows."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@njit(cache=True, nogil=True)
def zero_range(start, end, kind):
    """Zero `[start, end)` by the kind of store at index `kind` of `STORES`; memset if the CPU has it not."""
    if kind == 0:
        for address in range(start, end, 64):
            _zero_line(address)
    elif kind == 3:
        for address in range(start, end, 64):
            _zero_line_streaming(address)
        _fence()
    elif IS_X86 and kind == 1:
        _rep_stosb(start, end - start)
    elif IS_X86 and kind == 4:
        for address in range(start, end, 64):
            _clzero(address)
        _fence()
    else:
        native.memset(start, 0, end - start)
