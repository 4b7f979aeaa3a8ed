// Every other function of the libraries that candle's CUDA feature links: calling one ends the
// program.

#include <stdio.h>
#include <stdlib.h>

static void missing(const char* name) {
    fprintf(stderr, "%s was called, of which there is only a stand-in here\n", name);
    abort();
}

// Weak: those of libraries.c win.
#define FUNCTION(name)                                               \
    __attribute__((weak)) void stand_in_##name(void) __asm__(#name); \
    void stand_in_##name(void) {                                     \
        missing(#name);                                              \
    }

// A line for each, made by `cargo xtask candle-cuda`.
#include "functions.h"
