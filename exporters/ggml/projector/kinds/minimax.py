"""MiniMax-M3."""

from exporters.ggml.projector.arranging import frames, three_axes
from exporters.ggml.projector.entry import Projector
from exporters.ggml.projector.stated import EPSILON, GELU, PREFIX, tower

MINIMAX_M3 = Projector(
    "minimax_m3",
    r"^(model\.)?(vision_tower|multi_modal_projector|patch_merge_mlp)\.",
    (
        *GELU,
        (EPSILON, tower("layer_norm_eps", 1e-5)),
        ("add_vision_spatial_merge_size", tower("spatial_merge_size", 2)),
    ),
    renamed=(PREFIX, (r"\.block_sparse_moe\.fc", ".mlp.fc")),
    own=lambda seeing: {f"patch_merge_mlp.linear_{n}": f"mm.merger.fc{n}" for n in (1, 2)},
    steps=((r"patch_embedding\.weight$", frames), (r"[qk]_proj\.(weight|bias)$", three_axes)),
)
