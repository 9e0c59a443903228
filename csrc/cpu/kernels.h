// The seam between the PyTorch-facing files and the kernels: plain structs of pointers and sizes, and one
// table of functions per instruction set. Every tensor is contiguous; every function works on a range of
// samples, tasks or elements, so that the caller decides how to share them between threads.
#pragma once

#include <cstdint>

#include "../common/activation.h"
#include "../common/philox.h"

namespace iprm::cpu {

// out[i] = phi(x[i])
template <typename T>
struct ActivationArgs {
    const T* x;
    T* out;
    Activation activation;
};

// out[i] = x[i] * multipliers(i) + addend[i], of one mask after the other
template <typename T>
struct DropoutArgs {
    const T* x;
    const T* addend;  // or null
    T* out;
    const DropoutMask* masks;
    int64_t count;  // of masks, at least one
};

// out = x weight^T + bias + addend, or x weight + ..: `columns` outputs a row, each a sum of `depth` products.
template <typename T>
struct LinearArgs {
    int64_t rows, depth, columns, weight_stride;
    const T* x;       // (rows, depth)
    const T* weight;  // (columns, depth), or (depth, columns), its rows `weight_stride` apart; or from pack
    const T* bias;    // (columns), or null
    const T* addend;  // (rows, columns), or null; may be out
    T* out;           // (rows, columns)
};

// out = or += y^T x: of rows the sums of `outputs` x `columns` products
template <typename T>
struct RowProductArgs {
    int64_t rows, outputs, columns;
    const T* y;  // (rows, outputs), `y_stride` apart
    int64_t y_stride;
    const T* x;  // (rows, columns), `x_stride` apart
    int64_t x_stride;
    T* out;  // (outputs, columns), `out_stride` apart
    int64_t out_stride;
    bool accumulate;
};

// softmax over columns and the weighted sum: pooled = drop(softmax(masked logits)) tokens
template <typename T>
struct AttendArgs {
    int64_t operations, columns, dim;  // K, C, D
    const T* tokens;                   // (B, C, D)
    const bool* mask;                  // (B, C), true = keep; or null
    T* attention;                      // (B, K, C): logits in, probabilities out
    T* pooled;                         // (B, K, D)
    DropoutMask dropout;
};

template <typename T>
struct AttendBackwardArgs {
    int64_t operations, columns, dim;
    const T* grad_pooled;     // (B, K, D)
    const T* grad_attention;  // (B, K, C) or null
    const T* tokens;          // (B, C, D)
    const T* attention;       // (B, K, C)
    T* grad_logits;           // (B, K, C)
    T* grad_tokens;           // (B, C, D), or null
    DropoutMask dropout;
};

template <typename T>
struct FormationArgs {
    const T* query;  // (B, K, D)
    const T* gate;   // (D)
    AttendArgs<T> attend;
};

template <typename T>
struct FormationBackwardArgs {
    const T* query;
    const T* gate;
    T* grad_query;  // (B, K, D)
    T* grad_gate;   // (B, D), one partial per sample
    AttendBackwardArgs<T> attend;
};

// Tokens of a sample are worked on in tiles of equal height (the last may be shorter); a task is one tile.
struct Tiling {
    int64_t tokens, tiles, height;
};

// What the pairs of tokens and operations were before their activations, (B, K, N, stride) each, the first R numbers of
// a row: A C1a^T + u and H C2^T + c2. The forward writes them, and a backward that has them computes neither again.
constexpr int64_t kPairUnit = 32;  // the stride is R rounded up to it, whole panels of every instruction set

template <typename T>
struct Pairs {
    T *hidden, *gated;  // both, or null
    int64_t stride;
};

// `width` is R rounded up to whole panels; tensors of that width are padded with zeros. `rank` is R itself.
template <typename T>
struct ExecutionArgs {
    int64_t operations, rank, width;  // K, R, padded R
    Tiling tiling;
    const T *v, *u;         // (B, N, width)
    const T *g, *l;         // (B, K, width)
    const T *c1a_t, *c2_t;  // panels of the transposed matrices, see PackArgs
    const T *c2_bias, *w;   // (width)
    T* logits;              // (B, K, N)
    DropoutMask product;
    Activation activation;
    Pairs<T> pairs;
};

template <typename T>
struct ExecutionBackwardArgs {
    ExecutionArgs<T> forward;  // logits unused
    const T *c1a, *c2;         // panels of the matrices as they are
    const T* grad_logits;      // (B, K, N)
    T *grad_v, *grad_u;        // (groups, B, N, width): partial sums over the operations of a group
    T *grad_g, *grad_l;        // (tiles, K, width): partial sums over the rows of a tile
    T *grad_c2_bias, *grad_w;  // (tasks, width)
    T *grad_c1a, *grad_c2;     // (slots, padded R rows, width): sums over the tasks of a slot; each may be null
    int64_t groups;            // of the operations: a task is a tile and a group
    int64_t tasks, slots, slot_size, group_size;
};

template <typename T>
struct SimpleExecutionArgs {
    int64_t operations, rank;  // K, R
    Tiling tiling;
    const T* keys;   // (B, N, R)
    const T* query;  // (B, K, R)
    const T* w;      // (R)
    T* logits;       // (B, K, N)
    DropoutMask product;
    Activation activation;
};

template <typename T>
struct SimpleExecutionBackwardArgs {
    SimpleExecutionArgs<T> forward;
    const T* grad_logits;  // (B, K, N)
    T* grad_keys;          // (B, N, R)
    T* grad_query;         // (tasks, K, R)
    T* grad_w;             // (tasks, R)
};

// Columns of the window come as `entries` lists of K states each; column entry * K + k' has state k' of it.
template <typename T>
struct CompositionArgs {
    int64_t operations, entries, dim;  // K, lists, D
    const T* query;                    // (B, K, D)
    const T* gate;                     // (D)
    const T* const* keys;              // entries x (B, K, D)
    const T* const* operation_states;
    const T* const* result_states;
    T* attention;          // (B, K, entries * K): out, or in for the backward
    T* pooled_operations;  // (B, K, D)
    T* pooled_results;     // (B, K, D)
    bool mask_self;
    DropoutMask product, operation_dropout, result_dropout, attention_dropout;
};

template <typename T>
struct CompositionBackwardArgs {
    CompositionArgs<T> forward;
    const T *grad_operations, *grad_results;  // (B, K, D)
    const T* grad_attention;                  // (B, K, C) or null
    T* grad_query;                            // (B, K, D)
    T* const* grad_keys;                      // entries x (B, K, D)
    T* const* grad_operation_states;
    T* const* grad_result_states;
    T* grad_gate;  // (B, D), one partial per sample
};

// Copies the matrix (depth, columns), `weight` or its transpose, into panels of `Kernels::panel` columns, in the form
// that the products of pairs and of many rows read: (panels, Kernels::panel_size(depth)), zero beyond the last column.
template <typename T>
struct PackArgs {
    const T* weight;
    int64_t row_stride, depth, columns;
    bool transpose;
    T* packed;
};

// out[i] = sum over j of parts[j * stride + i], in the order of j
template <typename T>
struct SumArgs {
    const T* parts;
    int64_t count, stride;
    T* out;
};

// The numbers of rows from which products with a packed weight overtake those that read it where it lies: where it is
// packed for one product, and for the several of a recurrence, forward and back.
struct ManyRows {
    int64_t once, held, held_back;
};

template <typename T>
struct Kernels {
    int64_t panel;     // columns of a panel of packed weights
    int64_t row_unit;  // the height of a tile, and room for a gradient matrix, in whole multiples of it
    ManyRows many_rows;
    bool library;  // whether the library's products of many rows overtake `linear_panels` and `row_product`
    int64_t (*panel_size)(int64_t depth);  // numbers of room that a packed panel takes

    void (*activation)(const ActivationArgs<T>&, int64_t first, int64_t last);  // elements
    void (*dropout)(const DropoutArgs<T>&, int64_t first, int64_t last);        // elements, `first` % 4 == 0
    void (*sum)(const SumArgs<T>&, int64_t first, int64_t last);                // elements
    void (*linear)(const LinearArgs<T>&, int64_t first, int64_t last);          // columns
    void (*linear_back)(const LinearArgs<T>&, int64_t first, int64_t last);
    void (*linear_panels)(const LinearArgs<T>&, int64_t first, int64_t last);    // panels
    void (*row_product)(const RowProductArgs<T>&, int64_t first, int64_t last);  // panels
    void (*attend)(const AttendArgs<T>&, int64_t first, int64_t last);           // samples
    void (*attend_backward)(const AttendBackwardArgs<T>&, int64_t first, int64_t last);
    void (*formation)(const FormationArgs<T>&, int64_t first, int64_t last);  // samples
    void (*formation_backward)(const FormationBackwardArgs<T>&, int64_t first, int64_t last);
    void (*pack)(const PackArgs<T>&, int64_t first, int64_t last);                             // panels
    void (*execution)(const ExecutionArgs<T>&, int64_t first, int64_t last);                   // tasks x K
    void (*execution_backward)(const ExecutionBackwardArgs<T>&, int64_t first, int64_t last);  // slots
    void (*execution_simple)(const SimpleExecutionArgs<T>&, int64_t first, int64_t last);      // tasks x K
    void (*execution_simple_backward)(const SimpleExecutionBackwardArgs<T>&, int64_t first,
                                      int64_t last);                              // tasks
    void (*composition)(const CompositionArgs<T>&, int64_t first, int64_t last);  // samples
    void (*composition_backward)(const CompositionBackwardArgs<T>&, int64_t first, int64_t last);
};

// That of a matrix unit in float32 has what `execution` and `pack` need, and no other function.
struct KernelTable {
    const char* name;
    Kernels<float> f32;
    Kernels<double> f64;
};

}  // namespace iprm::cpu
