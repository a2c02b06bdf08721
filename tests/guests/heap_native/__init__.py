"""The heap of guests/kernel as a library of this process, over an area that the test gives it."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import tempfile
from pathlib import Path

from pyvmm.images import build
from tests.guests.xenstored_native import FLAGS

PAGE = 4096


class Heap:
    """`pages` pages of memory; what is taken is a number, its address."""

    def __init__(self, pages: int) -> None:
        self.size = pages * PAGE
        self._area = mmap.mmap(-1, self.size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._area))
        _, header = build.generate(build.parse_hypercalls((build.GUESTS / "kernel/hypercalls.list").read_text()))
        kernel = build.GUESTS / "kernel"
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "hypercalls.h").write_text(header)
            library = Path(temporary) / "heap.so"
            sources = [Path(__file__).with_name("harness.c"), kernel / "heap.c", kernel / "string.c"]
            command = [*build.compiler(), *FLAGS, f"-I{kernel}", f"-I{temporary}", "-o", library, *sources]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            self._c = ctypes.CDLL(str(library))
        self._c.memory_take.restype = self._c.heap_free.restype = ctypes.c_uint64
        for function in (self._c.memory_take, self._c.memory_release):
            function.argtypes = [ctypes.c_uint64]
        self._c.harness_start.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
        self._c.harness_start(address, pages)

    def take(self, size: int) -> int:
        """The address of so many bytes; 0: there is no memory."""
        return int(self._c.memory_take(size))

    def release(self, address: int) -> None:
        """Give it back."""
        self._c.memory_release(address)

    @property
    def free(self) -> int:
        """Bytes, in whatever pieces."""
        return int(self._c.heap_free())
