/* What the files of measure share: how one case is run, and the small domain that some of them need. */
#pragma once
#include "kernel.h"

/* One case: `run` is what is measured, with everything set up by `ready` and taken back by `done`, five times; the least counts. */
struct measured { const char *name; void (*ready)(u64 n); s64 (*run)(u64 n); void (*done)(u64 n); };
u64 tsc(void);
void measure(const struct measured *m, u64 n);
void measure_once(const char *name, s64 (*run)(u64 n)); /* what can be done only once */
#define MEASURE(name, n, ready, run, done) measure(&(const struct measured){name, ready, run, done}, n)

/* small.c: a domain that answers every event with one, and sleeps. */
enum { SMALL_PAGES = 8 };
struct small { u32 domid, remote, local; u64 frames[SMALL_PAGES], shared_info; };
void small_create(struct small *s);   /* the domain and nothing else */
void small_prepare(struct small *s);  /* memory and tables, too, not yet pinned */
s64 small_pin(struct small *s);
void small_registers(struct small *s);
s64 small_context(struct small *s);   /* those are its first */
void small_settle(void);              /* for as long as others run, and Xen scrubs pages that were given back */
s64 small_control(struct small *s, u32 cmd); /* a domctl without arguments */
void small_make(struct small *s);     /* all of it: the domain has started, and sleeps */
void small_end(struct small *s);
s64 foreign_map(u64 va, u64 mfn, u32 domid);
extern volatile u64 answers; /* events that came back from it */
s64 until_answered(u64 before);

extern void *pages[64]; /* some of our own */
extern u64 *slots;            /* entry 0 of the L1 table over SCRATCH_AREA, as a machine address in slots_machine */
extern u64 slots_machine;

void measure_calls(void);
void measure_mmu(void);
void measure_events(void);
void measure_grants(void);
void measure_domains(void);
void measure_traps(void);
void measure_more(void);
void measure_fifo(void);
