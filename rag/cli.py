"""`rag`: documents in, cited passages out."""
