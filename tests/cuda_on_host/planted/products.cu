// Tensor cores and asynchronous copies: a product by tiles with two stages, and the layouts of the fragments.
#include "check.h"

using namespace iprm::cuda;

namespace {

constexpr int kRows = 32, kColumns = 16, kDepth = 80, kStep = 16, kThreads = 128;
constexpr int kStride = kStep + 8;  // of a row in shared memory

template <class T>
T rounded(float x);
template <>
__half rounded<__half>(float x) {
    return __float2half(x);
}
template <>
__nv_bfloat16 rounded<__nv_bfloat16>(float x) {
    return __float2bfloat16(x);
}
template <class T>
struct Stages {
    T* a[2];
    T* b[2];
};

template <class T>
Stages<T> carve(Arena& arena) {
    Stages<T> stages;
    for (T*& a : stages.a) a = arena.take<T>(kRows * kStride);
    for (T*& b : stages.b) b = arena.take<T>(kStep * (kColumns + 8));
    return stages;
}

// 16 bytes a thread: threads 0-63 copy a's 32 rows of 16, 64-95 b's 16 rows of 16.
template <class T>
__device__ void fetch(const T* a, const T* b, const Stages<T>& stages, int step) {
    const int i = threadIdx.x, stage = step % 2;
    const int skew = bug("misaligned_copy") ? 1 : 0;
    if (i < 64) {
        const int row = i / 2, part = i % 2 * 8;
        copy_async(stages.a[stage] + row * kStride + part + skew, a + row * kDepth + step * kStep + part);
    } else if (i < 96) {
        const int row = (i - 64) / 2, part = i % 2 * 8;
        copy_async(stages.b[stage] + row * (kColumns + 8) + part, b + (step * kStep + row) * kColumns + part);
    }
    copy_commit();
}

// c = a b; a (32, 80), b (80, 16). Four warps, a 16x8 tile each.
template <class T>
__global__ void multiply(const T* a, const T* b, float* c) {
    IPRM_SHARED(base);
    Arena arena(base);
    const Stages<T> stages = carve<T>(arena);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, top = warp / 2 * 16, left = warp % 2 * 8;
    constexpr int kSteps = kDepth / kStep;
    float d[4] = {};
    fetch(a, b, stages, 0);
    for (int step = 0; step < kSteps; ++step) {
        if (step + 1 < kSteps) {
            fetch(a, b, stages, step + 1);
        } else {
            copy_commit();
        }
        if (bug("barrier_before_wait")) __syncthreads();
        if (!bug("no_wait")) copy_wait<1>();
        if (!bug("barrier_before_wait") && !bug("no_barrier_after_wait")) __syncthreads();
        uint32_t left_rows[4], right_rows[4];
        const int skew = bug("misaligned_row") ? 1 : 0;
        load_matrices(left_rows, stages.a[step % 2] + (top + lane % 16) * kStride + lane / 16 * 8 + skew);
        load_matrices_transposed(right_rows, stages.b[step % 2] + lane % 16 * (kColumns + 8) + lane / 16 * 8);
        const uint32_t right[2] = {right_rows[warp % 2 * 2], right_rows[warp % 2 * 2 + 1]};
        multiply_add<T>(d, left_rows, right);
        if (!bug("no_barrier_before_next_copy")) __syncthreads();
    }
    for (int i = 0; i < 4; ++i) {
        c[(top + lane / 4 + i / 2 * 8) * kColumns + left + lane % 4 * 2 + i % 2] = d[i];
    }
}

template <class T>
bool run_multiply() {
    std::vector<T> a(kRows * kDepth), b(kDepth * kColumns);
    std::vector<float> c(kRows * kColumns, -1.0f);
    const auto left = [](int i) { return static_cast<float>(i * 7 % 13 - 6); };
    const auto right = [](int i) { return static_cast<float>(i * 5 % 11 - 5); };
    for (size_t i = 0; i < a.size(); ++i) a[i] = rounded<T>(left(static_cast<int>(i)));
    for (size_t i = 0; i < b.size(); ++i) b[i] = rounded<T>(right(static_cast<int>(i)));
    Arena arena(nullptr);
    carve<T>(arena);
    if (!launched(launch(multiply<T>, dim3(1), kThreads, arena.size(), nullptr, a.data(), b.data(), c.data()))) {
        return false;
    }
    bool equal = true;
    for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kColumns; ++j) {
            float sum = 0.0f;
            for (int k = 0; k < kDepth; ++k) sum += left(i * kDepth + k) * right(k * kColumns + j);
            equal &= c[i * kColumns + j] == sum;
        }
    }
    return equal;
}

// Prints each lane's registers of a product of a (16, 16), a_ik = 16 i + k, and b (16, 8), b_kj = 8 k + j - 64; b comes
// from rows of k (transposed) and of j, which must be the same.
template <class T>
__global__ void fragments(float* all) {
    IPRM_SHARED(base);
    Arena arena(base);
    T* a = arena.take<T>(16 * 16);
    T* b = arena.take<T>(16 * 8);
    T* b_turned = arena.take<T>(16 * 8);
    const int lane = threadIdx.x;
    for (int e = lane; e < 256; e += 32) a[e] = rounded<T>(static_cast<float>(e));
    for (int e = lane; e < 128; e += 32) {
        b[e] = rounded<T>(static_cast<float>(e - 64));
        b_turned[e % 8 * 16 + e / 8] = b[e];
    }
    __syncwarp();
    uint32_t ra[4], rb[4], rt[4];
    load_matrices(ra, a + lane % 16 * 16 + lane / 16 * 8);
    load_matrices_transposed(rb, b + lane % 16 * 8);
    load_matrices(rt, b_turned + lane % 8 * 16 + lane / 8 % 2 * 8);
    float d[4] = {};
    const uint32_t right[2] = {rb[0], rb[1]};
    multiply_add<T>(d, ra, right);
    float* mine = all + lane * 16;
    for (int i = 0; i < 8; ++i) mine[i] = on_host::element<T>(ra[i / 2], i % 2);
    for (int i = 0; i < 4; ++i) mine[8 + i] = on_host::element<T>(rb[i / 2], i % 2);
    for (int i = 0; i < 4; ++i) mine[12 + i] = d[i];
    if (rb[0] != rt[0] || rb[1] != rt[1]) mine[0] = -1.0f;
}

template <class T>
bool print_fragments() {
    Arena arena(nullptr);
    arena.take<T>(16 * 16);
    arena.take<T>(16 * 8);
    arena.take<T>(16 * 8);
    std::vector<float> all(32 * 16);
    if (!launched(launch(fragments<T>, dim3(1), 32, arena.size(), nullptr, all.data()))) return false;
    for (int i = 0; i < 32 * 16; ++i) std::printf("%g%c", all[i], i % 16 == 15 ? '\n' : ' ');
    return true;
}

// Zero-filled tails of copies.
__global__ void tails(const float* x, float* out) {
    IPRM_SHARED(base);
    Arena arena(base);
    float* tile = arena.take<float>(4 * 5);
    const int i = threadIdx.x;
    if (i < 5) copy_async(tile + 4 * i, x, 4 * i);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    if (i < 20) out[i] = tile[i];
}

bool run_tails() {
    alignas(16) static float x[4] = {1, 2, 3, 4};
    Arena arena(nullptr);
    arena.take<float>(20);
    std::vector<float> out(20, -1.0f);
    bool equal = launched(launch(tails, dim3(1), 32, arena.size(), nullptr, static_cast<const float*>(x), out.data()));
    for (int i = 0; i < 20; ++i) equal &= out[i] == (i % 4 < i / 4 ? x[i % 4] : 0.0f);
    return equal;
}

}  // namespace

int main(int count, char** arguments) {
    return run_one({{"multiply_half", run_multiply<__half>},
                    {"multiply_bfloat16", run_multiply<__nv_bfloat16>},
                    {"fragments_half", print_fragments<__half>},
                    {"fragments_bfloat16", print_fragments<__nv_bfloat16>},
                    {"tails", run_tails}},
                   count, arguments);
}
