#include "engine/shares.h"

#include <algorithm>

namespace memformer::engine {
namespace {

constexpr int64_t kAlignment = nn::Parameters::kAlignment;

int64_t nearest_multiple(int64_t number, int64_t step) { return (number + step / 2) / step * step; }

}  // namespace

Shares::Shares(const nn::Parameters& parameters, int rank, int world, bool whole_matrices)
    : rank_(rank), size_(parameters.flat().values.numel()) {
  const auto& all = parameters.all();
  std::vector<size_t> in_line;
  for (size_t i = 0; i < all.size(); ++i) {
    const int64_t size = all[i].value.numel();
    in_line.push_back(i);
    sizes_.push_back(size);
    offsets_.push_back(parameters.offset(all[i].value));
  }
  std::sort(in_line.begin(), in_line.end(), [&](size_t a, size_t b) { return offsets_[a] < offsets_[b]; });
  const auto border = [&](int64_t wanted) {
    for (const auto i : in_line) {
      const int64_t begin = offsets_[i], end = begin + sizes_[i], matrices = whole_matrices ? all[i].matrices : 0;
      if (wanted <= begin || wanted >= end) continue;
      return std::min(end, begin + nearest_multiple(wanted - begin, matrices > 0 ? sizes_[i] / matrices : kAlignment));
    }
    return wanted;  // between two parameters
  };
  for (int other = 1; other <= world; ++other) {
    const int64_t end = other == world ? size_ : border(size_ * other / world);
    ends_.push_back(std::max(end, ends_.empty() ? 0 : ends_.back()));
  }
}

Piece Shares::of(size_t parameter) const {
  const auto [begin, end] = own();
  const int64_t offset = offsets_[parameter], size = sizes_[parameter];
  return {std::clamp<int64_t>(begin - offset, 0, size), std::clamp<int64_t>(end - offset, 0, size)};
}

std::vector<int64_t> Shares::ends_of(size_t parameter) const {
  std::vector<int64_t> ends;
  for (const auto end : ends_) ends.push_back(std::clamp<int64_t>(end - offsets_[parameter], 0, sizes_[parameter]));
  return ends;
}

}  // namespace memformer::engine
