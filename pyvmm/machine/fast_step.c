/* Single-stepping in C: the trap flag is set once, and the CPU is not left between instructions.
 *
 * The same rules as Engine.step in engine.py: what counts an instruction is the trap after it, and nothing that is known of blocks.
 * Unicorn calls the hook for the trap and goes on behind it with the flag still set, so the hook looks at the next
 * instruction and either lets it run or stops before it. It stops before everything that needs care (opcodes.py tells why), and all
 * code that is not 64-bit; engine.py does those. Part of fast.c's translation unit.
 */

enum { ORDINARY, REPEATED, TIME, OTHER };

/* What stepping has to do with an instruction; `opcode_at` is where its opcode is. Encodings: Intel SDM volume 2, chapter 2. */
static int classify(const uint8_t *code, int n, int *opcode_at)
{
    int i = 0, repeat = 0;
    for (; i < n; i++) {
        uint8_t b = code[i];
        if (b == 0xF2 || b == 0xF3)
            repeat = 1;
        else if (!((b & 0xE7) == 0x26 || (b & 0xFC) == 0x64 || b == 0xF0 || (b & 0xF0) == 0x40))
            break;
    }
    *opcode_at = i;
    if (i + 1 >= n)
        return OTHER;
    uint8_t b = code[i];
    if (b == 0x0F)
        return code[i + 1] == 0x31 ? TIME : code[i + 1] == 0xA2 ? OTHER : ORDINARY;
    if ((b >= 0x6C && b <= 0x6F) || (b >= 0xE4 && b <= 0xE7) || (b >= 0xEC && b <= 0xEF)) /* ports */
        return OTHER;
    if (repeat && ((b >= 0xA4 && b <= 0xA7) || (b >= 0xAA && b <= 0xAF)))
        return REPEATED;
    if (b == 0x8E || b == 0x9C || b == 0x9D || b == 0xC4 || b == 0xC5 || (repeat && b == 0x90)) /* mov to a selector, pushf, popf, VEX, pause */
        return OTHER;
    if ((b & 0xFE) == 0xC6 && code[i + 1] == 0xF8) /* xabort, xbegin */
        return OTHER;
    if ((b >= 0xCA && b <= 0xCF) || b == 0xF1) /* far returns, interrupts */
        return OTHER;
    if (b == 0xFF && ((code[i + 1] & 0x38) == 0x18 || (code[i + 1] & 0x38) == 0x28)) /* far call, far jump */
        return OTHER;
    return ORDINARY;
}

/* Looks at the instruction at `rip`. ORDINARY: it may run with the trap flag set. */
static int prepare(pv_engine *e, uint64_t rip, int *opcode_at)
{
    uint8_t code[15];
    int kind = classify(code, pv_fetch(e, rip, 15, code), opcode_at);
    e->step_pc = rip;
    e->step_counted = 0;
    e->step_repeated = kind == REPEATED;
    if (kind != REPEATED)
        return kind;
    e->rep_run = 0;
    e->step_mask = ~0ull;
    for (int i = 0; i < *opcode_at; i++)
        if (code[i] == 0x67)
            e->step_mask = 0xFFFFFFFFull;
    e->step_rcx = pv_read(e, REG_RCX) & e->step_mask;
    return ORDINARY;
}

/* The trap after an instruction, or after an iteration of a repeated one. */
static void stepped(pv_engine *e)
{
    uint64_t rip = pv_read(e, REG_RIP);
    int at;
    if (e->step_repeated) {
        uint64_t rcx = pv_read(e, REG_RCX) & e->step_mask;
        if (rcx != e->step_rcx) {
            e->rep_iterations++;
            e->rep_run++;
        }
        e->step_rcx = rcx;
        if (rip == e->step_pc) {
            if (e->rep_run >= 1u << 24)
                stop(e, REP_LIMIT);
            return;
        }
    }
    if (!e->step_counted)
        e->instructions++;
    if (--e->step_left <= 0 || prepare(e, rip, &at) != ORDINARY)
        stop(e, PAUSED);
}

static int is_64_bit(pv_engine *e)
{
    pv_code_segment(e);
    return e->code_bits == 64;
}

/* Steps up to `n` instructions; how many retired. It stops early before one that needs care, or when something else than
 * retiring happened; then `why` says what. */
static int64_t pv_step_many(pv_engine *e, int64_t n)
{
    int64_t given = n;
    e->why = NOTHING;
    if (!is_64_bit(e))
        return 0;
    for (e->step_left = n; e->step_left > 0;) {
        uint64_t rip = pv_read(e, REG_RIP), flags = pv_read(e, REG_RFLAGS);
        int at, kind = flags & TF ? OTHER : prepare(e, rip, &at);
        if (kind == OTHER)
            break;
        if (kind == TIME) {
            uint64_t now = e->instructions + e->tsc_offset;
            pv_write(e, REG_RAX, (uint32_t)now);
            pv_write(e, REG_RDX, now >> 32);
            pv_write(e, REG_RIP, rip + (uint64_t)at + 2);
            e->instructions++;
            e->step_left--;
            continue;
        }
        e->step_tf = 1;
        pv_write(e, REG_RFLAGS, flags | TF);
        pv_go(e, STEPPING, 0);
        e->step_tf = 0;
        pv_write(e, REG_RFLAGS, pv_read(e, REG_RFLAGS) & ~(uint64_t)TF);
        if (e->why == SLICE) { /* a syscall, done and counted, whose callback used the firmware */
            e->step_left--;
            e->restart = 0;
            e->why = PAUSED;
        }
        if (e->why != PAUSED)
            break;
        e->why = NOTHING;
        if (!is_64_bit(e))
            break;
    }
    return given - e->step_left;
}
