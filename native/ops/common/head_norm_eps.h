// Added to a head's mean square before taking the root, on both sides of the bridge.
#pragma once

namespace memformer::ops {

constexpr double kHeadNormEps = 1e-6;

}  // namespace memformer::ops
