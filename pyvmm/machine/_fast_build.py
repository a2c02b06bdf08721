"""Builds `pyvmm.machine._fast` (cffi, API mode, abi3) from `fast.c`, `fast_plans.c` and `fast_step.c`.

Run by setuptools' `cffi_modules`, or by hand in a checkout.
"""

import os
import shutil
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent

ffi = FFI()
ffi.cdef("""
typedef struct { uint64_t mask; uint32_t n, kind, k; } pv_plan;
typedef struct { uint64_t pc, before, rsp; } pv_entry;
typedef struct pv_engine {
    uint64_t instructions, rep_iterations, limit, bound;
    uint64_t block_pc, block_size, one_block_at;
    uint64_t tsc_offset, code_base;
    uint64_t rep_pc, rep_rcx, rep_mask, rep_run;
    int64_t iterations_left;
    int32_t rep_active, rep_rcx_known;
    int32_t code_bits, mode, why, vector, error_code, software, step_count;
    int32_t step_tf, step_counted, stop_requested, in_callback, restart, error, declined, failed, has_handler;
    int32_t flush, sysret_cs, sysret_ss;
    pv_entry *log;
    uint64_t log_used, log_size;
    size_t error_offset, old_offset;
    ...;
} pv_engine;

pv_engine *pv_new(void *uc, void **functions, uintptr_t ram, uint64_t ram_size, uintptr_t code, uintptr_t scratch,
                  int profile);
void pv_free(pv_engine *e);
void pv_forget_addresses(pv_engine *e);
int pv_go(pv_engine *e, int mode, uint64_t slice);
int64_t pv_step_many(pv_engine *e, int64_t n);
void pv_code_segment(pv_engine *e);
int pv_fetch(pv_engine *e, uint64_t va, int n, uint8_t *out);
void pv_end_rep(pv_engine *e);
uint64_t pv_read(pv_engine *e, int reg);
int pv_write(pv_engine *e, int reg, uint64_t value);
void pv_read_many(pv_engine *e, int *regs, uint64_t *values, int n);
void pv_write_many(pv_engine *e, int *regs, uint64_t *values, int n);

extern "Python" uint64_t pv_py_syscall(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
extern "Python" void pv_py_plan(uint64_t, uint32_t, uint32_t, pv_plan *);
extern "Python" uint32_t pv_py_tail(uint64_t, uint32_t, uint64_t);
extern "Python" void pv_py_calibrate(void);
extern "Python" void pv_py_log_full(void);
""")
ffi.set_source(
    "pyvmm.machine._fast",
    "".join((HERE / name).read_text() for name in ("fast.c", "fast_plans.c", "fast_step.c")),
    py_limited_api=True,
    extra_compile_args=["-O2", "-Wno-unused-function"],
)

if __name__ == "__main__":
    # Elsewhere, so that setuptools does not read this project's configuration.
    with tempfile.TemporaryDirectory() as build:
        product = Path(ffi.compile(tmpdir=build))
        new = HERE / f"{product.name}.new{os.getpid()}"
        shutil.copy(product, new)
        os.replace(new, HERE / product.name)  # processes that run the old one keep it
