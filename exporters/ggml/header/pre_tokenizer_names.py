"""The names of pre-tokenizers that llama.cpp has (`tokenizer.ggml.pre`), and the error for any other.

It refuses to load a file with a name that it does not know. The list is that of llama_vocab::impl::load in
src/llama-vocab.cpp of llama.cpp, as of commit 86a2835.
"""

from sixfold.recipes.recipe_files import closest

NAMES = tuple(
    """
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling granite-embed-multi-311m
    granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code
    jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-bpe llama-v3 llama3
    llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat
    qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder
    superbpe talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu
    """.split()
)


def known_name(name: str) -> str:
    """`name`, where llama.cpp has it; ValueError with the names that it has elsewhere."""
    if name in NAMES:
        return name
    near = closest(name, NAMES)
    raise ValueError(
        f"llama.cpp has no pre-tokenizer of that name{f' ({near})' if near else ''}; its names are {', '.join(NAMES)}"
    )
