// The kernels of one instruction set: setup.py compiles this file once for each, with IPRM_ISA its name.
#include "kernels.h"

#include "attention_kernel.h"
#include "composition_kernel.h"
#include "dropout_kernel.h"
#include "execution_kernel.h"
#include "formation_kernel.h"
#include "linear_kernel.h"
#include "rows_kernel.h"
#include "tile_rows_kernel.h"

namespace iprm::cpu {
namespace {

template <typename T>
constexpr Kernels<T> make_kernels() {
    Kernels<T> k{};
    k.panel = kTilePanel<T>;
    k.row_unit = TileMatrix<T>::kRowUnit;
    k.panel_size = panel_size<T>;
    k.pack = pack;
    k.execution = execution<T>;
#if !defined(IPRM_FORWARD_ONLY)
    k.many_rows = kManyRows;
    k.library = kLibrary;
    k.activation = activation<T>;
    k.dropout = dropout<T>;
    k.sum = sum<T>;
    k.linear = linear<T>;
    k.linear_back = linear_back<T>;
    k.linear_panels = kOverTiles<T> ? linear_tiles<T> : linear_panels<T>;
    k.row_product = kOverTiles<T> ? row_product_tiles<T> : row_product<T>;
    k.attend = attend<T>;
    k.attend_backward = attend_backward<T>;
    k.formation = formation<T>;
    k.formation_backward = formation_backward<T>;
    k.execution_backward = execution_backward<T>;
    k.execution_simple = execution_simple<T>;
    k.execution_simple_backward = execution_simple_backward<T>;
    k.composition = composition<T>;
    k.composition_backward = composition_backward<T>;
#endif
    return k;
}

}  // namespace

#define IPRM_STRING(name) #name
#define IPRM_NAME(name) IPRM_STRING(name)
#define IPRM_JOIN(prefix, name) prefix##name
#define IPRM_TABLE(name) IPRM_JOIN(kernels_, name)

extern const KernelTable IPRM_TABLE(IPRM_ISA);
const KernelTable IPRM_TABLE(IPRM_ISA) = {IPRM_NAME(IPRM_ISA), make_kernels<float>(), make_kernels<double>()};

}  // namespace iprm::cpu
