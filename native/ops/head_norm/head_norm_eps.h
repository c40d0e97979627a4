// Added to a head's mean square before its root is taken: on both sides of the bridge.
#pragma once

namespace memformer::ops {

constexpr double kHeadNormEps = 1e-6;

}  // namespace memformer::ops
