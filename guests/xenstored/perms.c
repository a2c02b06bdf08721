/* Permissions: what they allow, and their words in messages. */
#include "store.h"

u32 rights_of(const struct entry *e, const struct conn *c)
{
    const struct perm *p = e->perms;
    if (!c->domid || p->domid == c->domid || p->domid == c->target)
        return PERM_READ | PERM_WRITE | PERM_OWNER;
    for (u32 i = 1; i < e->nperms; i++)
        if ((p[i].domid == c->domid && p[i].incarnation == c->incarnation) ||
            (p[i].domid == c->target && p[i].incarnation == c->target_incarnation))
            return p[i].rights;
    return p->rights;
}

static const char letters[] = "nrwb";

void tell_perms(struct work *k, const struct perm *p, u32 n)
{
    for (u32 i = 0; i < n && k->replied < PAYLOAD_MAX - 16; i++)
        k->replied += (u32)snprintf((char *)k->reply + k->replied, 16, "%c%d", letters[p[i].rights & 3], (int)p[i].domid) + 1;
}

/* A number as C writes it: with a sign, in base 8, 10 or 16. */
static bool c_number(const char *s, u32 *value)
{
    bool minus = false;
    u64 n = 0;
    u32 base = 10, digits = 0;
    while (*s == ' ' || (*s >= '\t' && *s <= '\r'))
        s++;
    if (*s == '-' || *s == '+')
        minus = *s++ == '-';
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
        base = 16, s += 2;
    else if (s[0] == '0')
        base = 8;
    for (; *s; s++, digits++) {
        u32 digit = *s >= '0' && *s <= '9' ? (u32)(*s - '0') : *s >= 'a' && *s <= 'f' ? (u32)(*s - 'a' + 10) : *s >= 'A' && *s <= 'F' ? (u32)(*s - 'A' + 10) : 99;
        if (digit >= base)
            return false;
        n = n * base + digit;
    }
    *value = minus ? -(u32)n : (u32)n;
    return digits != 0;
}

int parse_perms(struct work *k, struct perm *perms, u32 *count)
{
    for (*count = 0; string(k, *count + 1); ++*count) {
        const char *s = string(k, *count + 1), *letter = letters;
        while (*letter && *letter != s[0])
            letter++;
        if (!*letter || *count == PERMS_MOST || !c_number(s + 1, &perms[*count].domid))
            return EINVAL;
        perms[*count].rights = (u32)(letter - letters);
        perms[*count].incarnation = incarnation_if_exists(perms[*count].domid);
    }
    return *count ? 0 : EINVAL;
}
