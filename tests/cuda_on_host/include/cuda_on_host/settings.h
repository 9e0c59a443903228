// How a launch runs, from the environment; read anew at each launch, so that a test may change it.
//
//   IPRM_ON_HOST_ORDER       forward (default), reverse or random:SEED: which thread runs next, and the order of blocks
//   IPRM_ON_HOST_COPIES      eager (at issue), lazy (at the wait) or random (default): when asynchronous copies are
//   made IPRM_ON_HOST_SHARED_KB   shared memory that a block may ask for: 163 (sm_80) or 227 (default; sm_90, sm_100)
//   IPRM_ON_HOST_PROCESSORS  multiprocessors, so blocks of a resident launch: 3 by default
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace on_host {

enum class Order { kForward, kReverse, kRandom };
enum class Copies { kEager, kLazy, kRandom };

struct Settings {
    Order order = Order::kForward;
    uint64_t seed = 1;
    Copies copies = Copies::kRandom;
    size_t shared_bytes = 227 * 1024;
    unsigned processors = 3;
};

inline std::string environment(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

inline Settings settings_of_environment() {
    Settings settings;
    const std::string order = environment("IPRM_ON_HOST_ORDER", "forward");
    if (order == "reverse") {
        settings.order = Order::kReverse;
    } else if (order.rfind("random:", 0) == 0) {
        settings.order = Order::kRandom;
        settings.seed = std::stoull(order.substr(7));
    } else if (order != "forward") {
        throw std::invalid_argument("IPRM_ON_HOST_ORDER: expected forward, reverse or random:SEED, got " + order);
    }
    const std::string copies = environment("IPRM_ON_HOST_COPIES", "random");
    if (copies == "eager") {
        settings.copies = Copies::kEager;
    } else if (copies == "lazy") {
        settings.copies = Copies::kLazy;
    } else if (copies != "random") {
        throw std::invalid_argument("IPRM_ON_HOST_COPIES: expected eager, lazy or random, got " + copies);
    }
    settings.shared_bytes = 1024 * std::stoul(environment("IPRM_ON_HOST_SHARED_KB", "227"));
    settings.processors = static_cast<unsigned>(std::stoul(environment("IPRM_ON_HOST_PROCESSORS", "3")));
    return settings;
}

}  // namespace on_host
