// One block or several independent ones: barriers, bounds, warps, undefined behaviour.
#include "check.h"

using namespace iprm::cuda;

namespace {

constexpr int kThreads = 128, kBlocks = 3, kSize = kThreads * kBlocks - 5;
constexpr unsigned kAll = 0xffffffffu;

std::vector<float> numbers(int n) {
    std::vector<float> x(n);
    for (int i = 0; i < n; ++i) x[i] = static_cast<float>(i % 97);
    return x;
}

// out = x + x reversed within its block, twice through the same tile.
__global__ void reverse(const float* x, float* out, int n) {
    IPRM_SHARED(base);
    Arena arena(base);
    float* tile = arena.take<float>(kThreads);
    float* sum = arena.take<float>(kThreads);
    const int i = threadIdx.x, e = blockIdx.x * kThreads + i;
    if (!bug("uninitialised_shared") || e < n) tile[i] = e < n || bug("out_of_bounds_global_read") ? x[e] : 0.0f;
    if (bug("divergent_barrier") && i < 64) {
        __syncthreads();
    } else if (!bug("no_barrier_before_read")) {
        __syncthreads();
    }
    const float other = tile[kThreads - 1 - i];
    if (!bug("no_barrier_before_overwrite")) __syncthreads();
    tile[bug("out_of_bounds_shared") ? i + 1 : i] += other;
    sum[i] = tile[i];
    if (e < n || bug("out_of_bounds_global_write")) out[e] = sum[i];
}

bool run_reverse() {
    Arena arena(nullptr);
    arena.take<float>(kThreads);
    arena.take<float>(kThreads);
    const std::vector<float> x = numbers(kSize);
    std::vector<float> out(kSize, -1.0f);
    if (!launched(launch(reverse, dim3(kBlocks), kThreads, arena.size(), nullptr, x.data(), out.data(), kSize))) {
        return false;
    }
    const auto at = [&](int e) { return e < kSize ? x[e] : 0.0f; };
    bool right = true;
    for (int e = 0; e < kSize; ++e) {
        right &= out[e] == at(e) + at(e / kThreads * kThreads + kThreads - 1 - e % kThreads);
    }
    return right;
}

// Each warp's sum in lane order through shared memory and by shuffles; both must agree.
__global__ void warps(const float* x, float* out) {
    IPRM_SHARED(base);
    Arena arena(base);
    float* tile = arena.take<float>(kThreads);
    const int lane = threadIdx.x % 32;
    float* mine = tile + threadIdx.x / 32 * 32;
    float value = x[threadIdx.x];
    mine[lane] = value;
    if (!bug("no_syncwarp")) __syncwarp();
    float sum = 0.0f;
    for (int i = 0; i < 32; ++i) sum += mine[i];
    if (bug("lane_out_of_mask")) value = __shfl_xor_sync(0xffffu, value, 1);
    if (bug("lanes_missing") && lane >= 16) return;
    if (bug("lanes_apart") && lane < 16) value = __shfl_xor_sync(kAll, value, 1);
    for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(kAll, value, bits);
    out[threadIdx.x] = sum - value;
    if (__ballot_sync(kAll, lane < 7) != 0x7fu || !__any_sync(kAll, lane == 3) || __all_sync(kAll, lane == 3)) {
        out[threadIdx.x] = 1.0f;
    }
    if (__shfl_sync(kAll, lane, 5) != 5 || __shfl_down_sync(kAll, lane, 4, 16) != (lane % 16 < 12 ? lane + 4 : lane)) {
        out[threadIdx.x] = 2.0f;
    }
    if (__shfl_up_sync(kAll, lane, 1) != (lane ? lane - 1 : 0)) out[threadIdx.x] = 3.0f;
    if (__syncthreads_count(lane == 0) != kThreads / 32 || !__syncthreads_or(threadIdx.x == 9) ||
        __syncthreads_and(threadIdx.x == 9)) {
        out[threadIdx.x] = 4.0f;
    }
}

bool run_warps() {
    Arena arena(nullptr);
    arena.take<float>(kThreads);
    const std::vector<float> x = numbers(kThreads);
    std::vector<float> out(kThreads, -1.0f);
    if (!launched(launch(warps, dim3(1), kThreads, arena.size(), nullptr, x.data(), out.data()))) return false;
    bool right = true;
    for (float difference : out) right &= difference == 0.0f;
    return right;
}

__global__ void deadlock(int* out) {
    if (bug("lanes_at_two_barriers") && threadIdx.x < 32) {
        __syncwarp();
        if (threadIdx.x < 16) __shfl_sync(kAll, 0, 0);
    }
    __syncthreads();
    out[threadIdx.x] = 1;
}

bool run_deadlock() {
    std::vector<int> out(kThreads);
    return launched(launch(deadlock, dim3(1), kThreads, {}, nullptr, out.data())) && out[0] == 1;
}

// Undefined behaviour that plain runs may survive.
__global__ void undefined(const float* x, float* out, int shift) {
    const int offset = bug("misaligned_vector") ? 1 : 0;
    const float4 four = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + offset);
    out[threadIdx.x] = four.x + four.y + four.z + four.w + static_cast<float>(1 << shift);
}

bool run_undefined() {
    alignas(16) static float x[4 * kThreads + 4] = {};
    std::vector<float> out(kThreads);
    const int shift = bug("shift") ? 40 : 4;
    return launched(launch(undefined, dim3(1), kThreads, {}, nullptr, x, out.data(), shift)) &&
           (out[0] == 16.0f || bug("shift"));
}

// Every block counts, and the last to come adds up what all have written.
__global__ void last_block(int* parts, int* counter, int* out) {
    IPRM_SHARED(base);
    Arena arena(base);
    int* last = arena.take<int>(1);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
        if (!bug("no_fence")) __threadfence();
        *last = atomicAdd(counter, 1) == static_cast<int>(gridDim.x) - 1;
        if (!bug("no_fence")) __threadfence();
    }
    __syncthreads();
    if (!*last || threadIdx.x != 0) return;
    int sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += parts[b];
    *out = sum;
}

bool run_last_block() {
    Arena arena(nullptr);
    arena.take<int>(1);
    std::vector<int> parts(4), counter(1), out(1);
    return launched(launch(last_block, dim3(4), kThreads, arena.size(), nullptr, parts.data(), counter.data(),
                           out.data())) &&
           out[0] == 10;
}

__global__ void independent(float* out) {
    if (threadIdx.x == 0) out[bug("race_between_blocks") ? 0 : blockIdx.x] = static_cast<float>(blockIdx.x);
}

bool run_independent() {
    std::vector<float> out(kBlocks);
    return launched(launch(independent, dim3(kBlocks), kThreads, {}, nullptr, out.data()));
}

// Halves of the grid in two phases: each block reads what the others have written.
__global__ void phases(unsigned* barrier, int* first, int* second, int n) {
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads) first[i] = i;
    if (!bug("no_grid_barrier")) grid_barrier(barrier);
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < n; i += gridDim.x * kThreads) second[i] = first[n - 1 - i];
    if (bug("block_leaves") && blockIdx.x == 1) return;
    grid_barrier(barrier);
}

bool run_phases() {
    std::vector<unsigned> barrier(2, bug("barrier_not_zero") ? 1u : 0u);
    std::vector<int> first(kSize, -1), second(kSize, -1);
    const cudaError_t error =
        bug("not_resident")
            ? launch(phases, dim3(2), kThreads, {}, nullptr, barrier.data(), first.data(), second.data(), kSize)
            : launch_resident(phases, 100, kThreads, {}, nullptr, barrier.data(), first.data(), second.data(), kSize);
    bool right = launched(error) && barrier[0] == 0 && barrier[1] == 2;
    for (int i = 0; i < kSize; ++i) right &= second[i] == kSize - 1 - i;
    return right;
}

// 200 KB of shared memory: too much where 163 are the limit.
bool run_large() {
    Arena arena(nullptr);
    arena.take<float>(200 * 256);
    std::vector<int> out(kThreads);
    return launched(launch(deadlock, dim3(1), kThreads, arena.size(), nullptr, out.data()));
}

// After a failed launch the next one works.
bool run_recovery() {
    planted_bug = "divergent_barrier";
    try {
        run_reverse();
        return false;
    } catch (const std::exception&) {
    }
    planted_bug = "none";
    return run_reverse() && run_warps() && run_phases();
}

}  // namespace

int main(int count, char** arguments) {
    return run_one({{"reverse", run_reverse},
                    {"warps", run_warps},
                    {"deadlock", run_deadlock},
                    {"undefined", run_undefined},
                    {"last_block", run_last_block},
                    {"independent", run_independent},
                    {"phases", run_phases},
                    {"large", run_large},
                    {"recovery", run_recovery}},
                   count, arguments);
}
