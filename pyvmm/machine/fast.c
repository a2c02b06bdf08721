/* The fast engine: the hooks that Unicorn calls for every block, exception and syscall.
 *
 * The same algorithm as PureEngine in pure.py; engine.py explains how counting works. What is here besides is how the
 * number of instructions of a block is found quickly and can never be stale:
 *
 *   A plan (number of instructions, kind) is a function of a block's bytes. It is kept by physical address and size in `plans`,
 *   and by linear address and size, for the current address space only, in `near`. Whenever Unicorn translates a block it
 *   says so (edge hook), and both entries for that block are cleared (the one in `plans`
 *   keeps Unicorn's count until it is first used). Code that changes loses its translation (guest stores: by
 *   Unicorn; host writes: by Ram), so it cannot run again without being translated again. `near` is also emptied by
 *   every change of CR3 and every TLB flush, since then a linear address may mean other bytes; the places in use are listed, so
 *   that this costs no more than filling them did. `more` keeps where the block was: if its address still leads there, the
 *   entry is good again.
 *
 * The library is reached through pointers given at start-up: there is nothing to link with and no header needed.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of the unicorn 2.1.4 headers. */
enum { REG_CS = 11, REG_SS = 49, REG_RAX = 35, REG_RCX = 38, REG_RDI = 39, REG_RDX = 40, REG_RIP = 41, REG_RSI = 43, REG_RSP = 44, REG_CR2 = 52, REG_CR3 = 53,
       REG_R8 = 106, REG_R10 = 108, REG_R11 = 109, REG_RFLAGS = 253 };
enum { HOOK_INTR = 1, HOOK_INSN = 2, HOOK_BLOCK = 8, HOOK_INSN_INVALID = 16384, HOOK_EDGE = 32768 };
enum { INS_SYSCALL = 699, INS_RDTSC = 608 };
enum { CTL_TLB_FLUSH = 11 | 1 << 30 }; /* uc_ctl: number, no arguments, writing */

#if defined(__GNUC__)
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define COLD __attribute__((noinline, cold))
#define HOT __attribute__((hot, aligned(64)))
#else
#define LIKELY(x) (x)
#define COLD
#define HOT
#endif

#define TF 0x100u
#define PAGE 4096u
#define CONTEXT_HEADER 40
#define ENV_HFLAGS 176 /* cpu.py */
#define ENV_CS_BASE (184 + 24 + 8)
#define HF_CS32 0x10u
#define HF_CS64 0x8000u

/* engine.py: Mode, Why; opcodes.py: Kind */
enum { BLOCKS, STEP, FIRMWARE, ONE_BLOCK, STEPPING };
enum { NOTHING, FIT, STEPS, EXCEPTION, INVALID, SYSCALL, STOP, SLICE, REP_LIMIT, ERROR, PAUSED };
enum { PLAIN, REP, STEPPED, SINGLE };

typedef struct {
    int (*reg_read)(void *, int, void *);
    int (*reg_write)(void *, int, const void *);
    int (*emu_start)(void *, uint64_t, uint64_t, uint64_t, size_t);
    int (*emu_stop)(void *);
    int (*hook_add)(void *, size_t *, int, void *, void *, uint64_t, uint64_t, ...);
    int (*context_save)(void *, void *);
    int (*context_restore)(void *, void *);
    int (*ctl)(void *, unsigned, ...);
} pv_library;

typedef struct { uint64_t mask; uint32_t n, kind, k; } pv_plan; /* mask: of the register that a REP counts in */

/* One block entered while the profile is on: where, and what the counter and the stack pointer were before it. */
typedef struct { uint64_t pc, before, rsp; } pv_entry;

/* What the hot path needs, and no more. `tag` is the linear address (48 bits say it all) and the size; `cost` the count (see SPECIAL). */
typedef struct { uint64_t tag, cost; } near_entry;
/* `was`, `pa`: the block that the entry was filled for and where it lies; they outlive a flush. */
typedef struct { uint64_t was, pa; uint32_t kind_mask, k; } near_more;
typedef struct { uint64_t va, pa, epoch; } page_entry;
/* `bits`: of the code segment it was translated for, ~0 when for several. */
typedef struct { uint64_t pa, pa2; uint32_t size; int32_t bits; pv_plan plan; } plan_entry;

/* A block that needs more than counting costs this much, so that one comparison finds both it and the end of the budget. */
#define SPECIAL (1ull << 62)
#define NOWHERE 0xFFFFull /* the tag of no block */
#define NEAR_SIZE 16384u
#define PLANS_SIZE 65536u
#define PAGES_SIZE 64u
#define KNOWN_SIZE 2048u
#define WAYS 4u
#define TIMES_SIZE 64u
#define LONGEST 256u /* of the blocks whose plan is remembered by their bytes */

typedef struct { uint32_t size; int32_t bits; pv_plan plan; uint8_t code[LONGEST]; } known_entry;
/* How many instructions there are from an `rdtsc` to the end of its block: by these bytes. */
typedef struct { uint64_t pc; uint32_t size, n; uint8_t code[LONGEST]; } time_entry;

typedef struct pv_engine {
    /* the hot path's */
    uint64_t instructions, bound;
    uint64_t last; /* the tag of the block entered last, if not yet copied to block_pc and block_size */
    /* shared with Python */
    uint64_t rep_iterations, limit;
    uint64_t block_pc, block_size, one_block_at;
    uint64_t tsc_offset, code_base;
    uint64_t rep_pc, rep_rcx, rep_mask, rep_run;
    int64_t iterations_left;
    int32_t rep_active, rep_rcx_known;
    int32_t code_bits, mode, why, vector, error_code, software, step_count;
    int32_t step_tf, step_counted, stop_requested, in_callback, restart, error, declined, failed, has_handler;
    int32_t flush, sysret_cs, sysret_ss;
    pv_entry *log; /* NULL: no profile */
    uint64_t log_used, log_size;
    /* private */
    uint64_t call_pc, call_size, call_rsp; /* the block entered last that was nothing but a `call` */
    uint64_t slice_end; /* the bound while none is forced */
    void *uc;
    pv_library lib;
    uint8_t *ram, *code;
    uint64_t ram_size;
    uint8_t *scratch;
    size_t error_offset, old_offset;
    /* fast_step.c */
    uint64_t step_pc, step_rcx, step_mask;
    int64_t step_left;
    int32_t step_repeated;
    uint32_t near_used; /* how many of `near_list`; NEAR_SIZE: more than it holds */
    near_entry near[NEAR_SIZE];
    near_more more[NEAR_SIZE];
    uint16_t near_list[NEAR_SIZE];
    plan_entry plans[PLANS_SIZE];
    uint64_t epoch; /* how often addresses were forgotten; from 1 on */
    uint64_t cr3, cr3_epoch;
    page_entry pages[PAGES_SIZE];
    known_entry known[KNOWN_SIZE];
    time_entry times[TIMES_SIZE];
} pv_engine;

static uint64_t pv_py_syscall(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
static void pv_py_plan(uint64_t, uint32_t, uint32_t, pv_plan *);
static uint32_t pv_py_tail(uint64_t, uint32_t, uint64_t);
static void pv_py_calibrate(void);
static void pv_py_log_full(void);

static uint64_t pv_read(pv_engine *e, int reg)
{
    uint64_t value = 0;
    e->lib.reg_read(e->uc, reg, &value);
    return value;
}

static int pv_write(pv_engine *e, int reg, uint64_t value)
{
    if (reg == REG_CR3)
        e->cr3_epoch = 0;
    return e->lib.reg_write(e->uc, reg, &value);
}

static void pv_read_many(pv_engine *e, int *regs, uint64_t *values, int n)
{
    for (int i = 0; i < n; i++)
        values[i] = pv_read(e, regs[i]);
}

static void pv_write_many(pv_engine *e, int *regs, uint64_t *values, int n)
{
    for (int i = 0; i < n; i++)
        pv_write(e, regs[i], values[i]);
}

/* fast_plans.c */
static uint64_t walk_as(pv_engine *e, uint64_t va, uint64_t forbidden);
static int pv_fetch(pv_engine *e, uint64_t va, int n, uint8_t *out);
static near_entry *near_place(pv_engine *e, uint64_t pc);
static uint64_t near_tag(uint64_t pc, uint32_t size);
static near_entry *find_plan(pv_engine *e, uint64_t pc, uint32_t size);
struct uc_tb;
static void on_edge(void *uc, struct uc_tb *current, struct uc_tb *previous, void *data);
static void pv_forget_addresses(pv_engine *e);

/* The TLB is flushed once, when the guest is about to run, however many page-table entries were changed before. */
static void flush(pv_engine *e)
{
    e->flush = 0;
    e->lib.ctl(e->uc, CTL_TLB_FLUSH);
    pv_forget_addresses(e);
}

/* The width and base of the code segment, from the CPU structure. */
static void pv_code_segment(pv_engine *e)
{
    uint32_t hflags;
    e->lib.context_save(e->uc, e->scratch);
    memcpy(&hflags, e->scratch + CONTEXT_HEADER + ENV_HFLAGS, 4);
    memcpy(&e->code_base, e->scratch + CONTEXT_HEADER + ENV_CS_BASE, 8);
    e->code_bits = hflags & HF_CS64 ? 64 : hflags & HF_CS32 ? 32 : 16;
}

static void stop(pv_engine *e, int why)
{
    if (e->why == NOTHING)
        e->why = why;
    e->lib.emu_stop(e->uc);
}

static void pv_settle(pv_engine *e)
{
    if (e->last) {
        e->block_pc = (uint64_t)((int64_t)e->last >> 16);
        e->block_size = e->last & 0xFFFF;
        e->last = 0;
    }
}

static void pv_end_rep(pv_engine *e)
{
    if (!e->rep_active)
        return;
    if (e->rep_rcx_known && (pv_read(e, REG_RCX) & e->rep_mask) != e->rep_rcx)
        e->rep_iterations++;
    e->rep_active = 0;
}

static void again(pv_engine *e, uint64_t pc, uint32_t size)
{
    uint64_t rcx = pv_read(e, REG_RCX) & e->rep_mask;
    if (!e->rep_rcx_known || rcx != e->rep_rcx) {
        e->rep_iterations++;
        e->rep_run++;
        e->iterations_left--;
    }
    e->rep_rcx = rcx;
    e->rep_rcx_known = 1;
    e->block_pc = pc;
    e->block_size = size;
    if (e->rep_run >= 1u << 24 && rcx)
        stop(e, REP_LIMIT);
    else if (e->iterations_left <= 0)
        stop(e, SLICE);
}

static const uint64_t MASKS[3] = {0xFFFF, 0xFFFFFFFF, ~0ull};

/* Engine.redone */
static int redone(pv_engine *e, uint32_t k, uint64_t pc)
{
    uint32_t top;
    if (k != 1 && k != 2)
        return 1;
    uint64_t rsp = pv_read(e, REG_RSP);
    if (pc == e->block_pc)
        return pc == e->call_pc && e->block_size == e->call_size && rsp == e->call_rsp;
    uint64_t pa = walk_as(e, rsp, 0);
    if (k == 1 || pa + 4 > e->ram_size || pa + 4 < 4)
        return 1;
    memcpy(&top, e->ram + pa, 4);
    return top != (uint32_t)(e->block_pc + e->block_size);
}

/* Everything that is not just counting. `bound` is 0 while a repeated instruction is in progress, so that all blocks come here. */
static void enter(pv_engine *e, uint64_t pc, uint32_t size, uint64_t bound)
{
    pv_settle(e);
    if (e->mode != BLOCKS) {
        if (e->mode == ONE_BLOCK && pc != e->one_block_at)
            stop(e, STOP);
        return;
    }
    if (e->why != NOTHING) {
        e->lib.emu_stop(e->uc);
        return;
    }
    if (e->rep_active) {
        if (pc == e->rep_pc) {
            again(e, pc, size);
            return;
        }
        pv_end_rep(e);
    }
    near_entry *n = find_plan(e, pc, size);
    if (e->failed) {
        e->block_size = 0;
        stop(e, ERROR);
        return;
    }
    const near_more *more = &e->more[n - e->near];
    pv_plan plan = {MASKS[more->kind_mask & 3], (uint32_t)n->cost, more->kind_mask >> 2, more->k};
    if (plan.kind == SINGLE && pc - e->block_pc < e->block_size && redone(e, plan.k, pc))
        /* A store into the block before: it was left at this instruction, which is now executed alone. */
        e->instructions -= pv_py_tail(e->block_pc, (uint32_t)e->block_size, pc - e->block_pc);
    if (plan.kind == SINGLE && plan.k == 3 && pv_read(e, REG_RFLAGS) & TF) { /* Unicorn forgets the trap after `pause` */
        plan.kind = STEPPED;
        plan.k = 1;
    }
    uint64_t after = e->instructions + plan.n;
    if (after > e->limit || plan.kind == STEPPED || after > bound) {
        e->block_size = 0;
        e->step_count = (int32_t)plan.k;
        stop(e, after > e->limit ? FIT : plan.kind == STEPPED ? STEPS : SLICE);
        return;
    }
    e->instructions = after;
    e->block_pc = pc;
    e->block_size = size;
    if (plan.kind == SINGLE && plan.k) {
        e->call_pc = pc;
        e->call_size = size;
        e->call_rsp = pv_read(e, REG_RSP);
    }
    if (plan.kind == REP) {
        e->rep_active = 1;
        e->rep_pc = pc + plan.k;
        e->rep_run = 0;
        e->rep_mask = plan.mask;
        e->rep_rcx_known = plan.n == 1;
        e->rep_rcx = plan.n == 1 ? pv_read(e, REG_RCX) & e->rep_mask : 0;
    }
}

static COLD void special_block(pv_engine *e, uint64_t pc, uint32_t size)
{
    enter(e, pc, size, e->slice_end);
    e->bound = e->rep_active || e->mode != BLOCKS || e->why != NOTHING ? 0 : e->slice_end;
}

/* The hot path: no stack frame, one comparison for the block and one for the budget. */
static HOT void on_block(void *uc, uint64_t pc, uint32_t size, void *data)
{
    pv_engine *e = data;
    const near_entry *n = near_place(e, pc);
    uint64_t tag = near_tag(pc, size), after = e->instructions + n->cost;
    (void)uc;
    if (LIKELY(n->tag == tag) && LIKELY(after <= e->bound)) {
        e->instructions = after;
        e->last = tag;
        return;
    }
    special_block(e, pc, size);
}

static COLD void log_block(pv_engine *e, uint64_t pc)
{
    if (e->mode == FIRMWARE)
        return;
    if (e->log_used == e->log_size)
        pv_py_log_full();
    e->log[e->log_used++] = (pv_entry){pc, e->instructions, pv_read(e, REG_RSP)};
}

/* On machines made for a profile. The counter still is what it was before this block. */
static HOT void on_profiled_block(void *uc, uint64_t pc, uint32_t size, void *data)
{
    pv_engine *e = data;
    if (!LIKELY(!e->log))
        log_block(e, pc);
    on_block(uc, pc, size, data);
}

static void stepped(pv_engine *e);

static void on_intr(void *uc, uint32_t vector, void *data)
{
    pv_engine *e = data;
    if (vector == 1 && e->mode == STEPPING && e->why == NOTHING) {
        stepped(e);
        return;
    }
    e->lib.context_save(uc, e->scratch);
    if (!e->error_offset)
        pv_py_calibrate();
    if (e->failed) {
        stop(e, ERROR);
        return;
    }
    uint8_t *env = e->scratch + CONTEXT_HEADER;
    int32_t none = -1;
    if (e->why == NOTHING) {
        e->vector = (int32_t)vector;
        memcpy(&e->error_code, env + e->error_offset, 4);
        memcpy(&e->software, env + e->error_offset + 4, 4);
    }
    memcpy(env + e->old_offset, &none, 4);
    e->lib.context_restore(uc, e->scratch);
    stop(e, EXCEPTION);
}

static _Bool on_invalid(void *uc, void *data)
{
    pv_engine *e = data;
    (void)uc;
    if (e->why == NOTHING)
        e->why = INVALID;
    return 0;
}

static void on_syscall(void *uc, void *data)
{
    pv_engine *e = data;
    (void)uc;
    if (e->why != NOTHING)
        return;
    int trap_flag_is_ours = e->step_tf;
    if (e->mode == STEP || e->mode == STEPPING) {
        e->step_counted = 1;
        e->instructions++;
    }
    if (!e->has_handler) {
        stop(e, SYSCALL);
        return;
    }
    if (trap_flag_is_ours) /* the callback must not see it */
        pv_write(e, REG_RFLAGS, pv_read(e, REG_RFLAGS) & ~(uint64_t)TF);
    e->declined = 0;
    e->in_callback = 1;
    uint64_t rax = pv_py_syscall(pv_read(e, REG_RAX), pv_read(e, REG_RDI), pv_read(e, REG_RSI), pv_read(e, REG_RDX),
                                 pv_read(e, REG_R10), pv_read(e, REG_R8));
    e->in_callback = 0;
    if (e->flush)
        flush(e);
    if (e->failed) {
        stop(e, ERROR);
        return;
    }
    if (e->declined) {
        stop(e, SYSCALL);
        return;
    }
    if (e->sysret_cs && (pv_read(e, REG_CS) != (uint64_t)e->sysret_cs || pv_read(e, REG_SS) != (uint64_t)e->sysret_ss)) {
        pv_write(e, REG_CS, (uint64_t)e->sysret_cs);
        pv_write(e, REG_SS, (uint64_t)e->sysret_ss);
    }
    uint64_t flags = pv_read(e, REG_RFLAGS);
    pv_write(e, REG_RAX, rax);
    pv_write(e, REG_RCX, pv_read(e, REG_RIP) + 2);
    pv_write(e, REG_R11, flags);
    if (trap_flag_is_ours)
        pv_write(e, REG_RFLAGS, flags | TF);
    if (e->stop_requested)
        stop(e, STOP);
    else if (e->restart) /* the firmware ran in the callback: what Unicorn keeps of this run is not to be relied upon */
        stop(e, SLICE);
}

/* How many of the block's instructions begin at `pc` or later. */
static uint32_t left_from(pv_engine *e, uint64_t pc)
{
    uint8_t code[LONGEST];
    uint64_t offset = pc - e->block_pc, size = e->block_size - offset;
    time_entry *t = &e->times[(pc >> 1) % TIMES_SIZE];
    if (size > sizeof code || pv_fetch(e, pc, (int)size, code) != (int)size)
        return pv_py_tail(e->block_pc, (uint32_t)e->block_size, offset);
    if (t->pc != pc || t->size != size || memcmp(t->code, code, size)) {
        *t = (time_entry){pc, (uint32_t)size, pv_py_tail(e->block_pc, (uint32_t)e->block_size, offset), {0}};
        memcpy(t->code, code, size);
    }
    return t->n;
}

/* `rdtsc` in the middle of a block, which is counted as a whole already. (Stepping does it by itself.) */
static int on_rdtsc(void *uc, void *data)
{
    pv_engine *e = data;
    (void)uc;
    pv_settle(e);
    uint64_t now = e->instructions - left_from(e, pv_read(e, REG_RIP)) + e->tsc_offset;
    if (e->failed)
        stop(e, ERROR);
    pv_write(e, REG_RAX, (uint32_t)now);
    pv_write(e, REG_RDX, now >> 32);
    return 1; /* it is done */
}

static pv_engine *pv_new(void *uc, void **functions, uintptr_t ram, uint64_t ram_size, uintptr_t code, uintptr_t scratch,
                         int profile)
{
    pv_engine *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->uc = uc;
    e->epoch = 1;
    memcpy(&e->lib, functions, sizeof e->lib);
    e->ram = (uint8_t *)ram;
    e->ram_size = ram_size;
    e->code = (uint8_t *)code;
    e->scratch = (uint8_t *)scratch;
    size_t handle;
    int bad = e->lib.hook_add(uc, &handle, HOOK_INTR, (void *)on_intr, e, (uint64_t)1, (uint64_t)0);
    bad |= e->lib.hook_add(uc, &handle, HOOK_INSN_INVALID, (void *)on_invalid, e, (uint64_t)1, (uint64_t)0);
    bad |= e->lib.hook_add(uc, &handle, HOOK_INSN, (void *)on_syscall, e, (uint64_t)1, (uint64_t)0, INS_SYSCALL);
    bad |= e->lib.hook_add(uc, &handle, HOOK_BLOCK, profile ? (void *)on_profiled_block : (void *)on_block, e, (uint64_t)1, (uint64_t)0);
    bad |= e->lib.hook_add(uc, &handle, HOOK_EDGE, (void *)on_edge, e, (uint64_t)1, (uint64_t)0);
    bad |= e->lib.hook_add(uc, &handle, HOOK_INSN, (void *)on_rdtsc, e, (uint64_t)1, (uint64_t)0, INS_RDTSC);
    if (bad) {
        free(e);
        return NULL;
    }
    return e;
}

static void pv_free(pv_engine *e)
{
    free(e);
}

static int pv_go(pv_engine *e, int mode, uint64_t slice);

/* Runs CPL-0 code in a callback, inside the run that made it. */
static int nested(pv_engine *e, int mode)
{
    int32_t outer_mode = e->mode, outer_why = e->why;
    uint64_t bound = e->bound, slice_end = e->slice_end;
    int64_t iterations_left = e->iterations_left;
    e->in_callback = 0;
    int why = pv_go(e, mode, 0);
    e->in_callback = 1;
    e->restart = 1;
    e->mode = outer_mode;
    e->why = outer_why;
    e->bound = bound;
    e->slice_end = slice_end;
    e->iterations_left = iterations_left;
    return why;
}

/* Enters the CPU in the given mode; returns `why`. */
static int pv_go(pv_engine *e, int mode, uint64_t slice)
{
    if (e->in_callback)
        return nested(e, mode);
    if (e->flush)
        flush(e);
    pv_settle(e);
    e->restart = 0;
    e->mode = mode;
    e->why = NOTHING;
    e->slice_end = e->limit - e->instructions > slice ? e->instructions + slice : e->limit;
    e->iterations_left = (int64_t)slice / 8;
    e->bound = e->rep_active || mode != BLOCKS ? 0 : e->slice_end;
    e->error = e->lib.emu_start(e->uc, pv_read(e, REG_RIP), 0, 0, 0);
    pv_settle(e);
    if (e->why == NOTHING && !e->error && mode == BLOCKS)
        e->why = SLICE;
    return e->why;
}
