#include "shapes.h"

namespace iprm {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

at::TensorOptions attention_options(const Tensor& like) {
    return like.options().dtype(accumulator(like.scalar_type()));
}

void expect_attention(const OptionalTensor& grad_attention, const Tensor& attention, at::IntArrayRef shape,
                      const Tensor& like) {
    expect(attention, "attention", shape, attention_options(like));
    expect(grad_attention, "grad_attention", shape, attention_options(like));
}

// Tokens (B, N, D) and a mask (B, N) beside the pairs of `operations` and the N rows of `like`.
void expect_tokens(const Tensor& tokens, const OptionalTensor& mask, const Tensor& like, int64_t operations) {
    expect_floating(tokens, "tokens", 3);
    const int64_t samples = like.size(0), count = like.size(1);
    expect(tokens, "tokens", {samples, count, tokens.size(2)}, like.options());
    expect_columns("tokens", samples * operations, count);
    expect(mask, "mask", {samples, count}, like.options().dtype(at::kBool));
}

void expect_list(const Tensors& list, const char* name, size_t entries, const Tensor& like) {
    TORCH_CHECK_VALUE(list.size() == entries, name, ": expected a list of ", entries, " tensors, got ", list.size());
    for (size_t i = 0; i < list.size(); ++i) {
        expect(list[i], (std::string(name) + "[" + std::to_string(i) + "]").c_str(), like.sizes(), like.options());
    }
}

}  // namespace

void expect_formation(const Tensor& query, const Tensor& tokens, const Tensor& gate, const OptionalTensor& mask) {
    expect_floating(query, "query", 3);
    expect_floating(tokens, "tokens", 3);
    const int64_t samples = query.size(0), columns = tokens.size(1), dim = query.size(2);
    expect(tokens, "tokens", {samples, columns, dim}, query.options());
    expect(gate, "gate", {dim}, query.options());
    expect_columns("tokens", samples * query.size(1), columns);
    expect(mask, "mask", {samples, columns}, query.options().dtype(at::kBool));
}

void expect_formation_backward(const Tensor& grad_z, const OptionalTensor& grad_attention, const Tensor& query,
                               const Tensor& tokens, const Tensor& gate, const Tensor& attention) {
    expect_formation(query, tokens, gate, std::nullopt);
    expect(grad_z, "grad_z", query.sizes(), query.options());
    expect_attention(grad_attention, attention, {query.size(0), query.size(1), tokens.size(1)}, query);
}

void expect_execution(const Tensor& v, const Tensor& u, const Tensor& g, const Tensor& l, const Tensor& c1a,
                      const Tensor& c2, const Tensor& c2_bias, const Tensor& w, const Tensor& tokens,
                      const OptionalTensor& mask) {
    expect_floating(v, "v", 3);
    expect_floating(g, "g", 3);
    const at::TensorOptions options = v.options();
    const int64_t samples = v.size(0), operations = g.size(1), rank = v.size(2);
    expect(u, "u", v.sizes(), options);
    expect(g, "g", {samples, operations, rank}, options);
    expect(l, "l", {samples, operations, rank}, options);
    expect(c1a, "C1a", {rank, rank}, options);
    expect(c2, "C2", {rank, rank}, options);
    expect(c2_bias, "c2", {rank}, options);
    expect(w, "w", {rank}, options);
    expect_tokens(tokens, mask, v, operations);
}

void expect_execution_simple(const Tensor& keys, const Tensor& query, const Tensor& w, const Tensor& tokens,
                             const OptionalTensor& mask) {
    expect_floating(keys, "keys", 3);
    expect_floating(query, "query", 3);
    expect(query, "query", {keys.size(0), query.size(1), keys.size(2)}, keys.options());
    expect(w, "w", {keys.size(2)}, keys.options());
    expect_tokens(tokens, mask, keys, query.size(1));
}

void expect_execution_gradients(const Tensor& grad_pooled, const OptionalTensor& grad_attention, const Tensor& tokens,
                                const Tensor& attention, int64_t operations) {
    expect(grad_pooled, "grad_pooled", {tokens.size(0), operations, tokens.size(2)}, tokens.options());
    expect_attention(grad_attention, attention, {tokens.size(0), operations, tokens.size(1)}, tokens);
}

void expect_composition(const Tensor& query, const Tensors& keys, const Tensors& operations, const Tensors& results,
                        const Tensor& gate) {
    expect_floating(query, "query", 3);
    TORCH_CHECK_VALUE(!keys.empty(), "keys: expected a list of at least one tensor, got none");
    expect_list(keys, "keys", keys.size(), query);
    expect_list(operations, "operations", keys.size(), query);
    expect_list(results, "results", keys.size(), query);
    expect(gate, "gate", {query.size(2)}, query.options());
}

void expect_composition_gradients(const Tensor& grad_operations, const Tensor& grad_results,
                                  const OptionalTensor& grad_attention, const Tensor& query, const Tensor& attention,
                                  size_t blocks) {
    expect(grad_operations, "grad_operations", query.sizes(), query.options());
    expect(grad_results, "grad_results", query.sizes(), query.options());
    const int64_t columns = query.size(1) * static_cast<int64_t>(blocks);
    expect_attention(grad_attention, attention, {query.size(0), query.size(1), columns}, query);
}

}  // namespace iprm
