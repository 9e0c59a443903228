// The tally, and how Python reads it.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stub.h"

static Counter* counters;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void count(Counter* counter) {
    if (captured) return;
    pthread_mutex_lock(&lock);
    if (counter->count++ == 0) {
        counter->next = counters;
        counters = counter;
    }
    pthread_mutex_unlock(&lock);
}

Counter* new_kernel(const char* name) {
    Counter* kernel = calloc(1, sizeof *kernel);
    kernel->kind = "launch";
    kernel->name = strdup(name);
    return kernel;
}

// Writes a line "kind<tab>name<tab>count" for each counter; returns the bytes that all of them take.
size_t stub_counts(char* text, size_t size) {
    size_t used = 0;
    pthread_mutex_lock(&lock);
    for (Counter* c = counters; c; c = c->next) {
        size_t left = used < size ? size - used : 0;
        used += snprintf(left ? text + used : NULL, left, "%s\t%s\t%ld\n", c->kind, c->name, c->count);
    }
    pthread_mutex_unlock(&lock);
    return used;
}

void stub_reset(void) {
    pthread_mutex_lock(&lock);
    for (; counters; counters = counters->next) counters->count = 0;
    pthread_mutex_unlock(&lock);
}
