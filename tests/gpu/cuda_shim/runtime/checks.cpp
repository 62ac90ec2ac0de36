// What code compiled with -fsanitize=alignment,bounds calls where it finds something: the compiler's own library is not linked.
#include "memory.h"

namespace {

// As the compiler lays them out.
struct Place {
    const char* file;
    uint32_t line, column;
};
struct Mismatch {
    Place place;
    const void* type;
    unsigned char log_alignment, kind;
};
struct OutOfBounds {
    Place place;
    const void *array, *index;
};

}  // namespace

extern "C" void __ubsan_handle_type_mismatch_v1_abort(Mismatch* what, uintptr_t address) {
    cushim::at(int(what->place.line));
    cushim::fail("%s is used as the address of something aligned to %u bytes",
                 cushim::describe_address(reinterpret_cast<void*>(address)).c_str(), 1u << what->log_alignment);
}

extern "C" void __ubsan_handle_out_of_bounds_abort(OutOfBounds* what, uintptr_t index) {
    cushim::at(int(what->place.line));
    cushim::fail("index %ld is outside of the array", long(index));
}
