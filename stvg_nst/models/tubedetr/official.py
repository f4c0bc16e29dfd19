"""The official TubeDETR's parameter names, translated to ours. MDETR's are the same."""

from __future__ import annotations

from stvg_nst.models.official_names import DERIVED, UNUSED, OfficialNames

NAMES = OfficialNames(
    "TubeDETR",
    ignored=(
        (r"transformer\.text_encoder\.pooler\.", UNUSED),
        (r"transformer\.text_encoder\.embeddings\.position_ids$", DERIVED),
        (r"transformer\.time_embed\.te$", DERIVED),
        (r"(class_embed|contrastive_align_projection_(image|text))\.", "a head of MDETR that TubeDETR has not"),
    ),
    renames=(
        (r"^backbone\.0\.body\.", "visual.body."),
        (r"^input_proj\.", "visual_proj."),
        (r"^transformer\.text_encoder\.", "text.body."),
        (r"^transformer\.resizer\.fc\.", "text.projection."),
        (r"^transformer\.resizer\.layer_norm\.", "text.norm."),
        (r"^transformer\.", ""),
        (r"^(encoder\.layers\.\d)\.norm1\.", r"\1.norm."),
        (r"^(encoder\.layers\.\d)\.norm2\.", r"\1.ffn.norm."),
        (r"^(decoder\.layers\.\d)\.cross_attn_image\.", r"\1.cross_attn."),
        (r"^(decoder\.layers\.\d)\.norm1\.", r"\1.self_norm."),
        (r"^(decoder\.layers\.\d)\.norm3\.", r"\1.cross_norm."),
        (r"^(decoder\.layers\.\d)\.norm4\.", r"\1.ffn.norm."),
        (r"^((?:en|de)coder\.layers\.\d)\.(linear[12])\.", r"\1.ffn.\2."),
        (r"^query_embed\.", "query."),
        (r"^bbox_embed\.", "box_head."),
        (r"^sted_embed\.", "start_end_head."),
    ),
    convolutions=("visual_proj.weight",),
)
