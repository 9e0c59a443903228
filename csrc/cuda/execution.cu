// Launches of execution = "full".
#include "execution.cuh"
#include "grid.cuh"

namespace iprm::cuda {
namespace {

// Two blocks a multiprocessor, for one to compute while the other waits; in float32 a large tile fills its memory.
template <class T, int BN>
inline constexpr int kTileBlocks = sizeof(T) == 4 && BN == 64 ? 1 : 2;

template <class T, int BN>
__global__ void __launch_bounds__(kTileThreads, (kTileBlocks<T, BN>)) logits_kernel(Pairs pairs, float* s) {
    IPRM_SHARED(memory);
    Arena arena(memory);
    logits_item<T, BN>(pairs, s, blockIdx.x, arena);
}

template <class T, int BN>
__global__ void __launch_bounds__(kTileThreads, (kTileBlocks<T, BN>))
    gradients_kernel(Pairs pairs, const float* ds, int64_t begin, PairGradients out) {
    IPRM_SHARED(memory);
    Arena arena(memory);
    gradients_item<T, BN>(pairs, ds, begin, out, blockIdx.x, arena);
}

template <class T>
__global__ void __launch_bounds__(kTokenThreads, 2)
    reduce_kernel(Pairs pairs, PairGradients in, T* dv, T* du, float* sum_g, float* sum_l) {
    IPRM_SHARED(memory);
    Arena arena(memory);
    const int64_t start = static_cast<int64_t>(blockIdx.y) * TokenSums<kRun<T>, 2>::kColumns;
    reduce_item(pairs, in, dv, du, sum_g, sum_l, blockIdx.x, start, arena);
}

template <class T, int BN>
SharedSize tile_memory(int64_t R) {
    Arena arena(nullptr);
    PairTile<T, BN>(arena, static_cast<int>(R));
    return arena.size();
}

template <int BN>
struct TileTag {
    static constexpr int value = BN;
};

// f(TileTag<BN>{}) with the pairs BN of a tile. Each tile streams all weights, 4 R² bytes in 16 bits, for 4 BN R²
// operations: large tiles use what comes from the second-level cache BN times, small ones spread few pairs over more
// multiprocessors. So: the largest that fits and leaves two tiles to each multiprocessor, otherwise the smallest.
template <class T, class F>
auto with_tile(int64_t R, int64_t pairs, F&& f) {
    const int64_t wanted = 2 * multiprocessors();
    const size_t most = shared_limit();
    if (tile_memory<T, 64>(R).device <= most && (pairs + 63) / 64 >= wanted) return f(TileTag<64>{});
    if (tile_memory<T, 32>(R).device <= most && (pairs + 31) / 32 >= wanted) return f(TileTag<32>{});
    return f(TileTag<16>{});
}

// The same for the dtype: f(TypeTag<T>{}, TileTag<BN>{}).
template <class F>
auto with_tile(const Launch& launch, int64_t R, int64_t pairs, F&& f) {
    return with_dtype(launch.dtype, [&](auto type) {
        return with_tile<typename decltype(type)::type>(R, pairs, [&](auto tile) { return f(type, tile); });
    });
}

template <int BN>
dim3 tiles_of(int64_t pairs) {
    return dim3(static_cast<unsigned>((pairs + BN - 1) / BN));
}

}  // namespace

size_t shared_limit() {
    int device = 0, bytes = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return static_cast<size_t>(bytes);
}

int64_t most_width(Dtype dtype, size_t shared) {
    return with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int64_t kStep = TileShape<T, 16>::kDepth;
        int64_t R = 0;
        while (tile_memory<T, 16>(R + kStep).device <= shared) R += kStep;
        return R;
    });
}

cudaError_t logits(const Launch& on, const Pairs& pairs, float* s) {
    const int64_t count = pairs.B * pairs.K * pairs.N;
    if (count == 0) return cudaSuccess;
    return with_tile(on, pairs.R, count, [&](auto type, auto tile) {
        using T = typename decltype(type)::type;
        constexpr int BN = decltype(tile)::value;
        return launch(logits_kernel<T, BN>, tiles_of<BN>(count), kTileThreads, tile_memory<T, BN>(pairs.R), on.stream,
                      pairs, s);
    });
}

int64_t pair_tiles(const Launch& on, int64_t R, int64_t pairs) {
    return with_tile(on, R, pairs, [&](auto type, auto tile) -> int64_t {
        constexpr int BN = decltype(tile)::value;
        return (pairs + BN - 1) / BN * TileShape<typename decltype(type)::type, BN>::kRowWarps;
    });
}

int64_t token_tiles(int64_t N) { return (N + kTokens - 1) / kTokens; }

cudaError_t gradients_of_pairs(const Launch& on, const Pairs& pairs, const float* ds, int64_t first,
                               const PairGradients& out) {
    const int64_t count = pairs.B * pairs.K * pairs.N;
    if (count == 0) return cudaSuccess;
    return with_tile(on, pairs.R, count, [&](auto type, auto tile) {
        using T = typename decltype(type)::type;
        constexpr int BN = decltype(tile)::value;
        return launch(gradients_kernel<T, BN>, tiles_of<BN>(count), kTileThreads, tile_memory<T, BN>(pairs.R),
                      on.stream, pairs, ds, first, out);
    });
}

cudaError_t reduce(const Launch& on, const Pairs& pairs, const PairGradients& in, void* dv, void* du, float* sum_g,
                   float* sum_l) {
    const int64_t items = pairs.B * token_tiles(pairs.N);
    if (items == 0 || pairs.R == 0) return cudaSuccess;
    return with_dtype(on.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        Arena arena(nullptr);
        const TokenSums<kRun<T>, 2> sums(arena);
        return launch(reduce_kernel<T>, token_grid(items, pairs.R, sums.kColumns), kTokenThreads, arena.size(),
                      on.stream, pairs, in, static_cast<T*>(dv), static_cast<T*>(du), sum_g, sum_l);
    });
}

}  // namespace iprm::cuda
