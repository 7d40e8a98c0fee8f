"""Models and tokenizers in the files of Hugging Face, in and out."""
