// The epsilon that every layer normalization adds to the variance.
#pragma once

namespace memformer {

constexpr double kLayerNormEps = 1e-5;

}  // namespace memformer
