// The part of cuBLAS that the benches call, as its documentation describes it, for the emulated
// GPU: matrices are read from the device's memory, multiplied on the CPU, and written back. What is
// wrong with a call (a size, a leading dimension, a type) is so found without a GPU.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Status = int;
constexpr Status kSuccess = 0, kInvalidValue = 7, kMappingError = 11, kNotSupported = 15;
constexpr int kHalf = 2, kBfloat16 = 14, kFloat = 0;  // cudaDataType_t
constexpr int kNotTransposed = 0, kTransposed = 1;    // cublasOperation_t
constexpr int kCompute32F = 68;                       // cublasComputeType_t

struct Driver {
    int (*synchronize)(void* stream);
    int (*read)(void* to, uint64_t from, size_t bytes);
    int (*write)(uint64_t to, const void* from, size_t bytes);
};

// The driver that the program has loaded already.
bool find(Driver& driver) {
    void* const library = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) {
        return false;
    }
    const auto get = [&](const char* name, auto& function) {
        void* const found = dlsym(library, name);
        std::memcpy(&function, &found, sizeof(found));
        return found != nullptr;
    };
    return get("cuStreamSynchronize", driver.synchronize) && get("cuMemcpyDtoH_v2", driver.read) &&
           get("cuMemcpyHtoD_v2", driver.write);
}

struct Handle {
    Driver driver;
    void* stream;
};

size_t size_of(int type) { return type == kFloat ? 4 : 2; }

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

// Older compilers have no _Float16 in C++.
float half_to_float(uint32_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                       : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                       : std::ldexp(1024.0f + fraction, exponent - 25);
    return (bits & 0x8000) != 0 ? -size : size;
}

// To nearest, ties to even. A fraction that is rounded up to the next power of two carries into the
// exponent.
uint32_t float_to_half(float value) {
    const uint32_t sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (!(size < 65520.0f)) {
        return sign | (std::isnan(value) ? 0x7e00 : 0x7c00);
    }
    if (size < 0x1p-14f) {
        return sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 24)));
    }
    const int exponent = std::ilogb(size);
    const auto fraction = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    return sign | ((exponent + 14) * 1024 + fraction);
}

float load(const unsigned char* at, int type) {
    uint32_t bits = 0;
    std::memcpy(&bits, at, size_of(type));
    if (type == kFloat) {
        return from_bits(bits);
    }
    if (type == kBfloat16) {
        return from_bits(bits << 16);
    }
    return half_to_float(bits);
}

void store(unsigned char* at, int type, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (type == kBfloat16) {
        bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
    } else if (type == kHalf) {
        bits = float_to_half(value);
    }
    std::memcpy(at, &bits, size_of(type));
}

// Column-major (rows, columns), with a copy of its bytes.
struct Matrix {
    int rows, columns, leading, type;
    std::vector<unsigned char> bytes;

    // From the first element to the last one.
    size_t extent() const {
        return rows == 0 || columns == 0
                   ? 0
                   : (static_cast<size_t>(leading) * (columns - 1) + rows) * size_of(type);
    }
    unsigned char* at(int row, int column) {
        return bytes.data() + (row + static_cast<size_t>(leading) * column) * size_of(type);
    }
};

}  // namespace

extern "C" {

Status cublasCreate_v2(Handle** handle) {
    Driver driver;
    if (!find(driver)) {
        return 1;  // CUBLAS_STATUS_NOT_INITIALIZED
    }
    *handle = new Handle{driver, nullptr};
    return kSuccess;
}

Status cublasDestroy_v2(Handle* handle) {
    delete handle;
    return kSuccess;
}

Status cublasGetVersion_v2(Handle*, int* version) {
    *version = 0;  // of no cuBLAS
    return kSuccess;
}

Status cublasSetStream_v2(Handle* handle, void* stream) {
    handle->stream = stream;
    return kSuccess;
}

Status cublasSetWorkspace_v2(Handle*, void* workspace, size_t) {
    // 256 bytes, as the documentation asks.
    return reinterpret_cast<uintptr_t>(workspace) % 256 == 0 ? kSuccess : kInvalidValue;
}

Status cublasGemmEx(Handle* handle, int op_a, int op_b, int m, int n, int k, const void* alpha,
                    const void* a_data, int a_type, int a_leading, const void* b_data, int b_type,
                    int b_leading, const void* beta, void* c_data, int c_type, int c_leading,
                    int compute, int) {
    const auto known = [](int op) { return op == kNotTransposed || op == kTransposed; };
    if (m < 0 || n < 0 || k < 0 || !known(op_a) || !known(op_b)) {
        return kInvalidValue;
    }
    const bool typed = a_type == kHalf || a_type == kBfloat16 || a_type == kFloat;
    if (!typed || b_type != a_type || c_type != a_type || compute != kCompute32F) {
        return kNotSupported;
    }
    Matrix a = {op_a == kTransposed ? k : m, op_a == kTransposed ? m : k, a_leading, a_type, {}};
    Matrix b = {op_b == kTransposed ? n : k, op_b == kTransposed ? k : n, b_leading, b_type, {}};
    Matrix c = {m, n, c_leading, c_type, {}};
    const void* const data[] = {a_data, b_data, c_data};
    Matrix* const matrices[] = {&a, &b, &c};
    const float scale = *static_cast<const float*>(alpha);
    const float keep = *static_cast<const float*>(beta);
    if (handle->driver.synchronize(handle->stream) != 0) {
        return kMappingError;
    }
    for (int i = 0; i < 3; ++i) {
        Matrix& matrix = *matrices[i];
        if (matrix.leading < (matrix.rows > 1 ? matrix.rows : 1)) {
            return kInvalidValue;
        }
        matrix.bytes.resize(matrix.extent());
        // C is not read where beta is 0.
        const bool read = i < 2 || keep != 0.0f;
        if (read && handle->driver.read(matrix.bytes.data(), reinterpret_cast<uint64_t>(data[i]),
                                        matrix.extent()) != 0) {
            return kMappingError;
        }
    }
    // A row of op(A) and a column of op(B) at a time, as floats.
    std::vector<float> columns(static_cast<size_t>(n) * k), row(k);
    for (int j = 0; j < n; ++j) {
        for (int i = 0; i < k; ++i) {
            columns[static_cast<size_t>(j) * k + i] =
                load(op_b == kTransposed ? b.at(j, i) : b.at(i, j), b_type);
        }
    }
    for (int r = 0; r < m; ++r) {
        for (int i = 0; i < k; ++i) {
            row[i] = load(op_a == kTransposed ? a.at(i, r) : a.at(r, i), a_type);
        }
        for (int j = 0; j < n; ++j) {
            const float* const column = columns.data() + static_cast<size_t>(j) * k;
            float sum = 0.0f;
            for (int i = 0; i < k; ++i) {
                sum += row[i] * column[i];
            }
            const float before = keep == 0.0f ? 0.0f : keep * load(c.at(r, j), c_type);
            store(c.at(r, j), c_type, scale * sum + before);
        }
    }
    // What lies between the columns is not C's.
    for (int j = 0; j < n; ++j) {
        const size_t before = static_cast<size_t>(c_leading) * j * size_of(c_type);
        const uint64_t to = reinterpret_cast<uint64_t>(c_data) + before;
        if (handle->driver.write(to, c.at(0, j), m * size_of(c_type)) != 0) {
            return kMappingError;
        }
    }
    return kSuccess;
}

}  // extern "C"
