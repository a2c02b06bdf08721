/* What the common kernel offers to a guest: one section a source file. */
#pragma once
#include "types.h"
#include "memlayout.h"
#include "xen.h"
#include "hypercalls.h" /* generated from hypercalls.list */

/* start.S: the registers at entry; kernel.c: bring-up, then the guest's main() */
struct boot_regs { u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rflags, cs, ss, ds, es, fs, gs; };
extern struct boot_regs boot_regs;
extern char _start[], data_start[], _end[], hypercall_page[], boot_stack_end[];
extern struct start_info *start_info;
extern struct shared_info *shared_info;
extern struct shared_info boot_shared_info; /* as it was before the kernel changed anything */
void main(void);
bool is_dom0(void);
void __attribute__((noreturn)) shutdown(u32 reason);
void __attribute__((noreturn)) panic(const char *format, ...);
extern void (*last_words)(void); /* what a panic does before it ends the domain; NULL: nothing */
bool option(const char *name, char *value, u64 size); /* name or name=value on the command line */

u64 option_number(const char *name, u64 otherwise); /* name=decimal number */

/* string.c, printf.c */
void *memset(void *to, int byte, u64 n);
void *memcpy(void *to, const void *from, u64 n);
int memcmp(const void *a, const void *b, u64 n);
u64 strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, u64 n);
int vsnprintf(char *to, u64 size, const char *format, va_list args);
int snprintf(char *to, u64 size, const char *format, ...) __attribute__((format(printf, 3, 4)));
int printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* console.c */
void console_init(void);
void console_write(const char *text, u64 n);
u64 console_read(char *to, u64 n);
void console_flush(void);

/* entry.S, traps.c */
struct frame {
    u64 entry_flags;
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};
enum { VECTOR_UPCALL = 256, VECTOR_FAILSAFE, VECTOR_SYSCALL };
struct probe { /* one attempt to run `code`; a trap on the way is recorded, not fatal */
    u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
    const void *code;
    s64 vector; /* -1: no trap */
    u64 cr2, at; /* at: where the frame lay */
    u8 mask;     /* the upcall mask inside the handler */
    struct frame frame;
};
typedef void (*trap_handler)(struct frame *);
extern const u64 trap_entries[], upcall_entry, failsafe_entry, syscall_entry;
extern const char probe_load[], probe_store[], probe_jump[], probe_resume[];
extern trap_handler trap_handlers[260];
void traps_init(void);
void probe(struct probe *p, const void *code); /* resets the result, keeps the registers given */
void probe_run(struct probe *p);
void __attribute__((noreturn)) frame_enter(struct frame *f);
s64 try_read(u64 va, u64 *value); /* the vector of the fault, or -1 */
s64 try_write(u64 va, u64 value);
s64 hypercall(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e);
s64 hypercall_bare(u64 number, u64 a, u64 b, u64 c);

/* events.c */
typedef void (*event_handler)(u32 port, void *arg);
void events_init(void);
int event_bind(u32 port, event_handler handler, void *arg); /* and unmasks it; -ENOMEM, which only dom0 with its many ports can meet */
void event_unbind(u32 port);
void event_run(u32 port); /* its handler */
void fifo_init(void), fifo_mask(u32 port), fifo_run(void); /* events_fifo.c */
int fifo_reach(u32 port); /* -ENOMEM */
void event_send(u32 port);
void events_mask(void);
void events_unmask(void);
s64 event_alloc_unbound(u32 remote);
s64 event_bind_virq(u32 virq, u32 vcpu);
void event_close(u32 port);
static inline bool test_bit(const u64 *words, u32 bit) { return ((const volatile u64 *)words)[bit / 64] >> (bit % 64) & 1; }
static inline void set_bit(u64 *words, u32 bit) { __asm__ volatile("lock btsq %1, %0" : "+m"(words[bit / 64]) : "r"((u64)bit % 64) : "memory"); }
static inline void clear_bit(u64 *words, u32 bit) { __asm__ volatile("lock btrq %1, %0" : "+m"(words[bit / 64]) : "r"((u64)bit % 64) : "memory"); }

/* mm.c */
void mm_init(void);
u64 pfn_to_mfn(u64 pfn);
u64 mfn_to_pfn(u64 mfn);
u64 va_to_mfn(const void *va); /* of memory below 16 MiB */
u64 va_to_machine(const void *va);
void *page_alloc(void); /* zeroed; this and the other ..._alloc, _reserve, _take and _start panic where there is none, the ..._try return NULL */
void *page_try(void);
void page_free(void *page); /* fills it with junk */
u64 pages_free(void);
u64 *pte_slot(u64 va, int level); /* the entry that covers va, as mapped here (read-only); NULL if a table is missing */
u64 pte_read(u64 va);
int map_tables(u64 va); /* builds the tables that an entry for va needs; negative errno */
int map_frame(u64 va, u64 mfn, u64 flags); /* builds missing tables */
int unmap(u64 va);
int drop_tables(u64 va);
void *map_area(u64 mfn); /* at a free page of MAP_AREA, read-write */
void *map_area_flags(u64 mfn, u64 flags);
void *area_reserve(void); /* a free page of MAP_AREA with nothing mapped there, for a grant */
void *area_try(void);
void *area_reserve_run(u64 n); /* n pages in a row, for ever */
void area_release(void *page); /* nothing is mapped there any more */
int protect(const void *page, u64 flags); /* change the flags of a page of ours */
void mm_data_is_no_code(void);            /* for those who run for long: a mapping a page is changed */

u64 mm_end(void); /* the first pfn that is not mapped at its own address */
u64 mm_extend(void); /* maps 2 MiB (or what is left) behind the pages in use; the first pfn, 0: there is no more, nor a page for the table */

/* heap.c: memory behind the pages of mm.c */
void *pages_take(u64 n); /* zeroed, in a row */
void *pages_try(u64 n);
void pages_release(void *pages, u64 n);
void *memory_take(u64 size);         /* zeroed; NULL when there is none */
void *memory_take_dirty(u64 size);   /* as it was left */
void memory_release(void *memory);
u64 heap_free(void); /* bytes */

/* grants.c */
void grants_init(void);
extern struct grant_entry *grant_table;
u32 grant_access(u32 domid, u64 mfn, bool readonly); /* panics when there is none left */
s64 grant_try(u32 domid, u64 mfn, bool readonly);  /* -ENOSPC, -ENOMEM instead */
bool grant_end(u32 ref);

/* time.c */
void time_init(void);
u64 now(void); /* nanoseconds since the domain's clock started */
u64 wall_clock(u32 *nanoseconds); /* seconds since 1970 */
void timer_at(u64 when); /* an event at that time; 0: none */
u32 timer_ticks(void); /* timer events so far */
void sleep_until(u64 when);
void sleep_quietly(u64 when); /* the same, asleep; or less long. For one thread */

/* thread.c */
struct thread;
struct thread *thread_start(const char *name, void (*run)(void *), void *arg);
struct thread *thread_try(const char *name, void (*run)(void *), void *arg);
/* On a stack that is there beforehand, so that it cannot fail; for a thread that never ends. */
struct thread *thread_start_on(void *stack, const char *name, void (*run)(void *), void *arg);
#define THREAD_STACK(name) static u8 name[THREAD_STACK_PAGES * PAGE_SIZE] aligned(PAGE_SIZE)
void thread_yield(void);
struct thread *thread_self(void);
void thread_sleep(void); /* until thread_wake; at once if that came since it last slept */
void thread_wake(struct thread *t); /* also from the handler of an event */
void thread_wait(bool (*ready)(void *), void *arg); /* blocks the domain when no thread can run */

/* xenstore.c */
void xenstore_init(void);
void xenstore_attach(void *page, u32 port); /* a ring that start_info does not know */
void xenstore_lost(void); /* its domain is no more: whoever waits, and every later request, gets -1 and ENOTCONN. Also from the handler of an event */
bool xenstore_gone(void);
extern void (*xenstore_when_lost)(void); /* NULL: nobody else waits for it */
enum { XENSTORE_MAX = 1024 };
int xenstore_request(u32 type, u32 transaction, const void *body, u32 n, char *reply, u32 size); /* length, or -1 with the error's name in reply */
int xenstore_read(u32 transaction, const char *path, char *value, u32 size);
int xenstore_write(u32 transaction, const char *path, const char *value);
int xenstore_directory(u32 transaction, const char *path, char *names, u32 size); /* names separated by NUL */
int xenstore_remove(u32 transaction, const char *path);
int xenstore_watch(const char *path, const char *token);
int xenstore_unwatch(const char *path, const char *token);
void xenstore_wait_watch(char *path, char *token, u32 size);
bool xenstore_usable(void);
bool xenstore_pending(void); /* a watch event, or the beginning of one, is here */
bool xenstore_next_watch(char *path, char *token, u32 path_size, u32 token_size); /* the next event if one is here; waits for no event to begin */
u32 xenstore_begin(void);
int xenstore_end(u32 transaction, bool commit); /* -EAGAIN: something else changed what it used; another negative number: it failed */
