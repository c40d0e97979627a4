// How many threads the operators use. A small model's products are over before a second thread has woken up.
#pragma once
#include <cstdint>

namespace memformer::engine {

/// Sets the most threads of the calling thread's operators, 0: one a core. Called once, by the engine's thread.
void limit_threads(int most);

/// From now on: one thread when the coming work is small, else as many as allowed. `products`: multiplications of one
/// pass. The same work gets the same threads, so results stay the same to the bit.
void use_threads_for(int64_t products);

}  // namespace memformer::engine
