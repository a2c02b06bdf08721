/* The few basic types and helpers that every file of a guest uses. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed char s8;
typedef int s32;
typedef long s64;
typedef __builtin_va_list va_list;

#define true 1
#define false 0
typedef _Bool bool;
#define NULL ((void *)0)

#define PAGE_SIZE 4096UL
#define PAGE_SHIFT 12
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define aligned(n) __attribute__((aligned(n)))
#define barrier() __asm__ volatile("" ::: "memory")
#define offsetof(type, member) __builtin_offsetof(type, member)
