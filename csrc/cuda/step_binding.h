// The op `steps` for binding.cpp, which includes this below its helpers (Call, in, out, allocate, ...) and registers
// it:
//
//     m.def("steps", &steps, release());
#pragma once

#include "step.h"

namespace iprm::cuda::binding {

// The tensors of `steps` that are shared by the batch, in the order in which the op takes them, padded.
class StepWeights {
  public:
    StepWeights(const std::vector<Tensor>& weights, int64_t D, int64_t R, const at::TensorOptions& options)
        : weights_(weights), options_(options) {
        TORCH_CHECK_VALUE(weights.size() == kCount || weights.size() == kCount + 2, "weights: expected ", kCount,
                          " tensors, or ", kCount + 2, " with Ko, got ", weights.size());
        layer(s.F1, "F1", D, D), layer(s.We, "We", R, D), layer(s.Wz, "Wz", R, D), layer(s.Wq, "Wq", R, D);
        layer(s.Wv, "Wv", D, D), layer(s.Uo, "Uo", D, D, 2), layer(s.Ur, "Ur", D, D, 2), layer(s.Qo, "Qo", D, D);
        layer(s.Vo, "Vo", D, D), layer(s.Vr, "Vr", D, D), layer(s.So, "So", D, D), layer(s.Sr, "Sr", D, D);
        s.c1a = keep(padded(next("C1a", {R, R}), 2)), s.c2 = keep(padded(next("C2", {R, R}), 2));
        s.c2_bias = vector("c2", R), s.w = vector("w", R), s.c = vector("c", D);
        if (weights.size() > kCount) layer(s.Ko, "Ko", D, D);
    }

    Steps s{};  // with the weights set

  private:
    static constexpr size_t kCount = 29;

    const Tensor& next(const char* name, at::IntArrayRef shape) {
        expect(weights_[kept_.size()], name, shape, options_);
        return weights_[kept_.size()];
    }
    const void* keep(const Tensor& tensor) {
        kept_.push_back(tensor);
        return in(tensor);
    }
    const void* vector(const char* name, int64_t size) { return keep(padded(next(name, {size}))); }
    // Of `pieces` joined inputs, each of which is padded.
    void layer(Layer& layer, const char* name, int64_t outputs, int64_t inputs, int64_t pieces = 1) {
        Tensor weight = next(name, {outputs, pieces * inputs});
        if (pieces > 1) weight = padded(weight.reshape({outputs, pieces, inputs})).flatten(1);
        layer.weight = keep(padded(weight, 2));
        layer.bias = vector(name, outputs);
    }

    const std::vector<Tensor>& weights_;
    const at::TensorOptions options_;
    std::vector<Tensor> kept_;
};

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> steps(
    const Tensor& O, const Tensor& E, const Tensor& language, const Tensor& language_keys, const Tensor& language_bias,
    const OptionalTensor& language_mask, const Tensor& visual, const Tensor& v, const Tensor& u,
    const OptionalTensor& visual_mask, const std::vector<Tensor>& weights, int64_t T, int64_t window, bool mask_self,
    const std::vector<std::string>& activations) {
    expect_floating(O, "O", 3);
    expect_floating(language, "language", 3);
    expect_floating(v, "v", 3);
    const int64_t B = O.size(0), K = O.size(1), D = O.size(2), L = language.size(1), N = v.size(1), R = v.size(2);
    TORCH_CHECK_VALUE(T > 0 && window >= 0, "steps: expected T > 0 and window >= 0, got ", T, " and ", window);
    const bool per_step = language_keys.size(0) > 1;
    const int64_t copies = per_step ? T : 1;
    expect(E, "E", {B, K, D}, O.options());
    expect(language, "language", {B, L, D}, O.options());
    expect(language_keys, "language_keys", {copies, B, L, D}, O.options());
    expect(language_bias, "language_bias", {copies, B, L}, O.options());
    expect(language_mask, "language_mask", {B, L}, O.options().dtype(at::kBool));
    expect(visual, "visual", {B, N, D}, O.options());
    expect(v, "v", {B, N, R}, O.options());
    expect(u, "u", {B, N, R}, O.options());
    expect(visual_mask, "visual_mask", {B, N}, O.options().dtype(at::kBool));
    expect_columns("language", B * K, L);
    expect_columns("visual", B * K, N);
    TORCH_CHECK_VALUE(activations.size() == 4, "activations: expected four, got ", activations.size());
    const int64_t columns = K * (1 + window);
    TORCH_CHECK_VALUE(L <= kMostStepColumns && columns <= kMostStepColumns, "steps: expected at most ",
                      kMostStepColumns, " language tokens and columns of the window, got ", L, " and ", columns);
    const Call call("steps", O);
    expect_width(call, v);

    StepWeights held(weights, D, R, O.options());
    Steps& s = held.s;
    const Tensor tokens = padded(language), keys = padded(language_keys), bias = contiguous(language_bias);
    const Tensor looked_at = padded(visual), v_rows = padded(v), u_rows = padded(u);
    s.B = B, s.K = K, s.L = L, s.N = N, s.T = T, s.W = static_cast<int>(window);
    s.D = tokens.size(2), s.R = v_rows.size(2);
    s.mask_self = mask_self, s.per_step = per_step;
    s.formation = parse_activation(activations[0]), s.execution = parse_activation(activations[1]);
    s.operation = parse_activation(activations[2]), s.result = parse_activation(activations[3]);
    const OptionalTensor keep_language = contiguous(language_mask), keep_visual = contiguous(visual_mask);
    s.language = in(tokens), s.language_keys = in(keys), s.language_bias = in(bias);
    s.visual = in(looked_at), s.v = in(v_rows), s.u = in(u_rows);
    s.language_mask = bytes_in(keep_language), s.visual_mask = bytes_in(keep_visual);

    const Tensor operations = at::empty({T + 1, B, K, s.D}, O.options()), results = allocate_like(operations);
    operations.select(0, 0).copy_(padded(O));
    results.select(0, 0).copy_(padded(E));
    const Tensor a_language = at::empty({T, B, K, L}, floats(O)), a_visual = at::empty({T, B, K, N}, floats(O));
    const Tensor a_operations = at::empty({T, B, K, columns}, floats(O));
    const Tensor scratch = at::empty({steps_scratch(s)}, O.options()), logits = at::empty({B, K, N}, floats(O));
    const Tensor barrier = at::zeros({2}, O.options().dtype(at::kInt));
    s.operations = out(operations), s.results = out(results), s.scratch = out(scratch);
    s.attention_language = floats_out(a_language), s.attention_visual = floats_out(a_visual);
    s.attention_operations = floats_out(a_operations), s.logits = floats_out(logits);
    s.barrier = static_cast<unsigned*>(out(barrier));
    call.check(cuda::steps(call.launch, s));
    return {cut(operations, D), cut(results, D), a_language, a_visual, a_operations};
}

}  // namespace iprm::cuda::binding
