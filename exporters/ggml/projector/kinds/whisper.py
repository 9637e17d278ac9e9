"""Whisper's encoder, of models that hear: Qwen2-Audio, Voxtral and Audio Flamingo 3."""

from dataclasses import replace

from exporters.ggml.projector.arranging import column
from exporters.ggml.projector.entry import Projector

QWEN2_AUDIO = Projector(
    "",
    r"^(model\.)?(audio_tower|multi_modal_projector)\.",
    (),
    hears="qwen2a",
    audio_keys=(
        ("add_audio_num_mel_bins", lambda seeing: seeing.ear["num_mel_bins"]),
        ("add_audio_attention_layernorm_eps", lambda seeing: seeing.ear.get("layer_norm_eps", 1e-5)),
    ),
    renamed=((r"^model\.", ""), (r"^multi_modal_projector\.", "audio.multi_modal_projector.")),
    steps=((r"\.conv[12]\.bias$", column),),
    float16=r"\.conv[12]\.weight$",
)
VOXTRAL = replace(
    QWEN2_AUDIO,
    hears="voxtral",
    audio_keys=(*QWEN2_AUDIO.audio_keys, ("add_audio_stack_factor", lambda seeing: 4)),
)
FLAMINGO = replace(QWEN2_AUDIO, hears="musicflamingo", float16=r"(?!)", float32=r"\.conv[12]\.weight$")
