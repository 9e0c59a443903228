#include <algorithm>

#include "grid.cuh"
#include "step.cuh"

namespace iprm::cuda {
namespace {

static_assert(sizeof(Plan) <= 4096, "what a kernel's parameters may take");

// One block a multiprocessor: held to 128 registers, the kernel would spill.
template <class T, int BN>
__global__ void __launch_bounds__(kStepThreads, 1) steps_kernel(const __grid_constant__ Plan plan) {
    IPRM_SHARED(memory);
    run_steps<T, BN>(plan, memory);
}

// Hands out the scratch tensors, each from an aligned element on.
class Scratch {
  public:
    Scratch(void* base, int64_t element_bytes) : base_(static_cast<unsigned char*>(base)), bytes_(element_bytes) {}

    void* take(int64_t count) {
        constexpr int64_t kAligned = 64;
        unsigned char* piece = base_ == nullptr ? nullptr : base_ + used_ * bytes_;
        used_ += (count + kAligned - 1) / kAligned * kAligned;
        return piece;
    }
    int64_t used() const { return used_; }

  private:
    unsigned char* base_;
    int64_t bytes_, used_ = 0;
};

void place(Plan& p, Scratch& scratch) {
    const Steps& s = p.s;
    const int64_t rows = s.B * s.K;
    void** states[] = {&p.h, &p.z, &p.o, &p.q, &p.pooled, &p.e, &p.rho};
    for (void** state : states) *state = scratch.take(rows * s.D);
    p.z_updating = s.operation == Activation::kIdentity ? p.z : scratch.take(rows * s.D);
    for (void** reduced : {&p.gz, &p.g, &p.l}) *reduced = scratch.take(rows * s.R);
    if (s.Ko.weight != nullptr) p.keys = scratch.take(rows * s.D), p.key_memory = scratch.take(s.T * rows * s.D);
}

// Fills the tasks of a plan, slot by slot.
template <class T, int BN>
class Planner {
  public:
    explicit Planner(Plan& plan) : p_(plan), s_(plan.s), states_(s_.B * s_.K * s_.D) {}

    void fill() {
        begin_slot();
        add(Kind::kLinear, false, linear({states(s_.results, s_.We)}, s_.R, p_.g, Activation::kIdentity, p_.gz));
        add(Kind::kLinear, true, linear({states(s_.operations, s_.F1)}, s_.D, p_.h, s_.formation));
        if (s_.Ko.weight != nullptr) {
            Linear keys = linear({states(s_.operations, s_.Ko)}, s_.D, p_.key_memory);
            keys.out_advance = states_;
            add(Kind::kLinear, true, keys);
        }
        begin_slot();
        add(Kind::kLogits, false, (s_.B * s_.K * s_.N + BN - 1) / BN);
        const int64_t groups = s_.B * groups_of(s_.K);
        add(Kind::kFormation, true, groups * column_tiles<T>(s_.D, kFormationAcross));
        begin_slot();
        add(Kind::kPool, false, p_.pool.items());
        add(Kind::kLinear, true, linear({piece(p_.z, s_.D, s_.Wz)}, s_.R, p_.gz));
        add(Kind::kLinear, true, linear({piece(p_.z, s_.D, s_.Wq)}, s_.R, p_.l));
        add(Kind::kLinear, true, joined(piece(p_.z_updating, s_.D, s_.Uo), states(s_.operations, s_.Uo), p_.o));
        begin_slot();
        add(Kind::kLinear, false, linear({piece(p_.pooled, s_.D, s_.Wv)}, s_.D, p_.rho, s_.result));
        Linear query = linear({piece(p_.o, s_.D, s_.Qo)}, s_.D, p_.q);
        query.gate = s_.c;
        add(Kind::kLinear, true, query);
        if (s_.Ko.weight != nullptr) add(Kind::kLinear, true, linear({piece(p_.o, s_.D, s_.Ko)}, s_.D, p_.keys));
        begin_slot();
        add(Kind::kLinear, false, joined(states(s_.results, s_.Ur), piece(p_.rho, s_.D, s_.Ur), p_.e));
        add(Kind::kCompare, true, groups);
        begin_slot();
        add(Kind::kLinear, false, composed(p_.e, s_.results, s_.Vr, s_.Sr));
        add(Kind::kLinear, true, composed(p_.o, s_.operations, s_.Vo, s_.So));
        begin_slot();
    }

    // Most items of a slot: more blocks than that have nothing to do.
    int64_t most_items() const {
        int64_t most = 1;
        for (int slot = 0; slot < kSlots; ++slot) {
            int64_t items = 0;
            for (int i = p_.begin[slot]; i < p_.begin[slot + 1]; ++i) items += p_.task[i].items;
            most = std::max(most, items);
        }
        return most;
    }

  private:
    void begin_slot() { p_.begin[slot_++] = tasks_; }

    void add(Kind kind, bool of_operations, int64_t items) { p_.task[tasks_++] = {kind, of_operations, 0, items}; }
    void add(Kind kind, bool of_operations, const Linear& linear) {
        p_.linear[linears_] = linear;
        p_.task[tasks_++] = {kind, of_operations, linears_++, linear_items(linear)};
    }

    static const T* columns_from(const void* weight, int64_t column) { return static_cast<const T*>(weight) + column; }

    // `weight` with rows of `stride` elements, of which the piece's columns begin at `first`.
    Piece piece(const void* x, int64_t stride, const Layer& layer, int64_t first = 0) const {
        const T* weight = columns_from(layer.weight, first);
        return {x, 0, {nullptr, nullptr}, weight, stride, layer.bias, static_cast<int>(s_.D)};
    }
    Piece states(const void* memory, const Layer& layer) const {
        Piece result = piece(memory, s_.D, layer);
        result.advance = states_;
        return result;
    }

    Linear linear(Piece x, int64_t columns, void* out, Activation activation = Activation::kIdentity,
                  const void* add = nullptr) const {
        return {1, {x, x}, false, add, nullptr, out, 0, s_.B * s_.K, static_cast<int>(columns), activation};
    }
    // W [a ; b]
    Linear joined(Piece a, Piece b, void* out) const {
        for (Piece* part : {&a, &b}) part->stride = 2 * s_.D;
        b.weight = columns_from(b.weight, s_.D), b.bias = nullptr;
        Linear result = linear(a, s_.D, out);
        result.pieces = 2, result.piece[1] = b;
        return result;
    }
    // V Σ_j a_kj state_j + S current, to the memory after this step.
    Linear composed(const void* current, void* memory, const Layer& value, const Layer& skip) const {
        Piece mixed = piece(current, s_.D, value);
        mixed.x = nullptr, mixed.mixed = {current, memory};
        Linear result = linear(piece(current, s_.D, skip), s_.D, static_cast<T*>(memory) + states_);
        result.pieces = 2, result.piece[1] = mixed, result.mixed = true, result.out_advance = states_;
        return result;
    }

    Plan& p_;
    const Steps& s_;
    const int64_t states_;
    int slot_ = 0, tasks_ = 0, linears_ = 0;
};

// Pairs of a tile.
inline constexpr int kSmall = 16;
template <class T>
inline constexpr int kLarge = sizeof(T) == 4 ? 32 : 64;

template <class T, int BN>
SharedSize shared_size(int64_t R, int64_t columns) {
    Arena linear(nullptr), group(nullptr), logits(nullptr);
    LinearScratch<T>(linear, static_cast<int>(columns));
    GroupShared{group};
    PairTile<T, BN>(logits, static_cast<int>(R));
    SharedSize most;
    for (const SharedSize& size : {linear.size(), group.size(), logits.size()}) {
        most = {std::max(most.device, size.device), std::max(most.host, size.host)};
    }
    return most;
}
template <class T, int BN>
SharedSize shared_size(const Steps& s) {
    return shared_size<T, BN>(s.R, window_columns(s));
}

template <class T>
Plan plan_of(const Steps& s) {
    Plan plan{};
    plan.s = s;
    Scratch scratch(s.scratch, sizeof(T));
    place(plan, scratch);
    plan.pairs = {s.B, s.K, s.N, s.R, s.execution, {}, s.v, s.u, plan.g, plan.l, s.c1a, s.c2, s.c2_bias, s.w};
    plan.pool = pool_args<T>({s.B, s.K, s.N, s.D, s.visual, {}}, s.logits, s.visual_mask, plan.pooled,
                             s.attention_visual, multiprocessors());
    return plan;
}

template <class T, int BN>
cudaError_t launch_steps(const Launch& at, Plan& plan) {
    Planner<T, BN> planner(plan);
    planner.fill();
    const auto most = static_cast<unsigned>(std::min<int64_t>(planner.most_items(), 1 << 16));
    return launch_resident(steps_kernel<T, BN>, most, kStepThreads, shared_size<T, BN>(plan.s), at.stream, plan);
}

// Small tiles spread the pairs of few samples over all multiprocessors, large ones stream the weights less often. A
// large one takes as long as two small ones: these wait for the weights in 16 bits, and in float32 they have half its
// work.
template <class T>
cudaError_t launch_steps(const Launch& at, const Steps& s) {
    Plan plan = plan_of<T>(s);
    const int64_t pairs = s.B * s.K * s.N, processors = multiprocessors();
    const auto rounds = [&](int64_t tile) { return (pairs + tile * processors - 1) / (tile * processors); };
    const bool fits = shared_size<T, kLarge<T>>(s).device <= shared_limit();
    const bool pays = 2 * rounds(kLarge<T>) <= rounds(kSmall);
    return fits && pays ? launch_steps<T, kLarge<T>>(at, plan) : launch_steps<T, kSmall>(at, plan);
}

}  // namespace

int64_t steps_scratch(const Steps& s) {
    Plan plan{};
    plan.s = s;
    Scratch scratch(nullptr, 1);
    place(plan, scratch);
    return scratch.used();
}

size_t steps_shared(Dtype dtype, int64_t R, int64_t columns) {
    return with_dtype(dtype,
                      [&](auto tag) { return shared_size<typename decltype(tag)::type, kSmall>(R, columns).device; });
}

cudaError_t steps(const Launch& at, const Steps& s) {
    if (s.B == 0 || s.T == 0) return cudaSuccess;
    return with_dtype(at.dtype, [&](auto tag) { return launch_steps<typename decltype(tag)::type>(at, s); });
}

}  // namespace iprm::cuda
