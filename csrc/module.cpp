// Python bindings of the CPU backend, and what it was built with.
#include <ATen/Version.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include "cpu/dispatch.h"
#include "cpu/ops.h"
#include "recurrence/bind.h"

namespace py = pybind11;

namespace {

// IPRM_FLAGS and IPRM_INSTRUCTION_SETS come from setup.py.
py::dict build_info() {
    py::dict info;
    info["compiler"] =
#if defined(__clang__)
        "clang " __clang_version__;
#elif defined(__GNUC__)
        "gcc " __VERSION__;
#else
        "unknown";
#endif
    info["flags"] = IPRM_FLAGS;
    info["torch"] = TORCH_VERSION;
    info["instruction_sets"] = py::str(IPRM_INSTRUCTION_SETS).attr("split")(",");
#if defined(_OPENMP)
    info["openmp"] = true;
#else
    info["openmp"] = false;
#endif
    return info;
}

using namespace iprm::cpu;
using release = py::call_guard<py::gil_scoped_release>;

// Where a weight's packed form is held between products.
struct PackedWeight {
    at::Tensor form;
};

using SingleProduct = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const iprm::OptionalTensor&, at::Tensor*,
                                     const iprm::OptionalTensor&);

template <SingleProduct kProduct>
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const iprm::OptionalTensor& c, PackedWeight* packed,
                   const iprm::OptionalTensor& out) {
    return kProduct(x, weight, c, packed == nullptr ? nullptr : &packed->form, out);
}

// What there is of each kind of factors.
template <Factors kFactors>
void bind_products(py::module_& m, const iprm::recurrence::Cores& cores) {
    m.def("linear", product<linear<kFactors>>, py::arg("x"), py::arg("weight"), py::arg("c") = std::nullopt,
          py::arg("packed") = nullptr, py::arg("out") = std::nullopt, release());
    m.def("linear_back", product<linear_back<kFactors>>, py::arg("y"), py::arg("weight"), py::arg("c") = std::nullopt,
          py::arg("packed") = nullptr, py::arg("out") = std::nullopt, release());
    m.def("row_product", &row_product<kFactors>, release());
    iprm::recurrence::bind(m, cores);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    m.def("build_info", &build_info);
    m.def("cpu_capability", [] { return std::string(kernel_table().name); });
    m.def("pairs_capability", [] { return std::string(matrix_table().name); });
    m.def("bfloat16_capability", [] {
        const KernelTable* table = bfloat16_table();
        return std::string(table != nullptr ? table->name : matrix_table().name);
    });

    m.def("dropout", py::overload_cast<const at::Tensor&, double, const iprm::OptionalTensor&, int64_t>(&dropout),
          release());
    py::class_<PackedWeight>(m, "PackedWeight")
        .def(py::init<>())
        .def_property_readonly("packed", [](const PackedWeight& held) { return held.form.defined(); });
    m.def("row_sum", &row_sum, release());
    m.def("formation", &formation, release());
    m.def("formation_backward", &formation_backward, release());
    m.def("pack", &pack<>, release());
    m.def("execution", &execution<>, release());
    m.def("execution_backward", &execution_backward<>, release());
    m.def("execution_simple", &execution_simple, release());
    m.def("execution_simple_backward", &execution_simple_backward, release());
    m.def("composition", &composition, release());
    m.def("composition_backward", &composition_backward, release());
    bind_products<Factors::kOfInputs>(m, kCores);
    py::module_ of_bfloat16 = m.def_submodule("bfloat16");
    bind_products<Factors::kBfloat16>(of_bfloat16, kBfloat16Cores);
}
