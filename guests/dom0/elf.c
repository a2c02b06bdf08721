/* ELF64 and Xen's notes (public/elfnote.h; System V ABI, AMD64). */
#include "elf.h"

struct ehdr {
    u8 ident[16];
    u16 type, machine;
    u32 version;
    u64 entry, phoff, shoff;
    u32 flags;
    u16 ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
};
struct phdr { u32 type, flags; u64 offset, vaddr, paddr, filesz, memsz, align; };
struct shdr { u32 name, type; u64 flags, addr, offset, size; u32 link, info; u64 addralign, entsize; };
enum { PT_LOAD = 1, PT_NOTE = 4, SHT_NOTE = 7, EM_X86_64 = 62 };
enum { NOTE_ENTRY = 1, NOTE_HYPERCALL_PAGE = 2, NOTE_VIRT_BASE = 3, NOTE_PADDR_OFFSET = 4, NOTE_XEN_VERSION = 5, NOTE_INIT_P2M = 15,
       NOTE_MOD_START_PFN = 16 };
struct notes { u64 value[32]; bool there[32]; };

static bool inside(u64 offset, u64 n, u64 size)
{
    return offset <= size && n <= size - offset;
}

static void read_notes(const u8 *at, u64 size, struct notes *notes)
{
    while (size >= 12) {
        u32 header[3];
        memcpy(header, at, sizeof header);
        u64 name = ((u64)header[0] + 3) & ~3UL, value = ((u64)header[1] + 3) & ~3UL;
        if (!inside(12, name + value, size))
            return;
        if (header[0] == 4 && !memcmp(at + 12, "Xen", 4) && header[2] < COUNT(notes->value)) {
            u64 number = 0;
            memcpy(&number, at + 12 + name, header[1] < 8 ? header[1] : 8);
            notes->value[header[2]] = number;
            notes->there[header[2]] = true;
        }
        at += 12 + name + value;
        size -= 12 + name + value;
    }
}

/* One word of the older __xen_guest section, "KEY=value,KEY=value": its number, or false if it is not there. */
static bool legacy_number(const char *text, u64 size, const char *key, u64 *value)
{
    u64 length = strlen(key);
    for (u64 i = 0; i < size && text[i];) {
        u64 end = i;
        while (end < size && text[end] && text[end] != ',')
            end++;
        if (end - i > length && !memcmp(text + i, key, length) && text[i + length] == '=') {
            u64 n = 0, at = i + length + 1, base = 10;
            if (end - at > 2 && text[at] == '0' && (text[at + 1] | 32) == 'x') {
                base = 16;
                at += 2;
            }
            for (; at < end; at++) {
                u64 c = (u8)text[at], digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 16;
                if (digit >= base)
                    break;
                n = n * base + digit;
            }
            *value = n;
            return true;
        }
        i = end + 1;
    }
    return false;
}

/* What kernels had before notes: libelf's xen_elfnote numbers from the older string. */
static void read_legacy(const char *text, u64 size, struct notes *notes)
{
    static const struct { const char *key; u8 note; } words[] = {
        {"VIRT_BASE", NOTE_VIRT_BASE}, {"VIRT_ENTRY", NOTE_ENTRY}, {"ELF_PADDR_OFFSET", NOTE_PADDR_OFFSET}, {"HYPERCALL_PAGE", NOTE_HYPERCALL_PAGE},
    };
    u64 dummy;
    for (u32 i = 0; i < COUNT(words); i++)
        notes->there[words[i].note] = legacy_number(text, size, words[i].key, &notes->value[words[i].note]);
    if (notes->there[NOTE_HYPERCALL_PAGE]) /* there a page number, counted from VIRT_BASE */
        notes->value[NOTE_HYPERCALL_PAGE] = (notes->value[NOTE_HYPERCALL_PAGE] << 12) + (notes->there[NOTE_VIRT_BASE] ? notes->value[NOTE_VIRT_BASE] : 0);
    if (!notes->there[NOTE_PADDR_OFFSET] && notes->there[NOTE_VIRT_BASE]) {
        notes->value[NOTE_PADDR_OFFSET] = notes->value[NOTE_VIRT_BASE];
        notes->there[NOTE_PADDR_OFFSET] = true;
    }
    notes->there[NOTE_XEN_VERSION] = legacy_number(text, size, "XEN_VER", &dummy);
}

static int wrong(char *error, u32 size, const char *what)
{
    snprintf(error, size, "%s", what);
    return -EINVAL;
}

int elf_parse(const u8 *file, u64 size, struct image *image, char *error, u32 room)
{
    struct ehdr h;
    struct notes notes = {0};
    u64 low = NONE, high = 0;
    if (size < sizeof h)
        return wrong(error, room, "is too short for an ELF file");
    memcpy(&h, file, sizeof h);
    if (memcmp(h.ident, "\177ELF\2\1", 6) || h.machine != EM_X86_64 || (h.type != 2 && h.type != 3))
        return wrong(error, room, "is no ELF64 program for x86-64");
    if (h.phentsize != sizeof(struct phdr) || !inside(h.phoff, (u64)h.phnum * sizeof(struct phdr), size))
        return wrong(error, room, "has its program headers outside of the file");
    memset(image, 0, sizeof *image);
    for (u32 i = 0; i < h.phnum; i++) {
        struct phdr p;
        memcpy(&p, file + h.phoff + i * sizeof p, sizeof p);
        if (p.type != PT_LOAD && p.type != PT_NOTE)
            continue;
        if (!inside(p.offset, p.filesz, size))
            return wrong(error, room, "has a segment outside of the file");
        if (p.type == PT_NOTE) {
            read_notes(file + p.offset, p.filesz, &notes);
            continue;
        }
        if (p.filesz > p.memsz || p.paddr + p.memsz < p.paddr)
            return wrong(error, room, "has a segment that is larger in the file than in memory");
        if (!p.memsz)
            continue;
        if (image->nsegments == COUNT(image->segments))
            return wrong(error, room, "has too many segments");
        image->segments[image->nsegments].va = p.paddr;
        image->segments[image->nsegments].size = p.memsz;
        image->segments[image->nsegments].file_size = p.filesz;
        image->segments[image->nsegments++].data = file + p.offset;
        low = p.paddr < low ? p.paddr : low;
        high = p.paddr + p.memsz > high ? p.paddr + p.memsz : high;
    }
    if (!notes.there[NOTE_XEN_VERSION] && h.shentsize == sizeof(struct shdr) && inside(h.shoff, (u64)h.shnum * sizeof(struct shdr), size))
        for (u32 i = 0; i < h.shnum; i++) { /* notes that no segment holds */
            struct shdr s;
            memcpy(&s, file + h.shoff + i * sizeof s, sizeof s);
            if (s.type == SHT_NOTE && inside(s.offset, s.size, size))
                read_notes(file + s.offset, s.size, &notes);
        }
    if (!notes.there[NOTE_XEN_VERSION] && h.shentsize == sizeof(struct shdr) && inside(h.shoff, (u64)h.shnum * sizeof(struct shdr), size) &&
        h.shstrndx < h.shnum) {
        struct shdr names;
        memcpy(&names, file + h.shoff + h.shstrndx * sizeof names, sizeof names);
        for (u32 i = 0; i < h.shnum && inside(names.offset, names.size, size); i++) {
            static const char older[] = "__xen_guest";
            struct shdr s;
            memcpy(&s, file + h.shoff + i * sizeof s, sizeof s);
            if (inside(s.name, sizeof older, names.size) && !memcmp(file + names.offset + s.name, older, sizeof older) && inside(s.offset, s.size, size)) {
                read_legacy((const char *)file + s.offset, s.size, &notes);
                break;
            }
        }
    }
    if (!image->nsegments)
        return wrong(error, room, "has nothing to load");
    if (!notes.there[NOTE_XEN_VERSION])
        return wrong(error, room, "is no Xen PV kernel: it has no Xen notes");
    u64 base = notes.there[NOTE_VIRT_BASE] ? notes.value[NOTE_VIRT_BASE] : 0;
    u64 offset = base - (notes.there[NOTE_PADDR_OFFSET] ? notes.value[NOTE_PADDR_OFFSET] : 0);
    for (u32 i = 0; i < image->nsegments; i++)
        image->segments[i].va += offset;
    image->virt_base = base;
    image->start = low + offset;
    image->end = high + offset;
    image->entry = notes.there[NOTE_ENTRY] ? notes.value[NOTE_ENTRY] : h.entry;
    image->hypercall_page = notes.there[NOTE_HYPERCALL_PAGE] ? notes.value[NOTE_HYPERCALL_PAGE] : NONE;
    image->p2m_base = notes.there[NOTE_INIT_P2M] ? notes.value[NOTE_INIT_P2M] : NONE;
    image->module_by_pfn = notes.there[NOTE_MOD_START_PFN] && notes.value[NOTE_MOD_START_PFN];
    if (image->start < base || image->end < image->start)
        return wrong(error, room, "lies below its own virtual base");
    return 0;
}
