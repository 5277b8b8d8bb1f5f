"""Where personas are answered: the vLLM engine as a child, and the OpenAI-compatible gateway in front of it."""
