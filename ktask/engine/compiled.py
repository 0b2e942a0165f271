"""`compiled`: numba code that is kept on disk as long as no source file behind it has changed.

numba itself looks at the function's own file. But offsets of `layout.py` and functions of other files are
frozen into compiled code too: code from before a change there would write to wrong addresses.
"""

import hashlib
from functools import lru_cache, partial
from pathlib import Path

from numba import njit

HERE = Path(__file__).parent


@lru_cache
def sources_digest(folder: Path) -> str:
    """Return a digest of the source files of the engine and of `folder`."""
    files = sorted({*HERE.glob("*.py"), *folder.glob("*.py")})
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def compiled(function=None, **options):
    """Compile as `njit(nogil=True, cache=True)`, anew after any change of the engine or the own folder."""
    if function is None:
        return partial(compiled, **options)
    dispatcher = njit(nogil=True, cache=True, **options)(function)
    # What numba compares on loading, and keeps with the code (tests/engine/test_compiled.py).
    dispatcher._cache._cache_file._source_stamp = sources_digest(Path(function.__code__.co_filename).parent)
    return dispatcher
