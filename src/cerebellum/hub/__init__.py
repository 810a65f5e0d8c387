"""Models of a hub in and out, through `huggingface_hub` (extra ``[hub]``), which is imported inside functions only."""
