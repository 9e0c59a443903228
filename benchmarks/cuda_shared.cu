// Prints the dynamic shared memory that the launches of csrc/cuda ask for, counted by the layouts that the kernels
// carve: `kernel dtype tile`, then bytes at R = 256, 512 and 1024. Host code: it needs no device.
#include <algorithm>
#include <cstdio>
#include <string>

#include "composition.cuh"
#include "execution.cuh"
#include "formation.cuh"
#include "grid.cuh"
#include "linear.cuh"
#include "simple.cuh"

namespace iprm::cuda {
namespace {

constexpr int kWidths[] = {256, 512, 1024};
constexpr int kWindowColumns = 18;  // K = 6, W = 2

template <class Bytes>
void print(const std::string& kernel, Bytes&& bytes) {
    std::printf("%s:", kernel.c_str());
    for (int R : kWidths) std::printf(" %zu", static_cast<size_t>(bytes(R)));
    std::printf("\n");
}

template <class Layout>
void print_fixed(const std::string& kernel) {
    print(kernel, [](int) { return size_of<Layout>().device; });
}

template <class T, int BN>
size_t tile_bytes(int R) {
    Arena arena(nullptr);
    PairTile<T, BN>(arena, R);
    return arena.size().device;
}

template <class T, int BN>
size_t step_bytes(int R) {
    Arena linear(nullptr);
    LinearScratch<T>(linear, kWindowColumns);
    return std::max({linear.size().device, size_of<GroupShared>().device, tile_bytes<T, BN>(R)});
}

template <class T, int BN>
void print_tile(const std::string& dtype) {
    for (const char* kernel : {"logits ", "gradients "})
        print(kernel + dtype + " " + std::to_string(BN), tile_bytes<T, BN>);
    print("steps " + dtype + " " + std::to_string(BN), step_bytes<T, BN>);
}

template <class T>
void print_all(const std::string& dtype) {
    print_tile<T, 16>(dtype), print_tile<T, 32>(dtype), print_tile<T, 64>(dtype);
    print_fixed<PoolShared>("pool " + dtype);
    for (const char* kernel : {"d_logits ", "formation_logits "}) print_fixed<LeftShared>(kernel + dtype);
    for (const char* kernel : {"d_tokens ", "formation_d_tokens "}) print_fixed<DTokensShared>(kernel + dtype);
    for (const char* kernel : {"formation ", "composition "}) print_fixed<GroupShared>(kernel + dtype);
    for (const char* kernel : {"formation_backward ", "operations_backward "}) {
        print_fixed<PoolAndLeftShared>(kernel + dtype);
    }
    print_fixed<RunSums>("columns_backward " + dtype);
    print_fixed<TokenSums<kRun<T>, 2>>("reduce " + dtype);
    print_fixed<SimpleSums>("simple_backward " + dtype);
}

}  // namespace
}  // namespace iprm::cuda

int main() {
    using namespace iprm::cuda;
    print_all<float>("float32");
    print_all<__nv_bfloat16>("bfloat16");
    print_all<__half>("float16");
}
