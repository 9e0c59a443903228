// What the small programs share: a bug is chosen by name at run time, and results are compared.
#pragma once

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "platform.cuh"

// The bug of this run; an ordinary global, so that kernels may ask for it.
inline std::string planted_bug = "none";
inline bool bug(const char* name) { return std::strcmp(planted_bug.c_str(), name) == 0; }

struct Program {
    const char* name;
    bool (*run)();  // whether the result is right
};

// program NAME [BUG]: 0 and "ok", or 1 and "wrong result", or 2 and what was reported.
inline int run_one(const std::vector<Program>& programs, int count, char** arguments) try {
    if (count > 2) planted_bug = arguments[2];
    for (const Program& program : programs) {
        if (count < 2 || std::strcmp(program.name, arguments[1]) != 0) continue;
        const bool right = program.run();
        std::puts(right ? "ok" : "wrong result");
        return right ? 0 : 1;
    }
    std::fputs("no such program\n", stderr);
    return 3;
} catch (const std::exception& error) {
    std::fprintf(stderr, "reported: %s\n", error.what());
    return 2;
}

inline bool launched(cudaError_t error) {
    if (error != cudaSuccess) std::printf("launch: %s\n", cudaGetErrorName(error));
    return error == cudaSuccess;
}
