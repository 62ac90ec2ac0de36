// Turns the job's arguments into those of a kernel: included once, behind the translated source.
#pragma once
#include <type_traits>
#include <utility>

#include "cushim/core.h"

namespace cushim {

template <class P>
decltype(auto) argument(const Argument& a, int index) {
    using T = std::remove_cv_t<std::remove_reference_t<P>>;
    if constexpr (std::is_pointer_v<T>) {
        if (a.kind != Argument::pointer && a.kind != Argument::tensor_map)
            fail("parameter %d of the kernel is a pointer, and a number was given", index);
        return T(a.p);
    } else if constexpr (std::is_class_v<T> && sizeof(T) >= 128) {  // a tensor map, by value
        if (a.kind != Argument::tensor_map) fail("parameter %d of the kernel is a tensor map, and none was given", index);
        return *static_cast<T*>(a.p);
    } else {
        if (a.kind == Argument::integer) return T(a.i);
        if (a.kind != Argument::real) fail("parameter %d of the kernel is a number, and a pointer was given", index);
        return T(a.d);
    }
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), const Argument* arguments, std::index_sequence<I...>) {
    kernel(argument<P>(arguments[I], int(I))...);
}
template <class... P>
void call(void (*kernel)(P...), const Argument* arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>{});
}
template <class... P>
constexpr int parameters(void (*)(P...)) {
    return sizeof...(P);
}

}  // namespace cushim
