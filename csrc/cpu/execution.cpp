#include <ATen/ops/empty.h>

#include <array>

#include "attend.h"

namespace iprm::cpu {
namespace {

int64_t round_up(int64_t x, int64_t unit) { return divide_up(x, unit) * unit; }

// Tiles of near-equal height: low enough that a tile's buffers stay in the second-level cache, high enough
// that the sums of the weights' gradients, read and written once per tile, do not count.
Tiling tiling(int64_t tokens, int64_t row_unit) {
    constexpr int64_t highest = 102;
    const int64_t wanted = std::max<int64_t>(1, divide_up(tokens, highest));
    const int64_t height = std::max(row_unit, round_up(divide_up(tokens, wanted), row_unit));
    return {tokens, divide_up(tokens, height), height};
}

// How many partial sums of the weights' gradients there are. It depends on the sizes alone, not on the number
// of threads, so that the order of the sums does not either.
int64_t slot_count(int64_t tasks) { return std::clamp<int64_t>(tasks / 8, std::min<int64_t>(tasks, 8), 64); }

template <typename T>
std::array<int64_t, 2> packed_shape(const Kernels<T>& k, int64_t rank) {
    return {divide_up(rank, k.panel), k.panel_size(rank)};
}

// How many groups the operations of a tile are cut into, where there are few tiles to share between threads. Each sums
// the weights' gradients over pairs enough for adding up the groups not to count.
int64_t group_count(int64_t tiles, int64_t height, int64_t operations) {
    constexpr int64_t wanted = 8, pairs = 48;
    const int64_t most = std::min(operations, operations * height / pairs);
    return std::clamp<int64_t>(wanted / std::max<int64_t>(1, tiles), 1, std::max<int64_t>(1, most));
}

// Panels of a square matrix (or of its transpose) for the micro-kernel.
template <typename T>
Tensor packed_form(const Kernels<T>& k, const Tensor& matrix, bool transpose) {
    Tensor source = converted(matrix, accumulator(matrix.scalar_type()));
    if (source.is_neg()) source = source.resolve_neg();
    if (source.stride(1) != 1) source = source.contiguous();
    const int64_t rank = source.size(0);
    const auto shape = packed_shape(k, rank);
    Tensor out = allocate(shape, source);
    const PackArgs<T> args{data<T>(source), source.stride(0), rank, rank, transpose, out.mutable_data_ptr<T>()};
    parallel(shape[0], kPacking * shape[1], [&](int64_t first, int64_t last) { k.pack(args, first, last); });
    return out;
}

// The forms of C1a and C2 that the products read; the backward's are those of its own products.
struct PackedWeights {
    Tensor c1a_t, c2_t, c1a, c2;

    template <typename T>
    static PackedWeights make(const Kernels<T>& k, const Tensor& c1a, const Tensor& c2, bool backward) {
        PackedWeights forms{packed_form(k, c1a, true), packed_form(k, c2, true), {}, {}};
        if (backward) forms = {forms.c1a_t, forms.c2_t, packed_form(k, c1a, false), packed_form(k, c2, false)};
        return forms;
    }

    // Those the caller has from `pack`, if any.
    template <typename T>
    static PackedWeights of(const Kernels<T>& k, const Tensor& c1a, const Tensor& c2, bool backward,
                            const std::vector<Tensor>& packed) {
        if (packed.empty()) return make(k, c1a, c2, backward);
        TORCH_CHECK_VALUE(packed.size() == 4 || (packed.size() == 2 && !backward), "packed: expected ",
                          backward ? "none or 4 tensors of pack" : "none, 2 or 4 tensors of pack", ", got ",
                          packed.size());
        const auto shape = packed_shape(k, c1a.size(0));
        const auto options = c1a.options().dtype(accumulator(c1a.scalar_type()));
        for (size_t i = 0; i < packed.size(); ++i) {
            expect(packed[i], ("packed[" + std::to_string(i) + "]").c_str(), shape, options);
            TORCH_CHECK_VALUE(packed[i].is_contiguous(), "packed[", i, "]: expected a tensor of pack, got a view");
        }
        return {packed[0], packed[1], backward ? packed[2] : Tensor(), backward ? packed[3] : Tensor()};
    }
};

// Sums the partial gradients (samples * tiles, K, width) over the tiles of each sample.
template <typename T>
Tensor sum_tiles(const Tensor& parts, int64_t tiles) {
    if (tiles == 1) return parts;
    const int64_t samples = parts.size(0) / std::max<int64_t>(1, tiles), size = parts.size(1) * parts.size(2);
    Tensor out = allocate({samples, parts.size(1), parts.size(2)}, parts);
    parallel(samples, tiles * size, [&](int64_t first, int64_t last) {
        for (int64_t b = first; b < last; ++b) {
            kernels<T>().sum({data<T>(parts) + b * tiles * size, tiles, size, out.mutable_data_ptr<T>() + b * size}, 0,
                             size);
        }
    });
    return out;
}

// Softmax of the logits in `attention`, in place, and the pooled tokens.
template <typename T>
Tensor attend(const Tensor& tokens, const OptionalTensor& mask, Tensor& attention, const DropoutMask& dropout) {
    const Tensor x = operand(tokens);
    const OptionalTensor keep = contiguous(mask);
    Tensor pooled = allocate({x.size(0), attention.size(1), x.size(2)}, x);
    const AttendArgs<T> args = attend_args<T>(x, keep, attention, pooled, dropout);
    parallel(x.size(0), attend_work(args),
             [&](int64_t first, int64_t last) { kernels<T>().attend(args, first, last); });
    return converted(pooled, tokens.scalar_type());
}

template <typename T>
void attend_backward(AttendGradient& gradient, const DropoutMask& dropout) {
    const AttendBackwardArgs<T> args = gradient.args<T>(dropout);
    parallel(gradient.tokens.size(0), 2 * attend_work(args),
             [&](int64_t first, int64_t last) { kernels<T>().attend_backward(args, first, last); });
}

// The inputs in the form the kernels take: padded to whole panels, the matrices packed.
template <typename T>
struct ExecutionInputs {
    ExecutionInputs(const Kernels<T>& k, const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                    const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w, bool backward,
                    const std::vector<Tensor>& packed)
        : kernels(k),
          rank(v.size(2)),
          width(round_up(rank, k.panel)),
          tiles(tiling(v.size(1), k.row_unit)),
          tile_count(v.size(0) * tiles.tiles),
          v(padded_operand(v, width)),
          u(padded_operand(u, width)),
          g(padded_operand(g, width)),
          l(padded_operand(l, width)),
          c2_bias(padded_operand(c2_bias, width)),
          w(padded_operand(w, width)),
          weights(PackedWeights::of<T>(k, c1a, c2, backward, packed)) {}

    ExecutionArgs<T> args(const DropoutMask& product, Activation activation, T* logits, const Pairs<T>& pairs) const {
        return {g.size(1),
                rank,
                width,
                tiles,
                data<T>(v),
                data<T>(u),
                data<T>(g),
                data<T>(l),
                data<T>(weights.c1a_t),
                data<T>(weights.c2_t),
                data<T>(c2_bias),
                data<T>(w),
                logits,
                product,
                activation,
                pairs};
    }

    const Kernels<T>& kernels;
    int64_t rank, width;
    Tiling tiles;
    int64_t tile_count;
    Tensor v, u, g, l, c2_bias, w;
    PackedWeights weights;
};

// The dtype of what the products over tiles multiply.
template <Factors kFactors>
at::ScalarType factors_of(const Tensor& input) {
    return kFactors == Factors::kBfloat16 ? at::kBFloat16 : input.scalar_type();
}

// `tensors` are none or two.
template <typename T>
Pairs<T> pairs_of(const std::vector<Tensor>& tensors, const Tensor& v, const Tensor& g) {
    if (tensors.empty()) return {nullptr, nullptr, 0};
    TORCH_CHECK_VALUE(tensors.size() == 2, "pairs: expected none or 2 tensors, got ", tensors.size());
    const int64_t stride = round_up(v.size(2), kPairUnit);
    for (const Tensor& x : tensors) {
        expect(x, "pairs", {v.size(0), g.size(1), v.size(1), stride}, v.options().dtype(accumulator(v.scalar_type())));
        TORCH_CHECK_VALUE(x.is_contiguous(), "pairs: expected contiguous tensors");
    }
    return {tensors[0].mutable_data_ptr<T>(), tensors[1].mutable_data_ptr<T>(), stride};
}

template <typename T>
auto run_execution_backward(const ExecutionInputs<T>& in, at::ScalarType dtype, const Tensor& grad_logits,
                            const DropoutMask& product, Activation activation, const Needs& needs,
                            const Pairs<T>& pairs) {
    const int64_t operations = in.g.size(1), samples = in.v.size(0), tokens = in.v.size(1);
    const int64_t groups = group_count(in.tile_count, std::min(in.tiles.height, tokens), operations);
    const int64_t tasks = in.tile_count * groups, slots = slot_count(tasks);
    const int64_t rows = round_up(in.rank, in.kernels.row_unit);
    Tensor grad_v = allocate({groups, samples, tokens, in.width}, in.v), grad_u = allocate(grad_v.sizes(), in.v);
    Tensor grad_g = allocate({in.tile_count, operations, in.width}, in.v);
    Tensor grad_l = allocate({in.tile_count, operations, in.width}, in.v);
    Tensor grad_c2_bias = allocate({tasks, in.width}, in.v), grad_w = allocate({tasks, in.width}, in.v);
    const auto slots_of = [&](bool need) { return need ? allocate({slots, rows, in.width}, in.v) : unneeded(in.v); };
    const auto sums = [](Tensor& parts, bool need) { return need ? parts.mutable_data_ptr<T>() : nullptr; };
    Tensor grad_c1a = slots_of(needs[4]), grad_c2 = slots_of(needs[5]);
    const ExecutionBackwardArgs<T> args{in.args(product, activation, nullptr, pairs),
                                        data<T>(in.weights.c1a),
                                        data<T>(in.weights.c2),
                                        data<T>(grad_logits),
                                        grad_v.mutable_data_ptr<T>(),
                                        grad_u.mutable_data_ptr<T>(),
                                        grad_g.mutable_data_ptr<T>(),
                                        grad_l.mutable_data_ptr<T>(),
                                        grad_c2_bias.mutable_data_ptr<T>(),
                                        grad_w.mutable_data_ptr<T>(),
                                        sums(grad_c1a, needs[4]),
                                        sums(grad_c2, needs[5]),
                                        groups,
                                        tasks,
                                        slots,
                                        rows * in.width,
                                        samples * tokens * in.width};
    const int64_t work =
        tasks / std::max<int64_t>(1, slots) * in.tiles.height * operations / groups * in.rank * in.width;
    parallel(slots, work, [&](int64_t first, int64_t last) { in.kernels.execution_backward(args, first, last); });
    const auto finish = [&](const Tensor& gradient) { return result(gradient, in.rank, dtype); };
    const auto matrix = [&](const Tensor& parts, bool need) {
        return need ? finish(sum_first(parts.narrow(1, 0, in.rank))) : converted(parts, dtype);
    };
    return std::make_tuple(finish(sum_first(grad_v)), finish(sum_first(grad_u)),
                           finish(sum_tiles<T>(grad_g, in.tiles.tiles)), finish(sum_tiles<T>(grad_l, in.tiles.tiles)),
                           matrix(grad_c1a, needs[4]), matrix(grad_c2, needs[5]), finish(sum_first(grad_c2_bias)),
                           finish(sum_first(grad_w)));
}

template <typename T>
SimpleExecutionArgs<T> simple_args(const Tensor& keys, const Tensor& query, const Tensor& w, T* logits,
                                   const DropoutMask& product, Activation activation) {
    return {query.size(1), keys.size(2),   tiling(keys.size(1), kernels<T>().row_unit),
            data<T>(keys), data<T>(query), data<T>(w),
            logits,        product,        activation};
}

}  // namespace

template <Factors kFactors>
std::vector<Tensor> pack(const Tensor& c1a, const Tensor& c2, int64_t tokens, bool backward) {
    expect_floating(c1a, "C1a", 2);
    const int64_t rank = c1a.size(0);
    expect(c1a, "C1a", {rank, rank}, c1a.options());
    expect(c2, "C2", {rank, rank}, c1a.options());
    return with_accumulator(c1a.scalar_type(), [&](auto zero) -> std::vector<Tensor> {
        using T = decltype(zero);
        const auto forms =
            PackedWeights::make(kernels_for_pairs<T>(factors_of<kFactors>(c1a), tokens, backward), c1a, c2, backward);
        if (!backward) return {forms.c1a_t, forms.c2_t};
        return {forms.c1a_t, forms.c2_t, forms.c1a, forms.c2};
    });
}

template <Factors kFactors>
std::tuple<Tensor, Tensor> execution(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l,
                                     const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w,
                                     const Tensor& tokens, const OptionalTensor& mask, const OptionalTensor& seed,
                                     int64_t step, double p_product, double p_attention, const std::string& activation,
                                     const std::vector<Tensor>& packed, const std::vector<Tensor>& pairs) {
    expect_execution(v, u, g, l, c1a, c2, c2_bias, w, tokens, mask);
    const int64_t samples = v.size(0), operations = g.size(1), count = v.size(1);
    if (v.size(2) % kPairUnit != 0) {
        for (Tensor x : pairs) x.zero_();  // the kernels write whole panels, which may be less
    }
    const Activation act = parse_activation(activation);
    const DropoutMask product = dropout_mask(seed, step, Role::kProduct, p_product, "p_product");
    const DropoutMask dropout = dropout_mask(seed, step, Role::kExecutionAttention, p_attention, "p_attention");
    Tensor attention = allocate({samples, operations, count}, v);
    Tensor pooled = with_accumulator(v.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const bool backward = packed.size() > 2;  // their forms are of those kernels
        const ExecutionInputs<T> in(kernels_for_pairs<T>(factors_of<kFactors>(v), count, backward), v, u, g, l, c1a, c2,
                                    c2_bias, w, false, packed);
        const ExecutionArgs<T> args = in.args(product, act, attention.mutable_data_ptr<T>(), pairs_of<T>(pairs, v, g));
        parallel(in.tile_count * operations, in.tiles.height * in.rank * in.width,
                 [&](int64_t first, int64_t last) { in.kernels.execution(args, first, last); });
        return attend<T>(tokens, mask, attention, dropout);
    });
    return {pooled, attention};
}

template <Factors kFactors>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> execution_backward(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& v, const Tensor& u, const Tensor& g,
    const Tensor& l, const Tensor& c1a, const Tensor& c2, const Tensor& c2_bias, const Tensor& w, const Tensor& tokens,
    const Tensor& attention, const OptionalTensor& seed, int64_t step, double p_product, double p_attention,
    const std::string& activation, const Needs& needs, const std::vector<Tensor>& packed,
    const std::vector<Tensor>& pairs) {
    expect_execution(v, u, g, l, c1a, c2, c2_bias, w, tokens, std::nullopt);
    expect_needs(needs, 9);
    expect_execution_gradients(grad_pooled, grad_attention, tokens, attention, g.size(1));
    const Activation act = parse_activation(activation);
    const DropoutMask product = dropout_mask(seed, step, Role::kProduct, p_product, "p_product");
    const DropoutMask dropout = dropout_mask(seed, step, Role::kExecutionAttention, p_attention, "p_attention");
    return with_accumulator(v.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        AttendGradient gradient(grad_pooled, grad_attention, tokens, attention, needs[8]);
        attend_backward<T>(gradient, dropout);
        const ExecutionInputs<T> in(kernels_for_pairs<T>(factors_of<kFactors>(v), v.size(1), true), v, u, g, l, c1a, c2,
                                    c2_bias, w, true, packed);
        return std::tuple_cat(run_execution_backward<T>(in, v.scalar_type(), gradient.grad_logits, product, act, needs,
                                                        pairs_of<T>(pairs, v, g)),
                              std::make_tuple(converted(gradient.grad_tokens, v.scalar_type())));
    });
}

#define IPRM_INSTANTIATE(factors)                             \
    template decltype(pack<factors>) pack<factors>;           \
    template decltype(execution<factors>) execution<factors>; \
    template decltype(execution_backward<factors>) execution_backward<factors>;
IPRM_INSTANTIATE(Factors::kOfInputs)
IPRM_INSTANTIATE(Factors::kBfloat16)
#undef IPRM_INSTANTIATE

std::tuple<Tensor, Tensor> execution_simple(const Tensor& keys, const Tensor& query, const Tensor& w,
                                            const Tensor& tokens, const OptionalTensor& mask,
                                            const OptionalTensor& seed, int64_t step, double p_product,
                                            double p_attention, const std::string& activation) {
    expect_execution_simple(keys, query, w, tokens, mask);
    const Activation act = parse_activation(activation);
    const DropoutMask product = dropout_mask(seed, step, Role::kProduct, p_product, "p_product");
    const DropoutMask dropout = dropout_mask(seed, step, Role::kExecutionAttention, p_attention, "p_attention");
    Tensor attention = allocate({keys.size(0), query.size(1), keys.size(1)}, keys);
    Tensor pooled = with_accumulator(keys.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const Tensor key = operand(keys), q = operand(query), weight = operand(w);
        const auto args = simple_args<T>(key, q, weight, attention.mutable_data_ptr<T>(), product, act);
        parallel(keys.size(0) * args.tiling.tiles * args.operations, 16 * args.tiling.height * args.rank,
                 [&](int64_t first, int64_t last) { kernels<T>().execution_simple(args, first, last); });
        return attend<T>(tokens, mask, attention, dropout);
    });
    return {pooled, attention};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> execution_simple_backward(
    const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& keys, const Tensor& query,
    const Tensor& w, const Tensor& tokens, const Tensor& attention, const OptionalTensor& seed, int64_t step,
    double p_product, double p_attention, const std::string& activation, const Needs& needs) {
    expect_execution_simple(keys, query, w, tokens, std::nullopt);
    expect_needs(needs, 4);
    expect_execution_gradients(grad_pooled, grad_attention, tokens, attention, query.size(1));
    const at::ScalarType dtype = keys.scalar_type();
    const Activation act = parse_activation(activation);
    const DropoutMask product = dropout_mask(seed, step, Role::kProduct, p_product, "p_product");
    const DropoutMask dropout = dropout_mask(seed, step, Role::kExecutionAttention, p_attention, "p_attention");
    return with_accumulator(dtype, [&](auto zero) {
        using T = decltype(zero);
        AttendGradient gradient(grad_pooled, grad_attention, tokens, attention, needs[3]);
        attend_backward<T>(gradient, dropout);
        const Tensor key = operand(keys), q = operand(query), weight = operand(w);
        const auto forward = simple_args<T>(key, q, weight, nullptr, product, act);
        const int64_t tasks = keys.size(0) * forward.tiling.tiles;
        Tensor grad_keys = allocate(keys.sizes(), keys), grad_w = allocate({tasks, forward.rank}, keys);
        Tensor grad_query = allocate({tasks, forward.operations, forward.rank}, keys);
        const SimpleExecutionBackwardArgs<T> args{forward, data<T>(gradient.grad_logits),
                                                  grad_keys.mutable_data_ptr<T>(), grad_query.mutable_data_ptr<T>(),
                                                  grad_w.mutable_data_ptr<T>()};
        parallel(tasks, 32 * forward.tiling.height * forward.operations * forward.rank,
                 [&](int64_t first, int64_t last) { kernels<T>().execution_simple_backward(args, first, last); });
        return std::make_tuple(converted(grad_keys, dtype),
                               converted(sum_tiles<T>(grad_query, forward.tiling.tiles), dtype),
                               converted(sum_first(grad_w), dtype), converted(gradient.grad_tokens, dtype));
    });
}

}  // namespace iprm::cpu
