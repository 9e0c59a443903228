// What attention needs of one block: products of a group of operations with rows of tokens, softmax, weighted sums of
// the rows. A row is read once for all operations of the group. How rows lie in memory is the caller's matter:
// row.load(n, d) gives the 16 bytes of row n that begin at column d, zero beyond the width, and row.open(n, d, raw, x)
// makes floats of them.
#pragma once

#include "draw.cuh"
#include "element.cuh"
#include "reduce.cuh"

namespace iprm::cuda {

inline constexpr int kGroup = 8;           // most operations of a group
inline constexpr int kGroupThreads = 256;  // threads of a block
inline constexpr int kGroupWarps = kGroupThreads / kWarp;
inline constexpr int kProductRows = 4;    // rows that a warp multiplies at a time
inline constexpr int kLeftColumns = 512;  // columns of the left factors in shared memory at a time
inline constexpr int kSharedRow = 256;    // logits of one operation that shared memory holds
inline constexpr int kWeightRows = 256;   // rows whose weights are in shared memory at a time
inline constexpr int kRunsOfWarp = 4;     // runs of a row that a warp reads when it sums rows, 64 bytes
inline constexpr int kMostAcross = kGroupWarps;

// Operations first, ..., first + count - 1 of sample b.
struct Group {
    int64_t b, first;
    int count;
};

// How K operations are cut into groups, and what else divides the work of a sample.
struct Split {
    int64_t groups;  // of `size` operations, the last perhaps of fewer
    int size;
    int64_t parts;

    __host__ __device__ int64_t items(int64_t B) const { return B * groups * parts; }
    __host__ __device__ int64_t part(int64_t item) const { return item % parts; }
    __host__ __device__ Group group(int64_t item, int64_t K) const {
        const int64_t g = item / parts, first = g % groups * size, left = K - first;
        return {g / groups, first, static_cast<int>(left < size ? left : size)};
    }
};

// As many items as there are multiprocessors, if that many can be had: first smaller groups, then up to `most_parts`.
__host__ __device__ inline Split split_sample(int64_t B, int64_t K, int64_t most_parts, int64_t processors) {
    const int64_t fewest = (K + kGroup - 1) / kGroup;
    int64_t groups = processors / B;
    groups = groups < fewest ? fewest : groups > K ? K : groups;
    const int size = static_cast<int>((K + groups - 1) / groups);
    groups = (K + size - 1) / size;
    int64_t parts = processors / (B * groups);
    parts = parts < 1 ? 1 : parts > most_parts ? most_parts : parts;
    return {groups, size, parts};
}

// Warps side by side along the width when a block sums rows: the fewest that cover D, a power of two.
template <class T>
__host__ __device__ inline int warps_across(int64_t D) {
    int across = 1;
    while (across < kMostAcross && across * kRunsOfWarp * kRun<T> < D) across *= 2;
    return across;
}
template <class T>
__host__ __device__ inline int64_t column_tiles(int64_t D, int across) {
    const int64_t columns = static_cast<int64_t>(across) * kRunsOfWarp * kRun<T>;
    return D > columns ? (D + columns - 1) / columns : 1;
}

struct PoolShared {
    float* weights;     // (kWeightRows, kGroup)
    float* sums;        // a run for each thread
    float* statistics;  // (2, kGroup): of each row of logits the maximum and the sum of exponentials

    __host__ __device__ explicit PoolShared(Arena& arena)
        : weights(arena.take<float>(kWeightRows * kGroup)),
          sums(arena.take<float>(kGroupThreads * 8)),
          statistics(arena.take<float>(2 * kGroup)) {}
};

struct LeftShared {
    float* left;  // (kGroup, kLeftColumns)

    __host__ __device__ explicit LeftShared(Arena& arena) : left(arena.take<float>(kGroup * kLeftColumns)) {}
};

struct PoolAndLeftShared : PoolShared {
    float* left;  // (kGroup, kLeftColumns)

    __host__ __device__ explicit PoolAndLeftShared(Arena& arena)
        : PoolShared(arena), left(arena.take<float>(kGroup * kLeftColumns)) {}
};

struct GroupShared : PoolAndLeftShared {
    float* rows;  // (kGroup, kSharedRow)

    __host__ __device__ explicit GroupShared(Arena& arena)
        : PoolAndLeftShared(arena), rows(arena.take<float>(kGroup * kSharedRow)) {}
};

// Sums x[i] over the lanes that differ in the bits from 16 down to `Last`, each step leaving a lane half of the array:
// of Count values the lane keeps the sums of those Count / (32 / Last) that begin at (lane / Last) times as many.
template <int Last, int Count>
__device__ inline void scatter_sum(float (&x)[Count]) {
    const int lane = lane_index();
    int half = Count / 2;
#pragma unroll
    for (int distance = kWarp / 2; distance >= Last; distance /= 2) {
        const bool upper = lane & distance;
#pragma unroll
        for (int i = 0; i < Count / 2; ++i) {
            if (i < half) {
                const float kept = upper ? x[i + half] : x[i];
                const float sent = upper ? x[i] : x[i + half];
                x[i] = kept + __shfl_xor_sync(kAllLanes, sent, distance);
            }
        }
        half /= 2;
    }
}

// --- Products

// Where a run of left factors lies, in float4: in planes of four columns, so that neighbouring lanes read neighbouring
// 16 bytes.
template <class T>
__device__ inline int left_plane(int o, int plane, int run) {
    return o * (kLeftColumns / 4) + plane * (kLeftColumns / kRun<T>)+run;
}

// Columns begin, ... of the left factors into shared memory.
template <class T, class Left>
__device__ inline void fill_left(int count, int64_t begin, int runs, float* shared, Left&& left) {
    auto* planes = reinterpret_cast<float4*>(shared);
    for (int i = static_cast<int>(threadIdx.x); i < count * runs; i += static_cast<int>(blockDim.x)) {
        const int o = i / runs, run = i % runs;
        float x[kRun<T>];
        left(o, begin + run * kRun<T>, x);
#pragma unroll
        for (int p = 0; p < kRun<T> / 4; ++p) {
            planes[left_plane<T>(o, p, run)] = make_float4(x[4 * p], x[4 * p + 1], x[4 * p + 2], x[4 * p + 3]);
        }
    }
}

// sum[o][t] += left_o · row_{n+t} over the columns in shared memory, of `rows` rows.
template <class T, class Row>
__device__ inline void multiply_rows(int count, int64_t n, int rows, int64_t begin, int runs, float* shared,
                                     const Row& row, float (&sum)[kGroup * kProductRows]) {
    const auto* planes = reinterpret_cast<const float4*>(shared);
#pragma unroll 2
    for (int run = lane_index(); run < runs; run += kWarp) {
        const int64_t d = begin + run * kRun<T>;
        uint4 raw[kProductRows];
        float x[kProductRows][kRun<T>];
#pragma unroll
        for (int t = 0; t < kProductRows; ++t) raw[t] = t < rows ? row.load(n + t, d) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int t = 0; t < kProductRows; ++t) row.open(n + t, d, raw[t], x[t]);
#pragma unroll
        for (int o = 0; o < kGroup; ++o) {
            if (o < count) {
#pragma unroll
                for (int p = 0; p < kRun<T> / 4; ++p) {
                    const float4 y = planes[left_plane<T>(o, p, run)];
#pragma unroll
                    for (int t = 0; t < kProductRows; ++t) {
                        float& s = sum[o * kProductRows + t];
                        s = fmaf(y.x, x[t][4 * p], s), s = fmaf(y.y, x[t][4 * p + 1], s);
                        s = fmaf(y.z, x[t][4 * p + 2], s), s = fmaf(y.w, x[t][4 * p + 3], s);
                    }
                }
            }
        }
    }
}

// Calls use(o, n, Σ_i left_io · row_in) once for each operation o < count and each row begin <= n < N, where i counts
// Sources pairs of factors: left(i, o, d, x) gives runs, row(i) the rows. Barriers before `shared` is written, none at
// the end.
template <class T, int Sources, class Left, class Row, class Use>
__device__ inline void products(int count, int64_t begin, int64_t N, int64_t D, float* shared, Left&& left, Row&& row,
                                Use&& use) {
    const int64_t chunks = (D + kLeftColumns - 1) / kLeftColumns;
    const int lane = lane_index();
    for (int64_t first = begin; first < N; first += static_cast<int64_t>(warp_count()) * kProductRows) {
        const int64_t n = first + warp_index() * kProductRows;
        const int rows = N - n < kProductRows ? static_cast<int>(N - n) : kProductRows;
        float sum[kGroup * kProductRows] = {};
#pragma unroll
        for (int i = 0; i < Sources; ++i) {
            for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                const int64_t d = chunk * kLeftColumns, width = D - d < kLeftColumns ? D - d : kLeftColumns;
                const int runs = static_cast<int>((width + kRun<T> - 1) / kRun<T>);
                if (first == begin || Sources * chunks > 1) {
                    __syncthreads();
                    fill_left<T>(count, d, runs, shared,
                                 [&](int o, int64_t at, float (&x)[kRun<T>]) { left(i, o, at, x); });
                    __syncthreads();
                }
                if (rows > 0) {
                    multiply_rows<T>(count, n, rows, d, runs, shared, row(i), sum);
                }
            }
        }
        if (rows > 0) {
            scatter_sum<1>(sum);
            const int o = lane / kProductRows, t = lane % kProductRows;
            if (o < count && t < rows) use(o, n + t, sum[0]);
        }
    }
}

// --- Softmax, one warp for each operation

struct SoftmaxRow {
    float highest, total;
    __device__ float of(float s) const { return expf(s - highest) / total; }
};

// All lanes of a warp take part; read(n) is the masked logit.
template <class Read>
__device__ inline SoftmaxRow softmax_row(int64_t N, Read&& read) {
    float highest = Max::kStart, total = 0.0f;
    for (int64_t n = lane_index(); n < N; n += kWarp) highest = fmaxf(highest, read(n));
    highest = warp_max(highest);
    for (int64_t n = lane_index(); n < N; n += kWarp) total += expf(read(n) - highest);
    return {highest, warp_sum(total)};
}

// Logits to probabilities in place, in rows `stride` apart. Barriers before and after.
__device__ inline void softmax_rows(int count, int64_t N, float* rows, int64_t stride) {
    __syncthreads();
    for (int o = warp_index(); o < count; o += warp_count()) {
        float* row = rows + o * stride;
        const SoftmaxRow softmax = softmax_row(N, [&](int64_t n) { return row[n]; });
        for (int64_t n = lane_index(); n < N; n += kWarp) row[n] = softmax.of(row[n]);
    }
    __syncthreads();
}

// da to ds = a ⊙ (da - Σ_n a da) in place, in rows N apart. Barriers before and after.
__device__ inline void slope_rows(int count, int64_t N, const float* a, float* ds) {
    __syncthreads();
    for (int o = warp_index(); o < count; o += warp_count()) {
        const float* row = a + o * N;
        float *out = ds + o * N, mean = 0.0f;
        for (int64_t n = lane_index(); n < N; n += kWarp) mean = fmaf(row[n], out[n], mean);
        mean = warp_sum(mean);
        for (int64_t n = lane_index(); n < N; n += kWarp) out[n] = row[n] * (out[n] - mean);
    }
    __syncthreads();
}

// --- Weighted sums

// weight(o, n) of rows begin, ..., begin + length - 1 into shared memory; 0 for the operations that the group lacks.
template <class Weight>
__device__ inline void fill_weights(int count, int64_t begin, int length, float* weights, Weight&& weight) {
    for (int i = static_cast<int>(threadIdx.x); i < length * kGroup; i += static_cast<int>(blockDim.x)) {
        const int o = i % kGroup;
        weights[i] = o < count ? weight(o, begin + i / kGroup) : 0.0f;
    }
}

// sum[o] += Σ_n weight_on row_n over this thread's rows, every `step`-th of `length` from `slice` on.
template <class T, class Row>
__device__ inline void add_rows(int count, int64_t begin, int length, int slice, int step, int64_t d,
                                const float* weights, const Row& row, float (&sum)[kGroup * kRun<T>]) {
    constexpr int kAtOnce = 4;
    for (int n = slice; n < length; n += kAtOnce * step) {
        uint4 raw[kAtOnce];
#pragma unroll
        for (int t = 0; t < kAtOnce; ++t) {
            if (n + t * step < length) raw[t] = row.load(begin + n + t * step, d);
        }
#pragma unroll
        for (int t = 0; t < kAtOnce; ++t) {
            if (n + t * step < length) {
                float x[kRun<T>];
                row.open(begin + n + t * step, d, raw[t], x);
                const float4* w = reinterpret_cast<const float4*>(weights + (n + t * step) * kGroup);
#pragma unroll
                for (int four = 0; four < kGroup / 4; ++four) {
                    if (four * 4 < count) {
                        const float4 y = w[four];
                        const float of[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
                        for (int o = 0; o < 4; ++o) {
#pragma unroll
                            for (int i = 0; i < kRun<T>; ++i) {
                                float& s = sum[(four * 4 + o) * kRun<T> + i];
                                s = fmaf(of[o], x[i], s);
                            }
                        }
                    }
                }
            }
        }
    }
}

// Calls store(o, d, x) with the runs of Σ_n weight(o, n) row_n, for the operations o < count and the columns of one
// tile (column_tiles). `across` warps lie side by side along the width, the others and the lanes take slices of the
// rows. `filled`: shared memory has the weights of all rows already. Barriers before shared memory is written, none at
// the end.
template <class T, class Row, class Weight, class Store>
__device__ inline void weighted_sums(int count, int64_t N, int64_t D, int64_t tile, int across, bool filled,
                                     const PoolShared& shared, const Row& row, Weight&& weight, Store&& store) {
    static_assert(kGroup * kRunsOfWarp == kWarp, "a lane ends with one run of one operation");
    const int lane = lane_index(), along = warp_index() % across, down = kGroupWarps / across;
    const int slice = warp_index() / across * kGroup + lane / kRunsOfWarp;
    const int64_t d = ((tile * across + along) * kRunsOfWarp + lane % kRunsOfWarp) * kRun<T>;
    float sum[kGroup * kRun<T>] = {};
    for (int64_t begin = 0; begin < N; begin += kWeightRows) {
        const int length = static_cast<int>(N - begin < kWeightRows ? N - begin : kWeightRows);
        if (!filled || N > kWeightRows) {
            __syncthreads();
            fill_weights(count, begin, length, shared.weights, weight);
            __syncthreads();
        }
        if (d < D) add_rows<T>(count, begin, length, slice, down * kGroup, d, shared.weights, row, sum);
    }
    scatter_sum<kRunsOfWarp>(sum);
    float x[kRun<T>];
#pragma unroll
    for (int i = 0; i < kRun<T>; ++i) x[i] = sum[i];
    if (down > 1) {
        __syncthreads();
        float* mine = shared.sums + threadIdx.x * kRun<T>;
#pragma unroll
        for (int i = 0; i < kRun<T>; ++i) mine[i] = x[i];
        __syncthreads();
        if (warp_index() < across) {
            for (int other = 1; other < down; ++other) {
#pragma unroll
                for (int i = 0; i < kRun<T>; ++i) x[i] += mine[other * across * kWarp * kRun<T> + i];
            }
        }
    }
    const int o = lane / kRunsOfWarp;
    if (warp_index() < across && o < count && d < D) store(o, d, x);
}

}  // namespace iprm::cuda
