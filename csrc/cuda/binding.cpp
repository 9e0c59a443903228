// The ops of the CUDA backend as a Python module: checks, allocation, launches (kernels.h), and the library's products
// and sums. Signatures as in csrc/cpu/ops.h; inputs are float32, bfloat16 or float16, attention is float32. Nothing
// here waits for the device: the seed of a dropout mask is read there.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <tuple>
#include <vector>

#include "../common/shapes.h"
#include "../recurrence/bind.h"
#include "kernels.h"

// Where the build for the host (its tests) differs: CPU tensors, no device to choose, no stream.
#if defined(IPRM_CUDA_ON_HOST)
#    define IPRM_CUDA_FLAGS ""
#    define IPRM_CUDA_ARCHS "host"
#    define IPRM_NVCC "none"

namespace iprm {
const at::DeviceType kDeviceType = at::kCPU;
}
namespace {
struct OnDevice {
    explicit OnDevice(at::Device) {}
    cudaStream_t stream() const { return {}; }
};
std::string reason(cudaError_t error) { return "error " + std::to_string(static_cast<int>(error)); }
}  // namespace
#else
// c10 alone: what ATen/cuda includes is not in every toolkit.
#    include <c10/cuda/CUDAGuard.h>
#    include <c10/cuda/CUDAStream.h>

namespace iprm {
const at::DeviceType kDeviceType = at::kCUDA;
}
namespace {
struct OnDevice {
    explicit OnDevice(at::Device device) : guard(device) {}
    cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }
    c10::cuda::CUDAGuard guard;
};
std::string reason(cudaError_t error) {
    (void)cudaGetLastError();  // or the next check of an unrelated launch would report it
    return cudaGetErrorString(error);
}
}  // namespace
#endif

namespace iprm {
const std::initializer_list<at::ScalarType> kDtypes = {at::kFloat, at::kBFloat16, at::kHalf};
}

// Apart from the launches of kernels.h, which have the names of the ops too.
namespace iprm::cuda::binding {
namespace {

namespace py = pybind11;
using at::IntArrayRef;
using at::Tensor;
using Tensors = std::vector<Tensor>;

// At most so much is spent on the pair buffers of a backward, unless a single sample needs more.
std::atomic<int64_t> buffer_bytes{128 << 20};

Dtype dtype_of(at::ScalarType type) {
    switch (type) {
        case at::kBFloat16:
            return Dtype::kBFloat16;
        case at::kHalf:
            return Dtype::kFloat16;
        default:
            return Dtype::kFloat32;
    }
}

// One call of an op: makes the device of its inputs the current one, and checks the launches.
class Call {
  public:
    Call(const char* op, const Tensor& like)
        : op_(op), device_(like.device()), launch{dtype_of(like.scalar_type()), device_.stream()} {}

    void check(cudaError_t error) const { TORCH_CHECK(error == cudaSuccess, op_, ": ", reason(error)); }

  private:
    const char* op_;
    OnDevice device_;

  public:
    const Launch launch;
};

// Uninitialised where `computed`; else zeros, which is what a sum over nothing is: with a size of zero nothing is
// launched.
Tensor allocate(IntArrayRef shape, const at::TensorOptions& options, bool computed = true) {
    return computed ? at::empty(shape, options) : at::zeros(shape, options);
}
Tensor allocate_like(const Tensor& like, bool computed = true) {
    return allocate(like.sizes(), like.options(), computed);
}
at::TensorOptions floats(const Tensor& like) { return like.options().dtype(at::kFloat); }

const void* in(const Tensor& tensor) { return tensor.const_data_ptr(); }
const float* floats_in(const Tensor& tensor) { return tensor.const_data_ptr<float>(); }
const float* floats_in(const OptionalTensor& tensor) { return tensor ? floats_in(*tensor) : nullptr; }
const uint8_t* bytes_in(const OptionalTensor& mask) {
    return mask ? static_cast<const uint8_t*>(mask->const_data_ptr()) : nullptr;
}
void* out(const Tensor& tensor) { return tensor.mutable_data_ptr(); }
float* floats_out(const Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }

// x contiguous, as the kernels take rows: its last `dims` dimensions are padded with zeros to whole runs of 16 bytes,
// and it begins at a multiple of 16. The zeros add nothing to a product or a sum; what is made of them is cut off.
Tensor padded(const Tensor& x, int64_t dims = 1) {
    const int64_t run = 16 / static_cast<int64_t>(x.element_size());
    at::DimVector pad;
    for (int64_t i = 1; i <= dims; ++i) pad.append({0, (run - x.size(-i) % run) % run});
    if (std::any_of(pad.begin(), pad.end(), [](int64_t n) { return n > 0; })) return at::constant_pad_nd(x, pad);
    const Tensor rows = contiguous(x);
    return reinterpret_cast<uintptr_t>(in(rows)) % 16 == 0 ? rows : rows.clone();
}
// x without what is beyond `width` in its last dimension.
Tensor cut(const Tensor& x, int64_t width) { return x.size(-1) == width ? x : x.narrow(-1, 0, width).contiguous(); }

Drop drop_of_stream(const OptionalTensor& seed, int64_t stream, double p, const char* name, const Tensor& like) {
    const DropoutMask mask = unseeded_mask(seed, stream, p, name, like.device());
    if (!mask.active()) return {};
    const int64_t width = like.dim() > 0 ? like.size(-1) : 1;
    return {seed->const_data_ptr<int64_t>(), mask.stream, mask.threshold, static_cast<float>(mask.scale), width};
}

Drop drop_of(const OptionalTensor& seed, int64_t step, Role role, double p, const char* name, const Tensor& like) {
    return drop_of_stream(seed, stream_of(step, role), p, name, like);
}

// Written to `to` where that is defined.
Tensor dropout_to(const Tensor& x, double p, const OptionalTensor& seed, int64_t stream, const Tensor& to) {
    expect_floating(x, "x", -1);
    const Drop drop = drop_of_stream(seed, stream, p, "p", x);
    const Call call("dropout", x);
    const Tensor source = contiguous(x), result = to.defined() ? to : allocate_like(source);
    call.check(dropout(call.launch, in(source), out(result), source.numel(), drop));
    return result;
}

Tensor dropout(const Tensor& x, double p, const OptionalTensor& seed, int64_t stream) {
    return dropout_to(x, p, seed, stream, {});
}

// --- 1. Formation

Attend attend(const Tensor& tokens, int64_t operations, const Drop& drop) {
    return {tokens.size(0), operations, tokens.size(1), tokens.size(2), in(tokens), drop};
}

std::tuple<Tensor, Tensor> formation(const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                     const OptionalTensor& mask, const OptionalTensor& seed, int64_t step,
                                     double p_attention) {
    expect_formation(query, tokens, gate, mask);
    const Drop drop = drop_of(seed, step, Role::kFormationAttention, p_attention, "p_attention", query);
    const Call call("formation", query);
    const Tensor q = padded(query), x = padded(tokens), f = padded(gate);
    const OptionalTensor keep = contiguous(mask);
    const Tensor z = allocate_like(q), logits = allocate({q.size(0), q.size(1), x.size(1)}, floats(q));
    const Tensor attention = allocate_like(logits);
    call.check(formation(call.launch, attend(x, q.size(1), drop), in(q), in(f), bytes_in(keep), out(z),
                         floats_out(attention), floats_out(logits)));
    return {cut(z, query.size(2)), attention};
}

std::tuple<Tensor, Tensor, Tensor> formation_backward(const Tensor& grad_z, const OptionalTensor& grad_attention,
                                                      const Tensor& query, const Tensor& tokens, const Tensor& gate,
                                                      const Tensor& attention, const OptionalTensor& seed, int64_t step,
                                                      double p_attention, const Needs& needs) {
    expect_formation_backward(grad_z, grad_attention, query, tokens, gate, attention);
    expect_needs(needs, 3);
    const Drop drop = drop_of(seed, step, Role::kFormationAttention, p_attention, "p_attention", query);
    const Call call("formation_backward", query);
    const Tensor grad = padded(grad_z), q = padded(query), x = padded(tokens), f = padded(gate);
    const Tensor a = contiguous(attention);
    const OptionalTensor grad_a = contiguous(grad_attention);
    const bool computed = q.numel() > 0 && x.numel() > 0;
    const Tensor ds = allocate_like(a), d_query = allocate_like(q, computed);
    const Tensor d_tokens = allocate_like(x, computed);  // always: its kernel makes the gate's gradient on the way
    const Tensor d_gate = allocate({q.size(0), q.size(2)}, floats(q), computed);
    call.check(formation_backward(call.launch, attend(x, q.size(1), drop), in(grad), floats_in(grad_a), in(q), in(f),
                                  floats_in(a), floats_out(ds), out(d_query), out(d_tokens), floats_out(d_gate)));
    const int64_t D = query.size(2);
    return {cut(d_query, D), needs[1] ? cut(d_tokens, D) : unneeded(x), cut(d_gate.sum(0), D).to(q.scalar_type())};
}

// --- 2. Execution

// Softmax of the logits, and the pooled tokens.
std::tuple<Tensor, Tensor> pooled(const Call& call, const Tensor& logits, const Tensor& tokens,
                                  const OptionalTensor& mask, const Drop& drop) {
    const Tensor x = padded(tokens), attention = allocate_like(logits);
    const OptionalTensor keep = contiguous(mask);
    const Tensor result = allocate({x.size(0), logits.size(1), x.size(2)}, x.options());
    call.check(pool(call.launch, attend(x, logits.size(1), drop), floats_in(logits), bytes_in(keep), out(result),
                    floats_out(attention)));
    return {cut(result, tokens.size(2)), attention};
}

// The backward of `pooled`: gradients of the logits and of the tokens.
std::tuple<Tensor, Tensor> pooled_backward(const Call& call, const Tensor& grad_pooled,
                                           const OptionalTensor& grad_attention, const Tensor& tokens,
                                           const Tensor& attention, const Drop& drop, bool need_tokens) {
    const Tensor grad = padded(grad_pooled), x = padded(tokens), a = contiguous(attention);
    const OptionalTensor grad_a = contiguous(grad_attention);
    const Tensor ds = allocate_like(a), dx = need_tokens ? allocate_like(x, a.numel() > 0) : unneeded(x);
    const Attend args = attend(x, a.size(1), drop);
    call.check(d_logits(call.launch, args, in(grad), floats_in(grad_a), floats_in(a), floats_out(ds)));
    if (need_tokens) call.check(d_tokens(call.launch, args, in(grad), floats_in(a), out(dx)));
    return {ds, need_tokens ? cut(dx, tokens.size(2)) : dx};
}

// The inputs of the full form, padded, and what the kernels take for a part of the samples.
struct Inputs {
    Inputs(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l, const Tensor& c1a, const Tensor& c2,
           const Tensor& c2_bias, const Tensor& w)
        : v(padded(v)),
          u(padded(u)),
          g(padded(g)),
          l(padded(l)),
          c1a(padded(c1a, 2)),
          c2(padded(c2, 2)),
          c2_bias(padded(c2_bias)),
          w(padded(w)) {}

    Pairs pairs(Activation activation, const Drop& product) const {
        return {v.size(0), g.size(1), v.size(1), v.size(2), activation, product,     in(v),
                in(u),     in(g),     in(l),     in(c1a),   in(c2),     in(c2_bias), in(w)};
    }
    Inputs samples(int64_t first, int64_t count) const {
        Inputs part = *this;
        for (Tensor* tensor : {&part.v, &part.u, &part.g, &part.l}) *tensor = tensor->narrow(0, first, count);
        return part;
    }

    Tensor v, u, g, l, c1a, c2, c2_bias, w;
};

void expect_width(const Call& call, const Tensor& v) {
    const int64_t most = most_width(call.launch.dtype, shared_limit());
    TORCH_CHECK_VALUE(v.size(2) <= most, "v: expected at most ", most,
                      " columns for the cuda backend with this dtype and device, got ", v.size(2));
}

std::tuple<Tensor, Tensor> execution(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                                     const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
                                     const Tensor& tokens, const OptionalTensor& mask, const OptionalTensor& seed,
                                     int64_t step, double p_product, double p_attention,
                                     const std::string& activation) {
    expect_execution(v, u, g, l, c1a, c2, c2_bias, w, tokens, mask);
    const Activation function = parse_activation(activation);
    const Drop product = drop_of(seed, step, Role::kProduct, p_product, "p_product", v);
    const Drop drop = drop_of(seed, step, Role::kExecutionAttention, p_attention, "p_attention", v);
    const Call call("execution", v);
    expect_width(call, v);
    const Inputs inputs(v, u, g, l, c1a, c2, c2_bias, w);
    const Tensor s = allocate({v.size(0), g.size(1), v.size(1)}, floats(v), v.size(2) > 0);
    call.check(logits(call.launch, inputs.pairs(function, product), floats_out(s)));
    return pooled(call, s, tokens, mask, drop);
}

// total += leftᵀ right, in float32 to the end where this torch has such a product.
void add_product(const Tensor& total, const Tensor& left, const Tensor& right) {
    static const auto wide = c10::Dispatcher::singleton().findSchema({"aten::mm", "dtype"});
    if (left.scalar_type() == at::kFloat) {
        total.addmm_(left.t(), right);
    } else if (wide && left.is_cuda()) {
        using Product = Tensor(const Tensor&, const Tensor&, at::ScalarType);
        total.add_(wide->typed<Product>().call(left.t(), right, at::kFloat));
    } else {
        total.add_(at::mm(left.t(), right));
    }
}

// The gradients of the inputs, in float32 where they add up over parts of the batch. What the kernels sum over a tile
// alone, `sums` (of w and of c2's bias) and `parts` (of g and of l), is summed up once when all parts are through.
struct Gradients {
    Gradients(const Inputs& inputs, int64_t pair_tiles, int64_t token_tiles, bool computed)
        : v(allocate_like(inputs.v, computed)),
          u(allocate_like(inputs.u, computed)),
          c1a(at::zeros(inputs.c1a.sizes(), floats(inputs.v))),
          c2(at::zeros(inputs.c2.sizes(), floats(inputs.v))),
          sums(allocate({2, pair_tiles, inputs.v.size(2)}, floats(inputs.v), computed)),
          parts(allocate({2, inputs.g.size(0), token_tiles, inputs.g.size(1), inputs.g.size(2)}, floats(inputs.v),
                         computed)) {}

    Tensor v, u, c1a, c2, sums, parts;
};

// Those of the samples from `first`, `inputs` and `ds` being theirs alone, by way of the six buffers; their tiles are
// those from `tile`.
void pair_gradients(const Call& call, const Inputs& inputs, Activation activation, const Drop& product,
                    const Tensor& ds, int64_t first, int64_t tile, int64_t tiles, const Tensor& buffers,
                    const Gradients& gradients, const Needs& needs) {
    const Pairs pairs = inputs.pairs(activation, product);
    const int64_t samples = pairs.B, count = pairs.B * pairs.K * pairs.N;
    std::vector<Tensor> rows;
    for (int64_t i = 0; i < 6; ++i) rows.push_back(buffers[i].narrow(0, 0, count));
    const Tensor &scaled = rows[0], &hidden = rows[1], &d_pre = rows[2], &d_h = rows[3];
    const Tensor sums = gradients.sums.narrow(1, tile, tiles), parts = gradients.parts.narrow(1, first, samples);
    const PairGradients out_of{out(scaled),  out(hidden),  out(d_pre),          out(d_h),
                               out(rows[4]), out(rows[5]), floats_out(sums[0]), floats_out(sums[1])};
    call.check(gradients_of_pairs(call.launch, pairs, floats_in(ds), first * pairs.K * pairs.N, out_of));
    call.check(reduce(call.launch, pairs, out_of, out(gradients.v.narrow(0, first, samples)),
                      out(gradients.u.narrow(0, first, samples)), floats_out(parts[0]), floats_out(parts[1])));
    if (needs[4]) add_product(gradients.c1a, d_pre, scaled);
    if (needs[5]) add_product(gradients.c2, d_h, hidden);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> execution_backward(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& v, const Tensor& u, const Tensor& g,
    const Tensor& l, const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w, const Tensor& tokens,
    const Tensor& attention, const OptionalTensor& seed, int64_t step, double p_product, double p_attention,
    const std::string& activation, const Needs& needs) {
    expect_execution(v, u, g, l, c1a, c2, c2_bias, w, tokens, std::nullopt);
    expect_needs(needs, 9);
    expect_execution_gradients(grad_pooled, grad_attention, tokens, attention, g.size(1));
    const Activation function = parse_activation(activation);
    const Drop product = drop_of(seed, step, Role::kProduct, p_product, "p_product", v);
    const Drop drop = drop_of(seed, step, Role::kExecutionAttention, p_attention, "p_attention", v);
    const Call call("execution_backward", v);
    expect_width(call, v);
    const auto [ds, d_tokens] = pooled_backward(call, grad_pooled, grad_attention, tokens, attention, drop, needs[8]);
    const Inputs inputs(v, u, g, l, c1a, c2, c2_bias, w);
    const int64_t samples = v.size(0), pairs = g.size(1) * v.size(1), R = v.size(2), width = inputs.v.size(2);
    const bool computed = samples * pairs * width > 0;
    // So many samples at once as the buffers hold.
    const int64_t bytes = std::max<int64_t>(1, 6 * pairs * width * static_cast<int64_t>(v.element_size()));
    const int64_t most = std::min(samples, std::max<int64_t>(1, buffer_bytes / bytes));
    const auto tiles_of = [&](int64_t count) { return pair_tiles(call.launch, width, count * pairs); };
    const int64_t tiles = computed ? samples / most * tiles_of(most) + tiles_of(samples % most) : 0;
    const Gradients gradients(inputs, tiles, token_tiles(v.size(1)), computed);
    if (computed) {
        const Tensor buffers = allocate({6, most * pairs, width}, v.options());
        int64_t tile = 0;
        for (int64_t first = 0; first < samples; first += most) {
            const int64_t count = std::min(most, samples - first);
            pair_gradients(call, inputs.samples(first, count), function, product, ds.narrow(0, first, count), first,
                           tile, tiles_of(count), buffers, gradients, needs);
            tile += tiles_of(count);
        }
    }
    const auto rounded = [&](const Tensor& sum) { return cut(sum, R).to(v.scalar_type(), false, /*copy=*/true); };
    const auto weight = [&](const Tensor& sum) { return rounded(sum.narrow(0, 0, R)); };
    const Tensor rows = gradients.sums.sum(1), of_operations = gradients.parts.sum(2);
    return {cut(gradients.v, R),
            cut(gradients.u, R),
            rounded(of_operations[0]),
            rounded(of_operations[1]),
            needs[4] ? weight(gradients.c1a) : unneeded(v),
            needs[5] ? weight(gradients.c2) : unneeded(v),
            rounded(rows[1]),
            rounded(rows[0]),
            d_tokens};
}

SimplePairs simple_pairs(const Tensor& keys, const Tensor& query, const Tensor& w, Activation activation,
                         const Drop& product) {
    return {keys.size(0), query.size(1), keys.size(1), keys.size(2), activation, product, in(keys), in(query), in(w)};
}

std::tuple<Tensor, Tensor> execution_simple(const Tensor& keys, const Tensor& query, const Tensor& w,
                                            const Tensor& tokens, const OptionalTensor& mask,
                                            const OptionalTensor& seed, int64_t step, double p_product,
                                            double p_attention, const std::string& activation) {
    expect_execution_simple(keys, query, w, tokens, mask);
    const Activation function = parse_activation(activation);
    const Drop product = drop_of(seed, step, Role::kProduct, p_product, "p_product", keys);
    const Drop drop = drop_of(seed, step, Role::kExecutionAttention, p_attention, "p_attention", keys);
    const Call call("execution_simple", keys);
    const Tensor key = padded(keys), q = padded(query), weight = padded(w);
    const Tensor s = allocate({key.size(0), q.size(1), key.size(1)}, floats(key), key.size(2) > 0);
    call.check(simple_logits(call.launch, simple_pairs(key, q, weight, function, product), floats_out(s)));
    return pooled(call, s, tokens, mask, drop);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> execution_simple_backward(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& keys, const Tensor& query,
    const Tensor& w, const Tensor& tokens, const Tensor& attention, const OptionalTensor& seed, int64_t step,
    double p_product, double p_attention, const std::string& activation, const Needs& needs) {
    expect_execution_simple(keys, query, w, tokens, std::nullopt);
    expect_needs(needs, 4);
    expect_execution_gradients(grad_pooled, grad_attention, tokens, attention, query.size(1));
    const Activation function = parse_activation(activation);
    const Drop product = drop_of(seed, step, Role::kProduct, p_product, "p_product", keys);
    const Drop drop = drop_of(seed, step, Role::kExecutionAttention, p_attention, "p_attention", keys);
    const Call call("execution_simple_backward", keys);
    const auto [ds, d_tokens] = pooled_backward(call, grad_pooled, grad_attention, tokens, attention, drop, needs[3]);
    const Tensor key = padded(keys), q = padded(query), weight = padded(w);
    const SimplePairs pairs = simple_pairs(key, q, weight, function, product);
    const bool computed = key.numel() > 0 && q.numel() > 0;
    const int64_t tiles = token_tiles(pairs.N);
    const Tensor d_keys = allocate_like(key, computed);
    const Tensor sum_query = allocate({pairs.B, tiles, pairs.K, pairs.R}, floats(key), computed);
    const Tensor sum_w = allocate({pairs.B, tiles, pairs.R}, floats(key), computed);
    call.check(
        simple_backward(call.launch, pairs, floats_in(ds), out(d_keys), floats_out(sum_query), floats_out(sum_w)));
    const auto rounded = [&](const Tensor& sum) { return cut(sum, keys.size(2)).to(keys.scalar_type()); };
    return {cut(d_keys, keys.size(2)), rounded(sum_query.sum(1)), rounded(sum_w.sum(IntArrayRef({0, 1}))), d_tokens};
}

// --- 3. Composition

Tensors padded_list(const Tensors& list) {
    Tensors result;
    for (const Tensor& tensor : list) result.push_back(padded(tensor));
    return result;
}

Tensors cut_list(Tensors list, int64_t width) {
    for (Tensor& tensor : list) tensor = cut(tensor, width);
    return list;
}

Tensors allocate_list(const Tensors& list) {
    Tensors result;
    for (const Tensor& tensor : list) result.push_back(allocate_like(tensor));
    return result;
}

// The inputs of composition, padded, and what the kernels take.
struct Columns {
    Columns(const Tensor& query, const Tensors& keys, const Tensors& operations, const Tensors& results,
            const Tensor& gate)
        : like(query),
          query(padded(query)),
          gate(padded(gate)),
          keys(padded_list(keys)),
          operations(padded_list(operations)),
          results(padded_list(results)) {}

    Window window(bool mask_self, const OptionalTensor& seed, int64_t step, double p_product, double p_value,
                  double p_attention) const {
        Window window{};
        window.B = query.size(0), window.K = query.size(1), window.D = query.size(2);
        window.blocks = static_cast<int>(keys.size());
        window.mask_self = mask_self;
        window.query = in(query), window.gate = in(gate);
        for (size_t i = 0; i < keys.size(); ++i) {
            window.keys[i] = in(keys[i]), window.operations[i] = in(operations[i]), window.results[i] = in(results[i]);
        }
        window.product = drop_of(seed, step, Role::kCompositionProduct, p_product, "p_product", like);
        window.operation = drop_of(seed, step, Role::kCompositionOperation, p_value, "p_value", like);
        window.result = drop_of(seed, step, Role::kCompositionResult, p_value, "p_value", like);
        window.attention = drop_of(seed, step, Role::kCompositionAttention, p_attention, "p_attention", like);
        return window;
    }

    const Tensor like;  // the query as it came
    Tensor query, gate;
    Tensors keys, operations, results;
};

void expect_window(const Tensor& query, const Tensors& keys, const Tensors& operations, const Tensors& results,
                   const Tensor& gate) {
    expect_composition(query, keys, operations, results, gate);
    TORCH_CHECK_VALUE(keys.size() <= static_cast<size_t>(kMostBlocks), "keys: expected a list of at most ", kMostBlocks,
                      " tensors for the cuda backend, got ", keys.size());
}

std::tuple<Tensor, Tensor, Tensor> composition(const Tensor& query, const Tensors& keys, const Tensors& operations,
                                               const Tensors& results, const Tensor& gate, bool mask_self,
                                               const OptionalTensor& seed, int64_t step, double p_product,
                                               double p_value, double p_attention) {
    expect_window(query, keys, operations, results, gate);
    const Call call("composition", query);
    const Columns columns(query, keys, operations, results, gate);
    const Window window = columns.window(mask_self, seed, step, p_product, p_value, p_attention);
    const Tensor pooled_operations = allocate_like(columns.query), pooled_results = allocate_like(columns.query);
    const Tensor attention = allocate({window.B, window.K, window.K * window.blocks}, floats(query));
    call.check(composition(call.launch, window, out(pooled_operations), out(pooled_results), floats_out(attention)));
    const int64_t D = query.size(2);
    return {cut(pooled_operations, D), cut(pooled_results, D), attention};
}

std::tuple<Tensor, Tensors, Tensors, Tensors, Tensor> composition_backward(
    const Tensor& grad_operations, const Tensor& grad_results, const OptionalTensor& grad_attention,
    const Tensor& query, const Tensors& keys, const Tensors& operations, const Tensors& results, const Tensor& gate,
    const Tensor& attention, bool mask_self, const OptionalTensor& seed, int64_t step, double p_product, double p_value,
    double p_attention) {
    expect_window(query, keys, operations, results, gate);
    expect_composition_gradients(grad_operations, grad_results, grad_attention, query, attention, keys.size());
    const Call call("composition_backward", query);
    const Columns columns(query, keys, operations, results, gate);
    const Window window = columns.window(mask_self, seed, step, p_product, p_value, p_attention);
    const Tensor grad_o = padded(grad_operations), grad_e = padded(grad_results), a = contiguous(attention);
    const OptionalTensor grad_a = contiguous(grad_attention);
    const Tensor ds = allocate_like(a), d_query = allocate_like(columns.query);
    const Tensor d_gate = allocate({window.B, window.D}, floats(query), query.numel() > 0);
    const Tensors d_keys = allocate_list(columns.keys), d_operations = allocate_list(columns.keys);
    const Tensors d_results = allocate_list(columns.keys);
    WindowGradients gradients{};
    for (size_t i = 0; i < keys.size(); ++i) {
        gradients.keys[i] = out(d_keys[i]);
        gradients.operations[i] = out(d_operations[i]);
        gradients.results[i] = out(d_results[i]);
    }
    call.check(composition_backward(call.launch, window, in(grad_o), in(grad_e), floats_in(grad_a), floats_in(a),
                                    floats_out(ds), out(d_query), gradients, floats_out(d_gate)));
    const int64_t D = query.size(2);
    return {cut(d_query, D), cut_list(d_keys, D), cut_list(d_operations, D), cut_list(d_results, D),
            cut(d_gate.sum(0), D).to(query.scalar_type())};
}

}  // namespace
}  // namespace iprm::cuda::binding

#include "recurrence_binding.h"
#include "step_binding.h"  // both use what is above

namespace iprm::cuda::binding {
namespace {

// IPRM_CUDA_FLAGS, IPRM_CUDA_ARCHS and IPRM_NVCC come from setup.py.
py::dict build_info() {
    py::dict info;
    info["nvcc"] = IPRM_NVCC;
    info["architectures"] = py::str(IPRM_CUDA_ARCHS).attr("split")(",");
    info["flags"] = IPRM_CUDA_FLAGS;
    info["torch"] = TORCH_VERSION;
    return info;
}

// What the launches of a call ask for, so that the backend can tell before it (iprm_kernels/backends/cuda.py).
void define_limits(py::module_& m) {
    m.attr("MOST_BLOCKS") = kMostBlocks;
    m.attr("MOST_STEP_COLUMNS") = kMostStepColumns;
    m.def("shared_limit", &shared_limit);
    m.def("most_width", [](at::ScalarType dtype, size_t shared) { return most_width(dtype_of(dtype), shared); });
    m.def("steps_shared",
          [](at::ScalarType dtype, int64_t R, int64_t columns) { return steps_shared(dtype_of(dtype), R, columns); });
}

}  // namespace
}  // namespace iprm::cuda::binding

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    using namespace iprm::cuda::binding;
    using release = py::call_guard<py::gil_scoped_release>;

    m.def("build_info", &build_info);
    define_limits(m);
    m.def("set_buffer_bytes", [](int64_t bytes) { return buffer_bytes.exchange(bytes); });

    m.def("dropout", &dropout, release());
    m.def("formation", &formation, release());
    m.def("formation_backward", &formation_backward, release());
    m.def("execution", &execution, release());
    m.def("execution_backward", &execution_backward, release());
    m.def("execution_simple", &execution_simple, release());
    m.def("execution_simple_backward", &execution_simple_backward, release());
    m.def("composition", &composition, release());
    m.def("composition_backward", &composition_backward, release());
    m.def("steps", &steps, release());
    iprm::recurrence::bind(m, kCores);
}
