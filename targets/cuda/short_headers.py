"""What TVM's sources take from the C++ standard library, in place of CUDA's own version of it.

Every source of TVM's includes <cuda/std/cstdint> and <cuda/std/type_traits> for a few names, whether it uses them or
not. NVRTC takes 1.9 s for those headers and 0.15 s for all else of a kernel.
"""

from __future__ import annotations

_TYPES = "".join(
    f"using ::{sign}int{bits}_t; " for sign in ("", "u") for bits in (8, 16, 32, 64)
)  # defined by the prelude

_CSTDINT = f"""
#pragma once
namespace cuda {{ namespace std {{ {_TYPES} }} }}
"""

_INTEGERS = (
    "bool", "char", "signed char", "unsigned char", "wchar_t", "char16_t", "char32_t", "short", "unsigned short", "int",
    "unsigned int", "long", "unsigned long", "long long", "unsigned long long",
)  # fmt: skip


def _true_for(name: str, types: tuple[str, ...]) -> str:
    """A trait that holds for these types, whatever their qualifiers."""
    cases = "\n".join(f"template <> struct {name}_<{type}> : true_type {{}};" for type in types)
    return f"""
template <class T> struct {name}_ : false_type {{}};
{cases}
template <class T> struct {name} : {name}_<typename remove_cv<T>::type> {{}};
template <class T> inline constexpr bool {name}_v = {name}<T>::value;
"""


_TYPE_TRAITS = f"""
#pragma once
namespace cuda {{ namespace std {{
template <class T, T v> struct integral_constant {{
    static constexpr T value = v;
    using value_type = T;
    using type = integral_constant;
    __host__ __device__ constexpr operator T() const {{ return v; }}
}};
using true_type = integral_constant<bool, true>;
using false_type = integral_constant<bool, false>;
template <class T> struct remove_cv {{ using type = T; }};
template <class T> struct remove_cv<const T> {{ using type = T; }};
template <class T> struct remove_cv<volatile T> {{ using type = T; }};
template <class T> struct remove_cv<const volatile T> {{ using type = T; }};
template <class A, class B> struct is_same : false_type {{}};
template <class A> struct is_same<A, A> : true_type {{}};
template <class A, class B> inline constexpr bool is_same_v = is_same<A, B>::value;
template <bool, class T = void> struct enable_if {{}};
template <class T> struct enable_if<true, T> {{ using type = T; }};
template <bool, class A, class B> struct conditional {{ using type = A; }};
template <class A, class B> struct conditional<false, A, B> {{ using type = B; }};
{_true_for("is_integral", _INTEGERS)}
{_true_for("is_floating_point", ("float", "double", "long double"))}
template <class T, bool = is_integral<T>::value || is_floating_point<T>::value>
struct is_signed : integral_constant<bool, (T(-1) < T(0))> {{}};
template <class T> struct is_signed<T, false> : false_type {{}};
template <class T> inline constexpr bool is_signed_v = is_signed<T>::value;
template <class T>
struct is_unsigned : integral_constant<bool, is_integral<T>::value && !is_signed<T>::value> {{}};
template <class T> inline constexpr bool is_unsigned_v = is_unsigned<T>::value;
}} }}
"""

SHORT_HEADERS = {"cuda/std/cstdint": _CSTDINT, "cuda/std/type_traits": _TYPE_TRAITS}
