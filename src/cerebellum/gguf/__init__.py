"""GGUF files: header, model, importance matrix, types, llama.cpp's rules, override patterns."""
