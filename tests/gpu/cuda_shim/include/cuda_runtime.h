// Part of what cuda.h of this folder declares.
#pragma once
#include "cuda.h"
