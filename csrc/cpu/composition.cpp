#include "dispatch.h"
#include "ops.h"

namespace iprm::cpu {
namespace {

using Tensors = std::vector<Tensor>;

Tensors operands(const Tensors& list) {
    Tensors out;
    for (const Tensor& tensor : list) out.push_back(operand(tensor));
    return out;
}

Tensors allocate_list(size_t entries, const Tensor& like) {
    Tensors out;
    for (size_t i = 0; i < entries; ++i) out.push_back(allocate(like.sizes(), like));
    return out;
}

Tensors rounded(const Tensors& list, at::ScalarType dtype) {
    Tensors out;
    for (const Tensor& tensor : list) out.push_back(converted(tensor, dtype));
    return out;
}

template <typename T>
std::vector<const T*> pointers(const Tensors& list) {
    std::vector<const T*> out;
    for (const Tensor& tensor : list) out.push_back(data<T>(tensor));
    return out;
}

template <typename T>
std::vector<T*> mutable_pointers(const Tensors& list) {
    std::vector<T*> out;
    for (const Tensor& tensor : list) out.push_back(tensor.mutable_data_ptr<T>());
    return out;
}

struct Masks {
    Masks(const OptionalTensor& seed, int64_t step, double p_product, double p_value, double p_attention)
        : product(dropout_mask(seed, step, Role::kCompositionProduct, p_product, "p_product")),
          operation(dropout_mask(seed, step, Role::kCompositionOperation, p_value, "p_value")),
          result(dropout_mask(seed, step, Role::kCompositionResult, p_value, "p_value")),
          attention(dropout_mask(seed, step, Role::kCompositionAttention, p_attention, "p_attention")) {}

    DropoutMask product, operation, result, attention;
};

// The inputs in the accumulator's dtype, and the arrays of their addresses.
template <typename T>
struct Window {
    Window(const Tensor& query, const Tensors& keys, const Tensors& operations, const Tensors& results,
           const Tensor& gate)
        : query(operand(query)),
          gate(operand(gate)),
          keys(operands(keys)),
          operations(operands(operations)),
          results(operands(results)),
          key_data(pointers<T>(this->keys)),
          operation_data(pointers<T>(this->operations)),
          result_data(pointers<T>(this->results)) {}

    CompositionArgs<T> args(T* attention, T* pooled_operations, T* pooled_results, bool mask_self,
                            const Masks& masks) const {
        return {query.size(1),
                static_cast<int64_t>(keys.size()),
                query.size(2),
                data<T>(query),
                data<T>(gate),
                key_data.data(),
                operation_data.data(),
                result_data.data(),
                attention,
                pooled_operations,
                pooled_results,
                mask_self,
                masks.product,
                masks.operation,
                masks.result,
                masks.attention};
    }

    int64_t work() const {
        return 4 * query.size(1) * query.size(1) * static_cast<int64_t>(keys.size()) * query.size(2);
    }

    Tensor query, gate;
    Tensors keys, operations, results;
    std::vector<const T*> key_data, operation_data, result_data;
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor> composition(const Tensor& query, const Tensors& keys, const Tensors& operations,
                                               const Tensors& results, const Tensor& gate, bool mask_self,
                                               const OptionalTensor& seed, int64_t step, double p_product,
                                               double p_value, double p_attention) {
    expect_composition(query, keys, operations, results, gate);
    const at::ScalarType dtype = query.scalar_type();
    const int64_t samples = query.size(0), count = query.size(1);
    const Masks masks(seed, step, p_product, p_value, p_attention);
    Tensor attention = allocate({samples, count, count * static_cast<int64_t>(keys.size())}, query);
    Tensor pooled_operations = allocate(query.sizes(), query), pooled_results = allocate(query.sizes(), query);
    with_accumulator(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Window<T> window(query, keys, operations, results, gate);
        const auto args = window.args(attention.mutable_data_ptr<T>(), pooled_operations.mutable_data_ptr<T>(),
                                      pooled_results.mutable_data_ptr<T>(), mask_self, masks);
        parallel(samples, window.work(),
                 [&](int64_t first, int64_t last) { kernels<T>().composition(args, first, last); });
    });
    return {converted(pooled_operations, dtype), converted(pooled_results, dtype), attention};
}

std::tuple<Tensor, Tensors, Tensors, Tensors, Tensor> composition_backward(
    const Tensor& grad_operations, const Tensor& grad_results, const OptionalTensor& grad_attention,
    const Tensor& query, const Tensors& keys, const Tensors& operations, const Tensors& results, const Tensor& gate,
    const Tensor& attention, bool mask_self, const OptionalTensor& seed, int64_t step, double p_product, double p_value,
    double p_attention) {
    expect_composition(query, keys, operations, results, gate);
    expect_composition_gradients(grad_operations, grad_results, grad_attention, query, attention, keys.size());
    const at::ScalarType dtype = query.scalar_type();
    const int64_t samples = query.size(0);
    const Masks masks(seed, step, p_product, p_value, p_attention);
    // The kernel only reads the attention here; the forward, which shares the struct, writes it.
    Tensor probabilities = operand(attention);
    const Tensor grad_o = operand(grad_operations), grad_e = operand(grad_results);
    const OptionalTensor grad_a = contiguous(grad_attention);
    Tensor grad_query = allocate(query.sizes(), query), grad_gate = allocate({samples, query.size(2)}, query);
    const Tensors grad_keys = allocate_list(keys.size(), query), grad_ops = allocate_list(keys.size(), query);
    const Tensors grad_res = allocate_list(keys.size(), query);
    with_accumulator(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Window<T> window(query, keys, operations, results, gate);
        const auto key_out = mutable_pointers<T>(grad_keys), operation_out = mutable_pointers<T>(grad_ops);
        const auto result_out = mutable_pointers<T>(grad_res);
        const CompositionBackwardArgs<T> args{
            window.args(const_cast<T*>(data<T>(probabilities)), nullptr, nullptr, mask_self, masks),
            data<T>(grad_o),
            data<T>(grad_e),
            data<T>(grad_a),
            grad_query.mutable_data_ptr<T>(),
            key_out.data(),
            operation_out.data(),
            result_out.data(),
            grad_gate.mutable_data_ptr<T>()};
        parallel(samples, 2 * window.work(),
                 [&](int64_t first, int64_t last) { kernels<T>().composition_backward(args, first, last); });
    });
    return {converted(grad_query, dtype), rounded(grad_keys, dtype), rounded(grad_ops, dtype), rounded(grad_res, dtype),
            converted(sum_first(grad_gate), dtype)};
}

}  // namespace iprm::cpu
