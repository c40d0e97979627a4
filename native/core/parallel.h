// Loops on LibTorch's threads. at::parallel_for is a template that is parallel only in what is compiled with OpenMP;
// we are not, for that would bring a second OpenMP runtime and its threads. LibTorch's own loop over a tensor is.
#pragma once
#include <ATen/TensorIterator.h>

#include "core/torch.h"

namespace memformer {

/// visit(begin, end) of consecutive parts of [0, n), which are together all of it; one part where n is at most grain.
template <typename Visit>
void parallel_for(int64_t n, int64_t grain, const Visit& visit) {
  if (n <= grain) {
    if (n > 0) visit(int64_t{0}, n);
    return;
  }
  auto places = at::empty({n}, at::kByte);  // nobody writes them: their addresses are the places
  const auto* const first = static_cast<const char*>(places.const_data_ptr());
  auto iterator = at::TensorIterator::borrowing_nullary_op(places);
  iterator.for_each(
      [&](char** data, const int64_t* /*strides*/, int64_t size) {
        const int64_t begin = data[0] - first;
        visit(begin, begin + size);
      },
      grain);
}

}  // namespace memformer
