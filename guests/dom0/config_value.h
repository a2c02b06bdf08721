/* What both syntaxes come to: a tree of values that know their lines, and reading them as what they should be.
 *
 * A mistake is reported once, by whoever finds it first (config_fail); everything that is read afterwards is of no use.
 * The same as pyvmm/toolstack/config/settings.py: same order, same words.
 */
#pragma once
#include "config.h"

enum { VALUE_STRING, VALUE_NUMBER, VALUE_FLOAT, VALUE_TRUE, VALUE_FALSE, VALUE_NULL, VALUE_LIST, VALUE_OBJECT };
struct value {
    u8 kind;
    u32 line;
    const char *key;           /* of a member of an object, or a setting */
    const char *text;          /* a string; a number as it was written */
    struct value *first, *last, *next; /* of lists and objects */
};
struct reader { /* one file */
    const char *path, *at, *end;
    u32 line;
    bool failed;
    char *error;
    u32 error_size;
    u64 used; /* of the arena */
    struct value *root;
};
struct settings { struct reader *r; struct value *object; const char *prefix; u32 last_line; };

enum { CONFIG_ARENA = 256 << 10, CONFIG_DEPTH = 32 };
bool config_fail(struct reader *r, u32 line, const char *format, ...) __attribute__((format(printf, 3, 4))); /* false */
struct value *value_new(struct reader *r, u32 kind, u32 line); /* NULL: too large a file, which was said */
char *text_new(struct reader *r, u64 n);                       /* room for n bytes and the 0 */
void value_append(struct value *to, struct value *v);
const char *shown_char(struct reader *r, const char *at);      /* as Python would write it: 'x' */
bool utf8_put(char **to, u32 code);

/* All of them: false (or NULL) after a mistake, or if it is not there. */
struct value *setting(const struct settings *s, const char *key);
bool setting_error(const struct settings *s, const char *key, const struct value *v, const char *expected);
const char *setting_text(const struct settings *s, const char *key, const char *expected);
bool setting_copy(const struct settings *s, const char *key, char *to, u32 size, const char *text);
bool setting_number(const struct settings *s, const char *key, u64 low, u64 high, const char *unit, u64 *value);
bool setting_flag(const struct settings *s, const char *key);
const char *setting_choice(const struct settings *s, const char *key, const char *const *words);
struct value *setting_list(const struct settings *s, const char *key, const char *expected);
struct settings setting_object(const struct settings *s, const char *key, struct value *v, const char *prefix);
bool to_number(const char *text, u64 *value); /* strtoul's base 0 */

/* config_specs.c: strings inside of settings. NULL, or what was expected. */
const char *parse_disk(struct reader *r, const char *text, struct vbd_config *d);
const char *parse_vif(struct reader *r, const char *text, u32 index, struct vif_config *v);
const char *parse_mac(struct reader *r, const char *text, u8 *mac);
const char *config_ip(struct reader *r, const char *text, u32 *ip);
const char *parse_vdev(struct reader *r, const char *text, u32 *devid);
const char *expected(struct reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

bool config_read_xl(struct reader *r, struct config *c);
bool config_read_json(struct reader *r, struct config *c);
