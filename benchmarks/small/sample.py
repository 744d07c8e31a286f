"""The fixed sample: twenty architectures of all kinds, quick to convert."""

_TRANSFORMERS = """
vit deit bert roberta distilbert albert gpt2 gpt_neox opt llama mistral qwen3 gemma2 t5 clip whisper
"""
_TIMM = "vision_transformer beit swin_transformer cait"

SAMPLE: tuple[tuple[str, str], ...] = (
    *(("transformers", name) for name in _TRANSFORMERS.split()),
    *(("timm", name) for name in _TIMM.split()),
)
