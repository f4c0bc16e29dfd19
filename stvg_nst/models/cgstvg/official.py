"""The official CG-STVG's parameter names, translated to ours."""

from __future__ import annotations

import re

from stvg_nst.models.official_names import DERIVED, UNUSED, OfficialNames

ALIASES = {"ground_decoder.time_embed2.": "action_embed.", "ground_decoder.decoder.bbox_embed.": "bbox_embed."}
"""Prefixes under which an official checkpoint repeats a shared head, and the head's own."""

NAMES = OfficialNames(
    "CG-STVG",
    ignored=(
        (r"ground_encoder\.fusion\.", UNUSED),
        (r"ground_encoder\.encoder\.(temporal_layers|local_pos_embed|frame_cls|video_cls)\.", UNUSED),
        (r"ground_decoder\.(time_fc|template_generator)\.", UNUSED),
        (r"ground_decoder\.decoder\.(norm|norm2|fuse_linear)\.", UNUSED),
        (r"ground_decoder\.decoder\.layers\.\d\.(ca_qtime_proj|ca2\.memory_intermediate)\.", UNUSED),
        (r"ground_decoder\.decoder\.layers\.0\.ca2\.", UNUSED),
        (r"text_encoder\.body\.pooler\.", UNUSED),
        (r"ground_(encoder\.encoder|decoder)\.time_embed\.te$", DERIVED),
        (r"text_encoder\.body\.embeddings\.position_ids$", DERIVED),
        (r"vid\..*\.relative_position_index$", DERIVED),
        *((re.escape(alias), f"the same tensors as {head}*") for alias, head in ALIASES.items()),
    ),
    renames=(
        # Encoders.
        (r"^vis_encoder\.0\.body\.", "visual.body."),
        (r"^text_encoder\.body\.", "text.body."),
        (r"^text_encoder\.resizer\.fc\.", "text.projection."),
        (r"^text_encoder\.resizer\.layer_norm\.", "text.norm."),
        (r"^input_proj\.", "visual_proj."),
        (r"^input_proj2\.", "motion_proj."),
        (r"^vid\.patch_embed\.", "motion.patch_embed."),
        (r"^vid\.downsamples\.(\d)\.", lambda match: f"motion.features.{2 * int(match[1]) + 1}."),
        (r"^vid\.layers\.(\d)\.blocks\.", lambda match: f"motion.features.{2 * int(match[1])}."),
        (r"^(motion\.features\..*mlp)\.fc1\.", r"\1.0."),
        (r"^(motion\.features\..*mlp)\.fc2\.", r"\1.3."),
        # Cross-modal encoder and time decoder.
        (r"^ground_encoder\.encoder\.spatial_layers\.", "encoder.layers."),
        (r"^ground_encoder\.encoder\.norm\.", "encoder.norm."),
        (r"^(encoder\.layers\.\d)\.norm1\.", r"\1.norm."),
        (r"^(encoder\.layers\.\d)\.norm2\.", r"\1.ffn.norm."),
        (r"^ground_decoder\.time_decoder\.", "time_decoder."),
        (r"^(time_decoder\.layers\.\d)\.cross_attn_image\.", r"\1.cross_attn."),
        # Box decoder.
        (r"^ground_decoder\.decoder\.ref_point_head\.", "box_decoder.position_head."),
        (r"^ground_decoder\.decoder\.conf\.", "box_decoder.appearance_confidence."),
        (r"^ground_decoder\.decoder\.conf2\.", "box_decoder.motion_confidence."),
        (r"^ground_decoder\.decoder\.gf_mlp\.", "box_decoder.appearance_context."),
        (r"^ground_decoder\.decoder\.gf_mlp2\.", "box_decoder.motion_context."),
        (r"^ground_decoder\.decoder\.", "box_decoder."),
        (r"\.sa_([qk])content_proj\.", r".sa_\1_content_proj."),
        (r"\.sa_([qk])pos_proj\.", r".sa_\1_position_proj."),
        (r"\.sa_([qk])time_proj\.", r".sa_\1_time_proj."),
        (r"\.ca_([qk])content_proj\.", r".ca_\1_content_proj."),
        (r"\.ca_([qk])pos_proj\.", r".ca_\1_position_proj."),
        (r"\.ca_qpos_sine_proj\.", ".ca_q_sine_proj."),
        (r"^(box_decoder\.layers\.\d)\.cross_attn\.out_proj\.", r"\1.ca_out_proj."),
        (r"\.ca2\.attention\.self\.query\.", ".context_attn.attn.q_proj."),
        (r"\.ca2\.attention\.self\.key\.", ".context_attn.attn.k_proj."),
        (r"\.ca2\.attention\.self\.value\.", ".context_attn.attn.v_proj."),
        (r"\.ca2\.attention\.output\.dense\.", ".context_attn.attn.out_proj."),
        (r"\.ca2\.attention\.output\.LayerNorm\.", ".context_attn.attn_norm."),
        (r"\.ca2\.hidden_intermediate\.dense\.", ".context_attn.linear1."),
        (r"\.ca2\.output\.dense\.", ".context_attn.linear2."),
        (r"\.ca2\.output\.LayerNorm\.", ".context_attn.norm."),
        # Layers of both decoders, and the rest.
        (r"^((?:time|box)_decoder\.layers\.\d)\.norm1\.", r"\1.self_norm."),
        (r"^((?:time|box)_decoder\.layers\.\d)\.norm3\.", r"\1.cross_norm."),
        (r"^((?:time|box)_decoder\.layers\.\d)\.norm4\.", r"\1.ffn.norm."),
        (r"^((?:encoder|time_decoder|box_decoder)\.layers\.\d)\.(linear[12])\.", r"\1.ffn.\2."),
        (r"^ground_decoder\.pos_fc\.", "anchor_head."),
        (r"^bbox_embed\.", "box_decoder.box_head."),
        (r"^temp_embed\.", "start_end_head."),
        (r"^action_embed\.", "actioness_head."),
    ),
    convolutions=("visual_proj.weight", "motion_proj.weight"),
)
