"""What operations do, read back from programs whose operations are known, and from text in XLA's form for GPUs."""

import jax
import jax.numpy as jnp
import pytest
from jax import Array

from benchmarks.operations import Operation, operations

# After a training step of `cifar10`, batch 512, bfloat16, by jaxlib 0.11.2, whose text gives the operands' shapes.
# Names and shapes are shortened, and what cuBLAS and cuDNN's attention are told is made up in their form.
H200 = """
%fused_add.3 (a: bf16[512,32,32,384], b: f32[512,384]) -> bf16[512,32,32,384] {
  %a = bf16[512,32,32,384]{3,2,1,0} parameter(0)
  %b = f32[512,384]{1,0} parameter(1)
  ROOT %add.1 = bf16[512,32,32,384]{3,2,1,0} add(%a, %b)
}

%gemm_fusion_dot.500_computation (q: f32[512,256,256], k: bf16[512,256,256]) -> bf16[512,256,256] {
  %q = f32[512,256,256]{2,1,0} parameter(0)
  %k = bf16[512,256,256]{2,1,0} parameter(1)
  %q.1 = bf16[512,256,256]{2,1,0} convert(%q)
  ROOT %dot.1 = bf16[512,256,256]{2,1,0} dot(%q.1, %k), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}
}

ENTRY %main (x: bf16[512,32,32,256]) -> bf16[512,32,32,256] {
  %forward = (bf16[512,32,32,128]{3,2,1,0}, u8[131]{0}) custom-call(bf16[512,32,32,384]{3,2,1,0} %x, bf16[128,3,3,384]{3,2,1,0} %w, bf16[128]{0} %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward"
  %filter = (bf16[128,3,3,384]{3,2,1,0}, u8[16515735]{0}) custom-call(bf16[512,32,32,384]{3,2,1,0} %x, bf16[512,32,32,128]{3,2,1,0} %dy), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %input = (bf16[512,32,32,384]{3,2,1,0}, u8[131]{0}) custom-call(bf16[512,32,32,128]{3,2,1,0} %dy, bf16[128,3,3,384]{3,2,1,0} %w), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %loop_add_fusion.3 = bf16[512,32,32,384]{3,2,1,0} fusion(bf16[512,32,32,384]{3,2,1,0} %c, f32[512,384]{1,0} %d), kind=kLoop, calls=%fused_add.3
  %gemm_fusion_dot.500 = bf16[512,256,256]{2,1,0} fusion(f32[512,256,256]{2,1,0} %e, bf16[512,256,256]{2,1,0} %f), kind=kCustom, calls=%gemm_fusion_dot.500_computation
  %matmul = (bf16[512,256,128]{2,1,0}, s8[33554432]{0}) custom-call(bf16[512,256,64]{2,1,0} %g, bf16[512,64,128]{2,1,0} %h), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}}}
  %fmha = (bf16[512,1,256,256]{3,2,1,0}, f32[512,1,256]{2,1,0}, u8[0]{0}) custom-call(bf16[512,256,1,256]{3,2,1,0} %g), custom_call_target="__cudnn$fmhaSoftmax"
  %sum = f32[1000]{0} all-reduce(f32[1000]{0} %s), to_apply=%add
  ROOT %copy.3973 = f32[256]{0} copy(f32[256]{0} %i)
}
"""  # noqa: E501
IMAGE, WEIGHTS = 512 * 32 * 32, 3 * 3 * 384 * 128


def test_operations_of_an_nvidia_gpu() -> None:
    convolution, large, small = 2.0 * IMAGE * WEIGHTS, 2 * IMAGE * 384, 2 * IMAGE * 128
    kernel = 2 * WEIGHTS
    assert operations(H200) == {
        "forward": Operation("convolutions", convolution, large + small + kernel + 256),
        "filter": Operation("convolutions", convolution, large + small + kernel),
        "input": Operation("convolutions", convolution, large + small + kernel),
        "loop_add_fusion.3": Operation("elementwise", 0.0, 2 * large + 4 * 512 * 384),
        "gemm_fusion_dot.500": Operation("matrix products", 2.0 * 512 * 256**3, 512 * 256**2 * (2 + 4 + 2)),
        "matmul": Operation("matrix products", 2.0 * 512 * 256 * 128 * 64, 2 * 512 * (256 * 128 + 256 * 64 + 64 * 128)),
        "fmha": Operation("attention", 0.0, 2 * 2 * 512 * 256**2 + 4 * 512 * 256),
        "sum": Operation("collectives", 0.0, 8000),
        "copy.3973": Operation("copies", 0.0, 2048),
    }


def compiled(function, *shapes: tuple[int, ...]) -> dict[str, Operation]:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return operations(jax.jit(function).lower(*arrays).compile().as_text() or "")


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=axes)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_two_gradients_are_the_same_work(stride: int) -> None:
    def gradients(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return jax.value_and_grad(lambda *both: (convolve(*both, stride) ** 2).sum(), argnums=(0, 1))(x, kernel)

    found = compiled(gradients, (2, 8, 8, 16), (3, 3, 16, 24))
    work = [one.flops for one in found.values() if one.kind == "convolutions"]
    assert sum(work) == 3 * 2 * 2 * (8 // stride) ** 2 * 9 * 16 * 24


def test_work_inside_a_loop_is_named_and_the_loop_is_not() -> None:
    def repeated(x: Array, matrix: Array) -> Array:
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ matrix), None), x, length=5)[0]

    found = compiled(repeated, (8, 32), (32, 32))
    assert not any(name.startswith(("while", "tuple", "param", "constant", "get-tuple-element")) for name in found)
    (product,) = (one for one in found.values() if one.kind == "matrix products")
    assert product == Operation("matrix products", 2.0 * 8 * 32 * 32, 4 * (2 * 8 * 32 + 32 * 32))
    assert Operation("elementwise", 0.0, 2 * 4 * 8 * 32) in found.values()


def test_a_sum_is_a_reduction_with_what_is_made_before_it() -> None:
    found = compiled(lambda x: jnp.tanh(x).sum(axis=0), (64, 32))
    assert "reductions" in {one.kind for one in found.values()}
    assert not any(one.flops for one in found.values())
