// What the test programs share: checks that end the program, a context, and matrices that are on
// both sides.
#ifndef SUPPORT_H
#define SUPPORT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "lora_kernels.h"

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

#define CUDA(call)                                                                               \
    do {                                                                                         \
        CUresult result_ = (call);                                                               \
        if (result_ != CUDA_SUCCESS) {                                                           \
            fprintf(stderr, "%s:%d: %s gave CUresult %d\n", __FILE__, __LINE__, #call, result_); \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

#define LORA(call)                                                            \
    do {                                                                      \
        lora_status status_ = (call);                                         \
        if (status_ != LORA_STATUS_OK) {                                      \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, \
                    lora_status_name(status_), lora_last_error());            \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

// The call fails with this status, and the error's text has this in it, and nothing of Rust's.
#define FAILS(expected, text, call) expect_failure(__FILE__, __LINE__, #call, expected, text, call)

static inline void expect_failure(const char *file, int line, const char *call,
                                  lora_status expected, const char *text, lora_status given) {
    if (given != expected || strstr(lora_last_error(), text) == NULL ||
        strstr(lora_last_error(), "::") != NULL) {
        fprintf(stderr, "%s:%d: %s\n  gave %s: %s\n  not  %s: ...%s...\n", file, line, call,
                lora_status_name(given), lora_last_error(), lora_status_name(expected), text);
        exit(1);
    }
}

// Device 0, its primary context current and a stream in it.
typedef struct gpu {
    CUcontext context;
    CUstream stream;
    lora_kernels *kernels;
    lora_device device;
} gpu;

static inline gpu gpu_open(void) {
    gpu it = {0};
    CUDA(cuInit(0));
    CUDA(cuDevicePrimaryCtxRetain(&it.context, 0));
    CUDA(cuCtxPushCurrent(it.context));
    CUDA(cuStreamCreate(&it.stream, 0));
    LORA(lora_kernels_load(0, &it.kernels));
    it.device.struct_size = sizeof it.device;
    LORA(lora_kernels_device(it.kernels, &it.device));
    return it;
}

static inline void gpu_close(gpu *it) {
    lora_kernels_free(it->kernels);
    CUDA(cuStreamDestroy(it->stream));
    CUcontext popped;
    CUDA(cuCtxPopCurrent(&popped));
    CHECK(popped == it->context);
    CUDA(cuDevicePrimaryCtxRelease(0));
}

static inline uint64_t device_alloc(size_t bytes) {
    CUdeviceptr address = 0;
    CUDA(cuMemAlloc(&address, bytes ? bytes : 1));
    return address;
}

// The next of a fixed sequence of numbers in [-1, 1): Numerical Recipes' 64-bit LCG constants by
// Knuth, high bits only.
static inline double next_number(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 40) / (double)(1 << 23) - 1.0;
}

static inline uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

// A matrix in f32 or bf16: its values here, and its bytes on the device, where rows are `stride`
// elements apart and the first element lies `skipped` elements into an allocation.
typedef struct matrix {
    uint32_t dtype;
    size_t rows, columns, stride, skipped, element;
    double *values;
    uint64_t allocation, address;
} matrix;

static inline matrix matrix_new(uint32_t dtype, size_t rows, size_t columns, size_t padding,
                                size_t skipped) {
    matrix self = {
        dtype, rows, columns, columns + padding, skipped, dtype == LORA_DTYPE_F32 ? 4 : 2,
        NULL,  0,    0};
    self.values = calloc(rows * columns + 1, sizeof *self.values);
    CHECK(self.values != NULL);
    self.allocation = device_alloc((skipped + rows * self.stride) * self.element);
    self.address = self.allocation + skipped * self.element;
    return self;
}

static inline size_t matrix_bytes(const matrix *self) {
    return (self->skipped + self->rows * self->stride) * self->element;
}

static inline double matrix_at(const matrix *self, size_t row, size_t column) {
    return self->values[row * self->columns + column];
}

// Copies the values to the device; all bytes between them are those of NaNs.
static inline void matrix_upload(matrix *self) {
    unsigned char *bytes = malloc(matrix_bytes(self) + 1);
    CHECK(bytes != NULL);
    memset(bytes, 0xFF, matrix_bytes(self));
    for (size_t row = 0; row < self->rows; row++) {
        for (size_t column = 0; column < self->columns; column++) {
            unsigned char *at =
                bytes + (self->skipped + row * self->stride + column) * self->element;
            float value = (float)matrix_at(self, row, column);
            uint16_t narrow = to_bf16(value);
            memcpy(at, self->element == 4 ? (void *)&value : (void *)&narrow, self->element);
        }
    }
    CUDA(cuMemcpyHtoD(self->allocation, bytes, matrix_bytes(self)));
    free(bytes);
}

// Copies the values back, and checks that nothing was written between them.
static inline void matrix_download(matrix *self) {
    unsigned char *bytes = malloc(matrix_bytes(self) + 1);
    CHECK(bytes != NULL);
    CUDA(cuMemcpyDtoH(bytes, self->allocation, matrix_bytes(self)));
    for (size_t element = 0; element < self->skipped + self->rows * self->stride; element++) {
        unsigned char *at = bytes + element * self->element;
        size_t inside = element - self->skipped;
        if (element >= self->skipped && inside % self->stride < self->columns) {
            float value;
            uint16_t narrow;
            memcpy(self->element == 4 ? (void *)&value : (void *)&narrow, at, self->element);
            if (self->element == 2) {
                value = from_bf16(narrow);
            }
            self->values[inside / self->stride * self->columns + inside % self->stride] = value;
        } else {
            for (size_t byte = 0; byte < self->element; byte++) {
                CHECK(at[byte] == 0xFF);
            }
        }
    }
    free(bytes);
}

// Numbers that the type can hold, up to `scale`, on both sides.
static inline void matrix_fill(matrix *self, double scale, uint64_t *state) {
    for (size_t index = 0; index < self->rows * self->columns; index++) {
        float value = (float)(scale * next_number(state));
        self->values[index] = self->element == 4 ? value : from_bf16(to_bf16(value));
    }
    matrix_upload(self);
}

static inline void matrix_free(matrix *self) {
    free(self->values);
    CUDA(cuMemFree(self->allocation));
}

#endif
