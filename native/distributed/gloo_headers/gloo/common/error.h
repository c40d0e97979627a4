// Stands in for gloo/common/error.h, which LibTorch's ProcessGroupGloo.hpp includes and nothing of ours needs.
#pragma once
