"""The projectors that are known, by transformers' model type. What is declared of each is a module of `kinds/`."""

from collections.abc import Mapping

from exporters.ggml.projector.entry import Projector
from exporters.ggml.projector.kinds.deepseek import DEEPSEEK_V4
from exporters.ggml.projector.kinds.dots import DOTS_OCR
from exporters.ggml.projector.kinds.gemma import GEMMA3, GEMMA4, GEMMA4_UNIFIED
from exporters.ggml.projector.kinds.glm import GLM4V, GLM5V
from exporters.ggml.projector.kinds.hunyuan import HUNYUAN
from exporters.ggml.projector.kinds.internvl import INTERNVL
from exporters.ggml.projector.kinds.kimi import KIMI_K25, KIMI_VL
from exporters.ggml.projector.kinds.llama4 import LLAMA4
from exporters.ggml.projector.kinds.minimax import MINIMAX_M3
from exporters.ggml.projector.kinds.pixtral import LIGHTON, PIXTRAL
from exporters.ggml.projector.kinds.qwen import EXAONE, QWEN2, QWEN2_5, QWEN3
from exporters.ggml.projector.kinds.siglip import IDEFICS3, JANUS, LFM2, MINICPM, PADDLE, PHI4, YOUTU
from exporters.ggml.projector.kinds.step import STEP
from exporters.ggml.projector.kinds.whisper import FLAMINGO, QWEN2_AUDIO, VOXTRAL

PROJECTORS: Mapping[str, Projector] = {
    "audioflamingo3": FLAMINGO,
    "deepseek_v4": DEEPSEEK_V4,
    "dots_ocr": DOTS_OCR,
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "gemma4_unified": GEMMA4_UNIFIED,
    "exaone4_5": EXAONE,
    "glm46v": GLM4V,
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V,
    "glm_ocr": GLM4V,
    "glm5_next": GLM5V,
    "glm5v": KIMI_K25,
    "hunyuan_vl": HUNYUAN,
    "idefics3": IDEFICS3,
    "internvl": INTERNVL,
    "internvl_chat": INTERNVL,
    "janus": JANUS,
    "kimi_k25": KIMI_K25,
    "kimi_vl": KIMI_VL,
    "lfm2_vl": LFM2,
    "lighton_ocr": LIGHTON,
    "llama4": LLAMA4,
    "llava": PIXTRAL,
    "minicpmv4_6": MINICPM,
    "minimax_m3_vl": MINIMAX_M3,
    "mistral3": PIXTRAL,
    "paddleocr_vl": PADDLE,
    "phi4-siglip": PHI4,
    "qianfan_ocr": INTERNVL,
    "qwen2_5_vl": QWEN2_5,
    "qwen2_audio": QWEN2_AUDIO,
    "qwen2_vl": QWEN2,
    "qwen3_5": QWEN3,
    "qwen3_5_moe": QWEN3,
    "qwen3_vl": QWEN3,
    "qwen3_vl_moe": QWEN3,
    "qwen4_exp": QWEN3,
    "smolvlm": IDEFICS3,
    "step3p7": STEP,
    "step_robotics": STEP,
    "voxtral": VOXTRAL,
    "youtu_vl": YOUTU,
}
"""By the model type of config.json."""
