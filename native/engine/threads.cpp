#include "engine/threads.h"

#include "core/torch.h"

namespace memformer::engine {
namespace {

// Below some 2 ms of one core's work a pass is a run of products so short that waking threads costs more than it
// brings.
constexpr int64_t kSmall = 200'000'000;

thread_local int most_threads = 1;

}  // namespace

void limit_threads(int most) {
  if (most > 0) at::set_num_threads(most);
  at::init_num_threads();
  most_threads = at::get_num_threads();
}

void use_threads_for(int64_t products) {
  const int wanted = products < kSmall ? 1 : most_threads;
  if (at::get_num_threads() != wanted) at::set_num_threads(wanted);
}

}  // namespace memformer::engine
