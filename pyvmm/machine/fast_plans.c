/* What is known of blocks: where they are in memory, and how many instructions they have. See fast.c. Part of its
 * translation unit.
 */

/* CR3; asked for once, until addresses are forgotten. */
static uint64_t cr3(pv_engine *e)
{
    if (e->flush || e->cr3_epoch != e->epoch) {
        e->cr3 = pv_read(e, REG_CR3);
        e->cr3_epoch = e->flush ? 0 : e->epoch;
    }
    return e->cr3;
}

/* The physical address of `va`, or ~0 when CPL 3 has no access; `forbidden` bits must not be set in any entry. */
static uint64_t walk_as(pv_engine *e, uint64_t va, uint64_t forbidden)
{
    const uint64_t address = 0xFFFFFFF000ull;
    uint64_t entry = cr3(e);
    int shift = 39;
    if ((va + (1ull << 47)) >> 48)
        return ~0ull;
    for (;; shift -= 9) {
        uint64_t at = (entry & address) + 8 * (va >> shift & 511);
        if (at + 8 > e->ram_size)
            return ~0ull;
        memcpy(&entry, e->ram + at, 8);
        if ((entry & 5) != 5 || entry & forbidden)
            return ~0ull;
        if (shift == 12 || (entry & 0x80 && shift < 39))
            break;
    }
    uint64_t mask = (1ull << shift) - 1;
    return (entry & address & ~mask) | (va & mask);
}

/* The same for code. What was found stays true until addresses are forgotten, as in the CPU's own TLB. */
static uint64_t walk(pv_engine *e, uint64_t va)
{
    page_entry *p = &e->pages[va / PAGE % PAGES_SIZE];
    if (p->epoch == e->epoch && p->va == va / PAGE && !e->flush)
        return p->pa | (va & (PAGE - 1));
    uint64_t pa = walk_as(e, va, 1ull << 63);
    if (pa != ~0ull && !e->flush)
        *p = (page_entry){va / PAGE, pa & ~(uint64_t)(PAGE - 1), e->epoch};
    return pa;
}

/* Copies at most `n` bytes of code at `va`; how many there are. */
static int pv_fetch(pv_engine *e, uint64_t va, int n, uint8_t *out)
{
    int done = 0;
    while (done < n) {
        uint64_t pa = walk(e, va + (uint64_t)done);
        if (pa >= e->ram_size)
            break;
        int part = (int)(PAGE - (pa & (PAGE - 1)));
        if (part > n - done)
            part = n - done;
        memcpy(out + done, e->ram + pa, (size_t)part);
        done += part;
    }
    return done;
}

/* The place of a block in `plans`; NULL when its bytes are not in memory. */
static plan_entry *locate(pv_engine *e, uint64_t pc, uint32_t size, uint64_t *pa, uint64_t *pa2)
{
    uint64_t last = pc + (size ? size - 1 : 0);
    *pa = walk(e, pc);
    *pa2 = (pc ^ last) & ~(uint64_t)(PAGE - 1) ? walk(e, last & ~(uint64_t)(PAGE - 1)) : 0;
    if (*pa >= e->ram_size || *pa2 >= e->ram_size)
        return NULL;
    uint64_t hash = (*pa ^ (uint64_t)size << 40 ^ *pa2) * 0x9E3779B97F4A7C15ull;
    return &e->plans[hash >> 48 & (PLANS_SIZE - 1)];
}

static near_entry *near_place(pv_engine *e, uint64_t pc)
{
    return &e->near[pc & (NEAR_SIZE - 1)];
}

static uint64_t near_tag(uint64_t pc, uint32_t size)
{
    return pc << 16 | size;
}

/* Whether no byte of a block can belong to an instruction that opcodes.plan() treats specially. Most blocks pass, and then
 * Unicorn's own count is all there is to know. */
static int plainly(pv_engine *e, uint64_t pc, uint32_t size, uint32_t count, pv_plan *plan)
{
    uint8_t code[PAGE + 64];
    int repeat = 0, string = 0;
    if (size > sizeof code || pv_fetch(e, pc, (int)size, code) != (int)size)
        return 0;
    for (uint32_t i = 0; i < size; i++) {
        uint8_t b = code[i];
        if ((b & 0xFC) == 0x6C || (b & 0xFC) == 0xE4 || (b & 0xFC) == 0xEC || b == 0xA2 || b == 0x31)
            return 0; /* ports; cpuid and rdtsc */
        if ((b & 0xFE) == 0xC6 && i + 1 < size && code[i + 1] == 0xF8)
            return 0; /* xbegin, xabort */
        repeat |= (b & 0xFE) == 0xF2;
        string |= (b & 0xFC) == 0xA4 || (b >= 0xAA && b <= 0xAF);
    }
    if (size >= 5 && !memcmp(code + size - 5, "\xE8\xFB\xFF\xFF\xFF", 5))
        return 0; /* a call to itself */
    *plan = (pv_plan){0, count, PLAIN, 0};
    return !(repeat && string);
}

/* `n` holds the block `tag` from now on. */
static void remember(pv_engine *e, near_entry *n, uint64_t tag)
{
    if (!n->tag && e->near_used < NEAR_SIZE)
        e->near_list[e->near_used++] = (uint16_t)(n - e->near);
    n->tag = tag;
}

/* What opcodes.plan() says of a block, remembered by its bytes: a guest that is like another one brings no new ones. */
static void plan_of(pv_engine *e, uint64_t pc, uint32_t size, uint32_t count, pv_plan *plan)
{
    uint8_t code[LONGEST];
    uint64_t hash = 0xCBF29CE484222325ull; /* FNV-1a */
    if (size > sizeof code || pv_fetch(e, pc, (int)size, code) != (int)size) {
        pv_py_plan(pc, size, count, plan);
        return;
    }
    pv_code_segment(e);
    for (uint32_t i = 0; i < size; i++)
        hash = (hash ^ code[i]) * 0x100000001B3ull;
    known_entry *set = &e->known[(hash ^ hash >> 32) % (KNOWN_SIZE / WAYS) * WAYS];
    for (known_entry *k = set; k < set + WAYS; k++)
        if (k->size == size && k->bits == e->code_bits && !memcmp(k->code, code, size)) {
            *plan = k->plan;
            return;
        }
    pv_py_plan(pc, size, count, plan);
    if (e->failed)
        return;
    memmove(set + 1, set, (WAYS - 1) * sizeof *set); /* the one that came first goes */
    *set = (known_entry){size, e->code_bits, *plan, {0}};
    memcpy(set->code, code, size);
}

static near_entry *find_plan(pv_engine *e, uint64_t pc, uint32_t size)
{
    near_entry *n = near_place(e, pc);
    near_more *more = &e->more[n - e->near];
    uint64_t tag = near_tag(pc, size), pa, pa2;
    pv_plan plan;
    if (n->tag == tag)
        return n;
    if (more->was == tag && more->pa == walk(e, pc)) { /* known from before addresses were forgotten, and still there */
        remember(e, n, tag);
        return n;
    }
    plan_entry *p = locate(e, pc, size, &pa, &pa2);
    int same = p && p->pa == pa && p->pa2 == pa2 && p->size == size;
    if (same && p->plan.n) {
        plan = p->plan;
    } else {
        uint32_t count = same ? p->plan.k : 0;
        if (!(count > 1 && plainly(e, pc, size, count, &plan)))
            plan_of(e, pc, size, count, &plan);
        if (p)
            *p = (plan_entry){pa, pa2, size, same ? p->bits : 0, plan};
    }
    remember(e, n, tag);
    n->cost = plan.n + (plan.kind == PLAIN ? 0 : SPECIAL);
    /* A block on two pages is looked up afresh. */
    *more = (near_more){pa2 || !p ? 0 : tag, pa, plan.kind << 2 | ((plan.mask >> 16 != 0) + (plan.mask >> 32 != 0)), plan.k};
    return n;
}

typedef struct uc_tb { uint64_t pc; uint16_t icount, size; } uc_tb;

static void on_edge(void *uc, uc_tb *current, uc_tb *previous, void *data)
{
    pv_engine *e = data;
    uint64_t pa, pa2;
    (void)uc;
    (void)previous;
    if (e->mode == FIRMWARE)
        return;
    pv_settle(e);
    near_entry *n = near_place(e, current->pc);
    if (n->tag >> 16 == current->pc << 16 >> 16)
        n->tag = NOWHERE;
    if (e->more[n - e->near].was >> 16 == current->pc << 16 >> 16)
        e->more[n - e->near].was = 0;
    plan_entry *p = locate(e, current->pc, current->size, &pa, &pa2);
    if (p && current->size) {
        pv_code_segment(e);
        int same = p->pa == pa && p->pa2 == pa2 && p->size == current->size && p->bits;
        *p = same && p->bits != e->code_bits
            ? (plan_entry){pa, pa2, current->size, -1, {0, 1, STEPPED, 1}} /* which one runs cannot be told: step */
            : (plan_entry){pa, pa2, current->size, e->code_bits, {0, 0, 0, current->icount}};
    }
    if (pa < e->ram_size)
        e->code[pa / PAGE] = 1;
    if (pa2 && pa2 < e->ram_size)
        e->code[pa2 / PAGE] = 1;
}

/* CR3 changed or the TLB was flushed. */
static void pv_forget_addresses(pv_engine *e)
{
    pv_settle(e);
    if (e->near_used == NEAR_SIZE)
        for (uint32_t i = 0; i < NEAR_SIZE; i++)
            e->near[i].tag = 0;
    else
        for (uint32_t i = 0; i < e->near_used; i++)
            e->near[e->near_list[i]].tag = 0;
    e->near_used = 0;
    e->epoch++;
}

