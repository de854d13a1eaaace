"""The DNACHUNKER network and its Hugging Face classes; imports nothing else of this project."""
