// CUDA's names, for sources that generated kernels come in.
#pragma once
#include "cushim/intrinsics.h"
#include "cushim/tensor_map.h"
