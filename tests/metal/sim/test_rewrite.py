"""Metal source to C++ on tokens: what is found, what is changed, what is refused."""

import pytest

from tqconvert.errors import KernelSourceError
from tqconvert.metal.rewrite import rewrite
from tqconvert.metal.tokens import tokenize


def text(source: str) -> str:
    """The rewritten source without the tables behind it."""
    return rewrite(source).text.split("\nstatic const msl::Param")[0].split("\nMSL_EXPORT")[0]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("x[i[j]] = y[k[1]];", "x[i[j]] = y[k[1]];"),
        ("float a = 1.0, b = .5, c = 1e-3;", "float a = 1.0f, b = .5f, c = 1e-3f;"),
        ("half a = 1.0h; float b = 2.f; int c = 0x1F;", "half a = 1.0h; float b = 2.f; int c = 0x1F;"),
        ("uint d = 3u; float e = 0x1p-3;", "uint d = 3u; float e = 0x1p-3;"),
        ("void f(uint i [[thread_position_in_grid]]);", "void f(uint i );"),
        ("int a [[x(\n1)]];", "int a \n;"),
        ('char *s = "1.0 [[a]]";', 'char *s = "1.0 [[a]]";'),
        ("#pragma unroll\nint a;", "\nint a;"),
        ("#pragma clang loop unroll(full)\nint a;", "\nint a;"),
        ('# 12 "a.metal" 2\nfloat a = 1.;', '# 12 "a.metal" 2\nfloat a = 1.f;'),
        ("void f() { threadgroup float s[64]; }", "void f() { MSL_TGVAR float s[64]; MSL_TGUSE(s) }"),
        ("void f() { threadgroup half4x4 m; }", "void f() { MSL_TGVAR half4x4 m; MSL_TGUSE(m) }"),
        ("void f(threadgroup float * s);", "void f(threadgroup float * s);"),
        ("p = (threadgroup float *) q;", "p = (threadgroup float *) q;"),
        ("constant bool F [[function_constant(3)]];", "MSL_FC bool F ;"),
    ],
)  # fmt: skip
def test_what_is_changed(given: str, wanted: str) -> None:
    """Attributes, float literals, pragmas, variables of threadgroups; line markers and lines stay."""
    assert text(given) == wanted


def test_tokens_print_as_the_source_but_for_attributes() -> None:
    """No character is lost."""
    source = 'a->b::c [[x]] && d<<=2; \'q\' "\\"" 1.5e+3f // c\n'
    assert "".join(t.text for t in tokenize(source)) == source.replace("[[x]]", "")


def test_parameters_get_indices_and_kinds() -> None:
    """Given indices first, the others fill in; what the hardware gives is told by its attribute."""
    found = rewrite(
        "kernel void k(constant A & a, device float * x [[buffer(0)]], device int * y,"
        " threadgroup half * s [[threadgroup(1)]], uint3 g [[threadgroup_position_in_grid]],"
        " ushort l [[ thread_index_in_simdgroup ]]) {}"
    )
    kinds = [(p.kind, p.index) for p in found.parameters("k")]
    assert kinds == [
        ("BUFFER", 1), ("BUFFER", 0), ("BUFFER", 2), ("TGMEM", 1), ("TGPIG", 0), ("TIISG", 0),
    ]  # fmt: skip
    assert found.parameters("k")[2].text == "device int * y"


TEMPLATE = """
template <typename T, int N> kernel void impl(device T * x [[buffer(0)]]) {}
typedef decltype(impl<float, 1>) impl_t;
template [[host_name("k_f32_1")]] kernel impl_t impl<float, 1>;
template [[host_name("k_f32_2")]] kernel impl_t impl<float, 2>;
kernel void plain(device int * x) {}
"""


def test_instantiations_are_kernels() -> None:
    """By host name, with the template-id that is called; the template alone is none."""
    found = rewrite(TEMPLATE)
    assert [(k.host_name, k.expression) for k in found.kernels] == [
        ("plain", "plain"), ("k_f32_1", "impl < float , 1 >"), ("k_f32_2", "impl < float , 2 >"),
    ]  # fmt: skip
    assert '{"k_f32_2", msl::K<&impl < float , 2 >>::call, msl_p_impl, 1}' in found.text


def test_a_filter_leaves_instantiations_out() -> None:
    """Lines stay where they are; kernels that are no templates are kept."""
    found = rewrite(TEMPLATE, keep="_2$")
    assert [k.host_name for k in found.kernels] == ["plain", "k_f32_2"]
    assert "impl<float, 1>;" not in found.text.replace("decltype(impl<float, 1>)", "")
    whole = rewrite(TEMPLATE).text
    assert found.text.split("kernel void plain")[0].count("\n") == whole.split("kernel void plain")[
        0
    ].count("\n")


def test_the_description_is_json() -> None:
    """Kernels with parameters, constants with indices that may be sums."""
    found = rewrite(
        "constant int N [[function_constant(300 + 2)]];\nkernel void k(device int * x) {}"
    )
    assert found.to_json() == {
        "kernels": [
            {"name": "k", "parameters": [{"kind": "BUFFER", "index": 0, "text": "device int * x"}]}
        ],
        "constants": [{"name": "N", "index": 302}],
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("constant int N [[function_constant(X)]];", r"N: \[\[function_constant\(X\)\]\] is not a number"),
        ("constant int N [[function_constant]];", "not a function constant's index"),
        ('template [[host_name("a")]] kernel t f<1>;', "f: instantiated but not defined as a kernel"),
        ("kernel", "`kernel` without a name"),
    ],
)  # fmt: skip
def test_what_is_refused(source: str, message: str) -> None:
    """Rather than left out in silence."""
    with pytest.raises(KernelSourceError, match=message):
        rewrite(source)
