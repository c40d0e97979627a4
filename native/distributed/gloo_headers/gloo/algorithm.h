// Stands in for gloo/algorithm.h, which LibTorch's ProcessGroupGloo.hpp includes and nothing of ours needs.
#pragma once
