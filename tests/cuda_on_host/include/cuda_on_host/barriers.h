// __syncthreads and its kin, and the barrier of a whole resident grid.
#pragma once

#include "scheduler.h"

namespace on_host {

ON_HOST_RUNTIME inline void open_barrier(Block& block) {
    block.counted[block.generation & 1] = block.votes;
    block.votes = 0;
    block.arrived = 0;
    ++block.generation;
    make_ready(block, Wait::kBlock);
}

// Threads that have exited do not take part, as on the device. Returns how many predicates were true.
ON_HOST_RUNTIME inline int sync_block(bool predicate, const Location& at) {
    Block& block = *self->block;
    const unsigned generation = block.generation;
    if (block.arrived == 0) {
        block.at = at;
    } else if (!same(block.at, at)) {
        fail("divergent __syncthreads: other threads of the block are at " + text(block.at), at);
    }
    block.votes += predicate;
    sanitizer::release(&block.orders->barrier[generation & 1]);
    wait_for(Wait::kBlock, at);
    if (++block.arrived == block.alive) open_barrier(block);
    yield();
    sanitizer::acquire(&block.orders->barrier[generation & 1]);
    return block.counted[generation & 1];
}

ON_HOST_RUNTIME inline void open_grid_barrier() {
    state.blocks_arrived = 0;
    ++state.grid_generation;
    for (unsigned b = 0; b < state.block_count; ++b) make_ready(*state.blocks[b], Wait::kGrid);
}

// The first thread of each block meets those of the others; `words` are as the device leaves them.
ON_HOST_RUNTIME inline void meet_blocks(unsigned* words, const Location& at) {
    const unsigned generation = state.grid_generation;
    if (state.blocks_arrived == 0 && words[0] != 0) fail("grid_barrier: its count is not zero beforehand", at);
    sanitizer::release(&state.grid_order[generation & 1]);
    wait_for(Wait::kGrid, at);
    ++words[0];
    if (++state.blocks_arrived == gridDim.x) {
        words[0] = 0;
        ++words[1];
        open_grid_barrier();
    }
    yield();
    sanitizer::acquire(&state.grid_order[generation & 1]);
}

}  // namespace on_host

inline void __syncthreads(on_host::Location at = on_host::Location::current()) { on_host::sync_block(false, at); }
inline int __syncthreads_count(int predicate, on_host::Location at = on_host::Location::current()) {
    return on_host::sync_block(predicate != 0, at);
}
inline int __syncthreads_or(int predicate, on_host::Location at = on_host::Location::current()) {
    return on_host::sync_block(predicate != 0, at) != 0;
}
inline int __syncthreads_and(int predicate, on_host::Location at = on_host::Location::current()) {
    return on_host::sync_block(predicate == 0, at) == 0;
}

namespace iprm::cuda {

inline void grid_barrier(unsigned* words, on_host::Location at = on_host::Location::current()) {
    if (!on_host::state.resident) on_host::fail("grid_barrier: needs launch_resident", at);
    on_host::sync_block(false, at);
    if (on_host::self->number == 0) on_host::meet_blocks(words, at);
    on_host::sync_block(false, at);
}

}  // namespace iprm::cuda
