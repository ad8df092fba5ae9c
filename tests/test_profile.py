"""Tests of the profile of a step: kinds of operations, times, traces, a real one."""

import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from jax.profiler import ProfileData
from rich.console import Console

from experiments.benchmark import profile
from experiments.benchmark.hlo import KINDS, kernel_kind, operations
from experiments.benchmark.spans import Span, own_times, read_spans, whole_calls
from experiments.errors import UserError

# JAX 0.12 and Python 3.13: as an error, this warning aborts the process.
pytestmark = pytest.mark.filterwarnings(
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning"
)

HLO = """HloModule jit_step, is_scheduled=true

FileNames
1 "layers.py"

FunctionNames
1 "BatchNorm.__call__"
2 "relu"

FileLocations
1 {file_name_id=1 function_name_id=1 line=9 end_line=9 column=4 end_column=34}
2 {file_name_id=1 function_name_id=2 line=10 end_line=10 column=4 end_column=34}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(%a, %b)
}

%fused_computation (p: f32[8,4]) -> f32[4] {
  %p = f32[8,4]{1,0} parameter(0)
  %square = f32[8,4]{1,0} multiply(%p, %p), metadata={op_name="jit(step)/mul"}
  %zero = f32[] constant(0)
  ROOT %reduce.1 = f32[4]{0} reduce(%square, %zero), dimensions={0}, to_apply=%region_0.1
}

%fused_computation.1 (p.1: f32[8,4]) -> f32[8,4] {
  %p.1 = f32[8,4]{1,0} parameter(0)
  %step = f32[] cosine(%p.1), metadata={op_name="jit(step)/cos"}
  ROOT %neg = f32[8,4]{1,0} negate(%p.1), metadata={op_name="jit(step)/transpose(jvp())/neg" stack_frame_id=2}
}

%fused_computation.2 (p.2: f32[8,4]) -> f32[8,4] {
  %p.2 = f32[8,4]{1,0} parameter(0)
  ROOT %scaled = f32[8,4]{1,0} multiply(%p.2, %p.2), metadata={op_name="jit(step)/mul" stack_frame_id=1}
}

%fused_computation.3 (p.3: f32[8,4]) -> f32[4,8] {
  %p.3 = f32[8,4]{1,0:T(8,128)} parameter(0)
  ROOT %copied = f32[4,8]{1,0:T(8,128)} transpose(%p.3), dimensions={1,0}
}

%fused_computation.4 (p.4: f32[8,4]) -> f32[8,8] {
  %p.4 = f32[8,4]{1,0} parameter(0)
  %twice = f32[8,4]{1,0} add(%p.4, %p.4)
  ROOT %product = f32[8,8]{1,0} convolution(%twice, %p.4), metadata={op_name="jit(step)/dot_general"}
}

%body (t: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %t = (f32[8,4]{1,0}, s32[]) parameter(0)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %fusion = f32[4]{0} fusion(%x), kind=kInput, calls=%fused_computation
  %fusion.1 = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_computation.1
  %fusion.2 = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_computation.2
  %fusion.3 = f32[4,8]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused_computation.3
  %fusion.4 = f32[8,8]{1,0} fusion(%x), kind=kOutput, calls=%fused_computation.4
  %cudnn-conv.1 = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%x, %x), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/conv_general_dilated"}
  %gemm.1 = (f32[8,8]{1,0}, s8[16]{0}) custom-call(%x, %x), custom_call_target="__cublas$gemm"
  %sort.1 = f32[8,4]{1,0} sort(%x), dimensions={0}, to_apply=%region_0.1
  %while.1 = (f32[8,4]{1,0}, /*index=1*/s32[]) while(%x), condition=%region_0.1, body=%body
  ROOT %copy.1 = f32[8,4]{1,0} copy(%x)
}
"""  # noqa: E501
PROGRAM = operations(HLO)


@pytest.mark.parametrize(
    ("name", "kind", "contains"),
    [
        ("fusion", "BatchNorm, reductions", "mul, reduce"),
        ("fusion.1", "elementwise", "neg, cos in relu"),
        ("fusion.2", "BatchNorm, reductions", "mul in BatchNorm.__call__"),
        ("fusion.3", "copies", "transpose"),
        ("fusion.4", "matrix product", "dot_general, add"),  # TPU's way
        ("cudnn-conv.1", "convolution", "conv_general_dilated"),
        ("gemm.1", "matrix product", "__cublas$gemm"),
        ("sort.1", "other", "sort"),
        ("copy.1", "copies", "copy"),
    ],
)
def test_an_operation_is_what_it_contains(name, kind, contains):
    assert (PROGRAM[name].kind, PROGRAM[name].contains) == (kind, contains)


def test_only_a_loop_contains_other_operations():
    assert [name for name in PROGRAM if PROGRAM[name].outer] == ["while.1"]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_f32f32_nhwc", "convolution"),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_256x128>", "matrix product"),
        ("void cudnn::ops::nchwToNhwcKernel<float>", "copies"),
        ("ncclDevKernel_AllGather", "other"),
    ],
)
def test_a_kernel_of_a_library_is_known_by_its_name(kernel, kind):
    assert kernel_kind(kernel) == kind


def test_a_moment_is_shared_by_what_runs_and_a_loop_gets_the_rest():
    spans = [Span("loop", 0, 10), Span("a", 2, 4), Span("b", 3, 6), Span("a", 12, 13)]
    own, gaps = own_times(spans, {"loop"})
    assert own == {"loop": 2 + 4, "a": 1.5 + 1, "b": 0.5 + 2}
    assert gaps == [2]
    assert own_times([Span("a", 0, 4), Span("a", 0, 4)]) == ({"a": 4}, [])
    assert own_times([Span("a", 0, 2), Span("b", 2, 2), Span("c", 2, 3)])[1] == []


def test_a_call_lasts_until_its_last_thread_has_finished():
    calls = [Span("a", 10, 11), Span("a", 0, 1), Span("a", 20, 23)]
    ends = [15, 0.5, 14, 22]
    assert whole_calls(calls, ends) == [
        Span("a", 0, 1),
        Span("a", 10, 15),
        Span("a", 20, 23),
    ]


def write_trace(path, plane, lines):
    """Writes a trace, with (name, start, duration, instruction) for every event."""
    names, text = [], ""
    for line, events in lines.items():
        text += f'lines {{ name: "{line}" timestamp_ns: 100 '
        for name, start, duration, instruction in events:
            names.append(name)
            text += f"events {{ metadata_id: {len(names)} offset_ps: {1000 * start} "
            text += f"duration_ps: {1000 * duration} "
            if instruction:
                text += f'stats {{ metadata_id: 1 str_value: "{instruction}" }} '
            text += "} "
        text += "} "
    for i, name in enumerate(names, 1):
        text += f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }} '
    text += 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } } '
    text = f'planes {{ name: "{plane}" {text} }} planes {{ name: "/host:other" }}'
    path.write_bytes(ProfileData.text_proto_to_serialized_xspace(text))
    return path


def read(path, platform):
    spans = read_spans(path, PROGRAM, platform)
    return sorted((name, start - 100, end - 100) for name, start, end in spans)


def test_on_gpu_kernels_are_named_after_instructions(tmp_path):
    stream = [
        ("void nchwToNhwcKernel", 0, 3, "cudnn-conv.1"),
        ("fusion_1", 4, 2, "command_buffer"),
        ("sm90_gemm", 7, 1, "command_buffer"),
    ]
    lines = {"Stream #13(Compute)": stream, "Steps": [("1", 0, 9, "fusion.2")]}
    path = write_trace(tmp_path / "t.xplane.pb", "/device:GPU:0", lines)
    expected = [("cudnn-conv.1", 0, 3), ("fusion.1", 4, 6), ("sm90_gemm", 7, 8)]
    assert read(path, "gpu") == expected


def test_on_tpu_events_have_the_text_of_instructions(tmp_path):
    events = [
        ("%while.1 = (f32[8,4]{1,0}, s32[]) while(%x)", 0, 9, None),
        ("%fusion.3 = f32[4,8]{1,0} fusion(%x), kind=kLoop", 1, 2, None),
    ]
    lines = {"XLA Ops": events, "XLA Modules": [("jit_step(1)", 0, 9, None)]}
    path = write_trace(tmp_path / "t.xplane.pb", "/device:TPU:0", lines)
    assert read(path, "tpu") == [("fusion.3", 1, 3), ("while.1", 0, 9)]


def test_on_cpu_operations_end_on_other_threads(tmp_path):
    lines = {
        "tf_XLAEigen/1": [("gemm.1", 0, 1, "gemm.1"), ("Execute", 0, 9, None)],
        "tf_XLAEigen/2": [("end: gemm.1", 4, 1, None)],
    }
    path = write_trace(tmp_path / "t.xplane.pb", "/host:CPU", lines)
    assert read(path, "cpu") == [("gemm.1", 0, 5)]


def rows_of(table):
    _, _, *rows = table.splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.slow
def test_a_profile_of_a_real_step(tmp_path):
    job = profile.Job("resnet20", 4, methods=("sgd",), steps=2, out=tmp_path / "p.md")
    text = profile.run(job, Console(quiet=True))
    assert job.out.read_text() == text and "resnet20, batch 4, float32" in text
    *_, operations, kinds = text.strip().split("\n\n")
    operations, kinds = rows_of(operations), rows_of(kinds)
    assert len(operations) == job.rows
    assert "convolution" in [kind for _, kind, *_ in operations]
    assert all(float(calls).is_integer() for *_, calls, _, _ in operations)
    times = [float(ms) for *_, ms, _ in operations]
    assert times == sorted(times, reverse=True) and times[-1] >= 0
    assert [kind for kind, *_ in kinds] == [*KINDS, "gaps", "start and end"]
    shares = [float(share.rstrip("%")) for *_, share in kinds]
    assert min(shares) >= 0 and sum(shares) == pytest.approx(100, abs=0.5)
    assert sum(float(share.rstrip("%")) for *_, share in operations) <= 100
    # 19 layers, each with a gradient of its kernel, and all but one of its input.
    assert kinds[0][1] == "56"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "there.md"}, "there.md already exists"),
        ({"out": "there.md/new.md"}, "cannot make the folder"),
        ({"methods": ()}, "--methods needs"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words, tmp_path):
    (tmp_path / "there.md").touch()
    if "out" in options:
        options = {"out": tmp_path / options["out"]}
    with pytest.raises(UserError, match=words):
        profile.run(profile.Job(**options), Console(quiet=True))
