/* What the files of abicheck share: a case is one call of one of the checks, a group is a function that makes many. */
#pragma once
#include "kernel.h"

/* Print `ok   GROUP: WHAT` or `FAIL GROUP: WHAT: got .., expected ..`, and count. */
void check(bool ok, const char *what, ...) __attribute__((format(printf, 2, 3)));
void equal(const char *what, u64 got, u64 expected);
void answer(const char *what, s64 got, s64 expected); /* results of hypercalls: printed signed */
void text_is(const char *what, const char *got, const char *expected);

/* dom0's value, or a domU's. */
static inline s64 by_role(s64 dom0, s64 domu) { return is_dom0() ? dom0 : domu; }

/* A few instructions with a name, to be run by probe(). */
#define SNIPPET(name, text) \
    extern const char name[]; \
    __asm__(".pushsection .text.snippets,\"ax\"\n.globl " #name "\n" #name ":\n" text "\nret\n.popsection")

#define WILD ((void *)0x7f0000000000UL) /* a canonical address that nothing is mapped at */

void check_kernel(void);
void check_start(void);
void check_entry(void);
void check_hypercalls(void);
void check_version(void);
void check_traps(void);
void check_privileged(void);
void check_msr(void);
void check_memory(void);
void check_mmu(void);
void check_mmuext(void);
void check_wrpt(void);
void check_descriptors(void);
void check_events(void);
void check_time(void);
void check_sched(void);
void check_vcpu(void);
void check_smp(void);
void check_grants(void);
void check_reservation(void);
void check_multicall(void);
void check_user(void);
void check_misc(void);
void check_store(void);
